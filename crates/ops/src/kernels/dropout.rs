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
        if keep(self.row_key(row), counter(col), self.threshold()) {
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

/// What a column adds to the counter.
const STEP: u32 = 0x9e37_79b9;

#[inline(always)]
fn keep(key: u32, counter: u32, threshold: u32) -> bool {
    // A 32-bit finaliser with low bias (Wellons' "lowbias32"), which vectorises.
    let mut h = key ^ counter;
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

#[inline(always)]
fn counter(col: usize) -> u32 {
    (col as u32).wrapping_mul(STEP)
}

/// Elements of a loop's body: their counters are the first one's and a constant vector.
const BODY: usize = 16;

/// The counters of a body less the first one's.
const COUNTERS: [u32; BODY] = {
    let mut counters = [0; BODY];
    let mut i = 0;
    while i < BODY {
        counters[i] = STEP.wrapping_mul(i as u32);
        i += 1;
    }
    counters
};

/// A body whose first column has the counter `first`. A plain loop, which the compiler vectorises
/// because its length is known.
#[inline(always)]
fn multiply_body(key: u32, first: u32, threshold: u32, scale: f32, values: &mut [f32; BODY]) {
    for (v, counter) in values.iter_mut().zip(COUNTERS) {
        let kept = keep(key, first.wrapping_add(counter), threshold);
        *v *= if kept { scale } else { 0.0 };
    }
}

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
    let mut first = counter(col);
    let (bodies, rest) = values.as_chunks::<BODY>();
    let (out_bodies, out_rest) = out[..values.len()].as_chunks_mut::<BODY>();
    for (out, values) in out_bodies.iter_mut().zip(bodies) {
        *out = *values;
        multiply_body(key, first, threshold, scale, out);
        first = first.wrapping_add(counter(BODY));
    }
    out_rest.copy_from_slice(rest);
    multiply_rest(key, first, threshold, scale, out_rest);
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
    let mut first = counter(col);
    let (bodies, rest) = values.as_chunks_mut::<BODY>();
    for values in bodies {
        multiply_body(key, first, threshold, scale, values);
        first = first.wrapping_add(counter(BODY));
    }
    multiply_rest(key, first, threshold, scale, rest);
}

/// Less than a body.
#[inline(always)]
fn multiply_rest(key: u32, first: u32, threshold: u32, scale: f32, values: &mut [f32]) {
    if !values.is_empty() {
        let mut body = [0.0; BODY];
        body[..values.len()].copy_from_slice(values);
        multiply_body(key, first, threshold, scale, &mut body);
        values.copy_from_slice(&body[..values.len()]);
    }
}
