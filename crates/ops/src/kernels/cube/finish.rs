//! What becomes of the sums of [`super::few_rows`]: bias, adapter, and the operation that follows.
//!
//! An adapter's u = x·Aᵀ lies in columns of its own beside W·x, so that B·u can be added wherever
//! the sums are read next: one launch a projection where there were six, and one for the residual,
//! the norm, the rotation and the cache where each was its own.
//!
//! Few bytes move here, and what a launch takes is how long its slowest unit does: of a row of x there
//! is one cube. So it has as many units as it can (`backends::cube::decoding`), u is added up once a
//! cube, and how many splits there are is known when the kernel is made: most often one, which needs
//! no loop.

use super::swiglu::sigmoid;
use super::{cube_max, cube_sum};
use cubecl::prelude::*;

/// Where a weight's sums lie: its first column, that of its u, and of how many columns in all.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(crate) struct Place {
    pub column: u32,
    pub u_column: u32,
    pub scaling: f32,
}

/// Value `column` of a row of sums, over all splits; `plane` is rows·columns.
#[cube]
fn total(sums: &[f32], at: usize, plane: usize, #[comptime] splits: usize) -> f32 {
    let mut sum = sums[at];
    for split in 1..splits {
        sum += sums[split * plane + at];
    }
    sum
}

/// B·u of one feature; b is `[out, rank]` in vectors, u begins at `at` of some sums.
#[cube]
fn low_rank<N: Size>(
    b: &[Vector<f32, N>],
    feature: usize,
    sums: &[f32],
    at: usize,
    plane: usize,
    #[comptime] splits: usize,
    #[comptime] rank: usize,
) -> f32 {
    let lanes = N::value();
    let vectors = comptime!(rank / lanes);
    let mut update = f32::new(0.0);
    for part in 0..vectors {
        let vector = b[feature * vectors + part];
        #[unroll]
        for lane in 0..lanes {
            update += vector.extract(lane) * total(sums, at + part * lanes + lane, plane, splits);
        }
    }
    update
}

/// W·x + bias + scaling·B·u of one row and feature.
#[cube]
#[allow(clippy::too_many_arguments)]
fn finished<N: Size>(
    sums: &[f32],
    b: &[Vector<f32, N>],
    bias: &[f32],
    place: &Place,
    row: usize,
    feature: usize,
    rows: usize,
    columns: usize,
    #[comptime] splits: usize,
    #[comptime] rank: usize,
    #[comptime] biased: bool,
) -> f32 {
    let plane = rows * columns;
    let start = row * columns;
    let mut sum = total(sums, start + place.column as usize + feature, plane, splits);
    if comptime!(biased) {
        sum += bias[feature];
    }
    if comptime!(rank > 0) {
        let u = start + place.u_column as usize;
        sum += place.scaling * low_rank(b, feature, sums, u, plane, splits, rank);
    }
    sum
}

/// y of a linear by itself, and u as the backward pass wants it, `[rows, rank]`.
#[allow(clippy::collapsible_if)] // the outer one is decided when the kernel is made
#[cube(launch, create_dummy_kernel)]
pub(crate) fn finish_linear_kernel<F: Float, N: Size>(
    sums: &[f32],
    b: &[Vector<f32, N>],
    bias: &[f32],
    y: &mut [F],
    u: &mut [F],
    place: &Place,
    rows: usize,
    columns: usize,
    width: usize,
    #[comptime] splits: usize,
    #[comptime] rank: usize,
    #[comptime] biased: bool,
    #[define(F)] _dtype: ElemType,
) {
    let i = ABSOLUTE_POS;
    if i < rows * width {
        let (row, feature) = (i / width, i % width);
        let value = finished(
            sums, b, bias, place, row, feature, rows, columns, splits, rank, biased,
        );
        y[i] = F::cast_from(value);
    }
    if comptime!(rank > 0) {
        if i < rows * rank {
            let at = i / rank * columns + place.u_column as usize + i % rank;
            u[i] = F::cast_from(total(sums, at, rows * columns, splits));
        }
    }
}

