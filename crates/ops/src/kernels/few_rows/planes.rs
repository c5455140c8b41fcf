//! Vectors of weights straight from packed words (AVX2).
//!
//! NF4: `vpshufb` looks 32 codes up at once, but in tables of sixteen bytes. So the codebook lies in four
//! planes, one for each byte of an f32: four look-ups and eight unpackings make four vectors of the codes in
//! the high nibbles of a block of 32 bytes, and as many of those in the low ones, in the
//! [`Order`](super::order::Order) in which unpacking leaves them. Each is multiplied by the block's absmax: the
//! very values that dequantising gives. Where they are rounded to the weight's dtype, planes are made of the
//! rounded table, once for 64 weights, and the factor is 1.
//! That is 43 instructions for 64 weights, 24 of them shuffles, of which Zen 3 does two a cycle and Intel's
//! cores before Ice Lake one. `vpermps` takes five for each eight, two of them of double cost.
//! bf16: widened and shifted up.
//! A row of W is walked alone, with up to eight rows of x, whose sums and the planes fill the registers; with
//! one or two there are too few sums to hide what a multiply-add waits, and two rows of W are taken in turns.
//! Unsafe functions here want AVX2, and rows and blocks that are there ([`Source`]).

use super::packed::{Codes, Halves};
use super::tile::Source;
use crate::kernels::panel::table;
use crate::kernels::simd::{Avx2, Simd};
use std::arch::x86_64::*;

/// Byte k of every value of a table.
#[repr(align(64))]
struct Planes([[u8; 16]; 4]);

impl Planes {
    #[inline(always)]
    const fn of(table: &[f32; 16]) -> Planes {
        let (mut planes, mut code) = ([[0; 16]; 4], 0);
        while code < 16 {
            let (bytes, mut k) = (table[code].to_bits().to_le_bytes(), 0);
            while k < 4 {
                planes[k][code] = bytes[k];
                k += 1;
            }
            code += 1;
        }
        Planes(planes)
    }

    /// Plane k for both halves of a vector.
    #[inline(always)]
    unsafe fn load(&self, k: usize) -> __m256i {
        unsafe { _mm256_broadcastsi128_si256(_mm_load_si128(self.0[k].as_ptr().cast())) }
    }

    #[inline(always)]
    unsafe fn load_all(&self) -> [__m256i; 4] {
        unsafe { [self.load(0), self.load(1), self.load(2), self.load(3)] }
    }
}

static CODEBOOK: Planes = Planes::of(&nf4::CODEBOOK);

/// NF4 with rows of whole blocks, whose values are rounded to a dtype below f32 or are not.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'a, const ROUNDED: bool>(pub Codes<'a>);

/// A block of 64 weights.
#[derive(Clone, Copy)]
pub(super) struct Block {
    planes: [__m256i; 4],
    factor: __m256,
    codes: __m256i,
}

impl<const ROUNDED: bool> Source<Avx2> for Bytes<'_, ROUNDED> {
    const VECTORS: usize = 8;
    const DIRECT: usize = 8;
    const BLOCKWISE: bool = true;
    type Group = Block;
    #[inline(always)]
    fn abreast(rows: usize) -> usize {
        if rows <= 2 { 2 } else { 1 }
    }
    #[inline(always)]
    unsafe fn ask_ahead(self, row: usize) {
        unsafe { self.0.ask_ahead(row) }
    }
    #[inline(always)]
    unsafe fn group(self, row: usize, group: usize) -> Block {
        unsafe {
            let (absmax, codes) = self.0.block(row, group);
            let (planes, factor) = if ROUNDED {
                let table = table::<Avx2>(absmax, self.0.dtype);
                (Planes::of(&table).load_all(), 1.0)
            } else {
                (CODEBOOK.load_all(), absmax)
            };
            Block {
                planes,
                factor: _mm256_set1_ps(factor),
                codes: _mm256_loadu_si256(codes.cast()),
            }
        }
    }
    #[inline(always)]
    unsafe fn vector(block: Block, v: usize) -> __m256 {
        unsafe {
            // A byte holds two codes, the first in the high nibble.
            let codes = match v / 4 {
                0 => _mm256_srli_epi16::<4>(block.codes),
                _ => block.codes,
            };
            let codes = _mm256_and_si256(codes, _mm256_set1_epi8(15));
            // Of the look-ups and unpackings the compiler leaves one for all vectors that they make.
            let bytes = |k: usize| _mm256_shuffle_epi8(block.planes[k], codes);
            let halves = |k: usize| match v % 4 / 2 {
                0 => _mm256_unpacklo_epi8(bytes(k), bytes(k + 1)),
                _ => _mm256_unpackhi_epi8(bytes(k), bytes(k + 1)),
            };
            let values = match v % 2 {
                0 => _mm256_unpacklo_epi16(halves(0), halves(2)),
                _ => _mm256_unpackhi_epi16(halves(0), halves(2)),
            };
            _mm256_mul_ps(_mm256_castsi256_ps(values), block.factor)
        }
    }
}

impl Source<Avx2> for Halves<'_> {
    const VECTORS: usize = 1;
    const DIRECT: usize = 8;
    const BLOCKWISE: bool = true;
    type Group = __m256;
    #[inline(always)]
    fn abreast(_: usize) -> usize {
        1
    }
    #[inline(always)]
    unsafe fn ask_ahead(self, row: usize) {
        unsafe { Halves::ask_ahead(self, row) }
    }
    #[inline(always)]
    unsafe fn group(self, row: usize, group: usize) -> __m256 {
        let at = row * self.in_features + group * Avx2::LANES;
        debug_assert!(at + Avx2::LANES <= self.values.len());
        unsafe { Avx2::load_bf16(self.values.as_ptr().add(at)) }
    }
    #[inline(always)]
    unsafe fn vector(weights: __m256, _: usize) -> __m256 {
        weights
    }
}
