//! Rows of W times a few rows of x, weights unpacked in registers.
//!
//! Lanes run along the input features, in the [`Order`](super::order::Order) in which a vector of
//! weights comes out of the stored words; a lane is a word, one f32 or two bf16. Register plan
//! (AVX-512): 4 rows of W × up to 3 rows of x, an accumulator for each pair of rows, and what a row's
//! next vectors are cut from. Above [`Source::DIRECT`] rows of x, unpacking for every tile would cost
//! more than a detour through L1: 4 rows of W are unpacked into a buffer and multiplied from there,
//! 4 × 4 accumulators, 8 loads for 16 multiply-adds. (4 × 4 unpacked on the way, or 2 × 8, need more
//! than 32 registers, and run at half the speed.)
//! AVX2 and NEON: one row of W × up to 4 rows of x (8 of bf16), two sums for each pair, so that half as many
//! multiply-adds wait for one another; above that, 4 × 3 from the buffer, all first sums before the second.
//!
//! The limit is the multiply-add, one a cycle, from 8 rows of x on (60 to 75 % of it); below, unpacking
//! 4-bit weights, and memory for bf16.
//!
//! Each (row of W, row of x) is summed in one order whatever the tile, so a sequence decodes to the
//! same bits alone and in company. The adapter's product is the last term of the same sums, in f32.
//! What [`multiply`] wants of its caller, every unsafe function here wants.

use super::LowRank;
use super::layout::{GROUP, Layout};
use crate::kernels::aligned::Aligned;
use crate::kernels::normalize::get;
use crate::kernels::simd::{Level, Simd, for_lanes};
use crate::kernels::tile::MultiplyAdd;
use std::ops::Range;

/// Rows of W in the buffer.
pub(super) const BUFFER: usize = 4;
/// Pairs of rows up to which both parts of their sums are in registers at once.
const AT_ONCE: usize = 4;

/// Where vectors of weights come from.
///
/// # Safety
/// Methods need the instructions of `S`, and rows and groups inside the weight.
pub(super) trait Source<S: Simd>: Copy {
    /// Vectors of one group: what is loaded at once.
    const VECTORS: usize;
    /// Rows of x up to which vectors go from registers into the product, and not through a buffer.
    const DIRECT: usize;
    /// Rows of W that are multiplied side by side: 1 or 4.
    const ABREAST: usize;
    /// Sums of a row of W with one of x, 1 or 2: each is of its share of every group's vectors, and need not wait
    /// for the other.
    const PARTS: usize = 1;
    type Group: Copy;
    /// Asks for the words of a row that is some way ahead of this one.
    unsafe fn ask_ahead(self, row: usize);
    unsafe fn group(self, row: usize, group: usize) -> Self::Group;
    unsafe fn vector(group: Self::Group, v: usize) -> S::V;
}

/// The buffer: words that are vectors already, in the groups and parts of the source that filled it.
#[derive(Clone, Copy)]
pub(super) struct Plain<const VECTORS: usize = 1, const PARTS: usize = 1> {
    pub pointer: *const f32,
    pub stride: usize,
}

impl<S: Simd, const VECTORS: usize, const PARTS: usize> Source<S> for Plain<VECTORS, PARTS> {
    const VECTORS: usize = VECTORS;
    const DIRECT: usize = 0;
    const ABREAST: usize = 4;
    const PARTS: usize = PARTS;
    type Group = *const f32;
    #[inline(always)]
    unsafe fn ask_ahead(self, _: usize) {}
    #[inline(always)]
    unsafe fn group(self, row: usize, group: usize) -> *const f32 {
        let at = row * self.stride + group * VECTORS * S::LANES;
        unsafe { self.pointer.add(at) }
    }
    #[inline(always)]
    unsafe fn vector(group: *const f32, v: usize) -> S::V {
        unsafe { S::load(group.add(v * S::LANES)) }
    }
}

