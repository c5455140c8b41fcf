//! x·Wᵀ for a few rows of x straight from the 4-bit codes: decoding, where reading W is the cost.
//!
//! A cube takes one output feature: its units stride over the words of that row of W, decode eight
//! values each and multiply them with the eight columns of every row of x. W is read once for all
//! `rows`, never written out.

use super::cube_sum;
use super::dequantize::{block_scale, nibble};
use cubecl::prelude::*;

/// y `[rows, out]`; `in_features` is a multiple of 64, so that no block straddles two rows of W.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn few_rows_kernel<F: Float, R: Float>(
    x: &[F],
    words: &[u32],
    codebook: &[f32],
    y: &mut [F],
    in_features: usize,
    out_features: usize,
    scales_at: usize,
    nested_at: usize,
    map_at: usize,
    offset: f32,
    #[comptime] nested: bool,
    #[comptime] rows: usize,
    #[comptime] units: usize,
    #[define(F, R)] _dtypes: [ElemType; 2],
) {
    let mut table = Shared::<[f32]>::new_slice(16usize);
    let unit = UNIT_POS as usize;
    let mut entry = unit;
    while entry < 16 {
        table[entry] = codebook[entry];
        entry += units;
    }
    sync_cube();
    let feature = CUBE_POS;
    let mut sums = Array::<f32>::new(rows);
    #[unroll]
    for row in 0..rows {
        sums[row] = f32::new(0.0);
    }
    let start = feature * in_features;
    let mut word_at = unit;
    while word_at < in_features / 8 {
        let first = start + word_at * 8;
        let word = words[first / 8];
        let scale = block_scale(
            words,
            first / 64,
            scales_at,
            nested_at,
            map_at,
            offset,
            nested,
        );
        #[unroll]
        for lane in 0..8usize {
            let value = f32::cast_from(R::cast_from(table[nibble(word, lane.runtime())] * scale));
            #[unroll]
            for row in 0..rows {
                sums[row] += value * f32::cast_from(x[row * in_features + word_at * 8 + lane]);
            }
        }
        word_at += units;
    }
    #[unroll]
    for row in 0..rows {
        let sum = cube_sum(sums[row], units);
        if unit == 0 {
            y[row * out_features + feature] = F::cast_from(sum);
        }
    }
}
