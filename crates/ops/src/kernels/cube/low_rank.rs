//! y += scaling·p·qᵀ ∘ mask + bias on a GPU, p `[rows, rank]`: an adapter's part of a linear's output,
//! or of the gradient of its input.
//!
//! As a matmul p·qᵀ would be written and read again, as large as y, for sixteen products an element.
//! Here y is read and written once. A unit owns a vector of columns (16 bytes) and keeps their q in
//! shared memory, where nobody else looks, so that there is no barrier; it walks down the rows four
//! at a time, and each value of q serves all four. 32 fused multiply-adds to four broadcast reads of p
//! and one of q: a rank of 16 takes as long as the bytes do.

use super::dropout::factor;
use cubecl::prelude::*;

/// Rows that a cube walks down, and how many at a time.
pub(crate) const ROWS: usize = 64;
const TOGETHER: usize = 4;

/// q is `[width, rank]` (B), or `[rank, width]` (A) where `by_rank`. `threshold` and `scale` are those
/// of the dropout mask whose rows have `keys`.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn add_low_rank_kernel<F: Float, V: Size>(
    y: &mut [Vector<F, V>],
    p: &[F],
    q: &[f32],
    bias: &[f32],
    keys: &[u32],
    rows: usize,
    width: usize,
    rank: usize,
    scaling: f32,
    threshold: u32,
    scale: f32,
    #[comptime] most_rank: usize,
    #[comptime] by_rank: bool,
    #[comptime] biased: bool,
    #[comptime] masked: bool,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let lanes = V::value();
    let unit = UNIT_POS as usize;
    let vector = CUBE_POS_X as usize * units + unit;
    let column = vector * lanes;
    let mut own = Shared::<[Vector<F, V>]>::new_slice(comptime!(most_rank * units));
    if column < width {
        for r in 0..rank {
            let mut values = Vector::<F, V>::empty();
            #[unroll]
            for lane in 0..lanes {
                let mut at = (column + lane) * rank + r;
                if comptime!(by_rank) {
                    at = r * width + column + lane;
                }
                values.insert(lane, F::cast_from(q[at] * scaling));
            }
            own[r * units + unit] = values;
        }
        let mut row = CUBE_POS_Y as usize * ROWS;
        let mut end = row + ROWS;
        if end > rows {
            end = rows;
        }
        while row < end {
            let mut sums = Array::<f32>::new(comptime!(TOGETHER * lanes));
            #[unroll]
            for slot in 0..comptime!(TOGETHER * lanes) {
                sums[slot] = f32::new(0.0);
            }
            for r in 0..rank {
                let values = own[r * units + unit];
                #[unroll]
                for below in 0..TOGETHER {
                    // A row too many is computed from the last one, and not written.
                    let mut of = row + below;
                    if of >= end {
                        of = end - 1;
                    }
                    let weight = f32::cast_from(p[of * rank + r]);
                    #[unroll]
                    for lane in 0..lanes {
                        sums[below * lanes + lane] += weight * f32::cast_from(values.extract(lane));
                    }
                }
            }
            #[unroll]
            for below in 0..TOGETHER {
                let of = row + below;
                if of < end {
                    let at = of * (width / lanes) + vector;
                    let before = y[at];
                    let mut after = Vector::<F, V>::empty();
                    #[unroll]
                    for lane in 0..lanes {
                        let mut sum = sums[below * lanes + lane];
                        if comptime!(masked) {
                            sum *= factor(keys[of], (column + lane) as u32, threshold, scale);
                        }
                        if comptime!(biased) {
                            sum += bias[column + lane];
                        }
                        let value = f32::cast_from(before.extract(lane)) + sum;
                        after.insert(lane, F::cast_from(value));
                    }
                    y[at] = after;
                }
            }
            row += TOGETHER;
        }
    }
}
