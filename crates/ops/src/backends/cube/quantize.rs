//! A full-precision weight to 4 bits on a GPU: the codes there, the scales' own codes on the host.

use super::tensor::{Argument, elements, float, fresh, packed, rows, storage, upload};
use crate::format::{DenseDtype, Encoding, WeightFormat, words_of};
use crate::kernels::cube::quantize::quantize_kernel;
use crate::weight::Weight;
use burn::backend::ops::IntTensorOps;
use burn::tensor::{DType, Device, Int, Slice, Tensor, TensorData};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::CubeCount;

/// `bytes` are the little-endian values `[out, in]`, a multiple of 64 of them. The full-precision
/// values are on the device while this runs; nothing but one such weight ever is.
pub(crate) fn quantize(
    bytes: &[u8],
    stored: DenseDtype,
    [out_features, in_features]: [usize; 2],
    dtype: nf4::Dtype,
    double_quant: bool,
    device: &Device,
) -> Weight {
    let count = out_features * in_features;
    assert!(count.is_multiple_of(nf4::BLOCK_SIZE), "whole blocks");
    let blocks = count / nf4::BLOCK_SIZE;
    let tail_words = match double_quant {
        true => blocks.div_ceil(4) + blocks.div_ceil(nf4::NESTED_BLOCK_SIZE) + 256,
        false => blocks,
    };
    let data = words_of(bytes);
    let length = data.len();
    let values = Tensor::<1, Int>::from_data(TensorData::new(data, [length]), (device, DType::U32));
    let values = values
        .try_into_primitive::<CubeBackend>()
        .expect("the device is a GPU");
    let (client, on) = (values.client.clone(), values.device.clone());
    let (shape, stored) = ([count].into(), float(stored));
    let values = CubeTensor::new_contiguous(client, on, shape, values.handle, stored);
    let (words, absmax) = codes(values, tail_words);
    let absmax = Tensor::<1>::from_primitive::<CubeBackend>(absmax).into_data();
    let absmax = absmax.as_slice::<f32>().expect("scales are f32");
    let (tail, nested_offset) = match double_quant {
        false => (absmax.iter().map(|v| v.to_bits()).collect(), None),
        true => nested_words(absmax),
    };
    let tail = upload(&tail, &words);
    let range = count / 8..count / 8 + elements(&tail);
    let words = CubeBackend::int_slice_assign(words, &[Slice::from(range)], tail);
    let format = WeightFormat {
        out_features,
        in_features,
        encoding: Encoding::Nf4 {
            dtype,
            nested_offset,
        },
        compute: crate::ComputeDtype::F32,
    };
    Weight::of_words(Tensor::from_primitive::<CubeBackend>(words), format)
}

/// Codes of a multiple of 64 values, eight a word, with room for `tail_words` behind; one absmax a
/// block.
fn codes(values: CubeTensor, tail_words: usize) -> (CubeTensor, CubeTensor) {
    let words = elements(&values) / 8;
    let codes = fresh(&values, [words + tail_words], DType::U32);
    let absmax = fresh(&values, [words / 8], DType::F32);
    let client = values.client.clone();
    let (_, dim, units) = rows(&client, words);
    let each = 8usize.div_ceil(units);
    let dtype = storage(values.dtype);
    quantize_kernel::launch(
        &client,
        CubeCount::Static(words.div_ceil(units * each) as u32, 1, 1),
        dim,
        16 / values.dtype.size().max(2),
        values.argument(),
        codes.clone().argument(),
        absmax.clone().argument(),
        words,
        each,
        units,
        dtype,
    );
    (codes, absmax)
}

/// The kernel of quantising by itself, of values `[n]` that lie on a GPU, n a multiple of 64: their
/// codes, eight a word, and one absmax a block. For timing it; [`Weight::quantize_on_device`] is what
/// loading calls.
pub fn nf4_codes(values: Tensor<1>) -> (Tensor<1, Int>, Tensor<1>) {
    let values = values.try_into_primitive::<CubeBackend>();
    let (codes, absmax) = codes(packed(values.expect("the values lie on a GPU")), 0);
    (
        Tensor::from_primitive::<CubeBackend>(codes),
        Tensor::from_primitive::<CubeBackend>(absmax),
    )
}

/// The sections behind the codes of a doubly quantised weight, as [`crate::format`] lays them.
fn nested_words(absmax: &[f32]) -> (Vec<u32>, Option<f32>) {
    let quantized = nf4::Quantized {
        shape: [0, 0],
        codes: Vec::new(),
        absmax: nf4::double_quantize(absmax),
        dtype: nf4::Dtype::F32,
    };
    crate::format::nf4_words(&quantized)
}
