//! What attention does between its matmuls on a GPU, and the whole of it for a few rows.
//!
//! A chunk of query rows meets the span of keys that any of them sees: scores `[kv_heads,
//! rows·group, span]`, with the `group` query heads of a key-value head as neighbouring rows. Which
//! keys of the span a row sees is two numbers, `first` and `end`: segments, causality and the
//! sliding window are all in them.

use super::{cube_max, cube_sum};
use cubecl::prelude::*;

/// The score as softmax sees it: scaled, and bent by cap·tanh(s / cap).
#[cube]
pub(crate) fn bent(raw: f32, scale: f32, softcap: f32, #[comptime] capped: bool) -> f32 {
    let score = raw * scale;
    if comptime!(capped) {
        softcap * (score / softcap).tanh()
    } else {
        score
    }
}

/// p = softmax(scores) over the keys that each row sees, zero elsewhere; lse `[rows, heads]`.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn softmax_kernel<F: Float>(
    scores: &[f32],
    first: &[u32],
    end: &[u32],
    p: &mut [F],
    lse: &mut [f32],
    chunk_start: usize,
    chunk_rows: usize,
    span_start: usize,
    span: usize,
    group: usize,
    heads: usize,
    scale: f32,
    softcap: f32,
    #[comptime] capped: bool,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let index = CUBE_POS;
    let unit = UNIT_POS as usize;
    let within = index % (chunk_rows * group);
    let head = index / (chunk_rows * group) * group + within % group;
    let row = chunk_start + within / group;
    let from = first[row] as usize - span_start;
    let to = end[row] as usize - span_start;
    let at = index * span;

    let mut largest = f32::new(-3.0e38);
    let mut j = from + unit;
    while j < to {
        let score = bent(scores[at + j], scale, softcap, capped);
        if score > largest {
            largest = score;
        }
        j += units;
    }
    let largest = cube_max(largest, units);
    let mut sum = f32::new(0.0);
    let mut j = from + unit;
    while j < to {
        sum += (bent(scores[at + j], scale, softcap, capped) - largest).exp();
        j += units;
    }
    let sum = cube_sum(sum, units);
    if unit == 0 {
        lse[row * heads + head] = largest + sum.ln();
    }
    let mut j = unit;
    while j < span {
        let mut probability = f32::new(0.0);
        if j >= from && j < to {
            probability = (bent(scores[at + j], scale, softcap, capped) - largest).exp() / sum;
        }
        p[at + j] = F::cast_from(probability);
        j += units;
    }
}

/// p again from lse, and ds = scale·p∘(dp − delta)∘slope, with delta = Σ do∘o of the row.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn softmax_backward_kernel<F: Float>(
    scores: &[f32],
    dp: &[f32],
    first: &[u32],
    end: &[u32],
    lse: &[f32],
    delta: &[f32],
    p: &mut [F],
    ds: &mut [F],
    chunk_start: usize,
    chunk_rows: usize,
    span_start: usize,
    span: usize,
    group: usize,
    heads: usize,
    scale: f32,
    softcap: f32,
    elements: usize,
    #[comptime] capped: bool,
    #[define(F)] _dtype: ElemType,
) {
    let i = ABSOLUTE_POS;
    if i < elements {
        let index = i / span;
        let key = span_start + i % span;
        let within = index % (chunk_rows * group);
        let head = index / (chunk_rows * group) * group + within % group;
        let row = chunk_start + within / group;
        let mut probability = f32::new(0.0);
        let mut slope = f32::new(0.0);
        if key >= first[row] as usize && key < end[row] as usize {
            let score = bent(scores[i], scale, softcap, capped);
            probability = (score - lse[row * heads + head]).exp();
            slope = scale * probability * (dp[i] - delta[row * heads + head]);
            if comptime!(capped) {
                let tanh = score / softcap;
                slope *= f32::new(1.0) - tanh * tanh;
            }
        }
        p[i] = F::cast_from(probability);
        ds[i] = F::cast_from(slope);
    }
}

