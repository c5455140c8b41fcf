//! Reading a packed file: mapped, and checked once so that no later read can go wrong.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use super::{Counts, METADATA_KEY, Meta};
use crate::{Error, Fingerprint};

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
        if file.metadata().map_err(io)?.is_dir() {
            return Err(foreign("a folder, not a packed file".into()));
        }
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
        let meta = Meta::parse(meta).map_err(foreign)?;

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

    /// Number of tokens in the longest segment.
    pub fn longest_sequence(&self) -> usize {
        let lengths = (0..self.meta.counts.sequences)
            .map(|sequence| self.seq_offset(sequence + 1) - self.seq_offset(sequence));
        lengths.max().unwrap_or(0) as usize
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
        let size = self.meta.vocab_size;
        let what = match self.meta.fingerprint.difference(fingerprint) {
            Some(what) => what.to_owned(),
            None if size != vocab_size => {
                format!("for a vocabulary of {size}, and the base has {vocab_size}")
            }
            None => return Ok(()),
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
