//! Vectors of weights straight from packed words, looked up by the byte (AVX2, NEON).
//!
//! NF4: the codebook lies in planes of bytes ([`ByteTables`]), and x in the [`Order`](super::order::Order) in which
//! unpacking leaves the codes. Each vector is multiplied by the block's absmax: the very values that dequantising
//! gives. Where they are rounded to the weight's dtype, planes are made of the rounded table, once for 64 weights,
//! and nothing is multiplied.
//! On AVX2 that is 43 instructions for 64 weights, 24 of them shuffles, of which Zen 3 does two a cycle and Intel's
//! cores before Ice Lake one; on NEON 74 of half the width, 52 of them permutations.
//! bf16: widened and shifted up.
//! A row of W is walked alone, with up to four rows of x (bf16: eight). Eight multiply-adds in a row wait for
//! one another longer than all the unpacking takes, and the processor does not look far enough ahead to begin
//! the next block meanwhile: so either half of a block has a sum of its own. With four rows of x these
//! and the planes fill AVX2's registers.
//! Unsafe functions here want the instructions of `S`, and rows and blocks that are there ([`Source`]).

use super::stored::{Codes, Halves};
use super::tile::Source;
use crate::kernels::panel::table;
use crate::kernels::simd::ByteTables;

/// NF4 with rows of whole blocks, whose values are rounded to a dtype below f32 or are not.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'a, const ROUNDED: bool>(pub Codes<'a>);

/// A block of 64 weights.
#[derive(Clone, Copy)]
pub(super) struct Block<S: ByteTables> {
    planes: S::Planes,
    factor: S::V,
    codes: S::Codes,
}

impl<S: ByteTables, const ROUNDED: bool> Source<S> for Bytes<'_, ROUNDED> {
    const VECTORS: usize = 8;
    const DIRECT: usize = 4;
    const ABREAST: usize = 1;
    const PARTS: usize = 2;
    type Group = Block<S>;
    #[inline(always)]
    unsafe fn ask_ahead(self, row: usize) {
        unsafe { self.0.ask_ahead(row) }
    }
    #[inline(always)]
    unsafe fn group(self, row: usize, group: usize) -> Block<S> {
        unsafe {
            let (absmax, codes) = self.0.block(row, group);
            let planes = match ROUNDED {
                true => S::planes(&table::<S>(absmax, self.0.dtype)),
                false => S::codebook(),
            };
            Block {
                planes,
                factor: S::splat(absmax),
                codes: S::codes(codes),
            }
        }
    }
    #[inline(always)]
    unsafe fn vector(block: Block<S>, v: usize) -> S::V {
        unsafe {
            let values = S::values(block.planes, block.codes, v);
            match ROUNDED {
                true => values,
                false => S::mul(values, block.factor),
            }
        }
    }
}

impl<S: ByteTables> Source<S> for Halves<'_> {
    const VECTORS: usize = 1;
    const DIRECT: usize = 8;
    const ABREAST: usize = 1;
    type Group = S::V;
    #[inline(always)]
    unsafe fn ask_ahead(self, row: usize) {
        unsafe { Halves::ask_ahead(self, row) }
    }
    #[inline(always)]
    unsafe fn group(self, row: usize, group: usize) -> S::V {
        let at = row * self.in_features + group * S::LANES;
        debug_assert!(at + S::LANES <= self.values.len());
        unsafe { S::load_bf16(self.values.as_ptr().add(at)) }
    }
    #[inline(always)]
    unsafe fn vector(weights: S::V, _: usize) -> S::V {
        weights
    }
}