/// delta = Σ do∘o over each head, `[rows, heads]`: a cube a row and head.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn delta_kernel<F: Float>(
    d_o: &[F],
    o: &[F],
    delta: &mut [f32],
    head_dim: usize,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = CUBE_POS * head_dim;
    let mut sum = f32::new(0.0);
    let mut c = UNIT_POS as usize;
    while c < head_dim {
        sum += f32::cast_from(d_o[at + c]) * f32::cast_from(o[at + c]);
        c += units;
    }
    let sum = cube_sum(sum, units);
    if UNIT_POS == 0 {
        delta[CUBE_POS] = sum;
    }
}

/// Attention of single rows, a cube a row and head, with a running softmax over tiles of `units`
/// keys: for decoding, where a matmul would have one row. Keys and values are read from slots:
/// row j of the query's sequence is row `first[row] + j` of k and v.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn attend_kernel<F: Float>(
    q: &[F],
    k: &[F],
    v: &[F],
    first: &[u32],
    end: &[u32],
    o: &mut [F],
    lse: &mut [f32],
    heads: usize,
    kv_heads: usize,
    scale: f32,
    softcap: f32,
    #[comptime] head_dim: usize,
    #[comptime] capped: bool,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS / heads;
    let head = CUBE_POS % heads;
    let kv = head / (heads / kv_heads);
    let unit = UNIT_POS as usize;
    let mut query = Shared::<[f32]>::new_slice(head_dim);
    let mut weights = Shared::<[f32]>::new_slice(units);
    let mut sums = Shared::<[f32]>::new_slice(head_dim);
    let mut c = unit;
    while c < head_dim {
        query[c] = f32::cast_from(q[CUBE_POS * head_dim + c]);
        sums[c] = f32::new(0.0);
        c += units;
    }
    sync_cube();

    let from = first[row] as usize;
    let to = end[row] as usize;
    let mut largest = f32::new(-3.0e38);
    let mut total = f32::new(0.0);
    let mut tile = from;
    while tile < to {
        let key = tile + unit;
        let mut score = f32::new(-3.0e38);
        if key < to {
            let at = (key * kv_heads + kv) * head_dim;
            let mut dot = f32::new(0.0);
            for c in 0..head_dim {
                dot += query[c] * f32::cast_from(k[at + c]);
            }
            score = bent(dot, scale, softcap, capped);
        }
        let top = cube_max(score, units);
        let mut next = largest;
        if top > next {
            next = top;
        }
        let shrink = (largest - next).exp();
        let mut weight = f32::new(0.0);
        if key < to {
            weight = (score - next).exp();
        }
        weights[unit] = weight;
        total = total * shrink + cube_sum(weight, units); // its barriers publish the weights too
        let mut count = to - tile;
        if count > units {
            count = units.runtime();
        }
        let mut c = unit;
        while c < head_dim {
            let mut sum = sums[c] * shrink;
            for j in 0..count {
                sum += weights[j] * f32::cast_from(v[((tile + j) * kv_heads + kv) * head_dim + c]);
            }
            sums[c] = sum;
            c += units;
        }
        sync_cube();
        largest = next;
        tile += units;
    }

    let mut c = unit;
    while c < head_dim {
        o[CUBE_POS * head_dim + c] = F::cast_from(sums[c] / total);
        c += units;
    }
    if unit == 0 {
        lse[CUBE_POS] = largest + total.ln();
    }
}

/// Copies row i of `rows` to row `slots[i]` of `cache`.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn write_rows_kernel<F: Float>(
    rows: &[F],
    slots: &[u32],
    cache: &mut [F],
    elements: usize,
    width: usize,
    #[define(F)] _dtype: ElemType,
) {
    let i = ABSOLUTE_POS;
    if i < elements {
        cache[slots[i / width] as usize * width + i % width] = rows[i];
    }
}
