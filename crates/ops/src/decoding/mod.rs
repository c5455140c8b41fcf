//! One new token for each of a batch of sequences, through all layers at once (on the CPU).
//!
//! The same arithmetic as the operations a training step is made of, arranged for a few rows: every
//! weight is read once a step for the whole batch, a step is some two hundred regions of a [`Team`]
//! instead of four hundred tensors, and nothing is allocated but what a region's tasks and the head
//! need. Read `layer` for the order of things in a decoder layer, [`crate::kernels::few_rows`] for
//! what costs.

mod input;
mod layer;
mod linear;
pub(crate) mod shortlist;

use crate::KvCache;
use crate::backends::flex::{floats, packed, view};
use crate::format::WeightFormat;
use crate::kernels::aligned::Aligned;
use crate::kernels::few_rows::{Layout, Linear, Order};
use crate::kernels::normalize::forward_rows;
use crate::kernels::simd::Level;
use crate::kernels::team::Team;
use crate::kernels::{Shared, unwritten};
use crate::segments::AttentionOptions;
use crate::weight::Weight;
use burn::backend::Flex;
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use layer::{HostLayer, Rows};
pub use linear::DecodingLinear;
use shortlist::Shortlist;
use std::sync::{Mutex, OnceLock};

/// Rows of the head of a task: 300 KB of bf16.
const HEAD_TASK: usize = 256;

/// What a decoder layer is made of; the names are the checkpoint's.
pub struct DecodingLayer<'a> {
    pub input_layernorm: &'a Tensor<1>,
    pub q_proj: DecodingLinear<'a>,
    pub k_proj: DecodingLinear<'a>,
    pub v_proj: DecodingLinear<'a>,
    /// Norms of each head's query and key, `[head_dim]` (Qwen3).
    pub q_norm: Option<&'a Tensor<1>>,
    pub k_norm: Option<&'a Tensor<1>>,
    pub o_proj: DecodingLinear<'a>,
    pub post_attention_layernorm: &'a Tensor<1>,
    pub gate_proj: DecodingLinear<'a>,
    pub up_proj: DecodingLinear<'a>,
    pub down_proj: DecodingLinear<'a>,
}

/// A decoder as decoding reads it. Holds what it was made from by reference count.
pub struct Decoding {
    level: Level,
    layers: Vec<HostLayer>,
    norm: FlexTensor,
    embedding: HostWeight,
    head: HostWeight,
    /// Made when the first token is chosen.
    shortlist: OnceLock<Option<Shortlist>>,
    attention: AttentionOptions,
    epsilon: f32,
    rows: Rows,
}

struct HostWeight {
    words: FlexTensor,
    format: WeightFormat,
}

impl HostWeight {
    fn new(weight: &Weight) -> HostWeight {
        HostWeight {
            words: on_host(weight.words.clone().try_into_primitive::<Flex>().ok()),
            format: weight.format,
        }
    }

    fn view(&self) -> crate::kernels::panel::WeightView<'_> {
        view(&self.words, self.format)
    }
}

fn on_host(t: Option<FlexTensor>) -> FlexTensor {
    packed(t.expect("decoding runs on the CPU back end, without a tape"))
}

fn host<const D: usize>(t: &Tensor<D>) -> FlexTensor {
    on_host(t.clone().try_into_primitive::<Flex>().ok())
}

/// Before any logit.
const NONE: (f32, u32) = (f32::NEG_INFINITY, u32::MAX);

/// The larger of two logits with their tokens, of equals the first token's. One that is no number is larger than all,
/// so that it is seen.
fn likelier(a: (f32, u32), b: (f32, u32)) -> (f32, u32) {
    let is_b = if a.0.is_nan() || b.0.is_nan() {
        b.0.is_nan()
    } else {
        b.0 > a.0 || (b.0 == a.0 && b.1 < a.1)
    };
    if is_b { b } else { a }
}

