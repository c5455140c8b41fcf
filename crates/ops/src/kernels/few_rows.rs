//! y = x·Wᵀ for a handful of tokens (decoding): W is read once, as it lies.
//!
//! Four rows of W are dequantised into a buffer that stays in L1 and dotted with every row of x,
//! lanes along the input features: 4 × 4 accumulators, 8 loads for 16 fused multiply-adds. No
//! transpose, so what a weight costs is its unpacking. Each (row, feature) is summed in one order
//! whatever the batch: a sequence decodes to the same bits alone and in company.

use super::Shared;
use super::linear::LoraView;
use super::normalize::get;
use super::panel::WeightView;
use super::simd::{Level, Simd, for_lanes, simd_dispatch};
use rayon::prelude::*;

/// Up to this many tokens it pays not to transpose W.
pub(crate) const MOST: usize = 16;
/// Rows of W in the buffer.
const BUFFER: usize = 4;
/// Rows of W of a task.
const TASK: usize = 32;

/// `y` `[m, out]` from x `[m, in]`; `u` = drop(x)·Aᵀ `[m, rank]` where there is an adapter.
pub(crate) fn forward(
    level: Level,
    x: &[f32],
    u: &[f32],
    weight: WeightView<'_>,
    bias: Option<&[f32]>,
    lora: Option<LoraView<'_>>,
    y: &mut [f32],
) {
    let (n, k) = (weight.format.out_features, weight.format.in_features);
    let m = x.len() / k;
    let target = Shared(y.as_mut_ptr());
    (0..n.div_ceil(TASK))
        .into_par_iter()
        .with_min_len(2)
        .for_each_init(
            || vec![0.0; BUFFER * k],
            |buffer, task| {
                for first in (task * TASK..((task + 1) * TASK).min(n)).step_by(BUFFER) {
                    let count = BUFFER.min(n - first);
                    weight.rows(level, first..first + count, 0..k, buffer, k);
                    let mut sums = [0.0; BUFFER * MOST];
                    dot(level, buffer, count, x, m, k, &mut sums);
                    let mut low_rank = [0.0; BUFFER * MOST];
                    if let Some(lora) = lora {
                        dot(
                            level,
                            &lora.b[first * lora.rank..],
                            count,
                            u,
                            m,
                            lora.rank,
                            &mut low_rank,
                        );
                    }
                    let scaling = lora.map_or(0.0, |l| l.scaling);
                    for i in 0..m {
                        for j in 0..count {
                            let bias = bias.map_or(0.0, |b| b[first + j]);
                            // SAFETY: this task alone writes these columns of y.
                            unsafe {
                                *target.at(i * n + first + j) =
                                    bias + sums[j * MOST + i] + scaling * low_rank[j * MOST + i]
                            };
                        }
                    }
                }
            },
        );
}

simd_dispatch! {
    /// `out[j·MOST + i] = Σ_p w[j, p]·x[i, p]` for j < count, i < m, both row-major with k columns.
    fn dot(w: &[f32], count: usize, x: &[f32], m: usize, k: usize, out: &mut [f32; BUFFER * MOST]) = dot_generic
}

#[inline(always)]
unsafe fn dot_generic<S: Simd>(
    w: &[f32],
    count: usize,
    x: &[f32],
    m: usize,
    k: usize,
    out: &mut [f32; BUFFER * MOST],
) {
    assert!(w.len() >= count * k && x.len() >= m * k && count <= BUFFER && m <= MOST);
    let mut i = 0;
    while i < m {
        let (rows, out) = (&x[i * k..], &mut out[i..]);
        // SAFETY: the lengths were asserted.
        unsafe {
            i += match (count, m - i) {
                (4, 4..) => dot_tile::<S, 4, 4>(w, k, rows, k, out, MOST),
                (4, 2..) => dot_tile::<S, 4, 2>(w, k, rows, k, out, MOST),
                (4, _) => dot_tile::<S, 4, 1>(w, k, rows, k, out, MOST),
                (3, _) => dot_tile::<S, 3, 1>(w, k, rows, k, out, MOST),
                (2, _) => dot_tile::<S, 2, 1>(w, k, rows, k, out, MOST),
                _ => dot_tile::<S, 1, 1>(w, k, rows, k, out, MOST),
            };
        }
    }
}

simd_dispatch! {
    /// `out[j] = Σ_p w[j·w_row + p]·x[p]`: one query against keys as they lie.
    pub(crate) fn dot_rows(w: &[f32], w_row: usize, x: &[f32], out: &mut [f32]) = dot_rows_generic
}

#[inline(always)]
unsafe fn dot_rows_generic<S: Simd>(w: &[f32], w_row: usize, x: &[f32], out: &mut [f32]) {
    let (k, count) = (x.len(), out.len());
    assert!(count == 0 || w.len() >= (count - 1) * w_row + k);
    let mut j = 0;
    while j < count {
        let (rows, out) = (&w[j * w_row..], &mut out[j..]);
        // SAFETY: the lengths were asserted.
        unsafe {
            j += match count - j {
                4.. => {
                    dot_tile::<S, 4, 1>(rows, w_row, x, k, out, 1);
                    4
                }
                _ => dot_tile::<S, 1, 1>(rows, w_row, x, k, out, 1),
            };
        }
    }
}

/// `J` rows of w with `I` rows of x; returns `I`.
#[inline(always)]
unsafe fn dot_tile<S: Simd, const J: usize, const I: usize>(
    w: &[f32],
    w_row: usize,
    x: &[f32],
    k: usize,
    out: &mut [f32],
    out_row: usize,
) -> usize {
    unsafe {
        let mut sums = [[S::splat(0.0); I]; J];
        for_lanes!(S, k, |p, lanes| {
            let mut columns = [S::splat(0.0); I];
            for (i, c) in columns.iter_mut().enumerate() {
                *c = get::<S>(&x[i * k..], p, lanes);
            }
            for (j, sums) in sums.iter_mut().enumerate() {
                let row = get::<S>(&w[j * w_row..], p, lanes);
                for (s, c) in sums.iter_mut().zip(columns) {
                    *s = S::fma(row, c, *s);
                }
            }
        });
        for (j, sums) in sums.iter().enumerate() {
            for (i, s) in sums.iter().enumerate() {
                out[j * out_row + i] = S::sum(*s);
            }
        }
    }
    I
}
