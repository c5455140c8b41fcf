//! How does a frozen weight lie in memory, on any device?
//!
//! One buffer of 32-bit words and a [`WeightFormat`] that says how to read it. NF4: the codes, the
//! `absmax` (f32, or u8 codes with their f32 nested `absmax` and the 256-entry map), each section
//! starting on a word. Dense: the values, two to a word when they are 16 bits wide. Nothing in a
//! weight is differentiable, so autodiff keeps only this buffer: a reference count, no copy.

use crate::kernels::simd::Level;
use std::fmt;
use std::str::FromStr;

/// The type of a dense weight's stored values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenseDtype {
    F32,
    BF16,
    F16,
}

impl DenseDtype {
    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            DenseDtype::F32 => 4,
            DenseDtype::BF16 | DenseDtype::F16 => 2,
        }
    }
}

/// How a weight's values are encoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Encoding {
    /// 4-bit codes, values rounded to `dtype`; `nested_offset` when the absmax are 8-bit codes.
    Nf4 {
        dtype: nf4::Dtype,
        nested_offset: Option<f32>,
    },
    /// Values as they are.
    Dense(DenseDtype),
}

/// What a weight and the activations it meets are rounded to before they are multiplied.
///
/// Sums are f32 either way, and so is everything of an adapter: A, B, their products with x, and
/// the sum of both paths. Bf16 (8 bits of mantissa) is what AVX512-BF16 multiplies, twice as fast
/// on a 256-bit datapath, and AMX, sixteen times as fast; without either instruction the same
/// roundings happen and the products are f32 ones, which is no faster. F32 is the reference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ComputeDtype {
    #[default]
    F32,
    Bf16,
}

impl ComputeDtype {
    /// Bf16 where this processor multiplies it in hardware, else f32.
    pub fn fastest() -> ComputeDtype {
        match Level::best().multiplies_bf16() {
            true => ComputeDtype::Bf16,
            false => ComputeDtype::F32,
        }
    }
}

impl FromStr for ComputeDtype {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "f32" => Ok(ComputeDtype::F32),
            "bf16" => Ok(ComputeDtype::Bf16),
            _ => Err("one of f32, bf16".into()),
        }
    }
}

impl fmt::Display for ComputeDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ComputeDtype::F32 => "f32",
            ComputeDtype::Bf16 => "bf16",
        })
    }
}

/// Shape and encoding of a weight `[out_features, in_features]`, and how to multiply with it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WeightFormat {
    pub out_features: usize,
    pub in_features: usize,
    pub encoding: Encoding,
    pub compute: ComputeDtype,
}

/// The words of a 4-bit weight, in a buffer that holds no more, and its nested offset if it has one.
pub(crate) fn nf4_words(quantized: &nf4::Quantized) -> (Vec<u32>, Option<f32>) {
    let (scale_codes, scales, offset): (&[u8], [&[f32]; 2], _) = match &quantized.absmax {
        nf4::Absmax::Plain(absmax) => (&[], [absmax, &[]], None),
        nf4::Absmax::Nested {
            codes,
            absmax,
            map,
            offset,
        } => (codes, [absmax, &map[..]], Some(*offset)),
    };
    let bytes = [&quantized.codes, scale_codes];
    let length = bytes.map(|bytes| bytes.len().div_ceil(4)).into_iter();
    let length = length.chain(scales.map(<[f32]>::len)).sum();
    let mut words = Vec::with_capacity(length);
    for bytes in bytes {
        append(&mut words, bytes);
    }
    for scales in scales {
        words.extend(scales.iter().map(|v| v.to_bits()));
    }
    (words, offset)
}

/// Bytes as little-endian words, the last one padded with zeros.
pub(crate) fn words_of(bytes: &[u8]) -> Vec<u32> {
    let mut words = Vec::with_capacity(bytes.len().div_ceil(4));
    append(&mut words, bytes);
    words
}

fn append(words: &mut Vec<u32>, bytes: &[u8]) {
    let (whole, rest) = bytes.as_chunks::<4>();
    words.extend(whole.iter().map(|b| u32::from_le_bytes(*b)));
    if !rest.is_empty() {
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        words.push(u32::from_le_bytes(last));
    }
}