/// x += W·… + B·u, and h = RMSNorm(x): a cube a row, whose units share its u. Without `added` x is only
/// normalised.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn finish_norm_kernel<F: Float, N: Size>(
    sums: &[f32],
    b: &[Vector<f32, N>],
    bias: &[f32],
    x: &mut [F],
    weight: &[f32],
    h: &mut [F],
    place: &Place,
    rows: usize,
    columns: usize,
    width: usize,
    epsilon: f32,
    #[comptime] added: bool,
    #[comptime] splits: usize,
    #[comptime] rank: usize,
    #[comptime] biased: bool,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS;
    let mut u = Shared::<[f32]>::new_slice(comptime!(rank.max(1)));
    if comptime!(rank > 0) {
        let mut r = UNIT_POS as usize;
        while r < rank {
            let at = row * columns + place.u_column as usize + r;
            u[r] = total(sums, at, rows * columns, splits);
            r += units;
        }
        sync_cube();
    }
    let mut squares = f32::new(0.0);
    let mut j = UNIT_POS as usize;
    while j < width {
        let mut v = f32::cast_from(x[row * width + j]);
        if comptime!(added) {
            v += finished(
                sums, b, bias, place, row, j, rows, columns, splits, 0usize, biased,
            );
            if comptime!(rank > 0) {
                v += place.scaling * low_rank(b, j, &u[0..rank], 0usize, 0usize, 1usize, rank);
            }
            let rounded = F::cast_from(v);
            x[row * width + j] = rounded;
            v = f32::cast_from(rounded);
        }
        squares += v * v;
        j += units;
    }
    let mean = cube_sum(squares, units) / f32::cast_from(width as u32);
    let r = f32::new(1.0) / (mean + epsilon).sqrt();
    let mut j = UNIT_POS as usize;
    while j < width {
        let v = f32::cast_from(x[row * width + j]); // this unit wrote it
        h[row * width + j] = F::cast_from(v * r * weight[j]);
        j += units;
    }
}

/// silu(gate)·up, `[rows, width]`: a unit an element.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn finish_swiglu_kernel<F: Float, N: Size>(
    sums: &[f32],
    gate_b: &[Vector<f32, N>],
    up_b: &[Vector<f32, N>],
    gate_bias: &[f32],
    up_bias: &[f32],
    y: &mut [F],
    gate: &Place,
    up: &Place,
    rows: usize,
    columns: usize,
    width: usize,
    #[comptime] splits: usize,
    #[comptime] gate_rank: usize,
    #[comptime] up_rank: usize,
    #[comptime] gate_biased: bool,
    #[comptime] up_biased: bool,
    #[define(F)] _dtype: ElemType,
) {
    let i = ABSOLUTE_POS;
    if i < rows * width {
        let (row, feature) = (i / width, i % width);
        let g = finished(
            sums,
            gate_b,
            gate_bias,
            gate,
            row,
            feature,
            rows,
            columns,
            splits,
            gate_rank,
            gate_biased,
        );
        let u = finished(
            sums, up_b, up_bias, up, row, feature, rows, columns, splits, up_rank, up_biased,
        );
        y[i] = F::cast_from(g * sigmoid(g) * u);
    }
}

