//! Vectors of weights straight from packed words (AVX2).
//!
//! NF4: the codebook is looked up by the byte, in [`planes`](crate::kernels::simd::planes): four vectors of the
//! codes in the high nibbles of a block of 32 bytes, and as many of those in the low ones, in the
//! [`Order`](super::order::Order) in which unpacking leaves them. Each is multiplied by the block's absmax: the
//! very values that dequantising gives. Where they are rounded to the weight's dtype, planes are made of the
//! rounded table, once for 64 weights, and the factor is 1.
//! That is 43 instructions for 64 weights, 24 of them shuffles, of which Zen 3 does two a cycle and Intel's
//! cores before Ice Lake one.
//! bf16: widened and shifted up.
//! A row of W is walked alone, with up to four rows of x (bf16: eight). Eight multiply-adds in a row wait for
//! one another longer than all the unpacking takes, and the processor does not look far enough ahead to begin
//! the next block meanwhile: so the high nibbles have one sum, the low ones another. With four rows of x these
//! and the planes fill the registers.
//! Unsafe functions here want AVX2, and rows and blocks that are there ([`Source`]).

use super::stored::{Codes, Halves};
use super::tile::Source;
use crate::kernels::panel::table;
use crate::kernels::simd::planes::{CODEBOOK, Planes, values};
use crate::kernels::simd::{Avx2, Simd};
use std::arch::x86_64::*;

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
    const DIRECT: usize = 4;
    const ABREAST: usize = 1;
    const PARTS: usize = 2;
    type Group = Block;
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
                (Planes::of(&table).load(), 1.0)
            } else {
                (CODEBOOK.load(), absmax)
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
            _mm256_mul_ps(values(block.planes, codes, v % 4), block.factor)
        }
    }
}

impl Source<Avx2> for Halves<'_> {
    const VECTORS: usize = 1;
    const DIRECT: usize = 8;
    const ABREAST: usize = 1;
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
