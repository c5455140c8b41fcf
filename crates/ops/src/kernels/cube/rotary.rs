//! Rotary embedding on a GPU: a unit a vector of pairs of channels, half-split as Hugging Face's.

use cubecl::prelude::*;

/// Pair j of every head of a row turns by the row's angle j; `sign` −1 turns it back. `pairs` are those of
/// vectors, `half` is the vectors of half a head.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn rotary_kernel<F: Float, N: Size>(
    x: &[Vector<F, N>],
    cos: &[f32],
    sin: &[f32],
    y: &mut [Vector<F, N>],
    pairs: usize,
    heads: usize,
    half: usize,
    sign: f32,
    #[define(F)] _dtype: ElemType,
) {
    let lanes = N::value();
    let i = ABSOLUTE_POS;
    if i < pairs {
        let j = i % half;
        let head = i / half; // of all rows
        let angle = (head / heads * half + j) * lanes;
        let at = head * 2 * half + j;
        let (low, high) = (x[at], x[at + half]);
        let mut low_turned = Vector::<F, N>::empty();
        let mut high_turned = Vector::<F, N>::empty();
        #[unroll]
        for lane in 0..lanes {
            let c = cos[angle + lane];
            let s = sin[angle + lane] * sign;
            let l = f32::cast_from(low.extract(lane));
            let h = f32::cast_from(high.extract(lane));
            low_turned.insert(lane, F::cast_from(l * c - h * s));
            high_turned.insert(lane, F::cast_from(h * c + l * s));
        }
        y[at] = low_turned;
        y[at + half] = high_turned;
    }
}