impl Decoding {
    /// `norm` and `head` come after the last layer; `embedding` and `head` are
    /// `[vocabulary, hidden]`, often the same.
    pub fn new<'a>(
        layers: impl IntoIterator<Item = DecodingLayer<'a>>,
        norm: &Tensor<1>,
        embedding: &Weight,
        head: &Weight,
        attention: AttentionOptions,
        epsilon: f32,
    ) -> Decoding {
        let level = Level::best();
        Decoding {
            level,
            layers: layers.into_iter().map(HostLayer::new).collect(),
            norm: host(norm),
            embedding: HostWeight::new(embedding),
            head: HostWeight::new(head),
            shortlist: OnceLock::new(),
            attention,
            epsilon,
            rows: Rows::default(),
        }
    }

    /// Reads one new token of each sequence behind what `cache` holds of it, and appends it there.
    /// cos and sin `[ids.len(), head_dim / 2]` are those of the new positions. Returns the hidden
    /// state after the last layer, `[ids.len(), hidden]`.
    pub fn step(
        &mut self,
        team: &mut Team<'_>,
        ids: &[u32],
        cos: &[f32],
        sin: &[f32],
        cache: &mut KvCache,
    ) -> &[f32] {
        assert_eq!(ids.len(), cache.sequences(), "one token for each sequence");
        let angles = ids.len() * self.attention.head_dim / 2;
        assert_eq!([cos.len(), sin.len()], [angles; 2], "one angle a channel");
        let embedding = self.embedding.view();
        let width = embedding.format.in_features;
        self.rows.x.resize(ids.len() * width, 0.0);
        for (row, id) in self.rows.x.chunks_exact_mut(width).zip(ids) {
            let id = *id as usize;
            embedding.rows(self.level, id..id + 1, 0..width, row, width);
        }
        let offsets: Vec<usize> = (0..=ids.len()).collect();
        for (index, layer) in self.layers.iter().enumerate() {
            let step = layer::Step {
                level: self.level,
                epsilon: self.epsilon,
                attention: &self.attention,
                cos,
                sin,
                offsets: &offsets,
            };
            layer.forward(index, &step, team, cache, &mut self.rows);
        }
        cache.advance(&offsets);
        &self.rows.x
    }

    /// The likeliest token after each hidden state `[rows, hidden]`: the first of the largest logits,
    /// which are not kept. Where the rows are few, most of the head is read in 8 bits. `None` where a logit that was
    /// looked at is no number.
    pub fn likeliest(&self, team: &mut Team<'_>, hidden: &[f32]) -> Option<Vec<u32>> {
        let rows = hidden.len() / self.head.format.in_features;
        let x = self.normed(hidden);
        let best = self
            .likeliest_of_few(team, &x, rows)
            .unwrap_or_else(|| self.likeliest_of_all(team, &x, rows));
        let best = best.into_iter();
        best.map(|(logit, token)| (!logit.is_nan()).then_some(token))
            .collect()
    }

    /// The same by a [`Shortlist`], where that pays.
    fn likeliest_of_few(
        &self,
        team: &mut Team<'_>,
        x: &[f32],
        rows: usize,
    ) -> Option<Vec<(f32, u32)>> {
        if !(1..=shortlist::most_rows(self.level, self.head.format)).contains(&rows) {
            return None;
        }
        let shortlist = self
            .shortlist
            .get_or_init(|| Shortlist::new(self.level, self.head.view()));
        let left = shortlist.as_ref()?.tokens(self.level, team, x)?;
        let (linear, layout) = (self.head_linear(), self.head_layout(1));
        let (mut packed, mut buffer) = (Aligned::default(), Aligned::default());
        let of_rows = x.chunks_exact(x.len() / rows).zip(left);
        let likeliest = of_rows.map(|(x, left)| {
            layout.pack(self.level, x, &mut packed);
            let mut best = NONE;
            for token in left {
                let mut logit = f32::NAN;
                let range = token as usize..token as usize + 1;
                let y = (&raw mut logit).wrapping_sub(range.start);
                // SAFETY: y is one logit, that of column `token`.
                unsafe {
                    linear.multiply(self.level, range, &packed, layout, y, 1, &mut buffer);
                }
                best = likelier(best, (logit, token));
            }
            best
        });
        Some(likeliest.collect())
    }

    fn likeliest_of_all(&self, team: &mut Team<'_>, x: &[f32], rows: usize) -> Vec<(f32, u32)> {
        let best = Mutex::new(vec![NONE; rows]);
        self.project(team, x, rows, |first, logits| {
            let found = logits.chunks_exact(logits.len() / rows).map(|logits| {
                let tokens = logits.iter().copied().zip(first as u32..);
                tokens.fold(NONE, likelier)
            });
            let found: Vec<_> = found.collect();
            let mut best = best.lock().expect("no task panics while it holds this");
            for (best, found) in best.iter_mut().zip(found) {
                *best = likelier(*best, found); // in whatever order tasks end
            }
        });
        best.into_inner().expect("no task panicked")
    }

    /// Logits after each hidden state, `[rows, vocabulary]`.
    pub fn logits(&self, team: &mut Team<'_>, hidden: &[f32]) -> Vec<f32> {
        let format = self.head.format;
        let rows = hidden.len() / format.in_features;
        // SAFETY: pieces have all tokens.
        let mut all = unsafe { unwritten(rows * format.out_features) };
        let target = Shared(all.as_mut_ptr());
        self.project(team, &self.normed(hidden), rows, |first, logits| {
            let width = logits.len() / rows;
            for (i, logits) in logits.chunks_exact(width).enumerate() {
                // SAFETY: each task has its own columns.
                let to = unsafe { target.at(i * format.out_features + first) };
                unsafe { std::ptr::copy_nonoverlapping(logits.as_ptr(), to, width) };
            }
        });
        all
    }

    /// The hidden states after the last norm.
    fn normed(&self, hidden: &[f32]) -> Vec<f32> {
        // SAFETY: written in full next.
        let mut normed = unsafe { unwritten(hidden.len()) };
        forward_rows(
            self.level,
            hidden,
            floats(&self.norm),
            self.epsilon,
            &mut normed,
        );
        normed
    }

    fn head_linear(&self) -> Linear<'_> {
        Linear {
            weight: self.head.view(),
            bias: None,
            low_rank: None,
        }
    }

    fn head_layout(&self, rows: usize) -> Layout {
        let format = self.head.format;
        Order::of(self.level, format).layout(rows, format.in_features)
    }

    /// Hands pieces `[rows, tokens]` of the logits of x `[rows, hidden]`, and the first token of each, to `take`.
    fn project(
        &self,
        team: &mut Team<'_>,
        x: &[f32],
        rows: usize,
        take: impl Fn(usize, &[f32]) + Sync,
    ) {
        let (level, tokens) = (self.level, self.head.format.out_features);
        let layout = self.head_layout(rows);
        let mut packed = Aligned::default();
        layout.pack(level, x, &mut packed);
        let linear = self.head_linear();
        team.run(tokens.div_ceil(HEAD_TASK), |task| {
            let first = task * HEAD_TASK;
            let range = first..(first + HEAD_TASK).min(tokens);
            let width = range.len();
            // SAFETY: the product writes all of it.
            let (mut logits, mut buffer) = (unsafe { unwritten(rows * width) }, Aligned::default());
            // SAFETY: the buffer is this task's, and its column 0 is token `first`.
            unsafe {
                let y = logits.as_mut_ptr().wrapping_sub(first);
                linear.multiply(level, range, &packed, layout, y, width, &mut buffer);
            }
            take(first, &logits);
        });
    }
}
