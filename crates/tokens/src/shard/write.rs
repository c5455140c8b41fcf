//! Writing a packed file in one pass, from examples that may lie on disk.

use std::io::{self, Write};
use std::ops::Range;

use super::{Counts, METADATA_KEY, Meta};
use crate::packing::{Piece, Rows};

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
