//! How do ggml's quantised blocks become numbers again?
//!
//! A block is 32 consecutive elements of a row. `Q4_0`: an f16 scale d and 16 bytes, the first
//! sixteen elements in the low nibbles, the others in the high: `(q − 8) · d`. `Q4_1`: d and an
//! f16 minimum m: `q · d + m`. `Q5_0` and `Q5_1` have a fifth bit of each element in four bytes
//! before the nibbles. `Q8_0`: d and 32 signed bytes: `q · d`. `IQ4_NL`: as `Q4_0`, but nibbles are
//! places in a table. Blocks of 256 are in k_quants.rs.

use super::k_quants::{self, SUPER_BLOCK};
use crate::Dtype;
use half::f16;
use rayon::prelude::*;

/// The types of tensors that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
    Iq4Xs,
}

impl TensorType {
    pub(super) fn from_ggml(kind: u32) -> Result<TensorType, String> {
        Ok(match kind {
            0 => TensorType::F32,
            1 => TensorType::F16,
            2 => TensorType::Q4_0,
            3 => TensorType::Q4_1,
            6 => TensorType::Q5_0,
            7 => TensorType::Q5_1,
            8 => TensorType::Q8_0,
            10 => TensorType::Q2K,
            11 => TensorType::Q3K,
            12 => TensorType::Q4K,
            13 => TensorType::Q5K,
            14 => TensorType::Q6K,
            20 => TensorType::Iq4Nl,
            23 => TensorType::Iq4Xs,
            30 => TensorType::BF16,
            other => {
                let name = match other {
                    9 => "Q8_1",
                    15 => "Q8_K",
                    16 => "IQ2_XXS",
                    17 => "IQ2_XS",
                    18 => "IQ3_XXS",
                    19 => "IQ1_S",
                    21 => "IQ3_S",
                    22 => "IQ2_S",
                    28 => "F64",
                    29 => "IQ1_M",
                    34 => "TQ1_0",
                    35 => "TQ2_0",
                    39 => "MXFP4",
                    _ => "unknown",
                };
                return Err(format!(
                    "has type {name} ({other}), which is not supported; take the model's Q8_0 or \
                     F16 file, or its Hugging Face folder"
                ));
            }
        })
    }

    /// Elements and bytes of a block.
    pub fn block(self) -> (usize, usize) {
        match self {
            TensorType::F32 => (1, 4),
            TensorType::F16 | TensorType::BF16 => (1, 2),
            TensorType::Q4_0 => (32, 18),
            TensorType::Q4_1 => (32, 20),
            TensorType::Q5_0 => (32, 22),
            TensorType::Q5_1 => (32, 24),
            TensorType::Q8_0 => (32, 34),
            TensorType::Q2K => (SUPER_BLOCK, 84),
            TensorType::Q3K => (SUPER_BLOCK, 110),
            TensorType::Q4K => (SUPER_BLOCK, 144),
            TensorType::Q5K => (SUPER_BLOCK, 176),
            TensorType::Q6K => (SUPER_BLOCK, 210),
            TensorType::Iq4Nl => (32, 18),
            TensorType::Iq4Xs => (SUPER_BLOCK, 136),
        }
    }

