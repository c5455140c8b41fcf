//! Which rows attend to which: ragged segments of a batch, laid end to end without padding.

use crate::format::ComputeDtype;
use std::ops::Range;
use std::sync::Arc;

/// One sequence: query rows and the key rows they may see, causal and aligned at the ends
/// (training: `q == k`; decoding: `q` the new tokens, `k` everything so far).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub q: Range<usize>,
    pub k: Range<usize>,
}

/// The segments of a batch. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segments(Arc<[Segment]>);

impl Segments {
    /// # Panics
    /// When a segment has more queries than keys.
    pub fn new(segments: Vec<Segment>) -> Segments {
        for s in &segments {
            assert!(s.q.len() <= s.k.len(), "{s:?}: more queries than keys");
        }
        Segments(segments.into_iter().filter(|s| !s.q.is_empty()).collect())
    }

    /// Training layout: segment i is rows `offsets[i]..offsets[i + 1]`, of queries and keys.
    pub fn from_offsets(offsets: &[usize]) -> Segments {
        Segments::new(
            offsets
                .windows(2)
                .map(|w| Segment {
                    q: w[0]..w[1],
                    k: w[0]..w[1],
                })
                .collect(),
        )
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Segment> {
        self.0.iter()
    }

    /// Checks that the segments lie within this many rows and cover each query row once.
    pub(crate) fn check(&self, q_rows: usize, k_rows: usize) {
        let mut next = 0;
        in_order(
            self,
            |s| &s.q,
            |q| {
                assert_eq!(
                    q.start, next,
                    "segments must cover the query rows once each, in one piece"
                );
                next = q.end;
            },
        );
        assert_eq!(next, q_rows, "segments must cover all query rows");
        assert!(
            self.iter().all(|s| s.k.end <= k_rows),
            "a segment ends after the last key row ({k_rows})"
        );
    }

    /// The backward pass lets each segment write the gradient of its own keys.
    pub(crate) fn check_disjoint_keys(&self) {
        let mut next = 0;
        in_order(
            self,
            |s| &s.k,
            |k| {
                assert!(
                    next <= k.start,
                    "attention to shared keys is not differentiable"
                );
                next = k.end;
            },
        );
    }
}

/// Calls `f` with the rows of each segment, the first ones first. Packed batches are in order already:
/// then nothing is allocated.
pub(crate) fn in_order(
    segments: &Segments,
    rows: impl Fn(&Segment) -> &Range<usize>,
    mut f: impl FnMut(&Range<usize>),
) {
    if segments.0.is_sorted_by_key(|s| rows(s).start) {
        return segments.iter().for_each(|s| f(rows(s)));
    }
    let mut sorted: Vec<_> = segments.iter().map(rows).collect();
    sorted.sort_by_key(|r| r.start);
    sorted.into_iter().for_each(f);
}

/// Shape and variant of an attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionOptions {
    pub heads: usize,
    /// Divides `heads`; consecutive query heads share a key-value head.
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Multiplies the scores, usually 1/√head_dim.
    pub scale: f32,
    /// A query sees this many keys, itself included (Mistral's sliding window).
    pub window: Option<usize>,
    /// cap·tanh(score / cap), after scaling.
    pub softcap: Option<f32>,
    /// What the products are multiplied in on the CPU; softmax and sums are f32.
    pub compute: ComputeDtype,
    /// How a GPU computes it.
    pub kernel: AttentionKernel,
}

/// How a GPU computes the attention of many rows. The CPU has one way, which this does not change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttentionKernel {
    /// Chunks of rows by the device's matmul, scores written out a chunk at a time: any shape.
    #[default]
    Chunked,
    /// Tiles that never leave the multiprocessor; only where [`crate::flash_attention`] says so.
    Flash,
}
