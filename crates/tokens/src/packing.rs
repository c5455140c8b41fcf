//! Packing: which examples share a row of max_seq_length tokens?

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// How examples are laid into rows. Names as in TRL, whose results these equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// Best-fit decreasing (arXiv 2404.10830): no example is cut; each goes where least room is left over.
    Bfd,
    /// Best-fit decreasing over pieces: an example longer than a row is first cut into rows.
    BfdSplit,
    /// Examples end to end, cut every `max_seq_length` tokens.
    Wrapped,
    /// One example a row, in the order given.
    None,
}

impl Packing {
    /// Every way, by its name.
    pub const ALL: [Packing; 4] = [
        Packing::Bfd,
        Packing::BfdSplit,
        Packing::Wrapped,
        Packing::None,
    ];

    /// Its name on a command line and in a file.
    pub const fn name(self) -> &'static str {
        match self {
            Packing::Bfd => "bfd",
            Packing::BfdSplit => "bfd_split",
            Packing::Wrapped => "wrapped",
            Packing::None => "none",
        }
    }

    /// May an example be cut into pieces?
    pub fn splits(self) -> bool {
        matches!(self, Packing::BfdSplit | Packing::Wrapped)
    }
}

/// A run of one example's tokens that lies in one row: a segment there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub example: u32,
    pub tokens: Range<u32>,
}

impl Piece {
    pub fn len(&self) -> usize {
        (self.tokens.end - self.tokens.start) as usize
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Is this not all of its example? `lengths` are those that were packed.
    pub fn is_cut_from(&self, lengths: &[u32]) -> bool {
        self.tokens != (0..lengths[self.example as usize])
    }
}

/// Rows of pieces, flat: row `i` is `pieces[row_offsets[i]..row_offsets[i + 1]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    pub pieces: Vec<Piece>,
    pub row_offsets: Vec<u64>,
}

impl Rows {
    pub fn len(&self) -> usize {
        self.row_offsets.len() - 1
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn row(&self, index: usize) -> &[Piece] {
        &self.pieces[self.row_offsets[index] as usize..self.row_offsets[index + 1] as usize]
    }

    /// Some of these rows, as rows of their own.
    pub fn slice(&self, rows: Range<usize>) -> Rows {
        let first = self.row_offsets[rows.start];
        let pieces = first as usize..self.row_offsets[rows.end] as usize;
        let row_offsets = self.row_offsets[rows.start..=rows.end]
            .iter()
            .map(|at| at - first);
        Rows {
            pieces: self.pieces[pieces].to_vec(),
            row_offsets: row_offsets.collect(),
        }
    }

    /// With room for the pieces of so many examples that are not cut: a list of millions that grows
    /// by doubling is there twice when it moves.
    fn for_examples(count: usize) -> Self {
        Rows {
            pieces: Vec::with_capacity(count),
            row_offsets: vec![0],
        }
    }

    fn end_row(&mut self) {
        self.row_offsets.push(self.pieces.len() as u64);
    }
}

/// An example is longer than a row and the packing does not cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("example {example} has {length} tokens, more than a row of {max_seq_length}")]
pub struct TooLong {
    pub example: usize,
    pub length: usize,
    pub max_seq_length: usize,
}

/// Lays examples of these lengths into rows. Empty examples take no place. The result depends on
/// lengths and their order alone.
pub fn pack(lengths: &[u32], max_seq_length: usize, packing: Packing) -> Result<Rows, TooLong> {
    assert!(max_seq_length > 0, "a row holds at least one token");
    if !packing.splits() {
        let long = lengths
            .iter()
            .position(|&length| length as usize > max_seq_length);
        if let Some(example) = long {
            return Err(TooLong {
                example,
                length: lengths[example] as usize,
                max_seq_length,
            });
        }
    }
    let whole = || {
        let examples = lengths
            .iter()
            .enumerate()
            .filter(|(_, length)| **length > 0);
        examples.map(|(example, &length)| Piece {
            example: example as u32,
            tokens: 0..length,
        })
    };
    Ok(match packing {
        Packing::Bfd => best_fit_decreasing(whole(), lengths.len(), max_seq_length),
        Packing::BfdSplit => {
            let row = max_seq_length as u32;
            let cut = |piece: Piece| {
                let starts = (0..piece.tokens.end).step_by(max_seq_length);
                starts.map(move |start| Piece {
                    example: piece.example,
                    tokens: start..piece.tokens.end.min(start.saturating_add(row)),
                })
            };
            best_fit_decreasing(whole().flat_map(cut), lengths.len(), max_seq_length)
        }
        Packing::Wrapped => wrapped(whole(), lengths.len(), max_seq_length),
        Packing::None => {
            let mut rows = Rows::for_examples(lengths.len());
            for piece in whole() {
                rows.pieces.push(piece);
                rows.end_row();
            }
            rows
        }
    })
}

/// Longest first (ties in the order given), each into the fullest row that still has room; among
/// equally full rows the one that became so first; rows are numbered as they are opened.
///
/// Sorted in place, twice: with millions of examples this is most of the memory there is.
fn best_fit_decreasing(
    pieces: impl Iterator<Item = Piece>,
    examples: usize,
    max_seq_length: usize,
) -> Rows {
    let mut placed: Vec<(u32, Piece)> = Vec::with_capacity(examples); // (row, piece)
    placed.extend(pieces.map(|piece| (0, piece)));
    let given = |piece: &Piece| (piece.example, piece.tokens.start);
    placed.sort_unstable_by_key(|(_, piece)| (Reverse(piece.len()), given(piece)));
    let mut rows = 0;
    let mut rows_by_room: BTreeMap<usize, VecDeque<u32>> = BTreeMap::new();
    for (row, piece) in &mut placed {
        let fullest = rows_by_room.range_mut(piece.len()..).next();
        let (room, emptied) = match fullest {
            Some((&room, queue)) => {
                *row = queue.pop_front().expect("empty queues are removed");
                (room, queue.is_empty())
            }
            None => {
                *row = rows;
                rows += 1;
                (max_seq_length, false)
            }
        };
        if emptied {
            rows_by_room.remove(&room);
        }
        if room > piece.len() {
            rows_by_room
                .entry(room - piece.len())
                .or_default()
                .push_back(*row);
        }
    }
    placed.sort_unstable_by_key(|(row, piece)| (*row, Reverse(piece.len()), given(piece)));
    let mut packed = Rows::for_examples(0);
    for (index, pair) in placed.windows(2).enumerate() {
        if pair[0].0 != pair[1].0 {
            packed.row_offsets.push(index as u64 + 1);
        }
    }
    packed.pieces = placed.into_iter().map(|(_, piece)| piece).collect();
    if !packed.pieces.is_empty() {
        packed.end_row();
    }
    packed
}

fn wrapped(pieces: impl Iterator<Item = Piece>, examples: usize, max_seq_length: usize) -> Rows {
    let mut rows = Rows::for_examples(examples + examples / 8); // some are cut
    let mut room = max_seq_length as u32;
    for mut piece in pieces {
        while !piece.is_empty() {
            let end = piece
                .tokens
                .end
                .min(piece.tokens.start.saturating_add(room));
            room -= end - piece.tokens.start;
            rows.pieces.push(Piece {
                example: piece.example,
                tokens: piece.tokens.start..end,
            });
            piece.tokens.start = end;
            if room == 0 {
                rows.end_row();
                room = max_seq_length as u32;
            }
        }
    }
    if room < max_seq_length as u32 {
        rows.end_row();
    }
    rows
}
