//! Rotary embedding on a GPU: a unit a pair of channels, half-split as Hugging Face's.

use cubecl::prelude::*;

/// Pair j of every head of a row turns by the row's angle j; `sign` −1 turns it back.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn rotary_kernel<F: Float>(
    x: &[F],
    cos: &[f32],
    sin: &[f32],
    y: &mut [F],
    pairs: usize,
    heads: usize,
    half: usize,
    sign: f32,
    #[define(F)] _dtype: ElemType,
) {
    let i = ABSOLUTE_POS;
    if i < pairs {
        let j = i % half;
        let head = i / half; // of all rows
        let angle = head / heads * half + j;
        let c = cos[angle];
        let s = sin[angle] * sign;
        let at = head * 2 * half + j;
        let low = f32::cast_from(x[at]);
        let high = f32::cast_from(x[at + half]);
        y[at] = F::cast_from(low * c - high * s);
        y[at + half] = F::cast_from(high * c + low * s);
    }
}
