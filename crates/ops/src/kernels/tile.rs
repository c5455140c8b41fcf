//! C (+)= A·B on packed words: the product that every pass over a frozen weight is made of.
//!
//! Layout: A is a group of `LANES` rows, `[steps][LANES]` words, read one word at a time and
//! broadcast; B is a panel of three vectors, `[steps][3·LANES]`; C has row stride `c_row`. One step
//! is one f32 of the depth, or two bf16 ([`Words`]).
//! Register plan (AVX-512): 8 rows × 3 vectors of accumulators (24), 3 vectors of B, 1 broadcast.
//! 11 loads feed 24 multiply-adds, so neither one load nor one 512-bit multiply-add a cycle (Zen 4)
//! waits for the other; two FMA ports (Intel servers) still have two loads a cycle. B is read from
//! L2 at 8 bytes a cycle, which out-of-order execution hides: measured, a panel of 196 KiB is as
//! fast as one of 24 KiB, and C is touched once instead of every 192 values of the depth.
//! AVX2: 4 rows × 3 vectors, 3 of B, 1 broadcast, which are all sixteen ([`Simd::add_multiple`]).
//! The limit is the multiply-add: 32 FLOP a cycle in f32, 64 in bf16 on a 256-bit datapath.
//!
//! An element is summed over the depth in order, whatever the tile: partitions do not change bits.
//! `vdpbf16ps` adds the two products of a step one after the other, rounds to nearest even and
//! flushes denormals; f32 words are fused multiply-adds.

use super::scratch::scratch_slices;
use super::simd::{Level, Simd, simd_dispatch};
use super::words::Words;
use crate::format::ComputeDtype;

/// Vectors of a panel.
pub(crate) const VECTORS: usize = 3;

/// Rows × lanes of C from a group of A, or two where the words allow it ([`Words::rows`]), and one
/// panel.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    /// Rows of C; A holds zeros (or anything finite) beyond them, up to a whole group.
    pub rows: usize,
    /// Columns of C, at most `b_row`.
    pub lanes: usize,
    pub steps: usize,
    /// Words of A from one group to the next.
    pub a_group: usize,
    /// Lanes of the panel: `3·LANES`, or [`Words::lanes`].
    pub b_row: usize,
    /// Row stride of C.
    pub c_row: usize,
    /// Adds to C instead of overwriting it.
    pub accumulate: bool,
    /// The piece below comes next: A passes by once, and C may be asked for ahead.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // AMX alone asks ahead
    pub streamed: bool,
}

/// # Safety
/// For each part of theirs each group of `a` holds `steps · LANES` words and `b` `steps · b_row`; `c` is
/// the piece, untouched by others.
pub(crate) unsafe fn multiply_words(
    level: Level,
    words: Words,
    piece: Piece,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
) {
    debug_assert!(piece.rows <= words.rows(level));
    match words {
        // SAFETY: says the caller.
        Words::F32 | Words::Rounded => unsafe { multiply_singles(level, piece, a, b, c) },
        // SAFETY: says the caller; these words exist only where the level has the instruction.
        #[cfg(target_arch = "x86_64")]
        Words::Pairs => unsafe { x86::multiply_pairs(piece, a, b, c) },
        #[cfg(target_arch = "x86_64")]
        Words::Tiles | Words::Thirds | Words::ThirdsOfBoth => unsafe {
            let products = super::amx::Products::of(words);
            super::amx::multiply(piece, products, a, b, c)
        },
    }
}

/// Multiplies `repeats` pieces (16 rows × 48 lanes, AVX2 8 × 24, AMX 32 × 32) × 128 values that stay in L1 and
/// returns the FLOP: the rate that every product is measured against.
pub fn multiply_in_cache(level: Level, compute: ComputeDtype, repeats: usize) -> f64 {
    const DEPTH: usize = 128;
    let words = Words::new(level, compute);
    let (height, width, steps) = (words.rows(level), words.lanes(level), words.steps(DEPTH));
    let piece = Piece {
        rows: height,
        lanes: width,
        steps,
        a_group: steps * level.lanes(),
        b_row: width,
        c_row: width,
        accumulate: false,
        streamed: false,
    };
    let sizes = [steps * height, steps * width, height * width];
    scratch_slices(sizes, |[a, b, c]| {
        // Two bf16 ones, or an f32 close to 1.
        a.fill(f32::from_bits(0x3f80_3f80));
        b.fill(f32::from_bits(0x3f80_3f80));
        for _ in 0..repeats {
            // SAFETY: the operands have the sizes that the piece says.
            unsafe { multiply_words(level, words, piece, a.as_ptr(), b.as_ptr(), c.as_mut_ptr()) };
            std::hint::black_box(&mut *c);
        }
    });
    2.0 * (repeats * height * width * DEPTH) as f64
}

simd_dispatch! {
    /// # Safety
    /// As [`multiply_words`].
    unsafe fn multiply_singles(piece: Piece, a: *const f32, b: *const f32, c: *mut f32) = multiply_singles_generic
}

