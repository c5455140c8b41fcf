//! A frozen weight on a device: one tensor of words, and how to read it.

use crate::format::{ComputeDtype, DenseDtype, Encoding, WeightFormat, nf4_words, words_of};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

/// A frozen matrix `[out_features, in_features]` on a device.
#[derive(Clone, Debug)]
pub struct Weight {
    pub(crate) words: Tensor<1, Int>,
    pub(crate) format: WeightFormat,
    /// What a linear without a bias adds: made once, not at each call.
    pub(crate) no_bias: Tensor<1>,
}

impl Weight {
    /// A 4-bit weight; its codes are copied as they are.
    pub fn nf4(quantized: &nf4::Quantized, device: &Device) -> Weight {
        let (words, nested_offset) = nf4_words(quantized);
        let [out_features, in_features] = quantized.shape;
        let encoding = Encoding::Nf4 {
            dtype: quantized.dtype,
            nested_offset,
        };
        Weight::new(
            words,
            WeightFormat {
                out_features,
                in_features,
                encoding,
                compute: ComputeDtype::F32,
            },
            device,
        )
    }

    /// A 4-bit weight quantised on the device (a GPU) from the little-endian bytes of its values; the
    /// same codes as [`nf4::quantize`]'s. Only this weight is ever there in full precision.
    ///
    /// # Panics
    /// When `bytes` does not hold `shape[0] * shape[1]` values, or these are not whole blocks of 64.
    #[cfg(feature = "cube")]
    pub fn quantize_on_device(
        bytes: &[u8],
        stored: DenseDtype,
        shape: [usize; 2],
        dtype: nf4::Dtype,
        double_quant: bool,
        device: &Device,
    ) -> Weight {
        crate::backends::cube::quantize::quantize(bytes, stored, shape, dtype, double_quant, device)
    }

    /// W `[out, in]` as values, in what it is multiplied in; on a GPU.
    #[cfg(feature = "cube")]
    pub fn dequantize_on_device(&self) -> Tensor<2> {
        use burn_cubecl::CubeBackend;
        let words = self.words.clone().try_into_primitive::<CubeBackend>();
        let words = words.expect("the weight lies on a GPU");
        let dtype = match self.format.compute {
            ComputeDtype::F32 => DType::F32,
            ComputeDtype::Bf16 => DType::BF16,
        };
        let dense = crate::backends::cube::linear::dense(words, self.format, dtype);
        Tensor::from_primitive::<CubeBackend>(dense)
    }

    /// A dense weight from the little-endian bytes of its row-major values.
    ///
    /// # Panics
    /// When `bytes` does not hold `shape[0] * shape[1]` values.
    pub fn dense(bytes: &[u8], dtype: DenseDtype, shape: [usize; 2], device: &Device) -> Weight {
        let [out_features, in_features] = shape;
        assert_eq!(
            bytes.len(),
            out_features * in_features * dtype.bytes(),
            "bytes of a {shape:?} weight"
        );
        let encoding = Encoding::Dense(dtype);
        Weight::new(
            words_of(bytes),
            WeightFormat {
                out_features,
                in_features,
                encoding,
                compute: ComputeDtype::F32,
            },
            device,
        )
    }

    /// A dense f32 weight.
    pub fn dense_f32(values: &[f32], shape: [usize; 2], device: &Device) -> Weight {
        let [out_features, in_features] = shape;
        assert_eq!(
            values.len(),
            out_features * in_features,
            "values of a {shape:?} weight"
        );
        let encoding = Encoding::Dense(DenseDtype::F32);
        let words = values.iter().map(|v| v.to_bits()).collect();
        Weight::new(
            words,
            WeightFormat {
                out_features,
                in_features,
                encoding,
                compute: ComputeDtype::F32,
            },
            device,
        )
    }

    fn new(words: Vec<u32>, format: WeightFormat, device: &Device) -> Weight {
        let length = words.len();
        let words = Tensor::from_data(TensorData::new(words, [length]), (device, DType::U32));
        Weight::of_words(words, format)
    }

    /// Words that lie on a device already.
    pub(crate) fn of_words(words: Tensor<1, Int>, format: WeightFormat) -> Weight {
        let no_bias = Tensor::empty([0], &words.device());
        Weight {
            words,
            format,
            no_bias,
        }
    }

    /// The same weight, multiplied in `compute`; a new weight is multiplied in f32.
    pub fn with_compute(mut self, compute: ComputeDtype) -> Weight {
        self.format.compute = compute;
        self
    }

    /// `[out_features, in_features]`
    pub fn shape(&self) -> [usize; 2] {
        [self.format.out_features, self.format.in_features]
    }

    /// Shape, encoding, and what it is multiplied in.
    pub fn format(&self) -> WeightFormat {
        self.format
    }

    /// Bytes held on the device.
    pub fn bytes(&self) -> usize {
        self.words.dims()[0] * 4
    }
}
