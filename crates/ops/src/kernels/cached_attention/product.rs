//! Scores, and what they weigh: a matmul that has a tile of its own for the few queries of decoding.
//!
//! Register plan of that tile: up to four rows times four vectors of columns. With one row that is as
//! many sums in flight as a fused multiply-add takes cycles, where [`multiply`] has three at most.

use crate::kernels::matmul::{Column, Strided, multiply};
use crate::kernels::simd::{Level, Simd, simd_dispatch};

/// Queries that have a tile of their own: heads of one token that share their keys.
pub(super) const FEW: usize = 4;

/// [`multiply`], with another tile for the few queries of decoding; the bits are the same.
///
/// # Safety
/// As [`multiply`].
#[inline]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn product(
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
    // SAFETY: says the caller.
    unsafe {
        if m <= FEW && n.is_multiple_of(4 * level.lanes()) {
            few(level, m, n, depth, a, b, b_row, c, c_row, accumulate);
        } else {
            multiply(level, m, n, depth, a, b, b_row, c, c_row, accumulate);
        }
    }
}

simd_dispatch! {
    /// [`multiply`] of up to [`FEW`] rows and whole columns of four vectors.
    ///
    /// # Safety
    /// As [`multiply`].
    unsafe fn few(m: usize, n: usize, depth: usize, a: Strided, b: *const f32, b_row: usize, c: *mut f32, c_row: usize, accumulate: bool) = few_generic
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
    for j in (0..n).step_by(4 * S::LANES) {
        unsafe {
            let column = Column {
                last: S::LANES,
                depth,
                a,
                b: b.add(j),
                b_row,
                c: c.add(j),
                c_row,
                accumulate,
            };
            if S::TILE_ROWS < 8 {
                column.rows::<S, 1, 4, false>(0, m);
                continue;
            }
            let i = column.rows::<S, FEW, 4, false>(0, m);
            match m - i {
                3 => column.tile::<S, 3, 4, false>(i),
                2 => column.tile::<S, 2, 4, false>(i),
                1 => column.tile::<S, 1, 4, false>(i),
                _ => (),
            }
        }
    }
}
