//! Vectors of weights straight from packed words (AVX-512).
//!
//! NF4: 32 bytes are one block of 64 codes and sixteen 16-bit words. Widened to 32-bit lanes, the
//! word shifted right by 4·s has code s in its low four bits, and `vpermps` looks at no others: a
//! vector of weights costs a shift and a look-up, the first only the look-up. The table is the
//! codebook times the block's absmax, rounded to the weight's dtype, one vector for 64 weights: the
//! very values that dequantising gives. bf16: a 32-bit word holds two, the even one is shifted up,
//! the odd one masked.

use super::tile::Source;
use crate::kernels::panel::Scales;
use crate::kernels::simd::Avx512;
use std::arch::x86_64::*;

/// Bytes ahead of the words at hand that are asked for: the processor's own prefetching stops at every
/// page of 4 KiB, and rows of 300 bytes are short runs to it.
const AHEAD: usize = 4096;

/// NF4 with rows of whole blocks.
#[derive(Clone, Copy)]
pub(super) struct Nibbles<'a> {
    pub codes: &'a [u8],
    pub scales: Scales<'a>,
    pub dtype: nf4::Dtype,
    /// Blocks of a row.
    pub blocks: usize,
}

impl Source<Avx512> for Nibbles<'_> {
    const VECTORS: usize = 4;
    /// (table, words)
    type Group = (__m512, __m512i);
    #[inline(always)]
    unsafe fn group(self, row: usize, group: usize) -> Self::Group {
        let block = row * self.blocks + group;
        debug_assert!((block + 1) * 32 <= self.codes.len());
        unsafe {
            let codebook = _mm512_loadu_ps(nf4::CODEBOOK.as_ptr());
            let table = _mm512_mul_ps(codebook, _mm512_set1_ps(self.scales.get(block)));
            let table = match self.dtype {
                nf4::Dtype::F32 => table,
                nf4::Dtype::BF16 => round_to_bf16(table),
                nf4::Dtype::F16 => _mm512_cvtph_ps(_mm512_cvtps_ph::<0>(table)), // to nearest even
            };
            let codes = self.codes.as_ptr().add(block * 32);
            _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(AHEAD).cast());
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

#[inline(always)]
unsafe fn round_to_bf16(v: __m512) -> __m512 {
    unsafe {
        let bits = _mm512_castps_si512(v);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32(!0xffff)))
    }
}

/// bf16 with an even number of vectors in a row.
#[derive(Clone, Copy)]
pub(super) struct Halves<'a> {
    pub values: &'a [u16],
    pub in_features: usize,
}

impl Source<Avx512> for Halves<'_> {
    const VECTORS: usize = 2;
    type Group = __m512i;
    #[inline(always)]
    unsafe fn group(self, row: usize, group: usize) -> __m512i {
        let at = row * self.in_features + group * 32;
        debug_assert!(at + 32 <= self.values.len());
        unsafe {
            let values = self.values.as_ptr().add(at);
            _mm_prefetch::<_MM_HINT_T0>(values.wrapping_byte_add(AHEAD).cast());
            _mm512_loadu_si512(values.cast())
        }
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
