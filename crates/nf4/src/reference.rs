//! What do quantising and dequantising mean, in plain loops? The specification that the fast
//! code is judged by.

use crate::{Absmax, BLOCK_SIZE, CODEBOOK, Dtype, Quantized, THRESHOLDS, nested};

/// As [`crate::quantize`], one element at a time.
pub fn quantize(values: &[f32], shape: [usize; 2], dtype: Dtype, double_quant: bool) -> Quantized {
    assert_eq!(
        values.len(),
        shape[0] * shape[1],
        "values do not fill the shape"
    );
    let mut absmax = Vec::new();
    let mut indices = Vec::new();
    for block in values.chunks(BLOCK_SIZE) {
        let (scale, scaled) = scale_block(block);
        absmax.push(scale);
        indices.extend(scaled.into_iter().map(nearest));
    }
    if indices.len() % 2 == 1 {
        indices.push(nearest(0.0));
    }
    let codes = indices
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect();
    let absmax = match double_quant {
        true => nested::double_quantize(&absmax),
        false => Absmax::Plain(absmax),
    };
    Quantized {
        shape,
        codes,
        absmax,
        dtype,
    }
}

/// `absmax` of a block and its values divided by it. bitsandbytes multiplies a full block by
/// the reciprocal but divides the last, short one, and keeps a full block's zero `absmax`.
fn scale_block(block: &[f32]) -> (f32, Vec<f32>) {
    let absmax = block.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
    let floor = absmax.max(1e-38);
    if block.len() == BLOCK_SIZE {
        let reciprocal = 1.0 / floor;
        let scaled = block.iter().map(|v| v * reciprocal);
        (absmax, scaled.map(|v| v.clamp(-1.0, 1.0)).collect())
    } else {
        let scaled = block.iter().map(|v| v / floor);
        (floor, scaled.map(|v| v.clamp(-1.0, 1.0)).collect())
    }
}

fn nearest(value: f32) -> u8 {
    THRESHOLDS.iter().filter(|t| **t < value).count() as u8
}

/// As [`Quantized::dequantize`], one element at a time.
pub fn dequantize(quantized: &Quantized) -> Vec<f32> {
    let scales = quantized.scales();
    let mut values: Vec<f32> = (0..quantized.numel())
        .map(|i| {
            let byte = quantized.codes[i / 2];
            let code = if i % 2 == 0 { byte >> 4 } else { byte & 15 };
            CODEBOOK[code as usize] * scales[i / BLOCK_SIZE]
        })
        .collect();
    quantized.dtype.round(&mut values);
    values
}