/// One product: packed x, the adapter's part, and where y goes.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub level: Level,
    pub x: &'a [f32],
    pub layout: Layout,
    pub low_rank: Option<LowRank<'a>>,
    pub bias: Option<&'a [f32]>,
    /// Element (i, j) of y, j a row of W, lies at `y + i·y_row + j`.
    pub y: *mut f32,
    pub y_row: usize,
}

/// y of the rows `range` of W.
///
/// # Safety
/// The instructions of `S`. `range` lies in the weight, x is packed as `layout` says, there is b and u of
/// the adapter for both; y is valid for `range` and touched by no one else.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, M: MultiplyAdd<S>, W: Source<S>>(
    w: W,
    range: Range<usize>,
    product: &Product<'_>,
    buffer: &mut Aligned,
) {
    let rows = product.layout.rows;
    unsafe {
        if rows == 0 {
            // no token, no product
        } else if rows <= W::DIRECT {
            direct::<S, M, W>(w, range, product);
        } else {
            buffered::<S, M, W>(w, range, product, buffer);
        }
    }
}

/// Up to [`Source::DIRECT`] rows of x.
#[inline(always)]
unsafe fn direct<S: Simd, M: MultiplyAdd<S>, W: Source<S>>(
    w: W,
    range: Range<usize>,
    p: &Product<'_>,
) {
    unsafe {
        match p.layout.rows {
            1 => beside::<S, M, W, 1>(w, range, p),
            2 => beside::<S, M, W, 2>(w, range, p),
            3 => beside::<S, M, W, 3>(w, range, p),
            4 if W::DIRECT >= 4 => beside::<S, M, W, 4>(w, range, p),
            5 if W::DIRECT >= 5 => beside::<S, M, W, 5>(w, range, p),
            6 if W::DIRECT >= 6 => beside::<S, M, W, 6>(w, range, p),
            7 if W::DIRECT >= 7 => beside::<S, M, W, 7>(w, range, p),
            8 if W::DIRECT >= 8 => beside::<S, M, W, 8>(w, range, p),
            rows => unreachable!("{rows} rows of x at once"),
        }
    }
}

/// Rows of W beside `N` rows of x.
#[inline(always)]
unsafe fn beside<S: Simd, M: MultiplyAdd<S>, W: Source<S>, const N: usize>(
    w: W,
    range: Range<usize>,
    p: &Product<'_>,
) {
    unsafe {
        match W::ABREAST {
            1 => walk::<S, M, W, N>(w, range, p),
            _ => strips::<S, M, W, N>(w, range, p),
        }
    }
}

/// Four rows of W at a time, and what is left one by one.
#[inline(always)]
unsafe fn strips<S: Simd, M: MultiplyAdd<S>, W: Source<S>, const N: usize>(
    w: W,
    range: Range<usize>,
    p: &Product<'_>,
) {
    let whole = range.start + range.len() / 4 * 4;
    unsafe {
        for row in (range.start..whole).step_by(4) {
            for r in 0..4 {
                w.ask_ahead(row + r);
            }
            tile::<S, M, W, 4, N>(w, 0, row, 0, p);
        }
        for row in whole..range.end {
            tile::<S, M, W, 1, N>(w, 0, row, 0, p);
        }
    }
}

#[inline(always)]
unsafe fn buffered<S: Simd, M: MultiplyAdd<S>, W: Source<S>>(
    w: W,
    range: Range<usize>,
    p: &Product<'_>,
    buffer: &mut Aligned,
) {
    let stride = p.layout.vectors * S::LANES;
    buffer.resize(BUFFER * stride);
    for first in range.clone().step_by(BUFFER) {
        let count = BUFFER.min(range.end - first);
        unsafe {
            for r in 0..count {
                w.ask_ahead(first + r);
                let mut out = buffer.as_mut_ptr().add(r * stride);
                for g in 0..p.layout.vectors / W::VECTORS {
                    let group = w.group(first + r, g);
                    for v in 0..W::VECTORS {
                        S::store(out, W::vector(group, v));
                        out = out.add(S::LANES);
                    }
                }
            }
            let (pointer, rows) = (buffer.as_ptr(), first..first + count);
            // A source's constants cannot be arguments of a type. Two parts are those of blocks of 8 vectors; what
            // has one sum is read vector by vector.
            if W::PARTS == 2 {
                unpacked::<S, M, _>(Plain::<8, 2> { pointer, stride }, first, rows, p);
            } else {
                unpacked::<S, M, _>(Plain::<1, 1> { pointer, stride }, first, rows, p);
            }
        }
    }
}

