//! How do ggml's quantised blocks become numbers again?
//!
//! A block is 32 consecutive elements of a row. `Q4_0`: an f16 scale d and 16 bytes, the first
//! sixteen elements in the low nibbles, the others in the high: `(q − 8) · d`. `Q4_1`: d and an
//! f16 minimum m: `q · d + m`. `Q8_0`: d and 32 signed bytes: `q · d`.

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
    Q8_0,
}

impl TensorType {
    pub(super) fn from_ggml(kind: u32) -> Result<TensorType, String> {
        Ok(match kind {
            0 => TensorType::F32,
            1 => TensorType::F16,
            2 => TensorType::Q4_0,
            3 => TensorType::Q4_1,
            8 => TensorType::Q8_0,
            30 => TensorType::BF16,
            other => {
                let name = match other {
                    6 => "Q5_0",
                    7 => "Q5_1",
                    9 => "Q8_1",
                    10 => "Q2_K",
                    11 => "Q3_K",
                    12 => "Q4_K",
                    13 => "Q5_K",
                    14 => "Q6_K",
                    15 => "Q8_K",
                    28 => "F64",
                    _ => "unknown",
                };
                return Err(format!(
                    "has type {name} ({other}); F32, F16, BF16, Q4_0, Q4_1 and Q8_0 are supported"
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
            TensorType::Q8_0 => (32, 34),
        }
    }

    /// `bytes` are whole blocks.
    pub(super) fn dequantize(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            TensorType::F32 => Dtype::F32.decode(bytes).expect("a float"),
            TensorType::F16 => Dtype::F16.decode(bytes).expect("a float"),
            TensorType::BF16 => Dtype::BF16.decode(bytes).expect("a float"),
            TensorType::Q4_0 => blocks(bytes, |block: &[u8; 18], values| {
                let d = half_at(block, 0);
                for (i, byte) in block[2..].iter().enumerate() {
                    values[i] = (f32::from(byte & 15) - 8.0) * d;
                    values[i + 16] = (f32::from(byte >> 4) - 8.0) * d;
                }
            }),
            TensorType::Q4_1 => blocks(bytes, |block: &[u8; 20], values| {
                let (d, m) = (half_at(block, 0), half_at(block, 2));
                for (i, byte) in block[4..].iter().enumerate() {
                    values[i] = f32::from(byte & 15) * d + m;
                    values[i + 16] = f32::from(byte >> 4) * d + m;
                }
            }),
            TensorType::Q8_0 => blocks(bytes, |block: &[u8; 34], values| {
                let d = half_at(block, 0);
                for (value, byte) in values.iter_mut().zip(&block[2..]) {
                    *value = f32::from(*byte as i8) * d;
                }
            }),
        }
    }
}

fn half_at(block: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32()
}

fn blocks<const N: usize>(
    bytes: &[u8],
    dequantize: impl Fn(&[u8; N], &mut [f32; 32]) + Sync,
) -> Vec<f32> {
    let (blocks, rest) = bytes.as_chunks::<N>();
    debug_assert!(rest.is_empty(), "whole blocks");
    let mut values = vec![0f32; blocks.len() * 32];
    let (out, _) = values.as_chunks_mut::<32>();
    out.par_iter_mut()
        .with_min_len(1024)
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
