//! Keys and values of sequences that are being generated (inference on the CPU).
//!
//! A sequence is a list of blocks of 64 positions in each layer. Blocks are reference-counted:
//! sequences that begin alike (the prompt that all cases share, read once) hold the same blocks, and
//! only a block that is still being filled is copied before its first new position.

use crate::backends::flex::{floats, matrix, packed};
use crate::kernels::cached_attention::{Block, KEYS, View, prompts};
use crate::kernels::simd::Level;
use crate::segments::AttentionOptions;
use burn::backend::Flex;
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use std::sync::Arc;

/// The cache of all layers for a batch of sequences.
#[derive(Clone, Debug)]
pub struct KvCache {
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
    sequences: Vec<Sequence>,
}

#[derive(Clone, Debug)]
struct Sequence {
    /// By layer.
    blocks: Vec<Vec<Arc<Block>>>,
    /// Positions that all layers hold.
    length: usize,
}

impl KvCache {
    /// `sequences` empty sequences of a model whose keys are `kv_heads·head_dim` wide.
    pub fn new(layers: usize, sequences: usize, kv_heads: usize, head_dim: usize) -> KvCache {
        let empty = Sequence {
            blocks: vec![Vec::new(); layers],
            length: 0,
        };
        KvCache {
            layers,
            kv_heads,
            head_dim,
            sequences: vec![empty; sequences],
        }
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.sequences.len()
    }

    /// Positions cached of one sequence.
    pub fn length(&self, sequence: usize) -> usize {
        self.sequences[sequence].length
    }

    /// Appends rows `offsets[i]..offsets[i + 1]` of k and v (rotated already) to sequence i in one
    /// layer. They count once [`KvCache::advance`] is told that all layers have them.
    pub fn append(&mut self, layer: usize, k: Tensor<2>, v: Tensor<2>, offsets: &[usize]) {
        self.check(offsets);
        let (k, v) = (host(k), host(v));
        let width = self.kv_heads * self.head_dim;
        let rows = |t: &FlexTensor| t.layout().shape()[0];
        assert_eq!(
            [rows(&k), rows(&v)],
            [offsets[offsets.len() - 1]; 2],
            "offsets cover the rows of k and v"
        );
        let row = |t, i: usize| &floats(t)[i * width..(i + 1) * width];
        for (sequence, offsets) in offsets.windows(2).enumerate() {
            for (new, i) in (offsets[0]..offsets[1]).enumerate() {
                self.put(layer, sequence, new, row(&k, i), row(&v, i));
            }
        }
    }

    /// Writes one layer of the position that is `new` after those that count.
    pub(crate) fn put(&mut self, layer: usize, sequence: usize, new: usize, k: &[f32], v: &[f32]) {
        let (kv_heads, head_dim) = (self.kv_heads, self.head_dim);
        let sequence = &mut self.sequences[sequence];
        let position = sequence.length + new;
        let blocks = &mut sequence.blocks[layer];
        if blocks.len() == position / KEYS {
            blocks.push(Arc::new(Block::new(kv_heads, head_dim)));
        }
        Arc::make_mut(&mut blocks[position / KEYS]).put(position % KEYS, k, v);
    }

    /// Attention of q in one layer, whose rows `offsets[i]..offsets[i + 1]` are the newest of
    /// sequence i, to all that is cached of it (append first).
    pub fn attend(
        &self,
        layer: usize,
        q: Tensor<2>,
        offsets: &[usize],
        options: &AttentionOptions,
    ) -> Tensor<2> {
        self.check(offsets);
        assert_eq!(
            q.dims(),
            [offsets[offsets.len() - 1], options.heads * options.head_dim],
            "offsets cover the rows of q"
        );
        let q = host(q);
        let views = self.views(layer, offsets);
        let o = prompts(Level::best(), floats(&q), &views, options);
        Tensor::from_primitive::<Flex>(matrix(o, options.heads * options.head_dim))
    }

    /// One layer of every sequence, rows `offsets[i]..offsets[i + 1]` being the newest of sequence i.
    pub(crate) fn views(&self, layer: usize, offsets: &[usize]) -> Vec<View<'_>> {
        let rows = offsets.windows(2).map(|w| w[0]..w[1]);
        let sequences = self.sequences.iter().zip(rows);
        sequences
            .map(|(sequence, rows)| View {
                blocks: &sequence.blocks[layer],
                past: sequence.length,
                rows,
            })
            .collect()
    }

    /// All layers have had rows `offsets[i]..offsets[i + 1]` of sequence i appended.
    pub fn advance(&mut self, offsets: &[usize]) {
        self.check(offsets);
        for (sequence, offsets) in self.sequences.iter_mut().zip(offsets.windows(2)) {
            sequence.length += offsets[1] - offsets[0];
            let blocks = sequence.length.div_ceil(KEYS);
            assert!(
                sequence.blocks.iter().all(|layer| layer.len() == blocks),
                "a layer has not been appended to"
            );
        }
    }

    /// A cache of `copies` sequences that begin with all of sequence `sequence`, sharing it.
    pub fn replicate(&self, sequence: usize, copies: usize) -> KvCache {
        KvCache {
            sequences: vec![self.sequences[sequence].clone(); copies],
            ..*self
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

    /// Takes the sequences of another cache of the same model, behind its own.
    pub fn absorb(&mut self, other: KvCache) {
        let shape = |cache: &KvCache| [cache.layers, cache.kv_heads, cache.head_dim];
        assert_eq!(shape(self), shape(&other), "caches of the same model");
        self.sequences.extend(other.sequences);
    }

    /// Bytes of the blocks, shared ones counted once.
    pub fn bytes(&self) -> usize {
        let mut blocks: Vec<_> = self
            .sequences
            .iter()
            .flat_map(|s| s.blocks.iter().flatten())
            .collect();
        blocks.sort_by_key(|block| Arc::as_ptr(block));
        blocks.dedup_by_key(|block| Arc::as_ptr(block));
        blocks.into_iter().map(|block| block.bytes()).sum()
    }

    fn check(&self, offsets: &[usize]) {
        assert_eq!(
            offsets.len(),
            self.sequences.len() + 1,
            "offsets of every sequence"
        );
        assert_eq!(offsets[0], 0, "offsets begin at the first row");
        assert!(offsets.is_sorted(), "offsets rise");
    }
}

fn host(t: Tensor<2>) -> FlexTensor {
    packed(
        t.try_into_primitive::<Flex>()
            .expect("generation runs on the CPU back end, without a tape"),
    )
}
