//! Scores, and what they weigh: a matmul that has a tile of its own for the few queries of decoding.
//!
//! Register plan of that tile: up to four rows times four vectors of columns. With one row that is as
//! many sums in flight as a fused multiply-add takes cycles, where the tile of [`super::super::matmul`]
//! has three at most.

use crate::kernels::matmul::{Strided, multiply};
use crate::kernels::simd::{Level, Simd, simd_dispatch};

/// Queries that have a tile of their own: heads of one token that share their keys.
pub(super) const FEW: usize = 4;

/// [`multiply`], with another tile for the few queries of decoding; the bits are the same.
#[inline]
#[allow(clippy::too_many_arguments)]
pub(super) fn product(
    level: Level,
    m: usize,
    n: usize,
    depth: usize,
    a: Strided,
    b: *const f32,
    b_row: usize,
    c: *mut f32,
    c_row: usize,
    accumulate: bool,
) {
    if m <= FEW && n.is_multiple_of(4 * level.lanes()) {
        few(level, m, n, depth, a, b, b_row, c, c_row, accumulate);
    } else {
        multiply(level, m, n, depth, a, b, b_row, c, c_row, accumulate);
    }
}

simd_dispatch! {
    /// Up to [`FEW`] rows. The pointers must be valid for `n` columns and `depth` rows, `a` for `m`
    /// rows whose elements are neighbours.
    fn few(m: usize, n: usize, depth: usize, a: Strided, b: *const f32, b_row: usize, c: *mut f32, c_row: usize, accumulate: bool) = few_generic
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn few_generic<S: Simd>(
    m: usize,
    n: usize,
    depth: usize,
    a: Strided,
    b: *const f32,
    b_row: usize,
    c: *mut f32,
    c_row: usize,
    accumulate: bool,
) {
    let together = if S::TILE_ROWS == 8 { FEW } else { 1 };
    for j in (0..n).step_by(4 * S::LANES) {
        let mut i = 0;
        while i < m {
            let count = (m - i).min(together);
            unsafe {
                let (a, b, c) = (a.offset(i, 0), b.add(j), c.add(i * c_row + j));
                match count {
                    4 => few_tile::<S, 4>(depth, a, b, b_row, c, c_row, accumulate),
                    3 => few_tile::<S, 3>(depth, a, b, b_row, c, c_row, accumulate),
                    2 => few_tile::<S, 2>(depth, a, b, b_row, c, c_row, accumulate),
                    _ => few_tile::<S, 1>(depth, a, b, b_row, c, c_row, accumulate),
                }
            }
            i += count;
        }
    }
}

#[inline(always)]
unsafe fn few_tile<S: Simd, const R: usize>(
    depth: usize,
    a: Strided,
    b: *const f32,
    b_row: usize,
    c: *mut f32,
    c_row: usize,
    accumulate: bool,
) {
    unsafe {
        let mut sums = [[S::splat(0.0); 4]; R];
        if accumulate {
            for (i, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = S::load(c.add(i * c_row + v * S::LANES));
                }
            }
        }
        for p in 0..depth {
            let b = b.add(p * b_row);
            let lanes = [
                S::load(b),
                S::load(b.add(S::LANES)),
                S::load(b.add(2 * S::LANES)),
                S::load(b.add(3 * S::LANES)),
            ];
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = S::splat(*a.pointer.add(i * a.row + p));
                for (sum, lanes) in sums.iter_mut().zip(lanes) {
                    *sum = S::fma(x, lanes, *sum);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                S::store(c.add(i * c_row + v * S::LANES), *sum);
            }
        }
    }
}
