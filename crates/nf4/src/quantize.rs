//! How are a hundred million weights quantised in a fraction of a second?
//!
//! Every loop runs over a whole block with a constant trip count and no branch, so the compiler
//! vectorises it; the same body is compiled for AVX-512, AVX2 and the baseline and chosen at run
//! time. The arithmetic is one rounding after another as written (no fused multiply-add), so all
//! three give the same bytes, whatever the number of threads.

use crate::{Absmax, BLOCK_SIZE, Dtype, Quantized, THRESHOLDS, nested};
use rayon::prelude::*;

/// Blocks per parallel task: 64 Ki elements.
const TASK_BLOCKS: usize = 1024;

/// Quantises a row-major `[out, in]` matrix.
///
/// `dtype` is the type the values had before they were widened to f32; it is only recorded.
/// Values must be finite: an infinity or a NaN spoils its block.
///
/// # Panics
/// If `values` does not fill `shape`.
pub fn quantize(values: &[f32], shape: [usize; 2], dtype: Dtype, double_quant: bool) -> Quantized {
    assert_eq!(
        values.len(),
        shape[0] * shape[1],
        "values do not fill the shape"
    );
    let full = values.len() / BLOCK_SIZE * BLOCK_SIZE;
    let mut codes = vec![0u8; values.len().div_ceil(2)];
    let mut absmax = vec![0f32; values.len().div_ceil(BLOCK_SIZE)];

    let kernel = fastest();
    values[..full]
        .par_chunks(TASK_BLOCKS * BLOCK_SIZE)
        .zip(codes[..full / 2].par_chunks_mut(TASK_BLOCKS * BLOCK_SIZE / 2))
        .zip(absmax[..full / BLOCK_SIZE].par_chunks_mut(TASK_BLOCKS))
        .for_each(|((values, codes), absmax)| kernel(values, codes, absmax));

    if full < values.len() {
        let tail =
            crate::reference::quantize(&values[full..], [1, values.len() - full], dtype, false);
        codes[full / 2..].copy_from_slice(&tail.codes);
        absmax[full / BLOCK_SIZE..].copy_from_slice(&tail.scales());
    }
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

/// Values, codes and absmax of whole blocks.
type Kernel = fn(&[f32], &mut [u8], &mut [f32]);

fn fastest() -> Kernel {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
        {
            // SAFETY: the features the function is compiled for were found just above.
            return |v, c, a| unsafe { blocks_avx512(v, c, a) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: likewise.
            return |v, c, a| unsafe { blocks_avx2(v, c, a) };
        }
    }
    blocks
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn blocks_avx512(values: &[f32], codes: &mut [u8], absmax: &mut [f32]) {
    blocks(values, codes, absmax);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn blocks_avx2(values: &[f32], codes: &mut [u8], absmax: &mut [f32]) {
    blocks(values, codes, absmax);
}

#[inline(always)]
fn blocks(values: &[f32], codes: &mut [u8], absmax: &mut [f32]) {
    let (values, _) = values.as_chunks::<BLOCK_SIZE>();
    let (codes, _) = codes.as_chunks_mut::<{ BLOCK_SIZE / 2 }>();
    for ((values, codes), absmax) in values.iter().zip(codes).zip(absmax) {
        *absmax = largest(values);
        let reciprocal = 1.0 / larger(*absmax, 1e-38);
        let mut indices = [0i32; BLOCK_SIZE];
        for (index, value) in indices.iter_mut().zip(values) {
            // No clamp to ±1: rounding may leave it by one unit, far beyond the last threshold.
            let scaled = value * reciprocal;
            for threshold in THRESHOLDS {
                *index += i32::from(threshold < scaled);
            }
        }
        for (byte, pair) in codes.iter_mut().zip(indices.as_chunks::<2>().0) {
            *byte = (pair[0] << 4 | pair[1]) as u8;
        }
    }
}

/// max |v|, in sixteen lanes: a maximum does not depend on the order.
#[inline(always)]
fn largest(values: &[f32; BLOCK_SIZE]) -> f32 {
    let mut lanes = [0f32; 16];
    for chunk in values.as_chunks::<16>().0 {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(value.abs(), *lane);
        }
    }
    lanes.into_iter().fold(0.0, |m, lane| larger(lane, m))
}

/// One `maxps`, where `f32::max` would take three instructions to be right about NaN.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}
