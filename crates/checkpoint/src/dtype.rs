//! In which types are numbers stored, and how do they become f32 and back?

use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use std::fmt;

/// The element type of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    F64,
    F32,
    BF16,
    F16,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
}

/// Elements per parallel task.
const TASK: usize = 1 << 16;

impl Dtype {
    /// From the name in a safetensors header: `BF16`.
    pub(crate) fn from_safetensors(dtype: safetensors::Dtype) -> Option<Dtype> {
        Some(match dtype {
            safetensors::Dtype::F64 => Dtype::F64,
            safetensors::Dtype::F32 => Dtype::F32,
            safetensors::Dtype::BF16 => Dtype::BF16,
            safetensors::Dtype::F16 => Dtype::F16,
            safetensors::Dtype::I64 => Dtype::I64,
            safetensors::Dtype::I32 => Dtype::I32,
            safetensors::Dtype::I16 => Dtype::I16,
            safetensors::Dtype::I8 => Dtype::I8,
            safetensors::Dtype::U64 => Dtype::U64,
            safetensors::Dtype::U32 => Dtype::U32,
            safetensors::Dtype::U16 => Dtype::U16,
            safetensors::Dtype::U8 => Dtype::U8,
            safetensors::Dtype::BOOL => Dtype::Bool,
            _ => return None,
        })
    }

    /// The name in a safetensors header.
    pub fn safetensors_name(self) -> &'static str {
        match self {
            Dtype::F64 => "F64",
            Dtype::F32 => "F32",
            Dtype::BF16 => "BF16",
            Dtype::F16 => "F16",
            Dtype::I64 => "I64",
            Dtype::I32 => "I32",
            Dtype::I16 => "I16",
            Dtype::I8 => "I8",
            Dtype::U64 => "U64",
            Dtype::U32 => "U32",
            Dtype::U16 => "U16",
            Dtype::U8 => "U8",
            Dtype::Bool => "BOOL",
        }
    }

    /// A floating-point type by PyTorch's name: `bfloat16`.
    pub fn from_torch_name(name: &str) -> Option<Dtype> {
        Some(match name.strip_prefix("torch.").unwrap_or(name) {
            "float64" | "double" => Dtype::F64,
            "float32" | "float" => Dtype::F32,
            "bfloat16" => Dtype::BF16,
            "float16" | "half" => Dtype::F16,
            _ => return None,
        })
    }

    /// PyTorch's name: `bfloat16`.
    pub fn torch_name(self) -> &'static str {
        match self {
            Dtype::F64 => "float64",
            Dtype::F32 => "float32",
            Dtype::BF16 => "bfloat16",
            Dtype::F16 => "float16",
            Dtype::I64 => "int64",
            Dtype::I32 => "int32",
            Dtype::I16 => "int16",
            Dtype::I8 => "int8",
            Dtype::U64 => "uint64",
            Dtype::U32 => "uint32",
            Dtype::U16 => "uint16",
            Dtype::U8 => "uint8",
            Dtype::Bool => "bool",
        }
    }

    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F64 | Dtype::I64 | Dtype::U64 => 8,
            Dtype::F32 | Dtype::I32 | Dtype::U32 => 4,
            Dtype::BF16 | Dtype::F16 | Dtype::I16 | Dtype::U16 => 2,
            Dtype::I8 | Dtype::U8 | Dtype::Bool => 1,
        }
    }

    pub fn is_float(self) -> bool {
        matches!(self, Dtype::F64 | Dtype::F32 | Dtype::BF16 | Dtype::F16)
    }

    /// The type that values dequantised from 4 bits are rounded to.
    pub fn to_nf4(self) -> Option<nf4::Dtype> {
        match self {
            Dtype::F32 => Some(nf4::Dtype::F32),
            Dtype::BF16 => Some(nf4::Dtype::BF16),
            Dtype::F16 => Some(nf4::Dtype::F16),
            _ => None,
        }
    }

    /// Little-endian floats of this type, widened (or, from f64, rounded) to f32.
    /// `None` if this is not a floating-point type.
    pub fn decode(self, bytes: &[u8]) -> Option<Vec<f32>> {
        if !self.is_float() {
            return None;
        }
        let mut values = vec![0f32; bytes.len() / self.size()];
        values
            .par_chunks_mut(TASK)
            .zip(bytes.par_chunks(TASK * self.size()))
            .for_each(|(values, bytes)| self.decode_into(bytes, values));
        Some(values)
    }

    fn decode_into(self, bytes: &[u8], values: &mut [f32]) {
        match self {
            Dtype::F64 => fill(values, bytes.as_chunks().0, |b| {
                f64::from_le_bytes(b) as f32
            }),
            Dtype::F32 => fill(values, bytes.as_chunks().0, f32::from_le_bytes),
            Dtype::BF16 => fill(values, bytes.as_chunks().0, |b| {
                f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)
            }),
            Dtype::F16 => {
                let halves: Vec<half::f16> = bytes
                    .as_chunks()
                    .0
                    .iter()
                    .map(|b| half::f16::from_le_bytes(*b))
                    .collect();
                halves.convert_to_f32_slice(values);
            }
            _ => unreachable!("decode() refused what is not a float"),
        }
    }

    /// Whether little-endian values of this type are all finite in f32; integers are.
    pub fn are_finite(self, bytes: &[u8]) -> bool {
        fn all<const N: usize>(bytes: &[u8], is_finite: impl Fn([u8; N]) -> bool) -> bool {
            // A sum, for what may end early is not vectorised.
            let finite: usize = bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| usize::from(is_finite(*b)))
                .sum();
            finite == bytes.len() / N
        }
        let task = |bytes: &[u8]| match self {
            Dtype::F64 => all(bytes, |b| (f64::from_le_bytes(b) as f32).is_finite()),
            Dtype::F32 => all(bytes, |b| f32::from_le_bytes(b).is_finite()),
            // Not all bits of the exponent are set.
            Dtype::BF16 => all(bytes, |b| u16::from_le_bytes(b) & 0x7f80 != 0x7f80),
            Dtype::F16 => all(bytes, |b| u16::from_le_bytes(b) & 0x7c00 != 0x7c00),
            _ => true,
        };
        bytes.par_chunks(TASK * self.size()).all(task)
    }

    /// The values as little-endian bytes of this type, rounded to nearest even.
    ///
    /// # Panics
    /// If this is not `F32`, `BF16` or `F16`.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        assert!(
            self.to_nf4().is_some(),
            "floats are written as F32, BF16 or F16, not {self}"
        );
        let mut bytes = vec![0u8; values.len() * self.size()];
        bytes
            .par_chunks_mut(TASK * self.size())
            .zip(values.par_chunks(TASK))
            .for_each(|(bytes, values)| match self {
                Dtype::F32 => fill(bytes.as_chunks_mut().0, values, f32::to_le_bytes),
                Dtype::BF16 => {
                    let mut rounded = values.to_vec();
                    nf4::Dtype::BF16.round(&mut rounded);
                    fill(bytes.as_chunks_mut().0, &rounded, |v| {
                        ((v.to_bits() >> 16) as u16).to_le_bytes()
                    });
                }
                _ => fill(bytes.as_chunks_mut().0, values, |v| {
                    half::f16::from_f32(v).to_le_bytes()
                }),
            });
        bytes
    }
}

