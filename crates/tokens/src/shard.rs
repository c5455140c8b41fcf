//! The packed file: rows of segments as a safetensors file, written in one pass and mapped to be read.
//!
//! Flat arrays, no padding:
//!
//! | tensor | type, shape | what |
//! |---|---|---|
//! | `row_offsets` | U64 [R + 1] | where each row starts, counted in sequences |
//! | `seq_offsets` | U64 [S + 1] | where each sequence (segment of a row) starts, counted in tokens |
//! | `input_ids` | U16 or U32 [N] | U16 when the vocabulary fits |
//! | `loss_mask` | U8 [N] | 1 = this token is a target, predicted from the one before |
//!
//! The metadata is one key, `packed`, holding JSON with a fixed key order ([`Meta`]): the same rows
//! give the same bytes. (The safetensors crate keeps metadata in a HashMap, so two keys would not.)

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::packing::{Packing, Piece, Rows};
use crate::{Error, Fingerprint, TrainOn};

const METADATA_KEY: &str = "packed";
const FORMAT: &str = "packed-tokens";
const VERSION: u32 = 1;

/// What a packed file says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    pub format: String,
    pub version: u32,
    pub fingerprint: Fingerprint,
    pub vocab_size: usize,
    pub max_seq_length: usize,
    pub packing: Packing,
    /// Which assistant turns are targets; none when the lines came with their own labels.
    pub train_on: Option<TrainOn>,
    /// This file is part `index` (from 1) of `of`.
    pub part: Part,
    pub counts: Counts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    pub index: usize,
    pub of: usize,
}

/// What is in this file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    pub examples: usize,
    pub sequences: usize,
    pub rows: usize,
    pub tokens: usize,
    pub supervised_tokens: usize,
}

impl Meta {
    pub fn new(
        fingerprint: Fingerprint,
        vocab_size: usize,
        max_seq_length: usize,
        packing: Packing,
        train_on: Option<TrainOn>,
        counts: Counts,
    ) -> Meta {
        let (format, part) = (FORMAT.to_owned(), Part { index: 1, of: 1 });
        Meta {
            format,
            version: VERSION,
            fingerprint,
            vocab_size,
            max_seq_length,
            packing,
            train_on,
            part,
            counts,
        }
    }

    fn wide(&self) -> bool {
        self.vocab_size > 1 << 16
    }
}

/// Encoded examples that packing draws from, by number.
pub trait Examples {
    /// Fills `input_ids` with the tokens `tokens` of an example.
    fn input_ids(&self, piece: &Piece, input_ids: &mut Vec<u32>) -> io::Result<()>;
    /// Fills `loss_mask` likewise.
    fn loss_mask(&self, piece: &Piece, loss_mask: &mut Vec<u8>) -> io::Result<()>;
}

impl Examples for [crate::Encoded] {
    fn input_ids(&self, piece: &Piece, input_ids: &mut Vec<u32>) -> io::Result<()> {
        input_ids.clear();
        input_ids.extend_from_slice(&self[piece.example as usize].input_ids[range(piece)]);
        Ok(())
    }

    fn loss_mask(&self, piece: &Piece, loss_mask: &mut Vec<u8>) -> io::Result<()> {
        loss_mask.clear();
        loss_mask.extend_from_slice(&self[piece.example as usize].loss_mask[range(piece)]);
        Ok(())
    }
}

fn range(piece: &Piece) -> Range<usize> {
    piece.tokens.start as usize..piece.tokens.end as usize
}

/// A segment starts without context, so its first token is never a target, wherever an example was cut.
pub fn segment_loss_mask<E: Examples + ?Sized>(
    examples: &E,
    piece: &Piece,
    loss_mask: &mut Vec<u8>,
) -> io::Result<()> {
    examples.loss_mask(piece, loss_mask)?;
    loss_mask[0] = 0;
    Ok(())
}