/// One of query, key and value of all rows: a cube a row and head. Optionally normed (Qwen3) and
/// rotated, written to row `slots[row]` of `y` (the row itself for queries).
#[cube(launch, create_dummy_kernel)]
pub(crate) fn finish_heads_kernel<F: Float, N: Size>(
    sums: &[f32],
    q_b: &[Vector<f32, N>],
    k_b: &[Vector<f32, N>],
    v_b: &[Vector<f32, N>],
    q_bias: &[f32],
    k_bias: &[f32],
    v_bias: &[f32],
    q_norm: &[f32],
    k_norm: &[f32],
    cos: &[f32],
    sin: &[f32],
    slots: &[u32],
    q: &mut [F],
    k: &mut [F],
    v: &mut [F],
    q_place: &Place,
    k_place: &Place,
    v_place: &Place,
    rows: usize,
    columns: usize,
    heads: usize,
    kv_heads: usize,
    epsilon: f32,
    #[comptime] head_dim: usize,
    #[comptime] splits: usize,
    #[comptime] ranks: [usize; 3],
    #[comptime] biased: [bool; 3],
    #[comptime] normed: bool,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let each = heads + 2 * kv_heads;
    let row = CUBE_POS / each;
    let head = CUBE_POS % each;
    let mut values = Shared::<[f32]>::new_slice(head_dim);
    let mut c = UNIT_POS as usize;
    while c < head_dim {
        if head < heads {
            values[c] = finished(
                sums,
                q_b,
                q_bias,
                q_place,
                row,
                head * head_dim + c,
                rows,
                columns,
                splits,
                comptime!(ranks[0]),
                comptime!(biased[0]),
            );
        } else if head < heads + kv_heads {
            values[c] = finished(
                sums,
                k_b,
                k_bias,
                k_place,
                row,
                (head - heads) * head_dim + c,
                rows,
                columns,
                splits,
                comptime!(ranks[1]),
                comptime!(biased[1]),
            );
        } else {
            values[c] = finished(
                sums,
                v_b,
                v_bias,
                v_place,
                row,
                (head - heads - kv_heads) * head_dim + c,
                rows,
                columns,
                splits,
                comptime!(ranks[2]),
                comptime!(biased[2]),
            );
        }
        c += units;
    }
    if comptime!(normed) {
        let mut squares = f32::new(0.0);
        let mut c = UNIT_POS as usize;
        while c < head_dim {
            squares += values[c] * values[c];
            c += units;
        }
        let mean = cube_sum(squares, units) / comptime!(head_dim as f32);
        let r = f32::new(1.0) / (mean + epsilon).sqrt();
        let mut c = UNIT_POS as usize;
        while c < head_dim {
            if head < heads {
                values[c] *= r * q_norm[c];
            } else if head < heads + kv_heads {
                values[c] *= r * k_norm[c];
            }
            c += units;
        }
    }
    sync_cube();
    let half = comptime!(head_dim / 2);
    let mut c = UNIT_POS as usize;
    while c < head_dim {
        let angle = row * half + c % half;
        let mut turned = values[c];
        if head < heads + kv_heads {
            if c < half {
                turned = turned * cos[angle] - values[c + half] * sin[angle];
            } else {
                turned = turned * cos[angle] + values[c - half] * sin[angle];
            }
        }
        let turned = F::cast_from(turned);
        if head < heads {
            q[(row * heads + head) * head_dim + c] = turned;
        } else if head < heads + kv_heads {
            let at = slots[row] as usize * kv_heads + head - heads;
            k[at * head_dim + c] = turned;
        } else {
            let at = slots[row] as usize * kv_heads + head - heads - kv_heads;
            v[at * head_dim + c] = turned;
        }
        c += units;
    }
}

/// Of part CUBE_POS_X of a row of logits the largest and where it is: pairs of f32 and u32 bits,
/// `[rows, parts, 2]`. Of equals the first.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn likeliest_kernel(
    logits: &[f32],
    best: &mut [u32],
    vocabulary: usize,
    #[comptime] units: usize,
) {
    let parts = CUBE_COUNT_X as usize;
    let part = CUBE_POS_X as usize;
    let row = CUBE_POS_Y as usize;
    let length = vocabulary.div_ceil(parts);
    let start = part * length;
    let mut end = start + length;
    if end > vocabulary {
        end = vocabulary;
    }
    let mut largest = f32::new(-3.4e38);
    let mut place = vocabulary;
    let mut j = start + UNIT_POS as usize;
    while j < end {
        let value = logits[row * vocabulary + j];
        if value > largest {
            largest = value;
            place = j;
        }
        j += units;
    }
    let top = cube_max(largest, units);
    // The smallest place among those that hold it, as the largest of its negative: exact in f32, a
    // vocabulary being smaller than 2²⁴.
    let mut found = f32::new(-3.4e38);
    if largest == top {
        found = -f32::cast_from(place as u32);
    }
    let first = -cube_max(found, units);
    if UNIT_POS == 0 {
        let at = (row * parts + part) * 2;
        best[at] = u32::reinterpret(top);
        best[at + 1] = u32::cast_from(first);
    }
}
