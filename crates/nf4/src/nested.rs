//! How are the scales themselves stored in 8 bits (double quantisation)?

use crate::{Absmax, NESTED_BLOCK_SIZE, dynamic_map};
use rayon::prelude::*;

/// The scales of a weight in 8 bits each: absmax − mean(absmax), quantised in blocks of 256.
pub fn double_quantize(scales: &[f32]) -> Absmax {
    let offset = torch_mean(scales);
    let centred: Vec<f32> = scales.iter().map(|scale| scale - offset).collect();
    let (codes, absmax) = quantize_blockwise(&centred);
    Absmax::Nested {
        codes,
        absmax,
        map: Box::new(*dynamic_map()),
        offset,
    }
}

/// Values in blocks of 256 as codes of the dynamic map, and the largest magnitude of each block.
///
/// The code is that of the nearest value; half way between two the lower is taken, and a block
/// of zeros takes code 0, as bitsandbytes has it. (Its CPU library looks the code up in a table
/// of 65,536 bins instead and differs from its own CUDA kernel by one step in a thousandth of the
/// codes; the table is a shortcut, the nearest value is the rule.)
pub fn quantize_blockwise(values: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let map = dynamic_map();
    let mut codes = vec![0u8; values.len()];
    let mut absmax = vec![0f32; values.len().div_ceil(NESTED_BLOCK_SIZE)];
    values
        .par_chunks(NESTED_BLOCK_SIZE)
        .zip(codes.par_chunks_mut(NESTED_BLOCK_SIZE))
        .zip(&mut absmax)
        .with_min_len(64)
        .for_each(|((block, codes), absmax)| {
            *absmax = block.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
            if *absmax == 0.0 {
                return; // code 0 for each
            }
            let reciprocal = 1.0 / *absmax;
            for (code, value) in codes.iter_mut().zip(block) {
                *code = nearest(map, (value * reciprocal).clamp(-1.0, 1.0));
            }
        });
    (codes, absmax)
}

/// Number of midpoints strictly below `value`.
fn nearest(map: &[f32; 256], value: f32) -> u8 {
    let (mut low, mut high) = (0, 255);
    while low < high {
        let middle = (low + high) / 2;
        if (map[middle] + map[middle + 1]) * 0.5 < value {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low as u8
}

/// map[code] · absmax + offset, a multiplication and then an addition, each rounded.
pub(crate) fn decode(codes: &[u8], absmax: &[f32], map: &[f32; 256], offset: f32) -> Vec<f32> {
    let mut scales = Vec::with_capacity(codes.len());
    for (block, absmax) in codes.chunks(NESTED_BLOCK_SIZE).zip(absmax) {
        scales.extend(
            block
                .iter()
                .map(|code| map[*code as usize] * absmax + offset),
        );
    }
    scales
}

/// `torch.mean` of a contiguous f32 vector on one thread, to the last bit.
///
/// PyTorch sums in four interleaved rows of eight lanes, each row through four levels of partial
/// sums (aten/src/ATen/native/cpu/SumKernel.cpp); the order of additions decides the last bit of
/// the offset that double quantisation stores. On several threads PyTorch itself cuts vectors
/// beyond 32,768 values elsewhere, and then its own last bit varies with the machine.
pub fn torch_mean(values: &[f32]) -> f32 {
    const LANES: usize = 8;
    const ROWS: usize = 4;
    let (vectors, rest) = values.as_chunks::<LANES>();
    let (quads, odd) = vectors.as_chunks::<ROWS>();

    let mut rows = cascade(quads);
    for vector in odd {
        add(&mut rows[0], vector);
    }
    let [mut first, others @ ..] = rows;
    for row in &others {
        add(&mut first, row);
    }
    let mut sum = rest.iter().fold(0.0, |sum: f32, v| sum + v);
    for lane in first {
        sum += lane;
    }
    sum / values.len() as f32
}

/// Sums vectors of 4 × 8 values through four levels: level 0 is emptied into level 1 every
/// `step` vectors, level 1 into level 2 every `step`², and so on.
fn cascade(quads: &[[[f32; 8]; 4]]) -> [[f32; 8]; 4] {
    const LEVELS: usize = 4;
    let ceil_log2 = quads.len().next_power_of_two().trailing_zeros() as usize;
    let power = (ceil_log2 / LEVELS).max(4);
    let step = 1usize << power;
    let mut levels = [[[0f32; 8]; 4]; LEVELS];
    let mut steps = quads.chunks_exact(step);
    let mut done = 0;
    for chunk in steps.by_ref() {
        for quad in chunk {
            add_quad(&mut levels[0], quad);
        }
        done += step;
        for level in 1..LEVELS {
            let below = std::mem::take(&mut levels[level - 1]);
            add_quad(&mut levels[level], &below);
            if done & ((step - 1) << (level * power)) != 0 {
                break;
            }
        }
    }
    for quad in steps.remainder() {
        add_quad(&mut levels[0], quad);
    }
    let [mut total, higher @ ..] = levels;
    for level in &higher {
        add_quad(&mut total, level);
    }
    total
}

fn add_quad(sums: &mut [[f32; 8]; 4], values: &[[f32; 8]; 4]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        add(sum, value);
    }
}

fn add(sums: &mut [f32; 8], values: &[f32; 8]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += value;
    }
}
