//! RMSNorm: y = x / √(mean(x²) + ε) · w, and dx with 1/rms recomputed from x.

use super::simd::{Level, Simd, for_lanes, simd_dispatch};
use super::unwritten;
use rayon::prelude::*;

/// Rows of a task.
const ROWS: usize = 64;

/// y, same shape as x `[rows, width]`, width = `weight.len()`.
pub fn forward(level: Level, x: &[f32], weight: &[f32], epsilon: f32) -> Vec<f32> {
    let width = weight.len();
    assert!(x.len().is_multiple_of(width), "whole rows");
    // SAFETY: all rows are written below.
    let mut y = unsafe { unwritten(x.len()) };
    y.par_chunks_mut(ROWS * width)
        .zip(x.par_chunks(ROWS * width))
        .for_each(|(y, x)| {
            forward_rows(level, x, weight, epsilon, y);
        });
    y
}

/// dx for dy.
pub fn backward(level: Level, dy: &[f32], x: &[f32], weight: &[f32], epsilon: f32) -> Vec<f32> {
    // SAFETY: not added to, all rows are written.
    let mut dx = unsafe { unwritten(x.len()) };
    gradient(level, dy, x, weight, epsilon, &mut dx, false);
    dx
}

/// [`backward`], added to what other readers of x have left in `dx`.
pub fn add_backward(
    level: Level,
    dy: &[f32],
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    dx: &mut [f32],
) {
    gradient(level, dy, x, weight, epsilon, dx, true);
}

fn gradient(
    level: Level,
    dy: &[f32],
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    dx: &mut [f32],
    adds: bool,
) {
    let width = weight.len();
    assert!(
        x.len().is_multiple_of(width) && [dy.len(), dx.len()] == [x.len(); 2],
        "whole rows"
    );
    let chunk = ROWS * width;
    dx.par_chunks_mut(chunk)
        .zip(x.par_chunks(chunk))
        .zip(dy.par_chunks(chunk))
        .for_each(|((dx, x), dy)| {
            backward_rows(level, dy, x, weight, epsilon, dx, adds);
        });
}

simd_dispatch! {
    pub(crate) fn forward_rows(x: &[f32], weight: &[f32], epsilon: f32, y: &mut [f32]) = forward_rows_generic
}

simd_dispatch! {
    fn backward_rows(dy: &[f32], x: &[f32], weight: &[f32], epsilon: f32, dx: &mut [f32], adds: bool) = backward_rows_generic
}

#[inline(always)]
unsafe fn forward_rows_generic<S: Simd>(x: &[f32], weight: &[f32], epsilon: f32, y: &mut [f32]) {
    let width = weight.len();
    for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
        // SAFETY: the three slices are `width` long.
        unsafe {
            let inverse = S::splat(inverse_rms::<S>(x, epsilon));
            for_lanes!(S, width, |j, n| {
                let v = S::mul(S::mul(get::<S>(x, j, n), inverse), get::<S>(weight, j, n));
                put::<S>(y, j, n, v);
            });
        }
    }
}

/// dx = r·(w·dy) − x·r³/width·Σ(w·dy·x), r = 1/rms
#[inline(always)]
unsafe fn backward_rows_generic<S: Simd>(
    dy: &[f32],
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    dx: &mut [f32],
    adds: bool,
) {
    let width = weight.len();
    for ((dx, x), dy) in dx
        .chunks_exact_mut(width)
        .zip(x.chunks_exact(width))
        .zip(dy.chunks_exact(width))
    {
        // SAFETY: the four slices are `width` long.
        unsafe {
            let inverse = inverse_rms::<S>(x, epsilon);
            let mut dot = S::splat(0.0);
            for_lanes!(S, width, |j, n| {
                let g = S::mul(get::<S>(dy, j, n), get::<S>(weight, j, n));
                dot = S::fma(g, get::<S>(x, j, n), dot);
            });
            let along = S::splat(-inverse * inverse * inverse * S::sum(dot) / width as f32);
            let inverse = S::splat(inverse);
            for_lanes!(S, width, |j, n| {
                let g = S::mul(get::<S>(dy, j, n), get::<S>(weight, j, n));
                let mut v = S::mul(get::<S>(x, j, n), along);
                if adds {
                    v = S::add(get::<S>(dx, j, n), v);
                }
                put::<S>(dx, j, n, S::fma(g, inverse, v));
            });
        }
    }
}

#[inline(always)]
unsafe fn inverse_rms<S: Simd>(x: &[f32], epsilon: f32) -> f32 {
    unsafe {
        let mut squares = S::splat(0.0);
        for_lanes!(S, x.len(), |j, n| {
            let v = get::<S>(x, j, n);
            squares = S::fma(v, v, squares);
        });
        1.0 / (S::sum(squares) / x.len() as f32 + epsilon).sqrt()
    }
}

/// # Safety
/// `j + n` must not exceed the slice.
#[inline(always)]
pub(crate) unsafe fn get<S: Simd>(values: &[f32], j: usize, n: usize) -> S::V {
    debug_assert!(j + n <= values.len());
    let p = unsafe { values.as_ptr().add(j) };
    if n == S::LANES {
        unsafe { S::load(p) }
    } else {
        unsafe { S::load_partial(p, n) }
    }
}

/// # Safety
/// `j + n` must not exceed the slice.
#[inline(always)]
pub(crate) unsafe fn put<S: Simd>(values: &mut [f32], j: usize, n: usize, v: S::V) {
    debug_assert!(j + n <= values.len());
    let p = unsafe { values.as_mut_ptr().add(j) };
    if n == S::LANES {
        unsafe { S::store(p, v) }
    } else {
        unsafe { S::store_partial(p, v, n) }
    }
}