/// Rows whose vectors cost nothing to make, times all rows of x; `w` begins with row `offset` of W.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
pub(super) unsafe fn unpacked<S: Simd, M: MultiplyAdd<S>, W: Source<S>>(
    w: W,
    offset: usize,
    range: Range<usize>,
    p: &Product<'_>,
) {
    unsafe {
        for row in range.clone().step_by(4) {
            let (count, mut i) = (range.end - row, 0);
            while i < p.layout.rows {
                let together = (p.layout.rows - i).min(GROUP - i % GROUP);
                i += match (together, count) {
                    (_, 1) => tile::<S, M, W, 1, 1>(w, offset, row, i, p),
                    (_, 2) => tile::<S, M, W, 2, 1>(w, offset, row, i, p),
                    (_, 3) => tile::<S, M, W, 3, 1>(w, offset, row, i, p),
                    (1, _) => tile::<S, M, W, 4, 1>(w, offset, row, i, p),
                    (2, _) => tile::<S, M, W, 4, 2>(w, offset, row, i, p),
                    // Sixteen registers hold the sums of three rows of x.
                    (4, _) if S::TILE_ROWS < 8 => tile::<S, M, W, 4, 2>(w, offset, row, i, p),
                    (_, _) if S::TILE_ROWS < 8 => tile::<S, M, W, 4, 3>(w, offset, row, i, p),
                    (3, _) => tile::<S, M, W, 4, 3>(w, offset, row, i, p),
                    (_, _) => tile::<S, M, W, 4, 4>(w, offset, row, i, p),
                };
            }
        }
    }
}

/// `R` rows of W with `N` rows of x, all of one group; returns `N`. `w` begins with row `offset` of W.
#[inline(always)]
unsafe fn tile<S: Simd, M: MultiplyAdd<S>, W: Source<S>, const R: usize, const N: usize>(
    w: W,
    offset: usize,
    row: usize,
    first: usize,
    p: &Product<'_>,
) -> usize {
    unsafe {
        let sums = sums_of::<S, M, W, R, N>(w, row - offset, first, p);
        finish::<S, R, N>(sums, row, first, p);
    }
    N
}

/// Four rows of W with `N` rows of x, one row of W after the other: one load walks through memory,
/// which the processor's prefetching follows at twice the speed of four that take turns (22 against
/// 12 GB/s a thread on Zen 4). It pays where reading W is what a product costs.
#[inline(always)]
unsafe fn walk<S: Simd, M: MultiplyAdd<S>, W: Source<S>, const N: usize>(
    w: W,
    range: Range<usize>,
    p: &Product<'_>,
) {
    for row in range.clone().step_by(4) {
        let count = (range.end - row).min(4);
        unsafe {
            let mut sums = [[S::splat(0.0); N]; 4];
            // A loop that is not unrolled, as its length is not known: one load for all rows.
            for (r, of_row) in sums.iter_mut().enumerate().take(count) {
                w.ask_ahead(row + r);
                [*of_row] = sums_of::<S, M, W, 1, N>(w, row + r, 0, p);
            }
            if count == 4 {
                finish::<S, 4, N>(sums, row, 0, p);
            } else {
                for (r, sums) in sums.into_iter().enumerate().take(count) {
                    finish::<S, 1, N>([sums], row + r, 0, p);
                }
            }
        }
    }
}