    /// `bytes` are whole blocks.
    pub(super) fn dequantize(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            TensorType::F32 => Dtype::F32.decode(bytes).expect("a float"),
            TensorType::F16 => Dtype::F16.decode(bytes).expect("a float"),
            TensorType::BF16 => Dtype::BF16.decode(bytes).expect("a float"),
            TensorType::Q4_0 => blocks(bytes, |block: &[u8; 18], values: &mut [f32; 32]| {
                let d = half_at(block, 0);
                for (i, byte) in block[2..].iter().enumerate() {
                    values[i] = (f32::from(byte & 15) - 8.0) * d;
                    values[i + 16] = (f32::from(byte >> 4) - 8.0) * d;
                }
            }),
            TensorType::Q4_1 => blocks(bytes, |block: &[u8; 20], values: &mut [f32; 32]| {
                let (d, m) = (half_at(block, 0), half_at(block, 2));
                for (i, byte) in block[4..].iter().enumerate() {
                    values[i] = f32::from(byte & 15) * d + m;
                    values[i + 16] = f32::from(byte >> 4) * d + m;
                }
            }),
            TensorType::Q5_0 => blocks(bytes, |block: &[u8; 22], values: &mut [f32; 32]| {
                let d = half_at(block, 0);
                let fifth = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
                for (i, q) in five_bits(fifth, &block[6..]) {
                    values[i] = (f32::from(q) - 16.0) * d;
                }
            }),
            TensorType::Q5_1 => blocks(bytes, |block: &[u8; 24], values: &mut [f32; 32]| {
                let (d, m) = (half_at(block, 0), half_at(block, 2));
                let fifth = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
                for (i, q) in five_bits(fifth, &block[8..]) {
                    values[i] = f32::from(q) * d + m;
                }
            }),
            TensorType::Q8_0 => blocks(bytes, |block: &[u8; 34], values: &mut [f32; 32]| {
                let d = half_at(block, 0);
                for (value, byte) in values.iter_mut().zip(&block[2..]) {
                    *value = f32::from(*byte as i8) * d;
                }
            }),
            TensorType::Q2K => blocks(bytes, k_quants::q2_k),
            TensorType::Q3K => blocks(bytes, k_quants::q3_k),
            TensorType::Q4K => blocks(bytes, k_quants::q4_k),
            TensorType::Q5K => blocks(bytes, k_quants::q5_k),
            TensorType::Q6K => blocks(bytes, k_quants::q6_k),
            TensorType::Iq4Nl => blocks(bytes, |block: &[u8; 18], values: &mut [f32; 32]| {
                k_quants::from_table(half_at(block, 0), &block[2..], values);
            }),
            TensorType::Iq4Xs => blocks(bytes, k_quants::iq4_xs),
        }
    }
}

/// Places in the block and five bits each: sixteen bytes of nibbles, and the fifth bits of all 32.
fn five_bits(fifth: u32, nibbles: &[u8]) -> impl Iterator<Item = (usize, u8)> {
    let with = move |i: usize, nibble: u8| (i, nibble | ((fifth >> i & 1) as u8) << 4);
    let bytes = nibbles.iter().enumerate();
    bytes.flat_map(move |(i, byte)| [with(i, byte & 15), with(i + 16, byte >> 4)])
}

pub(super) fn half_at(block: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32()
}

/// Blocks of `N` bytes, each `V` values.
fn blocks<const N: usize, const V: usize>(
    bytes: &[u8],
    dequantize: impl Fn(&[u8; N], &mut [f32; V]) + Sync,
) -> Vec<f32> {
    let (blocks, rest) = bytes.as_chunks::<N>();
    debug_assert!(rest.is_empty(), "whole blocks");
    let mut values = vec![0f32; blocks.len() * V];
    let (out, _) = values.as_chunks_mut::<V>();
    out.par_iter_mut()
        .with_min_len(32_768 / V)
        .zip(blocks)
        .for_each(|(values, block)| dequantize(block, values));
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_each_kind_by_hand() {
        let half = |x: f32| f16::from_f32(x).to_le_bytes();
        let nibbles: Vec<u8> = (0..16).map(|i| i | (15 - i) << 4).collect();
        let mut block = half(0.5).to_vec();
        block.extend(&nibbles);
        let values = TensorType::Q4_0.dequantize(&block);
        assert_eq!(
            (values[0], values[15], values[16], values[31]),
            (-4.0, 3.5, 3.5, -4.0)
        );

        let mut block = [half(0.5), half(-2.0)].concat();
        block.extend(&nibbles);
        let values = TensorType::Q4_1.dequantize(&block);
        assert_eq!(
            (values[0], values[15], values[16], values[31]),
            (-2.0, 5.5, 5.5, -2.0)
        );

        let mut block = half(0.25).to_vec();
        block.extend((0..32).map(|i| (i as i8 - 16) as u8));
        let values = TensorType::Q8_0.dequantize(&block);
        assert_eq!((values[0], values[16], values[31]), (-4.0, 0.0, 3.75));
    }
}
