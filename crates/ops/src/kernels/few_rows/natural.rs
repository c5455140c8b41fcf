//! Vectors of weights straight from packed words, feature after feature (AVX2).
//!
//! NF4: a 32-bit word is eight codes. It is broadcast, and each lane shifts its own code to the lowest bits,
//! of which `vpermps` reads three, and the fourth to the sign, by which `vblendvps` chooses between the two
//! halves of the table: five instructions for eight weights. The table is the codebook times the block's
//! absmax, rounded to the weight's dtype, made once for 64 weights: the very values that dequantising gives.
//! bf16: widened and shifted up. Rows are walked one after the other: the table of four would not stay in
//! sixteen registers (a quarter slower).
//! Unsafe functions here want AVX2, and rows and blocks that are there ([`Source`]).

use super::packed::{Halves, Nibbles};
use super::tile::Source;
use crate::kernels::panel::table;
use crate::kernels::simd::{Avx2, Simd};
use std::arch::x86_64::*;

impl Source<Avx2> for Nibbles<'_> {
    const VECTORS: usize = 8;
    const DIRECT: usize = 2;
    const DENSE: bool = true;
    /// (halves of the table, codes)
    type Group = ([__m256; 2], *const u8);
    #[inline(always)]
    unsafe fn ask_ahead(self, row: usize) {
        unsafe { self.0.ask_ahead(row) }
    }
    #[inline(always)]
    unsafe fn group(self, row: usize, group: usize) -> Self::Group {
        unsafe {
            let (absmax, codes) = self.0.block(row, group);
            let table = table::<Avx2>(absmax, self.0.dtype);
            let half = |first| _mm256_loadu_ps(table.as_ptr().add(first));
            ([half(0), half(8)], codes)
        }
    }
    #[inline(always)]
    unsafe fn vector(([low, high], codes): Self::Group, v: usize) -> __m256 {
        unsafe {
            let word = _mm256_set1_epi32(codes.cast::<i32>().add(v).read_unaligned());
            // A byte holds two codes, the first in the high nibble.
            let lowest = _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24);
            let index = _mm256_srlv_epi32(word, lowest);
            let sign = _mm256_sllv_epi32(word, _mm256_sub_epi32(_mm256_set1_epi32(28), lowest));
            let low = _mm256_permutevar8x32_ps(low, index);
            let high = _mm256_permutevar8x32_ps(high, index);
            _mm256_blendv_ps(low, high, _mm256_castsi256_ps(sign))
        }
    }
}

impl Source<Avx2> for Halves<'_> {
    const VECTORS: usize = 1;
    const DIRECT: usize = 2;
    const DENSE: bool = true;
    type Group = __m256;
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
