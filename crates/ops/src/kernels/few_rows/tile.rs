//! Rows of W times a few rows of x, weights unpacked in registers.
//!
//! Lanes run along the input features, in the [`Order`](super::order::Order) in which a vector of
//! weights comes out of the stored words. Register plan (AVX-512): 4 rows of W × 1 or 2 rows of x, or
//! 2 × 3 or 4; each row of W has its table, its codes and an accumulator for each row of x. (4 × 4 and
//! 2 × 8 need more than 32 registers, and run at half the speed.) Above 4 rows of x, unpacking for
//! every tile would cost more than a detour through L1: 4 rows of W are unpacked into a buffer and
//! multiplied from there, 4 × 4 accumulators, 8 loads for 16 fused multiply-adds.
//!
//! Each (row of W, row of x) is summed in one order whatever the tile, so a sequence decodes to the
//! same bits alone and in company. The adapter's product is the last term of the same sums.

use super::LowRank;
use crate::kernels::aligned::Aligned;
use crate::kernels::normalize::get;
use crate::kernels::simd::{Simd, for_lanes};
use std::ops::Range;

/// Rows of x up to which weights are unpacked for every tile.
const DIRECT: usize = 4;
/// Rows of W in the buffer.
const BUFFER: usize = 4;

/// Where vectors of weights come from.
///
/// # Safety
/// Methods need the instructions of `S`, and rows and groups inside the weight.
pub(super) trait Source<S: Simd>: Copy {
    /// Vectors of one group: what is loaded at once.
    const VECTORS: usize;
    type Group: Copy;
    unsafe fn group(self, row: usize, group: usize) -> Self::Group;
    unsafe fn vector(group: Self::Group, v: usize) -> S::V;
}

/// Values that are vectors already: a dense f32 weight, or the buffer.
#[derive(Clone, Copy)]
pub(super) struct Plain {
    pub pointer: *const f32,
    pub stride: usize,
}

impl<S: Simd> Source<S> for Plain {
    const VECTORS: usize = 1;
    type Group = S::V;
    #[inline(always)]
    unsafe fn group(self, row: usize, group: usize) -> S::V {
        unsafe { S::load(self.pointer.add(row * self.stride + group * S::LANES)) }
    }
    #[inline(always)]
    unsafe fn vector(group: S::V, _: usize) -> S::V {
        group
    }
}

/// One product: packed x, the adapter's part, and where y goes.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    /// `[vectors][rows][lanes]`
    pub x: &'a [f32],
    /// Rows of x.
    pub rows: usize,
    /// Vectors of a row.
    pub vectors: usize,
    pub low_rank: Option<LowRank<'a>>,
    pub bias: Option<&'a [f32]>,
    /// Element (i, j) of y, j a row of W, lies at `y + i·y_row + j`.
    pub y: *mut f32,
    pub y_row: usize,
}

/// y of the rows `range` of W.
///
/// # Safety
/// `range` must lie in the weight, y must be valid for it and touched by no one else.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, W: Source<S>>(
    w: W,
    range: Range<usize>,
    product: &Product<'_>,
    buffer: &mut Aligned,
) {
    unsafe {
        if product.rows == 0 {
            return;
        }
        if product.rows <= DIRECT {
            direct::<S, W>(w, range, product);
        } else {
            buffered::<S, W>(w, range, product, buffer);
        }
    }
}

#[inline(always)]
unsafe fn direct<S: Simd, W: Source<S>>(w: W, range: Range<usize>, p: &Product<'_>) {
    unsafe {
        let mut row = range.start;
        let height = if p.rows > 2 { 2 } else { 4 };
        while row + height <= range.end {
            match p.rows {
                1 => tile::<S, W, 4, 1>(w, 0, row, 0, p),
                2 => tile::<S, W, 4, 2>(w, 0, row, 0, p),
                3 => tile::<S, W, 2, 3>(w, 0, row, 0, p),
                4 => tile::<S, W, 2, 4>(w, 0, row, 0, p),
                rows => unreachable!("{rows} rows of x at once"),
            };
            row += height;
        }
        for row in row..range.end {
            for i in 0..p.rows {
                tile::<S, W, 1, 1>(w, 0, row, i, p);
            }
        }
    }
}

