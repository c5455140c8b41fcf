//! The counter-based dropout mask of [`crate::kernels::dropout`], bit for bit, on a GPU.

use cubecl::prelude::*;

/// SplitMix64 of the seed and the row: one key a row, so that an element needs 32-bit arithmetic only.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn row_keys_kernel(keys: &mut [u32], rows: usize, seed_high: u32, seed_low: u32) {
    let row = ABSOLUTE_POS;
    if row < rows {
        let seed = (u64::cast_from(seed_high) << 32) | u64::cast_from(seed_low);
        let step = (u64::cast_from(row as u32) + 1) * 0x9e37_79b9_7f4a_7c15u64;
        let mut z = seed ^ step;
        z = (z ^ (z >> 30)) * 0xbf58_476d_1ce4_e5b9u64;
        z = (z ^ (z >> 27)) * 0x94d0_49bb_1331_11ebu64;
        keys[row] = u32::cast_from((z ^ (z >> 31)) & 0xffff_ffffu64);
    }
}

/// What the mask multiplies column `col` of a row of this key with.
#[cube]
pub(crate) fn factor(key: u32, col: u32, threshold: u32, scale: f32) -> f32 {
    let mut h = key ^ (col * 0x9e37_79b9u32);
    h = (h ^ (h >> 16)) * 0x7feb_352du32;
    h = (h ^ (h >> 15)) * 0x846c_a68bu32;
    h = h ^ (h >> 16);
    select(h >= threshold, scale, f32::new(0.0))
}

/// `y = x ∘ mask`, rows of `across` vectors, `vectors` in all.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn drop_kernel<F: Float, N: Size>(
    x: &[Vector<F, N>],
    keys: &[u32],
    y: &mut [Vector<F, N>],
    vectors: usize,
    across: usize,
    threshold: u32,
    scale: f32,
    #[define(F)] _dtype: ElemType,
) {
    let lanes = N::value();
    let i = ABSOLUTE_POS;
    if i < vectors {
        let (values, key, first) = (x[i], keys[i / across], i % across * lanes);
        let mut kept = Vector::<F, N>::empty();
        #[unroll]
        for lane in 0..lanes {
            let kept_by = factor(key, (first + lane) as u32, threshold, scale);
            kept.insert(
                lane,
                F::cast_from(f32::cast_from(values.extract(lane)) * kept_by),
            );
        }
        y[i] = kept;
    }
}
