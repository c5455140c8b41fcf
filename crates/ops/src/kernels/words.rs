//! What is one 32-bit word of an operand that the tile reads?
//!
//! Every product with a frozen weight goes through words, so that packing, panels and tiles are
//! written once: a depth of `k` values is `k` words of f32, or `k / 2` words of two bf16 each.

use super::simd::{Bf16, Level, Simd, simd_dispatch};
use super::tile::VECTORS;
use crate::format::{ComputeDtype, WeightFormat};
#[cfg(target_arch = "x86_64")]
use crate::format::{DenseDtype, Encoding};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Words {
    /// One f32.
    F32,
    /// One f32 that holds a bf16 value: bf16 for processors without an instruction for it.
    Rounded,
    /// Two bf16, consecutive along the depth, the first in the low half.
    #[cfg(target_arch = "x86_64")]
    Pairs,
    /// The same, sixteen words of the depth at a time, filled up with zeros ([`super::amx`]).
    #[cfg(target_arch = "x86_64")]
    Tiles,
    /// Activations that stay f32 where the weights are bf16 already: three bf16 add up to one f32
    /// (above 2⁻¹¹⁰; what is denormal is flushed), and each multiplies the same weight, exactly.
    #[cfg(target_arch = "x86_64")]
    Thirds,
    /// Both stay f32, each in three bf16, and the six larger of their nine products are summed.
    #[cfg(target_arch = "x86_64")]
    ThirdsOfBoth,
}

/// Words of the depth that a tile takes.
#[cfg(target_arch = "x86_64")]
pub(crate) const TILE_STEPS: usize = 16;

impl Words {
    /// How this level multiplies in `compute`, whatever the other operand is.
    pub fn new(level: Level, compute: ComputeDtype) -> Words {
        match compute {
            ComputeDtype::F32 => Words::F32,
            ComputeDtype::Bf16 => match level.bf16() {
                Bf16::None => Words::Rounded,
                #[cfg(target_arch = "x86_64")]
                Bf16::Pairs => Words::Pairs,
                #[cfg(target_arch = "x86_64")]
                Bf16::Tiles => Words::Tiles,
            },
        }
    }

    /// How this level multiplies many rows by this weight.
    pub fn for_weight(level: Level, format: &WeightFormat) -> Words {
        match (Words::new(level, format.compute), format.encoding) {
            #[cfg(target_arch = "x86_64")]
            (Words::F32, encoding) if level.bf16() == Bf16::Tiles => match encoding {
                Encoding::Dense(DenseDtype::BF16)
                | Encoding::Nf4 {
                    dtype: nf4::Dtype::BF16,
                    ..
                } => Words::Thirds,
                _ => Words::ThirdsOfBoth,
            },
            (words, _) => words,
        }
    }

    /// Values of the depth in a word.
    pub fn values(self) -> usize {
        match self {
            Words::F32 | Words::Rounded => 1,
            #[cfg(target_arch = "x86_64")]
            Words::Pairs | Words::Tiles | Words::Thirds | Words::ThirdsOfBoth => 2,
        }
    }

    /// Words of `depth` values, filled up with zeros.
    pub fn steps(self, depth: usize) -> usize {
        let words = depth.div_ceil(self.values());
        match self {
            #[cfg(target_arch = "x86_64")]
            Words::Tiles | Words::Thirds | Words::ThirdsOfBoth => {
                words.next_multiple_of(TILE_STEPS)
            }
            _ => words,
        }
    }

    /// Operands that one of activations becomes.
    pub fn parts(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Words::Thirds | Words::ThirdsOfBoth => 3,
            _ => 1,
        }
    }

    /// Operands that one of weights becomes.
    pub fn weight_parts(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Words::ThirdsOfBoth => 3,
            _ => 1,
        }
    }

    /// Rows that a product with a frozen weight takes at once: of one group, or of two.
    pub fn rows(self, level: Level) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Words::Tiles | Words::Thirds | Words::ThirdsOfBoth => super::amx::ROWS,
            _ => level.lanes(),
        }
    }

    /// Lanes of a frozen weight's panel.
    pub fn lanes(self, level: Level) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Words::Tiles | Words::Thirds | Words::ThirdsOfBoth => super::amx::LANES,
            _ => VECTORS * level.lanes(),
        }
    }

    /// Panels that are unpacked together: as many as make an NF4 block of lanes, whose scale is looked up
    /// once.
    pub fn panels(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Words::Tiles | Words::Thirds | Words::ThirdsOfBoth => {
                nf4::BLOCK_SIZE / super::amx::LANES
            }
            _ => 1,
        }
    }

    /// Words of a lane of a panel.
    pub fn panel_steps(self, depth: usize) -> usize {
        self.weight_parts() * self.steps(depth)
    }

    /// Words of a row of activations ([`super::row_groups`]).
    pub fn row_steps(self, depth: usize) -> usize {
        self.parts() * self.steps(depth)
    }
}

simd_dispatch! {
    /// Rounds every value to the nearest bf16, ties to even.
    pub(crate) fn round_to_bf16(values: &mut [f32]) = round_to_bf16_generic
}

// A plain loop: under each level's instructions the compiler vectorises it.
#[allow(clippy::extra_unused_type_parameters)]
#[inline(always)]
unsafe fn round_to_bf16_generic<S: Simd>(values: &mut [f32]) {
    for v in values {
        let bits = v.to_bits();
        let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
        let quiet = (bits | 0x0040_0000) & 0xffff_0000;
        *v = f32::from_bits(if v.is_nan() { quiet } else { nearest });
    }
}
