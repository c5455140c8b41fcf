//! One row of scores: online softmax, and the way back from P to scores.
//!
//! Scores are scaled, optionally capped by cap·tanh(s / cap), and turned into exp(s − largest)
//! where a query sees a key and 0 elsewhere. Lanes along the keys; the row stays in L1 between the
//! two passes (largest, then exponentials).

use super::normalize::{get, put};
use super::simd::{Simd, for_lanes, simd_dispatch};

simd_dispatch! {
    /// Online softmax of one row: scores become exp(score − largest) inside `from..to` and 0
    /// outside; returns what the sum and the output so far must be multiplied by.
    pub(crate) fn softmax_row(row: &mut [f32], from: usize, to: usize, scale: f32, softcap: Option<f32>, largest: &mut f32, sum: &mut f32) -> f32 = softmax_row_generic
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn softmax_row_generic<S: Simd>(
    row: &mut [f32],
    from: usize,
    to: usize,
    scale: f32,
    softcap: Option<f32>,
    largest: &mut f32,
    sum: &mut f32,
) -> f32 {
    row[..from].fill(0.0);
    row[to..].fill(0.0);
    let row = &mut row[from..to];
    if row.is_empty() {
        return 1.0;
    }
    unsafe {
        let lowest = S::splat(f32::NEG_INFINITY);
        let mut top = lowest;
        let whole = row.len() / S::LANES * S::LANES;
        let rest = row.len() - whole;
        let p = row.as_mut_ptr();
        for j in (0..whole).step_by(S::LANES) {
            let s = capped::<S>(S::mul(S::load(p.add(j)), S::splat(scale)), softcap);
            S::store(p.add(j), s);
            top = S::max(top, s);
        }
        if rest > 0 {
            let s = capped::<S>(
                S::mul(S::load_partial(p.add(whole), rest), S::splat(scale)),
                softcap,
            );
            S::store_partial(p.add(whole), s, rest);
        }
        let new = row[whole..]
            .iter()
            .copied()
            .fold(S::largest(top), f32::max)
            .max(*largest);
        let shift = S::splat(new);
        let p = row.as_mut_ptr();
        let mut total = S::splat(0.0);
        for j in (0..whole).step_by(S::LANES) {
            let e = S::exp(S::sub(S::load(p.add(j)), shift));
            S::store(p.add(j), e);
            total = S::add(total, e);
        }
        if rest > 0 {
            let e = S::exp(S::sub(S::load_partial(p.add(whole), rest), shift));
            S::store_partial(p.add(whole), e, rest);
        }
        let total = row[whole..].iter().fold(S::sum(total), |a, e| a + e);
        let rescale = if *largest == new {
            1.0
        } else {
            (*largest - new).exp()
        };
        *largest = new;
        *sum = *sum * rescale + total;
        rescale
    }
}

/// cap·tanh(s / cap), or s.
#[inline(always)]
unsafe fn capped<S: Simd>(s: S::V, softcap: Option<f32>) -> S::V {
    let Some(cap) = softcap else { return s };
    unsafe {
        // tanh(x) = 1 − 2 / (e²ˣ + 1)
        let e = S::exp(S::mul(s, S::splat(2.0 / cap)));
        let one = S::splat(1.0);
        let tanh = S::sub(one, S::div(S::splat(2.0), S::add(e, one)));
        S::mul(S::splat(cap), tanh)
    }
}

simd_dispatch! {
    /// Raw scores `p` and dP `ds` of one row become P = exp(score − lse) and
    /// dS = scale·P·(dP − delta)·softcap′ inside `from..to`, and 0 outside.
    pub(crate) fn score_gradient_row(p: &mut [f32], ds: &mut [f32], from: usize, to: usize, scale: f32, softcap: Option<f32>, lse: f32, delta: f32) = score_gradient_row_generic
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn score_gradient_row_generic<S: Simd>(
    p: &mut [f32],
    ds: &mut [f32],
    from: usize,
    to: usize,
    scale: f32,
    softcap: Option<f32>,
    lse: f32,
    delta: f32,
) {
    for row in [&mut *p, &mut *ds] {
        row[..from].fill(0.0);
        row[to..].fill(0.0);
    }
    let (p, ds) = (&mut p[from..to], &mut ds[from..to]);
    unsafe {
        for_lanes!(S, p.len(), |j, n| {
            let s = capped::<S>(S::mul(get::<S>(p, j, n), S::splat(scale)), softcap);
            let e = S::exp(S::sub(s, S::splat(lse)));
            let dp = S::sub(get::<S>(ds, j, n), S::splat(delta));
            let mut g = S::mul(S::mul(e, dp), S::splat(scale));
            if let Some(cap) = softcap {
                let tanh = S::mul(s, S::splat(1.0 / cap));
                g = S::mul(g, S::sub(S::splat(1.0), S::mul(tanh, tanh)));
            }
            put::<S>(p, j, n, e);
            put::<S>(ds, j, n, g);
        });
    }
}
