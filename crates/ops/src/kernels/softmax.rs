//! Scores to probabilities: online softmax of a row, or down the columns of a tile, and back.
//!
//! Scores are scaled, optionally capped by cap·tanh(s / cap), and turned into exp(s − largest)
//! where a query sees a key and 0 elsewhere. A row has lanes along the keys, a tile along the
//! queries: then nothing is summed across lanes. Both stay in L1 between the two passes (largest,
//! then exponentials).

use super::simd::{Simd, simd_dispatch};
use std::ops::Range;

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

/// Score that no query has: below every real one, finite so that a difference is never NaN.
pub(crate) const LOWEST: f32 = -3.0e38;

/// Which keys of a tile `[keys][queries]` each lane sees.
pub(crate) struct Visible<'a> {
    /// Keys that every lane sees.
    pub open: Range<usize>,
    /// Lane l sees `starts[l] ≤ key < ends[l]`.
    pub starts: &'a [f32],
    pub ends: &'a [f32],
}

/// 0 where these lanes see key j, −∞ where not.
#[inline(always)]
unsafe fn hidden<S: Simd>(visible: &Visible<'_>, j: usize, lane: usize) -> S::V {
    unsafe {
        let (key, far) = (j as f32, S::splat(f32::NEG_INFINITY));
        let ends = S::load(visible.ends.as_ptr().add(lane));
        let starts = S::load(visible.starts.as_ptr().add(lane));
        let late = S::zero_below(far, S::splat(key), ends);
        // key < start as −key ≥ 1 − start: both are whole
        let early = S::zero_below(far, S::splat(-key), S::sub(S::splat(1.0), starts));
        S::add(late, early)
    }
}

simd_dispatch! {
    /// Online softmax down the columns of a tile `[keys][width]`, one query a lane: scores become
    /// exp(score − largest), 0 where a lane does not see the key; `rescale` is what the sum and the
    /// output so far must be multiplied by. Vectors are `width` long; lanes from `lanes` on are not
    /// looked at, or hold nothing of use.
    pub(crate) fn softmax_columns(tile: &mut [f32], width: usize, lanes: usize, visible: &Visible<'_>, scale: f32, softcap: Option<f32>, largest: &mut [f32], sums: &mut [f32], rescale: &mut [f32]) = softmax_columns_generic
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn softmax_columns_generic<S: Simd>(
    tile: &mut [f32],
    width: usize,
    lanes: usize,
    visible: &Visible<'_>,
    scale: f32,
    softcap: Option<f32>,
    largest: &mut [f32],
    sums: &mut [f32],
    rescale: &mut [f32],
) {
    let keys = tile.len() / width;
    let whole = [
        largest.len(),
        sums.len(),
        rescale.len(),
        visible.starts.len(),
        visible.ends.len(),
    ];
    assert!(width.is_multiple_of(S::LANES) && lanes <= width && whole == [width; 5]);
    let p = tile.as_mut_ptr();
    for lane in (0..lanes).step_by(S::LANES) {
        // SAFETY: rows and vectors are `width` long, a multiple of the lanes.
        unsafe {
            let before = S::load(largest.as_ptr().add(lane));
            let mut top = before;
            for j in 0..keys {
                let at = p.add(j * width + lane);
                let mut s = capped::<S>(S::mul(S::load(at), S::splat(scale)), softcap);
                if !visible.open.contains(&j) {
                    s = S::add(s, hidden::<S>(visible, j, lane));
                }
                S::store(at, s);
                top = S::max(top, s);
            }
            let mut total = S::splat(0.0);
            for j in 0..keys {
                let at = p.add(j * width + lane);
                let e = S::exp(S::sub(S::load(at), top));
                S::store(at, e);
                total = S::add(total, e);
            }
            let change = S::exp(S::sub(before, top));
            let sum = sums.as_mut_ptr().add(lane);
            S::store(sum, S::fma(S::load(sum), change, total));
            S::store(largest.as_mut_ptr().add(lane), top);
            S::store(rescale.as_mut_ptr().add(lane), change);
        }
    }
}

simd_dispatch! {
    /// Raw scores `p` and dP `ds`, tiles `[keys][width]` of one query a lane, become
    /// P = exp(score − lse) and dS = scale·P·(dP − delta)·softcap′, both 0 where a lane does not see
    /// the key.
    pub(crate) fn score_gradient_columns(p: &mut [f32], ds: &mut [f32], width: usize, lanes: usize, visible: &Visible<'_>, scale: f32, softcap: Option<f32>, lse: &[f32], delta: &[f32]) = score_gradient_columns_generic
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn score_gradient_columns_generic<S: Simd>(
    p: &mut [f32],
    ds: &mut [f32],
    width: usize,
    lanes: usize,
    visible: &Visible<'_>,
    scale: f32,
    softcap: Option<f32>,
    lse: &[f32],
    delta: &[f32],
) {
    let keys = p.len() / width;
    let whole = [
        lse.len(),
        delta.len(),
        visible.starts.len(),
        visible.ends.len(),
    ];
    assert!(width.is_multiple_of(S::LANES) && lanes <= width && whole == [width; 4]);
    assert_eq!(p.len(), ds.len(), "two tiles of one shape");
    let (p, ds) = (p.as_mut_ptr(), ds.as_mut_ptr());
    for lane in (0..lanes).step_by(S::LANES) {
        // SAFETY: rows and vectors are `width` long, a multiple of the lanes.
        unsafe {
            let lse = S::load(lse.as_ptr().add(lane));
            let delta = S::load(delta.as_ptr().add(lane));
            for j in 0..keys {
                let (p, ds) = (p.add(j * width + lane), ds.add(j * width + lane));
                let s = capped::<S>(S::mul(S::load(p), S::splat(scale)), softcap);
                let mut shifted = S::sub(s, lse);
                if !visible.open.contains(&j) {
                    shifted = S::add(shifted, hidden::<S>(visible, j, lane));
                }
                let e = S::exp(shifted);
                let dp = S::sub(S::load(ds), delta);
                let mut g = S::mul(S::mul(e, dp), S::splat(scale));
                if let Some(cap) = softcap {
                    let tanh = S::mul(s, S::splat(1.0 / cap));
                    g = S::mul(g, S::sub(S::splat(1.0), S::mul(tanh, tanh)));
                }
                S::store(p, e);
                S::store(ds, g);
            }
        }
    }
}
