//! How do 4-bit codes become numbers again at the speed of memory?
//!
//! A block's sixteen possible values are computed once and then looked up: with AVX-512 by one
//! permutation of a register for sixteen elements, otherwise from a small table.

use crate::{BLOCK_SIZE, CODEBOOK, Dtype};
use rayon::prelude::*;
use std::ops::Range;

/// Blocks per parallel task: 64 Ki elements, 256 KiB of output.
const TASK_BLOCKS: usize = 1024;

pub(crate) fn dequantize(codes: &[u8], scales: &[f32], numel: usize, dtype: Dtype) -> Vec<f32> {
    let mut values = vec![0f32; numel];
    values
        .par_chunks_mut(TASK_BLOCKS * BLOCK_SIZE)
        .enumerate()
        .for_each(|(task, values)| {
            let start = task * TASK_BLOCKS * BLOCK_SIZE;
            dequantize_range(codes, scales, start..start + values.len(), dtype, values);
        });
    values
}

/// Elements `range` of the flattened matrix into `values`, rounded to `dtype`, on this thread.
///
/// `codes` and `scales` describe the whole matrix; the range may start and end inside a block.
///
/// # Panics
/// If `values` is not as long as the range, or the range leaves the matrix.
pub fn dequantize_range(
    codes: &[u8],
    scales: &[f32],
    range: Range<usize>,
    dtype: Dtype,
    values: &mut [f32],
) {
    assert_eq!(
        values.len(),
        range.len(),
        "one value for each element of the range"
    );
    let first_block = range.start.div_ceil(BLOCK_SIZE).min(range.end / BLOCK_SIZE);
    let whole = (first_block * BLOCK_SIZE).max(range.start)..range.end / BLOCK_SIZE * BLOCK_SIZE;
    let (head, body) = match whole.start < whole.end {
        true => (range.start..whole.start, whole),
        false => (range.clone(), range.end..range.end),
    };
    let (before, rest) = values.split_at_mut(head.len());
    let (middle, after) = rest.split_at_mut(body.len());
    one_by_one(codes, scales, head, before);
    if !body.is_empty() {
        let blocks = body.start / BLOCK_SIZE..body.end / BLOCK_SIZE;
        dequantize_blocks(
            &codes[body.start / 2..body.end / 2],
            &scales[blocks],
            middle,
        );
    }
    one_by_one(codes, scales, body.end..range.end, after);
    dtype.round(values);
}

fn one_by_one(codes: &[u8], scales: &[f32], range: Range<usize>, values: &mut [f32]) {
    for (i, value) in range.zip(values) {
        let code = codes[i / 2] >> (4 * (1 - i % 2)) & 15;
        *value = CODEBOOK[code as usize] * scales[i / BLOCK_SIZE];
    }
}

/// Whole blocks: 32 bytes of `codes` and one of `scales` for each 64 `values`. No rounding.
///
/// # Panics
/// If the lengths do not agree.
pub fn dequantize_blocks(codes: &[u8], scales: &[f32], values: &mut [f32]) {
    assert_eq!(
        codes.len(),
        scales.len() * BLOCK_SIZE / 2,
        "32 bytes for each block"
    );
    assert_eq!(
        values.len(),
        scales.len() * BLOCK_SIZE,
        "64 values for each block"
    );
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
        // SAFETY: the features were found just above, and the lengths agree.
        return unsafe { blocks_avx512(codes, scales, values) };
    }
    blocks(codes, scales, values);
}

fn blocks(codes: &[u8], scales: &[f32], values: &mut [f32]) {
    let (codes, _) = codes.as_chunks::<{ BLOCK_SIZE / 2 }>();
    let (values, _) = values.as_chunks_mut::<BLOCK_SIZE>();
    for ((codes, scale), values) in codes.iter().zip(scales).zip(values) {
        let table = CODEBOOK.map(|value| value * scale);
        for (byte, pair) in codes.iter().zip(values.as_chunks_mut::<2>().0) {
            *pair = [table[(byte >> 4) as usize], table[(byte & 15) as usize]];
        }
    }
}

/// # Safety
/// 32 codes and 64 values for each scale.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl")]
unsafe fn blocks_avx512(codes: &[u8], scales: &[f32], values: &mut [f32]) {
    use std::arch::x86_64::*;
    // SAFETY: CODEBOOK has sixteen values; each load of 8 bytes and store of 16 floats stays
    // within the block's 32 bytes and 64 floats, whose number is that of `scales`.
    unsafe {
        let codebook = _mm512_loadu_ps(CODEBOOK.as_ptr());
        let low_nibble = _mm_set1_epi8(15);
        for (block, scale) in scales.iter().enumerate() {
            let table = _mm512_mul_ps(codebook, _mm512_set1_ps(*scale));
            for quarter in 0..4 {
                let bytes = codes.as_ptr().add(block * 32 + quarter * 8);
                let bytes = _mm_loadl_epi64(bytes.cast());
                let odd = _mm_and_si128(bytes, low_nibble);
                let even = _mm_and_si128(_mm_srli_epi16::<4>(bytes), low_nibble);
                let indices = _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(even, odd));
                let out = values.as_mut_ptr().add(block * 64 + quarter * 16);
                _mm512_storeu_ps(out, _mm512_permutexvar_ps(indices, table));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_portable_and_the_vector_kernel_agree_on_every_byte() {
        let codes: Vec<u8> = (0..=255).collect();
        let scales: Vec<f32> = (0..8).map(|i| 0.37 * 1.9f32.powi(i) - 1.0).collect();
        let (mut fast, mut plain) = (vec![f32::NAN; 512], vec![0.0; 512]);
        dequantize_blocks(&codes, &scales, &mut fast);
        blocks(&codes, &scales, &mut plain);
        assert_eq!(fast, plain);
    }

    #[test]
    fn a_range_may_start_and_end_anywhere() {
        let codes: Vec<u8> = (0..160).map(|i| (i * 37 % 256) as u8).collect();
        let scales = [0.5, 1.5, 0.25, 3.0, 2.0];
        let whole = dequantize(&codes, &scales, 320, Dtype::BF16);
        for start in 0..=320 {
            for end in start..=320 {
                let mut values = vec![f32::NAN; end - start];
                dequantize_range(&codes, &scales, start..end, Dtype::BF16, &mut values);
                assert_eq!(values, whole[start..end], "{start}..{end}");
            }
        }
    }
}