#[inline(always)]
unsafe fn buffered<S: Simd, W: Source<S>>(
    w: W,
    range: Range<usize>,
    p: &Product<'_>,
    buffer: &mut Aligned,
) {
    let stride = p.vectors * S::LANES;
    buffer.resize(BUFFER * stride);
    for first in range.clone().step_by(BUFFER) {
        let count = BUFFER.min(range.end - first);
        unsafe {
            for r in 0..count {
                let mut out = buffer.as_mut_ptr().add(r * stride);
                for g in 0..p.vectors / W::VECTORS {
                    let group = w.group(first + r, g);
                    for v in 0..W::VECTORS {
                        S::store(out, W::vector(group, v));
                        out = out.add(S::LANES);
                    }
                }
            }
            let plain = Plain {
                pointer: buffer.as_ptr(),
                stride,
            };
            unpacked::<S>(plain, first..first + count, p);
        }
    }
}

/// Up to four unpacked rows, `plain`'s row 0 being row `range.start` of W, times all rows of x.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
pub(super) unsafe fn unpacked<S: Simd>(plain: Plain, range: Range<usize>, p: &Product<'_>) {
    let (offset, mut i) = (range.start, 0);
    unsafe {
        while i < p.rows {
            if range.len() < BUFFER {
                for row in range.clone() {
                    tile::<S, Plain, 1, 1>(plain, offset, row, i, p);
                }
                i += 1;
                continue;
            }
            i += match p.rows - i {
                1 => tile::<S, Plain, 4, 1>(plain, offset, offset, i, p),
                2 => tile::<S, Plain, 4, 2>(plain, offset, offset, i, p),
                3 => tile::<S, Plain, 4, 3>(plain, offset, offset, i, p),
                _ => tile::<S, Plain, 4, 4>(plain, offset, offset, i, p),
            };
        }
    }
}

/// `R` rows of W with `M` rows of x; returns `M`. `w` begins with row `offset` of W.
#[inline(always)]
unsafe fn tile<S: Simd, W: Source<S>, const R: usize, const M: usize>(
    w: W,
    offset: usize,
    row: usize,
    first: usize,
    p: &Product<'_>,
) -> usize {
    unsafe {
        let mut sums = [[S::splat(0.0); M]; R];
        let step = p.rows * S::LANES;
        let mut x = p.x.as_ptr().add(first * S::LANES);
        for g in 0..p.vectors / W::VECTORS {
            let mut groups = [w.group(row - offset, g); R];
            for (r, group) in groups.iter_mut().enumerate().skip(1) {
                *group = w.group(row - offset + r, g);
            }
            for v in 0..W::VECTORS {
                for (sums, group) in sums.iter_mut().zip(groups) {
                    let weights = W::vector(group, v);
                    for (i, s) in sums.iter_mut().enumerate() {
                        *s = S::fma(weights, S::load(x.add(i * S::LANES)), *s);
                    }
                }
                x = x.add(step);
            }
        }
        if let Some(low) = p.low_rank {
            let rank = low.rank;
            for (r, sums) in sums.iter_mut().enumerate() {
                let b = &low.b[(row + r) * rank..(row + r + 1) * rank];
                for (i, s) in sums.iter_mut().enumerate() {
                    let u = &low.u[(first + i) * rank..(first + i + 1) * rank];
                    for_lanes!(S, rank, |j, n| {
                        *s = S::fma(get::<S>(b, j, n), get::<S>(u, j, n), *s);
                    });
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let bias = p.bias.map_or(0.0, |bias| bias[row + r]);
            let mut i = 0;
            while i < M {
                let mut four = [S::splat(0.0); 4];
                for (to, from) in four.iter_mut().zip(&sums[i..]) {
                    *to = *from;
                }
                let four = S::sum_4(four);
                for (j, sum) in four.iter().enumerate().take(M - i) {
                    *p.y.add((first + i + j) * p.y_row + row + r) = sum + bias;
                }
                i += 4;
            }
        }
    }
    M
}
