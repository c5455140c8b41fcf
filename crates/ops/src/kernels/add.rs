//! Sums in place: residuals, and gradients of what several operations read.

use super::simd::{Level, Simd, for_lanes, simd_dispatch};
use rayon::prelude::*;

const CHUNK: usize = 16 * 1024;

/// `sum[i] += values[i]`
pub fn add(level: Level, values: &[f32], sum: &mut [f32]) {
    assert_eq!(values.len(), sum.len(), "lengths of summands");
    sum.par_chunks_mut(CHUNK)
        .zip(values.par_chunks(CHUNK))
        .for_each(|(sum, values)| {
            let size = [1, sum.len()];
            // SAFETY: one row of both, asserted to be as long.
            unsafe { add_rows(level, (values.as_ptr(), 0), size, (sum.as_mut_ptr(), 0)) };
        });
}

simd_dispatch! {
    /// `sum[i][j] += values[i][j]` for rows and columns of `size`.
    ///
    /// # Safety
    /// The pointers, each with its row stride, are valid for the rows and columns; nobody else touches `sum`.
    pub(crate) unsafe fn add_rows(values: (*const f32, usize), size: [usize; 2], sum: (*mut f32, usize)) = add_rows_generic
}

#[inline(always)]
unsafe fn add_rows_generic<S: Simd>(
    (values, from): (*const f32, usize),
    [rows, columns]: [usize; 2],
    (sum, to): (*mut f32, usize),
) {
    for row in 0..rows {
        // SAFETY: says the caller.
        unsafe {
            let (values, sum) = (values.add(row * from), sum.add(row * to));
            for_lanes!(S, columns, |j, n| {
                let (values, sum) = (values.add(j), sum.add(j));
                if n == S::LANES {
                    S::store(sum, S::add(S::load(sum), S::load(values)));
                } else {
                    let both = S::add(S::load_partial(sum, n), S::load_partial(values, n));
                    S::store_partial(sum, both, n);
                }
            });
        }
    }
}