/// Counts what `rows` will hold: the pieces as they lie there, not the examples as they came.
pub fn count<E: Examples + ?Sized>(rows: &Rows, examples: &E) -> io::Result<Counts> {
    let mut counts = Counts {
        rows: rows.len(),
        sequences: rows.pieces.len(),
        ..Counts::default()
    };
    let mut loss_mask = Vec::new();
    for piece in &rows.pieces {
        segment_loss_mask(examples, piece, &mut loss_mask)?;
        counts.examples += usize::from(piece.tokens.start == 0);
        counts.tokens += piece.len();
        counts.supervised_tokens += loss_mask.iter().filter(|target| **target == 1).count();
    }
    Ok(counts)
}

/// Writes the packed file of `rows`. `meta.counts` must be what [`count`] gives for them.
pub fn write<E: Examples + ?Sized>(
    out: &mut dyn Write,
    meta: &Meta,
    rows: &Rows,
    examples: &E,
) -> io::Result<()> {
    out.write_all(&header(meta))?;
    for offset in &rows.row_offsets {
        out.write_all(&offset.to_le_bytes())?;
    }
    let mut offset = 0u64;
    out.write_all(&offset.to_le_bytes())?;
    for piece in &rows.pieces {
        offset += piece.len() as u64;
        out.write_all(&offset.to_le_bytes())?;
    }
    let (mut input_ids, mut bytes) = (Vec::new(), Vec::new());
    for piece in &rows.pieces {
        examples.input_ids(piece, &mut input_ids)?;
        bytes.clear();
        if meta.wide() {
            input_ids
                .iter()
                .for_each(|id| bytes.extend_from_slice(&id.to_le_bytes()));
        } else {
            input_ids
                .iter()
                .for_each(|id| bytes.extend_from_slice(&(*id as u16).to_le_bytes()));
        }
        out.write_all(&bytes)?;
    }
    for piece in &rows.pieces {
        segment_loss_mask(examples, piece, &mut bytes)?;
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// The safetensors header. Widest type first keeps every array aligned in the map.
fn header(meta: &Meta) -> Vec<u8> {
    let Counts {
        sequences,
        rows,
        tokens,
        ..
    } = meta.counts;
    let (dtype, width) = if meta.wide() { ("U32", 4) } else { ("U16", 2) };
    let mut json = format!(
        "{{\"__metadata__\":{{\"{METADATA_KEY}\":{}}}",
        serde_json::Value::from(serde_json::to_string(meta).expect("plain data"))
    );
    let mut start = 0;
    for (name, dtype, width, length) in [
        ("row_offsets", "U64", 8, rows + 1),
        ("seq_offsets", "U64", 8, sequences + 1),
        ("input_ids", dtype, width, tokens),
        ("loss_mask", "U8", 1, tokens),
    ] {
        let end = start + width * length;
        json += &format!(
            ",\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":[{length}],\"data_offsets\":[{start},{end}]}}"
        );
        start = end;
    }
    json.push('}');
    let padded = json.len().next_multiple_of(8);
    let mut bytes = (padded as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.resize(8 + padded, b' ');
    bytes
}

/// A packed file, mapped. Everything it says about its own shape has been checked on opening.
pub struct Shard {
    path: PathBuf,
    map: Mmap,
    meta: Meta,
    row_offsets: Range<usize>, // byte ranges of the map
    seq_offsets: Range<usize>,
    input_ids: Range<usize>,
    loss_mask: Range<usize>,
}

/// One row: a few whole segments, end to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    pub input_ids: Vec<u32>,
    /// 1 = target. The first token of a segment never is.
    pub loss_mask: &'a [u8],
    /// Where each segment starts within the row; first 0, last the row's length.
    pub offsets: Vec<usize>,
}

impl Shard {
    pub fn open(path: &Path) -> Result<Shard, Error> {
        let foreign = |reason: String| Error::Shard {
            path: path.to_owned(),
            reason,
        };
        let io = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(io)?;
        // SAFETY: a packed file appears whole by rename and is not written again. Should another
        // process cut it short regardless, the kernel stops us (SIGBUS); no reference outlives the map.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let (_, header) = SafeTensors::read_metadata(&map)
            .map_err(|error| foreign(format!("not a packed file ({error})")))?;
        let meta = header
            .metadata()
            .as_ref()
            .and_then(|metadata| metadata.get(METADATA_KEY))
            .ok_or_else(|| foreign("not a packed file (no \"packed\" metadata)".into()))?;
        let meta = read_meta(meta).map_err(foreign)?;

        let tensors = SafeTensors::deserialize(&map)
            .map_err(|error| foreign(format!("damaged ({error})")))?;
        let array = |name: &str, dtype: Dtype, length: usize| {
            let tensor = tensors
                .tensor(name)
                .map_err(|_| foreign(format!("damaged (no {name})")))?;
            if tensor.dtype() != dtype || tensor.shape() != [length] {
                let (found, shape) = (tensor.dtype(), tensor.shape());
                return Err(foreign(format!(
                    "damaged ({name} is {found:?} {shape:?}, not {dtype:?} [{length}])"
                )));
            }
            let start = tensor.data().as_ptr() as usize - map.as_ptr() as usize;
            Ok(start..start + tensor.data().len())
        };
        let Counts {
            sequences,
            rows,
            tokens,
            ..
        } = meta.counts;
        let plus_one = |n: usize| {
            n.checked_add(1)
                .ok_or_else(|| foreign("damaged (counts)".into()))
        };
        let row_offsets = array("row_offsets", Dtype::U64, plus_one(rows)?)?;
        let seq_offsets = array("seq_offsets", Dtype::U64, plus_one(sequences)?)?;
        let input_ids = array(
            "input_ids",
            if meta.wide() { Dtype::U32 } else { Dtype::U16 },
            tokens,
        )?;
        let loss_mask = array("loss_mask", Dtype::U8, tokens)?;
        drop(tensors);
        let path = path.to_owned();
        let shard = Shard {
            path,
            map,
            meta,
            row_offsets,
            seq_offsets,
            input_ids,
            loss_mask,
        };
        shard.check().map_err(|reason| Error::Shard {
            path: shard.path.clone(),
            reason,
        })?;
        Ok(shard)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.meta.counts.rows
    }

    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of tokens in row `index`.
    pub fn row_length(&self, index: usize) -> usize {
        let segments = self.segments(index);
        (self.seq_offset(segments.end) - self.seq_offset(segments.start)) as usize
    }

    /// Number of targets in row `index`.
    pub fn row_targets(&self, index: usize) -> usize {
        let segments = self.segments(index);
        let tokens =
            self.seq_offset(segments.start) as usize..self.seq_offset(segments.end) as usize;
        self.map[self.loss_mask.clone()][tokens]
            .iter()
            .map(|target| usize::from(*target))
            .sum()
    }

    /// Row `index`, which must be below [`Shard::rows`].
    pub fn row(&self, index: usize) -> Row<'_> {
        let segments = self.segments(index);
        let start = self.seq_offset(segments.start);
        let offsets: Vec<usize> = (segments.start..=segments.end)
            .map(|sequence| (self.seq_offset(sequence) - start) as usize)
            .collect();
        let tokens = start as usize..self.seq_offset(segments.end) as usize;
        let ids = &self.map[self.input_ids.clone()];
        let input_ids = if self.meta.wide() {
            let (ids, _) = ids[4 * tokens.start..4 * tokens.end].as_chunks::<4>();
            ids.iter().map(|id| u32::from_le_bytes(*id)).collect()
        } else {
            let (ids, _) = ids[2 * tokens.start..2 * tokens.end].as_chunks::<2>();
            ids.iter()
                .map(|id| u32::from(u16::from_le_bytes(*id)))
                .collect()
        };
        Row {
            input_ids,
            loss_mask: &self.map[self.loss_mask.clone()][tokens],
            offsets,
        }
    }

    /// Refuses a file packed for another tokenizer or a larger vocabulary than the base has.
    pub fn check_base(&self, fingerprint: &Fingerprint, vocab_size: usize) -> Result<(), Error> {
        let packed = &self.meta.fingerprint;
        let differ = |ours: &Option<String>, base: &Option<String>| matches!((ours, base), (Some(ours), Some(base)) if ours != base);
        let what = if differ(&packed.tokenizer, &fingerprint.tokenizer) {
            "with another tokenizer than the base's".to_owned()
        } else if differ(&packed.template, &fingerprint.template) {
            "with another chat template than the base's".to_owned()
        } else if self.meta.vocab_size != vocab_size {
            format!(
                "for a vocabulary of {}, and the base has {vocab_size}",
                self.meta.vocab_size
            )
        } else {
            return Ok(());
        };
        Err(Error::ForeignShard {
            path: self.path.clone(),
            what,
        })
    }

    fn segments(&self, row: usize) -> Range<usize> {
        self.row_offset(row) as usize..self.row_offset(row + 1) as usize
    }

    fn row_offset(&self, index: usize) -> u64 {
        u64_at(&self.map[self.row_offsets.clone()], index)
    }

    fn seq_offset(&self, index: usize) -> u64 {
        u64_at(&self.map[self.seq_offsets.clone()], index)
    }

    /// One pass over the file, so that no later read can go out of bounds or train on nonsense.
    fn check(&self) -> Result<(), String> {
        let Counts {
            sequences,
            rows,
            tokens,
            supervised_tokens,
            ..
        } = self.meta.counts;
        let rising = |what: &str, count: usize, end: usize, at: &dyn Fn(usize) -> u64| {
            let rises = (0..count).all(|i| at(i) < at(i + 1));
            if at(0) != 0 || at(count) != end as u64 || !rises {
                return Err(format!("damaged ({what} do not rise from 0 to {end})"));
            }
            Ok(())
        };
        rising("row_offsets", rows, sequences, &|i| self.row_offset(i))?;
        rising("seq_offsets", sequences, tokens, &|i| self.seq_offset(i))?;
        let loss_mask = &self.map[self.loss_mask.clone()];
        if let Some(at) = loss_mask.iter().position(|target| *target > 1) {
            return Err(format!("damaged (loss_mask[{at}] is {})", loss_mask[at]));
        }
        if (0..sequences).any(|i| loss_mask[self.seq_offset(i) as usize] != 0) {
            return Err("damaged (the first token of a segment is a target)".into());
        }
        let found: usize = loss_mask.iter().map(|target| usize::from(*target)).sum();
        if found != supervised_tokens {
            return Err(format!(
                "damaged ({found} targets, its metadata says {supervised_tokens})"
            ));
        }
        for row in 0..rows {
            let row_data = self.row(row);
            if row_data.input_ids.len() > self.meta.max_seq_length {
                let (length, most) = (row_data.input_ids.len(), self.meta.max_seq_length);
                return Err(format!(
                    "damaged (row {row} has {length} tokens, over {most})"
                ));
            }
            let foreign = row_data
                .input_ids
                .iter()
                .find(|id| **id as usize >= self.meta.vocab_size);
            if let Some(id) = foreign {
                let vocab_size = self.meta.vocab_size;
                return Err(format!(
                    "damaged (token id {id} in a vocabulary of {vocab_size})"
                ));
            }
        }
        Ok(())
    }
}

fn u64_at(bytes: &[u8], index: usize) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    u64::from_le_bytes(words[index])
}

fn read_meta(json: &str) -> Result<Meta, String> {
    #[derive(Deserialize)]
    struct Envelope {
        format: String,
        version: u32,
    }
    let damaged = |error: serde_json::Error| format!("damaged (metadata: {error})");
    let Envelope { format, version } = serde_json::from_str(json).map_err(damaged)?;
    if format != FORMAT {
        return Err(format!("a \"{format}\" file, not \"{FORMAT}\""));
    }
    if version != VERSION {
        return Err(format!(
            "format version {version}, and this build reads version {VERSION}"
        ));
    }
    serde_json::from_str(json).map_err(damaged)
}
