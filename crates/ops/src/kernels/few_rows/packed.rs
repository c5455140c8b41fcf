//! Vectors of weights straight from packed words (AVX-512).
//!
//! NF4: 32 bytes are one block of 64 codes and sixteen 16-bit words. A look-up reads the low bits of
//! each lane's index alone, so that a shift brings a vector of codes to their place and nothing needs
//! to be masked. In f32 the words are widened to 32-bit lanes: shifted right by 4·s they are code s,
//! and `vpermps` looks sixteen up. In bf16 the words lie twice in a register, shifted by 0 in its
//! lower half and by 4 in its upper (then 8 and 12), and `vpermw` looks 32 up; it reads five bits,
//! the fifth of which is another code's and chooses between two equal halves of the table. The table
//! is the codebook times the block's absmax, rounded to the weight's dtype, made once for 64 weights:
//! the very values that dequantising gives.
//! bf16 in f32: a 32-bit word holds two, the even one is shifted up, the odd one masked.
//! Unsafe functions here want AVX-512, and rows and blocks that are there ([`Source`]).

use super::stored::{Codes, Halves};
use super::tile::Source;
use crate::kernels::panel::pairs;
use crate::kernels::simd::Avx512;
use std::arch::x86_64::*;

/// Weights in f32.
#[derive(Clone, Copy)]
pub(super) struct Nibbles<'a>(pub Codes<'a>);

impl Source<Avx512> for Nibbles<'_> {
    const VECTORS: usize = 4;
    const DIRECT: usize = 3;
    const ABREAST: usize = 4;
    /// (table, words)
    type Group = (__m512, __m512i);
    #[inline(always)]
    unsafe fn ask_ahead(self, row: usize) {
        unsafe { self.0.ask_ahead(row) }
    }
    #[inline(always)]
    unsafe fn group(self, row: usize, group: usize) -> Self::Group {
        unsafe {
            let (absmax, codes) = self.0.block(row, group);
            let codebook = _mm512_loadu_ps(nf4::CODEBOOK.as_ptr());
            let table = _mm512_mul_ps(codebook, _mm512_set1_ps(absmax));
            let table = match self.0.dtype {
                nf4::Dtype::F32 => table,
                nf4::Dtype::BF16 => round_to_bf16(table),
                nf4::Dtype::F16 => _mm512_cvtph_ps(_mm512_cvtps_ph::<0>(table)), // to nearest even
            };
            let words = _mm256_loadu_si256(codes.cast());
            (table, _mm512_cvtepu16_epi32(words))
        }
    }
    #[inline(always)]
    unsafe fn vector((table, words): Self::Group, v: usize) -> __m512 {
        unsafe {
            let codes = match v {
                0 => words,
                1 => _mm512_srli_epi32::<4>(words),
                2 => _mm512_srli_epi32::<8>(words),
                _ => _mm512_srli_epi32::<12>(words),
            };
            _mm512_permutexvar_ps(codes, table)
        }
    }
}

/// Weights in pairs of bf16.
#[derive(Clone, Copy)]
pub(super) struct NibblePairs<'a>(pub Codes<'a>);

impl Source<Avx512> for NibblePairs<'_> {
    const VECTORS: usize = 2;
    const DIRECT: usize = 3;
    const ABREAST: usize = 4;
    type Group = [__m512; 2];
    #[inline(always)]
    unsafe fn ask_ahead(self, row: usize) {
        unsafe { self.0.ask_ahead(row) }
    }
    #[inline(always)]
    unsafe fn group(self, row: usize, group: usize) -> Self::Group {
        unsafe {
            let (absmax, codes) = self.0.block(row, group);
            block_of_pairs(absmax, codes, self.0.dtype)
        }
    }
    #[inline(always)]
    unsafe fn vector(group: Self::Group, v: usize) -> __m512 {
        group[v]
    }
}

/// The two vectors of a block of 32 bytes, in the order of [`super::order::Order::NibblePairs`].
///
/// # Safety
/// The processor has AVX512-BF16, and the caller is compiled for it.
#[inline(always)]
pub(super) unsafe fn block_of_pairs(
    absmax: f32,
    codes: *const u8,
    dtype: nf4::Dtype,
) -> [__m512; 2] {
    unsafe {
        let table = pairs::table_of_pairs(absmax, dtype);
        let words = _mm512_broadcast_i64x4(_mm256_loadu_si256(codes.cast()));
        let shifts = _mm512_inserti64x4::<1>(_mm512_setzero_si512(), _mm256_set1_epi16(4));
        let low = _mm512_srlv_epi16(words, shifts);
        let shifts = _mm512_add_epi16(shifts, _mm512_set1_epi16(8));
        let high = _mm512_srlv_epi16(words, shifts);
        [
            _mm512_castsi512_ps(_mm512_permutexvar_epi16(low, table)),
            _mm512_castsi512_ps(_mm512_permutexvar_epi16(high, table)),
        ]
    }
}

#[inline(always)]
unsafe fn round_to_bf16(v: __m512) -> __m512 {
    unsafe {
        let bits = _mm512_castps_si512(v);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32(!0xffff)))
    }
}

/// In f32.
impl Source<Avx512> for Halves<'_> {
    const VECTORS: usize = 2;
    const DIRECT: usize = 4;
    const ABREAST: usize = 1;
    type Group = __m512i;
    #[inline(always)]
    unsafe fn ask_ahead(self, row: usize) {
        unsafe { Halves::ask_ahead(self, row) }
    }
    #[inline(always)]
    unsafe fn group(self, row: usize, group: usize) -> __m512i {
        unsafe { _mm512_castps_si512(HalfPairs(self).group(row, group)) }
    }
    #[inline(always)]
    unsafe fn vector(words: __m512i, v: usize) -> __m512 {
        unsafe {
            _mm512_castsi512_ps(match v {
                0 => _mm512_slli_epi32::<16>(words),
                _ => _mm512_and_si512(words, _mm512_set1_epi32(!0xffff)),
            })
        }
    }
}

/// The same in pairs, as it lies.
#[derive(Clone, Copy)]
pub(super) struct HalfPairs<'a>(pub Halves<'a>);

impl Source<Avx512> for HalfPairs<'_> {
    const VECTORS: usize = 1;
    const DIRECT: usize = 4;
    const ABREAST: usize = 1;
    type Group = __m512;
    #[inline(always)]
    unsafe fn ask_ahead(self, row: usize) {
        unsafe { Halves::ask_ahead(self.0, row) }
    }
    #[inline(always)]
    unsafe fn group(self, row: usize, group: usize) -> __m512 {
        let at = row * self.0.in_features + group * 32;
        debug_assert!(at + 32 <= self.0.values.len());
        unsafe {
            let values = self.0.values.as_ptr().add(at);
            _mm512_loadu_ps(values.cast())
        }
    }
    #[inline(always)]
    unsafe fn vector(words: __m512, _: usize) -> __m512 {
        words
    }
}
