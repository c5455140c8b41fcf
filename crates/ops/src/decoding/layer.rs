//! A decoder layer for one new token of each sequence: x + Attention(Norm(x)), then + MLP(Norm(·)).
//!
//! Each line of [`HostLayer::forward`] that names the team is one region; between them the leading
//! thread does alone what takes it less time than a region costs: norms, rotations, packing.

use super::input::Input;
use super::linear::HostLinear;
use super::{DecodingLayer, host};
use crate::KvCache;
use crate::backends::flex::floats;
use crate::kernels::aligned::Aligned;
use crate::kernels::cached_attention::{Stat, tokens};
use crate::kernels::few_rows::Order;
use crate::kernels::normalize::forward_rows;
use crate::kernels::simd::Level;
use crate::kernels::swiglu::forward_run;
use crate::kernels::team::Team;
use crate::kernels::{Shared, unwritten};
use crate::segments::AttentionOptions;
use burn_flex::FlexTensor;

/// Rows of a weight of a task: a microsecond or two.
const TASK: usize = 32;
/// Gate and up rows of a task, each.
const GATED_TASK: usize = 64;
/// Rows of A of a task.
const RANK_TASK: usize = 4;

pub(super) struct HostLayer {
    input_layernorm: FlexTensor,
    qkv: [HostLinear; 3],
    q_norm: Option<FlexTensor>,
    k_norm: Option<FlexTensor>,
    output: HostLinear,
    post_attention_layernorm: FlexTensor,
    gate_up: [HostLinear; 2],
    down: HostLinear,
}

/// What all layers of a step share.
pub(super) struct Step<'a> {
    pub level: Level,
    pub epsilon: f32,
    pub attention: &'a AttentionOptions,
    /// `[rows, head_dim / 2]`
    pub cos: &'a [f32],
    pub sin: &'a [f32],
    /// One row for each sequence.
    pub offsets: &'a [usize],
}

/// The rows of a step on their way through a layer; their memory is kept for the next.
#[derive(Default)]
pub(super) struct Rows {
    /// `[rows, hidden]`, what comes in and what goes out.
    pub x: Vec<f32>,
    normed: Vec<f32>,
    input: Input,
    /// s·x·Aᵀ of the maps at hand, `[rows, rank]`
    low: [Vec<f32>; 3],
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    stats: Vec<Stat>,
    seen: Vec<f32>,
    gated: Input,
    y: Vec<f32>,
}

impl HostLayer {
    pub(super) fn new(layer: DecodingLayer<'_>) -> HostLayer {
        let linear = HostLinear::new;
        HostLayer {
            input_layernorm: host(layer.input_layernorm),
            qkv: [layer.q_proj, layer.k_proj, layer.v_proj].map(linear),
            q_norm: layer.q_norm.map(host),
            k_norm: layer.k_norm.map(host),
            output: linear(layer.o_proj),
            post_attention_layernorm: host(layer.post_attention_layernorm),
            gate_up: [layer.gate_proj, layer.up_proj].map(linear),
            down: linear(layer.down_proj),
        }
    }

    /// Layer `index`: `rows.x` in place, keys and values into the cache.
    pub(super) fn forward(
        &self,
        index: usize,
        step: &Step<'_>,
        team: &mut Team<'_>,
        cache: &mut KvCache,
        rows: &mut Rows,
    ) {
        let level = step.level;
        let (count, attention) = (step.offsets.len() - 1, step.attention);
        let Rows {
            x,
            normed,
            input,
            low,
            q,
            k,
            v,
            stats,
            seen,
            gated,
            y,
        } = rows;

        normalize(step, x, &self.input_layernorm, normed);
        input.set(level, normed, count, &self.qkv);
        multiply(level, team, &self.qkv, input, count, low, [q, k, v]);
        for (rows, norm, heads) in [
            (&mut *q, &self.q_norm, attention.heads),
            (&mut *k, &self.k_norm, attention.kv_heads),
        ] {
            if let Some(norm) = norm {
                normed.clone_from(rows);
                forward_rows(level, normed, floats(norm), step.epsilon, rows);
            }
            rotate(rows, step.cos, step.sin, heads, attention.head_dim / 2);
        }
        let width = k.len() / count;
        let new = k.chunks_exact(width).zip(v.chunks_exact(width));
        for (sequence, (k, v)) in new.enumerate() {
            cache.put(index, sequence, 0, k, v);
        }
        let views = cache.views(index, step.offsets);
        seen.resize(q.len(), 0.0);
        tokens(level, team, q, &views, attention, stats, seen);
        input.set(level, seen, count, std::slice::from_ref(&self.output));
        multiply(
            level,
            team,
            std::array::from_ref(&self.output),
            input,
            count,
            low,
            [&mut *y],
        );
        add(x, y);

        normalize(step, x, &self.post_attention_layernorm, normed);
        input.set(level, normed, count, &self.gate_up);
        self.gate(level, team, input, count, low, gated);
        multiply(
            level,
            team,
            std::array::from_ref(&self.down),
            gated,
            count,
            low,
            [&mut *y],
        );
        add(x, y);
    }

