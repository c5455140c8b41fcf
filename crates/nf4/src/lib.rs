//! What is a 4-bit NormalFloat weight, and how does one get there and back?
//!
//! NF4 with optional double quantisation (QLoRA, arXiv 2305.14314, section 3), bit for bit as
//! bitsandbytes stores it: blocks of 64 consecutive elements of the row-major matrix share one
//! `absmax`, each element becomes the index of the nearest of sixteen [`CODEBOOK`] values after
//! division by it, and two indices share a byte, the first in the high nibble. Double
//! quantisation stores the `absmax` values themselves in 8 bits, in blocks of 256.
//!
//! [`reference`] says it in plain loops; everything else is the same thing, faster.
//! This crate knows slices only: no tensor, no file.

mod codebook;
mod dequantize;
mod nested;
mod quantize;
pub mod reference;

pub use codebook::{CODEBOOK, THRESHOLDS, dynamic_map};
pub use dequantize::{dequantize_blocks, dequantize_range};
pub use nested::{double_quantize, quantize_blockwise, torch_mean};
pub use quantize::quantize;

/// Elements that share one `absmax`.
pub const BLOCK_SIZE: usize = 64;
/// `absmax` values that share one nested `absmax` under double quantisation.
pub const NESTED_BLOCK_SIZE: usize = 256;

/// The type a weight had when it was quantised. Dequantised values are rounded to it, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    F32,
    BF16,
    F16,
}

impl Dtype {
    /// Rounds every value to the nearest of this type, ties to even.
    pub fn round(self, values: &mut [f32]) {
        match self {
            Dtype::F32 => {}
            Dtype::BF16 => values.iter_mut().for_each(|v| *v = round_to_bf16(*v)),
            Dtype::F16 => values
                .iter_mut()
                .for_each(|v| *v = half::f16::from_f32(*v).to_f32()),
        }
    }
}

/// Round to nearest even in integer arithmetic, which compilers turn into vector code.
#[inline(always)]
fn round_to_bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    f32::from_bits(if value.is_nan() {
        (bits | 0x0040_0000) & 0xffff_0000
    } else {
        rounded
    })
}

/// A weight matrix in 4 bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    /// `[out, in]`, as `nn.Linear` stores it.
    pub shape: [usize; 2],
    /// `(numel + 1) / 2` bytes, the even element in the high nibble.
    pub codes: Vec<u8>,
    pub absmax: Absmax,
    pub dtype: Dtype,
}

/// One scale for each block of [`BLOCK_SIZE`] elements.
#[derive(Clone, Debug, PartialEq)]
pub enum Absmax {
    Plain(Vec<f32>),
    /// `absmax[b] = map[codes[b]] · absmax[b / 256] + offset`
    Nested {
        codes: Vec<u8>,
        absmax: Vec<f32>,
        map: Box<[f32; 256]>,
        offset: f32,
    },
}

impl Absmax {
    /// Number of blocks described.
    pub fn len(&self) -> usize {
        match self {
            Absmax::Plain(values) => values.len(),
            Absmax::Nested { codes, .. } => codes.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Quantized {
    pub fn numel(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// The scale of each block of 64, in f32: `[ceil(numel / 64)]`.
    pub fn scales(&self) -> Vec<f32> {
        match &self.absmax {
            Absmax::Plain(values) => values.clone(),
            Absmax::Nested {
                codes,
                absmax,
                map,
                offset,
            } => nested::decode(codes, absmax, map, *offset),
        }
    }

    /// All values, row-major, rounded to [`Quantized::dtype`].
    pub fn dequantize(&self) -> Vec<f32> {
        dequantize::dequantize(&self.codes, &self.scales(), self.numel(), self.dtype)
    }

    /// Bytes held: codes, scales and their map.
    pub fn bytes(&self) -> usize {
        self.codes.len()
            + match &self.absmax {
                Absmax::Plain(values) => 4 * values.len(),
                Absmax::Nested { codes, absmax, .. } => codes.len() + 4 * absmax.len() + 4 * 257,
            }
    }
}