fn fill<T: Copy, U>(out: &mut [U], from: &[T], convert: impl Fn(T) -> U) {
    for (out, from) in out.iter_mut().zip(from) {
        *out = convert(*from);
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.safetensors_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_survives_the_way_to_f32_and_back() {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for dtype in [Dtype::BF16, Dtype::F16] {
            let values = dtype.decode(&bytes).unwrap();
            let back = dtype.encode(&values);
            for ((value, before), after) in values
                .iter()
                .zip(bytes.as_chunks::<2>().0)
                .zip(back.as_chunks::<2>().0)
            {
                assert!(before == after || value.is_nan(), "{dtype} {before:?}");
            }
        }
    }

    #[test]
    fn values_are_finite_where_their_f32s_are() {
        let sixteen = (0..=u16::MAX).map(|bits| bits.to_le_bytes().to_vec());
        let thirty_two = [
            0f32,
            -f32::MAX,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            -1e-45,
        ];
        let thirty_two = thirty_two.map(|v| v.to_le_bytes().to_vec());
        let sixty_four = [0f64, 1e38, -1e39, f64::INFINITY, f64::NAN, 1e-300];
        let sixty_four = sixty_four.map(|v| v.to_le_bytes().to_vec());
        for (dtype, values) in [
            (Dtype::BF16, sixteen.clone().collect::<Vec<_>>()),
            (Dtype::F16, sixteen.collect()),
            (Dtype::F32, thirty_two.to_vec()),
            (Dtype::F64, sixty_four.to_vec()),
        ] {
            for bytes in values {
                let finite = dtype.decode(&bytes).unwrap()[0].is_finite();
                assert_eq!(dtype.are_finite(&bytes), finite, "{dtype} {bytes:?}");
            }
            let mut many = vec![0; (3 * TASK + 5) * dtype.size()];
            assert!(dtype.are_finite(&many));
            let last = many.len() - dtype.size();
            many[last..].fill(0xff);
            assert!(!dtype.are_finite(&many), "{dtype}");
        }
        assert!(Dtype::U8.are_finite(&[0xff; 9]));
    }

    #[test]
    fn integers_are_not_taken_for_floats() {
        assert_eq!(Dtype::U8.decode(&[1, 2, 3]), None);
    }
}
