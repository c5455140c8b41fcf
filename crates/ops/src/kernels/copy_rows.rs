//! Rows from one stride to another: a call for all of them, where a copy of each would be mostly call.

use super::normalize::{get, put};
use super::simd::{Simd, for_lanes, simd_dispatch};

simd_dispatch! {
    /// `rows` rows of `width` values, `row` floats apart, to `out`, `stride` floats apart.
    pub(crate) fn copy_rows(values: &[f32], row: usize, size: [usize; 2], out: &mut [f32], stride: usize) = copy_rows_generic
}

#[inline(always)]
unsafe fn copy_rows_generic<S: Simd>(
    values: &[f32],
    row: usize,
    [rows, width]: [usize; 2],
    out: &mut [f32],
    stride: usize,
) {
    for i in 0..rows {
        let from = &values[i * row..i * row + width];
        let to = &mut out[i * stride..i * stride + width];
        // SAFETY: both are `width` long.
        unsafe {
            for_lanes!(S, width, |j, n| {
                put::<S>(to, j, n, get::<S>(from, j, n));
            });
        }
    }
}
