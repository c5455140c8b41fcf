//! Keys and values of sequences that are being generated (inference on the CPU, one layer each).
//!
//! A sequence is a shared prefix (the prompt that all cases begin with, computed once) and what is
//! its own; the prefix is reference-counted, never copied.

use crate::backends::flex::{floats, matrix, packed};
use crate::kernels::attention::forward_cached;
use crate::kernels::simd::Level;
use crate::segments::AttentionOptions;
use burn::backend::Flex;
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use std::sync::Arc;

/// The cache of one layer for a batch of sequences.
#[derive(Clone, Debug)]
pub struct KvCache {
    width: usize,
    sequences: Vec<Sequence>,
}

#[derive(Clone, Debug, Default)]
struct Sequence {
    prefix: Vec<Arc<Piece>>,
    own: Piece,
}

#[derive(Clone, Debug, Default)]
struct Piece {
    k: Vec<f32>,
    v: Vec<f32>,
}

impl KvCache {
    /// `sequences` empty sequences whose rows are `kv_heads·head_dim` wide.
    pub fn new(sequences: usize, kv_heads: usize, head_dim: usize) -> KvCache {
        KvCache {
            width: kv_heads * head_dim,
            sequences: vec![Sequence::default(); sequences],
        }
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.sequences.len()
    }

    /// Rows cached of one sequence.
    pub fn length(&self, sequence: usize) -> usize {
        self.sequences[sequence]
            .pieces()
            .map(|p| p.k.len() / self.width)
            .sum()
    }

    /// Makes room, so that this many more rows of each sequence are appended without moving.
    pub fn reserve(&mut self, rows: usize) {
        for sequence in &mut self.sequences {
            sequence.own.k.reserve(rows * self.width);
            sequence.own.v.reserve(rows * self.width);
        }
    }

    /// Appends rows `offsets[i]..offsets[i + 1]` of k and v (rotated already) to sequence i.
    pub fn append(&mut self, k: Tensor<2>, v: Tensor<2>, offsets: &[usize]) {
        assert_eq!(
            offsets.len(),
            self.sequences.len() + 1,
            "offsets of every sequence"
        );
        let (k, v) = (host(k), host(v));
        let width = self.width;
        for (sequence, offsets) in self.sequences.iter_mut().zip(offsets.windows(2)) {
            let rows = offsets[0] * width..offsets[1] * width;
            sequence.own.k.extend_from_slice(&floats(&k)[rows.clone()]);
            sequence.own.v.extend_from_slice(&floats(&v)[rows]);
        }
    }

    /// Attention of q, whose rows `offsets[i]..offsets[i + 1]` are the newest of sequence i, to all
    /// that is cached of it (append first).
    pub fn attend(&self, q: Tensor<2>, offsets: &[usize], options: &AttentionOptions) -> Tensor<2> {
        assert_eq!(
            offsets.len(),
            self.sequences.len() + 1,
            "offsets of every sequence"
        );
        assert_eq!(
            [offsets[0], offsets[offsets.len() - 1]],
            [0, q.dims()[0]],
            "offsets cover the rows of q"
        );
        let q = host(q);
        let pieces: Vec<Vec<_>> = self
            .sequences
            .iter()
            .map(|s| {
                s.pieces()
                    .map(|p| (p.k.as_slice(), p.v.as_slice()))
                    .collect()
            })
            .collect();
        let o = forward_cached(Level::best(), floats(&q), offsets, &pieces, options);
        Tensor::from_primitive::<Flex>(matrix(o, options.heads * options.head_dim))
    }

    /// A cache of `copies` sequences that begin with all of sequence `sequence`, sharing it.
    pub fn replicate(&self, sequence: usize, copies: usize) -> KvCache {
        let mut prefix = self.sequences[sequence].prefix.clone();
        prefix.push(Arc::new(self.sequences[sequence].own.clone()));
        let sequences = vec![
            Sequence {
                prefix,
                own: Piece::default()
            };
            copies
        ];
        KvCache {
            width: self.width,
            sequences,
        }
    }

    /// Drops the sequences for which `keep` is false; the others move together.
    pub fn retain(&mut self, keep: &[bool]) {
        assert_eq!(
            keep.len(),
            self.sequences.len(),
            "one verdict for each sequence"
        );
        let mut keep = keep.iter();
        self.sequences
            .retain(|_| *keep.next().expect("counted above"));
    }

    /// Bytes of the rows, shared prefixes counted once.
    pub fn bytes(&self) -> usize {
        let mut shared: Vec<_> = self.sequences.iter().flat_map(|s| &s.prefix).collect();
        shared.sort_by_key(|p| Arc::as_ptr(p));
        shared.dedup_by_key(|p| Arc::as_ptr(p));
        let pieces = shared
            .into_iter()
            .map(|p| &**p)
            .chain(self.sequences.iter().map(|s| &s.own));
        pieces.map(|p| (p.k.len() + p.v.len()) * 4).sum()
    }
}

impl Sequence {
    fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.prefix
            .iter()
            .map(|p| &**p)
            .chain(std::iter::once(&self.own))
    }
}

fn host(t: Tensor<2>) -> FlexTensor {
    packed(
        t.try_into_primitive::<Flex>()
            .expect("generation runs on the CPU back end, without a tape"),
    )
}