    /// silu(gate)·up in one region, straight into the order that the down projection wants.
    fn gate(
        &self,
        level: Level,
        team: &mut Team<'_>,
        input: &Input,
        rows: usize,
        low: &mut [Vec<f32>; 3],
        gated: &mut Input,
    ) {
        first_products(level, team, &self.gate_up, input, rows, low);
        let intermediate = self.down.format().in_features;
        gated.clear(level, rows, std::slice::from_ref(&self.down));
        let targets = gated.rooms();
        let low = &*low;
        team.run(intermediate.div_ceil(GATED_TASK), |task| {
            let first = task * GATED_TASK;
            let range = first..(first + GATED_TASK).min(intermediate);
            let width = range.len();
            // SAFETY: each half is a product, which writes all of it.
            let mut halves = unsafe { [unwritten(rows * width), unwritten(rows * width)] };
            let mut buffer = Aligned::default();
            for ((linear, low), half) in self.gate_up.iter().zip(low).zip(&mut halves) {
                let y = half.as_mut_ptr().wrapping_sub(first);
                let (x, layout) = input.of(linear.order(level));
                // SAFETY: the half is this task's, and its column 0 is feature `first`.
                unsafe {
                    let linear = linear.whole(low);
                    linear.multiply(level, range.clone(), x, layout, y, width, &mut buffer);
                }
            }
            let [gate, up] = halves;
            // SAFETY: written in full next.
            let mut values = unsafe { unwritten(rows * width) };
            forward_run(level, &gate, &up, &mut values);
            for (layout, target) in &targets {
                // SAFETY: each feature of each row has a place of its own, and these are the task's.
                unsafe { layout.put(level, &values, first, target.at(0)) };
            }
        });
    }
}

fn normalize(step: &Step<'_>, x: &[f32], weight: &FlexTensor, normed: &mut Vec<f32>) {
    normed.resize(x.len(), 0.0);
    forward_rows(step.level, x, floats(weight), step.epsilon, normed);
}

/// y of each map, all in one region; with adapters, their first products in a region before it.
fn multiply<const N: usize>(
    level: Level,
    team: &mut Team<'_>,
    linears: &[HostLinear; N],
    input: &Input,
    rows: usize,
    low: &mut [Vec<f32>; 3],
    outputs: [&mut Vec<f32>; N],
) {
    first_products(level, team, linears, input, rows, low);
    let mut index = 0;
    let pieces: [_; N] = outputs.map(|y| {
        let linear = &linears[index];
        let (width, x) = (linear.format().out_features, input.of(linear.order(level)));
        y.resize(rows * width, 0.0);
        index += 1;
        (
            linear.whole(&low[index - 1]),
            x,
            width,
            Shared(y.as_mut_ptr()),
        )
    });
    let counts = pieces
        .each_ref()
        .map(|(_, _, width, _)| width.div_ceil(TASK));
    team.run(counts.iter().sum(), |task| {
        let (piece, task) = locate(&counts, task);
        let (linear, (x, layout), width, y) = &pieces[piece];
        let range = task * TASK..((task + 1) * TASK).min(*width);
        // SAFETY: this task alone writes these columns of this output.
        unsafe {
            linear.multiply(
                level,
                range,
                x,
                *layout,
                y.at(0),
                *width,
                &mut Aligned::default(),
            )
        };
    });
}

/// u = s·x·Aᵀ of those of `linears` that have an adapter.
fn first_products(
    level: Level,
    team: &mut Team<'_>,
    linears: &[HostLinear],
    input: &Input,
    rows: usize,
    low: &mut [Vec<f32>; 3],
) {
    let mut pieces = Vec::new();
    for (linear, u) in linears.iter().zip(low) {
        u.resize(rows * linear.rank(), 0.0);
        if let Some((first, scaling)) = linear.first_product() {
            let x = input.of(Order::plain(level));
            pieces.push((first, scaling, x, linear.rank(), Shared(u.as_mut_ptr())));
        }
    }
    let counts: Vec<usize> = pieces
        .iter()
        .map(|piece| piece.3.div_ceil(RANK_TASK))
        .collect();
    team.run(counts.iter().sum(), |task| {
        let (piece, task) = locate(&counts, task);
        let (linear, scaling, (x, layout), rank, u) = &pieces[piece];
        let range = task * RANK_TASK..((task + 1) * RANK_TASK).min(*rank);
        // SAFETY: this task alone writes these columns of this u.
        unsafe {
            linear.multiply(
                level,
                range.clone(),
                x,
                *layout,
                u.at(0),
                *rank,
                &mut Aligned::default(),
            );
            for i in 0..rows {
                range.clone().for_each(|j| *u.at(i * rank + j) *= scaling);
            }
        }
    });
}

/// (piece, task within it) of a task of all pieces.
fn locate(counts: &[usize], mut task: usize) -> (usize, usize) {
    for (piece, count) in counts.iter().enumerate() {
        if task < *count {
            return (piece, task);
        }
        task -= count;
    }
    unreachable!("tasks are numbered up to the sum of the counts")
}

/// Rotary embedding in place, half-split: (x₁cos − x₂sin, x₂cos + x₁sin) in each head; `half` angles
/// a row.
fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32], heads: usize, half: usize) {
    let angles = cos.chunks_exact(half).zip(sin.chunks_exact(half));
    for (row, (cos, sin)) in x.chunks_exact_mut(heads * half * 2).zip(angles) {
        for head in row.chunks_exact_mut(2 * half) {
            let (low, high) = head.split_at_mut(half);
            for j in 0..half {
                let (x1, x2) = (low[j], high[j]);
                low[j] = x1 * cos[j] - x2 * sin[j];
                high[j] = x2 * cos[j] + x1 * sin[j];
            }
        }
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
