//! SwiGLU: y = silu(gate)·up; the sigmoid is recomputed in backward, nothing else is kept.

use super::normalize::{get, put};
use super::simd::{Level, Simd, for_lanes, simd_dispatch};
use super::unwritten;
use rayon::prelude::*;

const CHUNK: usize = 16 * 1024;

/// y = gate / (1 + e^−gate) · up
pub fn forward(level: Level, gate: &[f32], up: &[f32]) -> Vec<f32> {
    assert_eq!(gate.len(), up.len(), "gate and up");
    // SAFETY: all chunks are written below.
    let mut y = unsafe { unwritten(gate.len()) };
    y.par_chunks_mut(CHUNK)
        .zip(gate.par_chunks(CHUNK))
        .zip(up.par_chunks(CHUNK))
        .for_each(|((y, gate), up)| {
            forward_run(level, gate, up, y);
        });
    y
}

/// (dgate, dup)
pub fn backward(level: Level, dy: &[f32], gate: &[f32], up: &[f32]) -> (Vec<f32>, Vec<f32>) {
    assert_eq!([dy.len(), up.len()], [gate.len(); 2], "dy, up and gate");
    // SAFETY: all chunks are written below.
    let (mut dgate, mut dup) = unsafe { (unwritten(gate.len()), unwritten(gate.len())) };
    let targets = dgate.par_chunks_mut(CHUNK).zip(dup.par_chunks_mut(CHUNK));
    let sources = dy
        .par_chunks(CHUNK)
        .zip(gate.par_chunks(CHUNK))
        .zip(up.par_chunks(CHUNK));
    targets
        .zip(sources)
        .for_each(|((dgate, dup), ((dy, gate), up))| {
            backward_run(level, dy, gate, up, dgate, dup);
        });
    (dgate, dup)
}

simd_dispatch! {
    pub(crate) fn forward_run(gate: &[f32], up: &[f32], y: &mut [f32]) = forward_generic
}

simd_dispatch! {
    fn backward_run(dy: &[f32], gate: &[f32], up: &[f32], dgate: &mut [f32], dup: &mut [f32]) = backward_generic
}

#[inline(always)]
unsafe fn sigmoid<S: Simd>(x: S::V) -> S::V {
    unsafe {
        let one = S::splat(1.0);
        S::div(one, S::add(one, S::exp(S::sub(S::splat(0.0), x))))
    }
}

#[inline(always)]
unsafe fn forward_generic<S: Simd>(gate: &[f32], up: &[f32], y: &mut [f32]) {
    assert!(up.len() == gate.len() && y.len() == gate.len());
    unsafe {
        for_lanes!(S, gate.len(), |j, n| {
            let g = get::<S>(gate, j, n);
            put::<S>(
                y,
                j,
                n,
                S::mul(S::mul(g, sigmoid::<S>(g)), get::<S>(up, j, n)),
            );
        });
    }
}

#[inline(always)]
unsafe fn backward_generic<S: Simd>(
    dy: &[f32],
    gate: &[f32],
    up: &[f32],
    dgate: &mut [f32],
    dup: &mut [f32],
) {
    assert!([dy.len(), up.len(), dgate.len(), dup.len()] == [gate.len(); 4]);
    unsafe {
        for_lanes!(S, gate.len(), |j, n| {
            let (dy, g, u) = (get::<S>(dy, j, n), get::<S>(gate, j, n), get::<S>(up, j, n));
            let s = sigmoid::<S>(g);
            let silu = S::mul(g, s);
            // silu′ = s·(1 + g·(1 − s)) = s + silu·(1 − s)
            let slope = S::fma(silu, S::sub(S::splat(1.0), s), s);
            put::<S>(dgate, j, n, S::mul(S::mul(dy, u), slope));
            put::<S>(dup, j, n, S::mul(dy, silu));
        });
    }
}
