//! Which activations does dropout keep?
//!
//! A counter-based mask: element j of row i is kept by a hash of (seed, i, j) alone, so that the
//! backward pass, a recomputed layer and any thread see the same mask without storing it.

use super::simd::{Level, Simd, simd_dispatch};

/// Inverted dropout with probability `p`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability that an element is zeroed, 0 ≤ p < 1.
    pub p: f32,
    /// Key of the mask; give every layer and step its own.
    pub seed: u64,
}

impl Dropout {
    /// What element `(row, col)` is multiplied by: 0 or 1 / (1 − p).
    pub fn factor(&self, row: usize, col: usize) -> f32 {
        if keep(self.row_key(row), col, self.threshold()) {
            self.scale()
        } else {
            0.0
        }
    }

    /// `out[j] = values[j] · factor(row, col + j)`
    pub(crate) fn apply(
        &self,
        level: Level,
        row: usize,
        col: usize,
        values: &[f32],
        out: &mut [f32],
    ) {
        apply(
            level,
            self.row_key(row),
            col,
            self.threshold(),
            self.scale(),
            values,
            out,
        );
    }

    /// `values[j] *= factor(row, col + j)`
    pub(crate) fn multiply(&self, level: Level, row: usize, col: usize, values: &mut [f32]) {
        multiply(
            level,
            self.row_key(row),
            col,
            self.threshold(),
            self.scale(),
            values,
        );
    }

    pub(crate) fn scale(&self) -> f32 {
        1.0 / (1.0 - self.p)
    }

    pub(crate) fn threshold(&self) -> u32 {
        (self.p as f64 * 4_294_967_296.0) as u32
    }

    /// SplitMix64 of the seed and the row.
    fn row_key(&self, row: usize) -> u32 {
        let mut z = self.seed
            ^ (row as u64)
                .wrapping_add(1)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as u32
    }
}

#[inline(always)]
fn keep(key: u32, col: usize, threshold: u32) -> bool {
    // A 32-bit finaliser with low bias (Wellons' "lowbias32"), which vectorises.
    let mut h = key ^ (col as u32).wrapping_mul(0x9e37_79b9);
    h = (h ^ (h >> 16)).wrapping_mul(0x7feb_352d);
    h = (h ^ (h >> 15)).wrapping_mul(0x846c_a68b);
    h ^= h >> 16;
    h >= threshold
}

simd_dispatch! {
    fn apply(key: u32, col: usize, threshold: u32, scale: f32, values: &[f32], out: &mut [f32]) = apply_generic
}

simd_dispatch! {
    fn multiply(key: u32, col: usize, threshold: u32, scale: f32, values: &mut [f32]) = multiply_generic
}

// Plain loops: under each level's instructions the compiler vectorises them.
#[allow(clippy::extra_unused_type_parameters)]
#[inline(always)]
unsafe fn apply_generic<S: Simd>(
    key: u32,
    col: usize,
    threshold: u32,
    scale: f32,
    values: &[f32],
    out: &mut [f32],
) {
    for (j, (o, v)) in out.iter_mut().zip(values).enumerate() {
        *o = v * if keep(key, col + j, threshold) {
            scale
        } else {
            0.0
        };
    }
}

#[allow(clippy::extra_unused_type_parameters)]
#[inline(always)]
unsafe fn multiply_generic<S: Simd>(
    key: u32,
    col: usize,
    threshold: u32,
    scale: f32,
    values: &mut [f32],
) {
    for (j, v) in values.iter_mut().enumerate() {
        *v *= if keep(key, col + j, threshold) {
            scale
        } else {
            0.0
        };
    }
}