/// The products of rows `row..` of `w` with rows `first..` of x, lane by lane.
#[inline(always)]
unsafe fn sums_of<S: Simd, M: MultiplyAdd<S>, W: Source<S>, const R: usize, const N: usize>(
    w: W,
    row: usize,
    first: usize,
    p: &Product<'_>,
) -> [[S::V; N]; R] {
    unsafe {
        if W::PARTS == 1 {
            let [sums] = dot::<S, M, W, R, N, 1>(w, row, first, 0, p);
            return sums;
        }
        let [mut sums, others] = if R * N <= AT_ONCE {
            dot::<S, M, W, R, N, 2>(w, row, first, 0, p)
        } else {
            let [sums] = dot::<S, M, W, R, N, 1>(w, row, first, 0, p);
            let [others] = dot::<S, M, W, R, N, 1>(w, row, first, 1, p);
            [sums, others]
        };
        for (sums, others) in sums.iter_mut().zip(others) {
            for (sum, other) in sums.iter_mut().zip(others) {
                *sum = S::add(*sum, other);
            }
        }
        sums
    }
}

/// The same of `P` parts, `part` the first of them.
#[inline(always)]
unsafe fn dot<
    S: Simd,
    M: MultiplyAdd<S>,
    W: Source<S>,
    const R: usize,
    const N: usize,
    const P: usize,
>(
    w: W,
    row: usize,
    first: usize,
    part: usize,
    p: &Product<'_>,
) -> [[[S::V; N]; R]; P] {
    debug_assert!(first % GROUP + N <= GROUP);
    let share = W::VECTORS / W::PARTS;
    unsafe {
        let mut sums = [[[S::splat(0.0); N]; R]; P];
        let step = p.layout.group(first) * S::LANES;
        let mut x = p.x.as_ptr().add(p.layout.at(0, first));
        for g in 0..p.layout.vectors / W::VECTORS {
            let mut groups = [w.group(row, g); R];
            for (r, group) in groups.iter_mut().enumerate().skip(1) {
                *group = w.group(row + r, g);
            }
            for (q, sums) in sums.iter_mut().enumerate() {
                for v in (part + q) * share..(part + q + 1) * share {
                    for (sums, group) in sums.iter_mut().zip(groups) {
                        add::<S, M, N>(sums, W::vector(group, v), x.add(v * step));
                    }
                }
            }
            // The last step of a row that is not a group's first ends beyond the buffer.
            x = x.wrapping_add(W::VECTORS * step);
        }
        sums
    }
}

/// Adds the products of a vector of weights with those of `N` rows of x, side by side, to `sums`.
#[inline(always)]
unsafe fn add<S: Simd, M: MultiplyAdd<S>, const N: usize>(
    sums: &mut [S::V; N],
    weights: S::V,
    x: *const f32,
) {
    for (i, sum) in sums.iter_mut().enumerate() {
        *sum = unsafe { M::multiply_add(weights, S::load(x.add(i * S::LANES)), *sum) };
    }
}

/// The adapter's product as the last term of the sums, then all lanes, the bias, and out.
#[inline(always)]
unsafe fn finish<S: Simd, const R: usize, const N: usize>(
    mut sums: [[S::V; N]; R],
    row: usize,
    first: usize,
    p: &Product<'_>,
) {
    unsafe {
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
        // Four sums at a time, neighbours in y first.
        let mut at = 0;
        while at < R * N {
            let mut four = [S::splat(0.0); 4];
            for (j, to) in four.iter_mut().enumerate().take(R * N - at) {
                *to = sums[(at + j) % R][(at + j) / R];
            }
            let four = S::sum_4(four);
            for (j, sum) in four.iter().enumerate().take(R * N - at) {
                let (i, r) = ((at + j) / R, (at + j) % R);
                let bias = p.bias.map_or(0.0, |bias| bias[row + r]);
                // Of a piece of y, `p.y` itself may lie before the buffer.
                *p.y.wrapping_add((first + i) * p.y_row + row + r) = sum + bias;
            }
            at += 4;
        }
    }
}
