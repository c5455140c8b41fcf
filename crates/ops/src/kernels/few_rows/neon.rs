//! Vectors of weights straight from packed words (NEON).
//!
//! NF4: the codebook is looked up by the byte ([`crate::kernels::simd::neon`]), and what is unpacked comes in the
//! order of the features, so that x lies as it is. Each vector is multiplied by the block's absmax: the very values
//! that dequantising gives. Where they are rounded to the weight's dtype, planes are made of the rounded table, once
//! for 64 weights, and the factor is 1. That is 74 instructions for 64 weights, 52 of them permutations.
//! bf16: a half of zeros before each.
//! As with AVX2 (`planes`) a row of W is walked alone, and either half of a block has a sum of its own.
//! Unsafe functions here want rows and blocks that are there ([`Source`]).

use super::stored::{Codes, Halves};
use super::tile::Source;
use crate::kernels::panel::table;
use crate::kernels::simd::neon::{Pair, codes, planes, values};
use crate::kernels::simd::{Neon, Simd};
use std::arch::aarch64::*;

/// NF4 with rows of whole blocks, whose values are rounded to a dtype below f32 or are not.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'a, const ROUNDED: bool>(pub Codes<'a>);

/// A block of 64 weights.
#[derive(Clone, Copy)]
pub(super) struct Block {
    planes: uint8x16x4_t,
    factor: f32,
    codes: [uint8x16_t; 4],
}

impl<const ROUNDED: bool> Source<Neon> for Bytes<'_, ROUNDED> {
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
            let (absmax, bytes) = self.0.block(row, group);
            let (planes, factor) = if ROUNDED {
                (planes(&table::<Neon>(absmax, self.0.dtype)), 1.0)
            } else {
                (planes(&nf4::CODEBOOK), absmax)
            };
            let [[a, b], [c, d]] = [0, 16].map(|at| codes(vld1q_u8(bytes.add(at))));
            Block {
                planes,
                factor,
                codes: [a, b, c, d],
            }
        }
    }
    #[inline(always)]
    unsafe fn vector(block: Block, v: usize) -> Pair {
        unsafe {
            let values = values(block.planes, block.codes[v / 2], v % 2);
            if ROUNDED {
                values
            } else {
                Neon::mul(values, Neon::splat(block.factor))
            }
        }
    }
}

impl Source<Neon> for Halves<'_> {
    const VECTORS: usize = 1;
    const DIRECT: usize = 8;
    const ABREAST: usize = 1;
    type Group = Pair;
    #[inline(always)]
    unsafe fn ask_ahead(self, row: usize) {
        unsafe { Halves::ask_ahead(self, row) }
    }
    #[inline(always)]
    unsafe fn group(self, row: usize, group: usize) -> Pair {
        let at = row * self.in_features + group * Neon::LANES;
        debug_assert!(at + Neon::LANES <= self.values.len());
        unsafe { Neon::load_bf16(self.values.as_ptr().add(at)) }
    }
    #[inline(always)]
    unsafe fn vector(weights: Pair, _: usize) -> Pair {
        weights
    }
}
