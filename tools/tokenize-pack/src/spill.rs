//! Encoded examples on disk until it is known which row each goes to, so that memory does not grow
//! with the data.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use tokens::shard::Examples;
use tokens::{Encoded, Piece};

/// Examples between two whose start is kept: a sum over so few lengths is cheaper than the memory.
const STRIDE: usize = 64;

/// Two files without a name, gone when the program ends however it ends.
pub struct Writer {
    input_ids: BufWriter<File>,
    loss_mask: BufWriter<File>,
    lengths: Vec<u32>,
}

/// The examples, readable in any order.
pub struct Spill {
    input_ids: File, // u32, little endian
    loss_mask: File, // u8
    lengths: Vec<u32>,
    starts: Vec<u64>, // in tokens, of every STRIDE-th example
}

impl Writer {
    pub fn create(folder: &Path) -> io::Result<Writer> {
        let file = || {
            Ok::<_, io::Error>(BufWriter::with_capacity(
                1 << 18,
                tempfile::tempfile_in(folder)?,
            ))
        };
        Ok(Writer {
            input_ids: file()?,
            loss_mask: file()?,
            lengths: Vec::new(),
        })
    }

    pub fn push(&mut self, example: &Encoded) -> io::Result<()> {
        for id in &example.input_ids {
            self.input_ids.write_all(&id.to_le_bytes())?;
        }
        self.loss_mask.write_all(&example.loss_mask)?;
        self.lengths.push(example.input_ids.len() as u32);
        Ok(())
    }

    pub fn finish(self) -> io::Result<Spill> {
        let starts = self.lengths.chunks(STRIDE).scan(0, |sum, lengths| {
            let start = *sum;
            *sum += lengths.iter().map(|length| u64::from(*length)).sum::<u64>();
            Some(start)
        });
        Ok(Spill {
            starts: starts.collect(),
            input_ids: self
                .input_ids
                .into_inner()
                .map_err(io::IntoInnerError::into_error)?,
            loss_mask: self
                .loss_mask
                .into_inner()
                .map_err(io::IntoInnerError::into_error)?,
            lengths: self.lengths,
        })
    }
}

impl Spill {
    /// Tokens of each example.
    pub fn lengths(&self) -> &[u32] {
        &self.lengths
    }

    fn start(&self, piece: &Piece) -> u64 {
        let example = piece.example as usize;
        let kept = example / STRIDE;
        let between = &self.lengths[kept * STRIDE..example];
        let between: u64 = between.iter().map(|length| u64::from(*length)).sum();
        self.starts[kept] + between + u64::from(piece.tokens.start)
    }
}

impl Examples for Spill {
    fn input_ids(&self, piece: &Piece, input_ids: &mut Vec<u32>) -> io::Result<()> {
        let mut bytes = vec![0; 4 * piece.len()];
        self.input_ids
            .read_exact_at(&mut bytes, 4 * self.start(piece))?;
        input_ids.clear();
        let (ids, _) = bytes.as_chunks::<4>();
        input_ids.extend(ids.iter().map(|id| u32::from_le_bytes(*id)));
        Ok(())
    }

    fn loss_mask(&self, piece: &Piece, loss_mask: &mut Vec<u8>) -> io::Result<()> {
        loss_mask.resize(piece.len(), 0);
        self.loss_mask.read_exact_at(loss_mask, self.start(piece))
    }
}