#[inline(always)]
unsafe fn multiply_singles_generic<S: Simd>(
    piece: Piece,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
) {
    debug_assert!(piece.rows <= S::LANES && piece.b_row == VECTORS * S::LANES);
    unsafe { group::<S, Singles>(piece, a, b, c) }
}

/// c + a·b on vectors of words.
///
/// # Safety
/// The caller is compiled for the instructions of `S`.
pub(super) trait MultiplyAdd<S: Simd> {
    unsafe fn multiply_add(a: S::V, b: S::V, c: S::V) -> S::V;

    /// Adds x·lanes to sums, x being one word for all lanes.
    #[inline(always)]
    unsafe fn add_multiple<const N: usize>(sums: &mut [S::V; N], x: *const f32, lanes: &[S::V; N]) {
        unsafe {
            let x = S::splat(*x);
            for (sum, lanes) in sums.iter_mut().zip(lanes) {
                *sum = Self::multiply_add(x, *lanes, *sum);
            }
        }
    }
}

/// One f32 a word.
pub(super) struct Singles;

impl<S: Simd> MultiplyAdd<S> for Singles {
    #[inline(always)]
    unsafe fn multiply_add(a: S::V, b: S::V, c: S::V) -> S::V {
        unsafe { S::fma(a, b, c) }
    }

    #[inline(always)]
    unsafe fn add_multiple<const N: usize>(sums: &mut [S::V; N], x: *const f32, lanes: &[S::V; N]) {
        unsafe { S::add_multiple(sums, x, lanes) }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::Pairs;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::simd::Avx512;
    use super::{MultiplyAdd, Piece, group};
    use std::arch::x86_64::*;

    /// Two bf16 a word.
    pub struct Pairs;

    impl MultiplyAdd<Avx512> for Pairs {
        #[inline(always)]
        unsafe fn multiply_add(a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: only the bits' reading changes.
            unsafe {
                let halves = |v: __m512| std::mem::transmute::<__m512, __m512bh>(v);
                _mm512_dpbf16_ps(c, halves(a), halves(b))
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
    pub unsafe fn multiply_pairs(piece: Piece, a: *const f32, b: *const f32, c: *mut f32) {
        unsafe { group::<Avx512, Pairs>(piece, a, b, c) }
    }
}

#[inline(always)]
unsafe fn group<S: Simd, M: MultiplyAdd<S>>(
    piece: Piece,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
) {
    let mut first = 0;
    while first < piece.rows {
        let rows = (piece.rows - first).min(S::TILE_ROWS);
        let piece = Piece { rows, ..piece };
        unsafe {
            let (a, c) = (a.add(first), c.add(first * piece.c_row));
            match (S::TILE_ROWS, piece.lanes.div_ceil(S::LANES)) {
                (8, 3) => tile::<S, M, 8, 3>(piece, a, b, c),
                (8, 2) => tile::<S, M, 8, 2>(piece, a, b, c),
                (8, _) => tile::<S, M, 8, 1>(piece, a, b, c),
                (_, 3) => tile::<S, M, 4, 3>(piece, a, b, c),
                (_, 2) => tile::<S, M, 4, 2>(piece, a, b, c),
                (_, _) => tile::<S, M, 4, 1>(piece, a, b, c),
            }
        }
        first += rows;
    }
}

#[inline(always)]
unsafe fn tile<S: Simd, M: MultiplyAdd<S>, const R: usize, const V: usize>(
    piece: Piece,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
) {
    let last = piece.lanes - (V - 1) * S::LANES;
    unsafe {
        let mut sum = [[S::splat(0.0); V]; R];
        if piece.accumulate {
            for (i, row) in sum.iter_mut().enumerate() {
                for (v, s) in row.iter_mut().enumerate() {
                    let p = c.wrapping_add(i * piece.c_row + v * S::LANES);
                    if i < piece.rows {
                        *s = if v == V - 1 && last < S::LANES {
                            S::load_partial(p, last)
                        } else {
                            S::load(p)
                        };
                    }
                }
            }
        }
        let (mut pa, mut pb) = (a, b);
        for _ in 0..piece.steps {
            let mut lanes = [S::splat(0.0); V];
            for (v, l) in lanes.iter_mut().enumerate() {
                *l = S::load(pb.add(v * S::LANES));
            }
            for (i, row) in sum.iter_mut().enumerate() {
                M::add_multiple(row, pa.add(i), &lanes);
            }
            // Rows that are not a group's first end beyond the operand.
            pa = pa.wrapping_add(S::LANES);
            pb = pb.wrapping_add(VECTORS * S::LANES);
        }
        for (i, row) in sum.iter().enumerate() {
            for (v, s) in row.iter().enumerate() {
                let p = c.wrapping_add(i * piece.c_row + v * S::LANES);
                if i < piece.rows {
                    if v == V - 1 && last < S::LANES {
                        S::store_partial(p, *s, last);
                    } else {
                        S::store(p, *s);
                    }
                }
            }
        }
    }
}
