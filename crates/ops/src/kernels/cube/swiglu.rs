//! SwiGLU on a GPU: a unit an element.

use cubecl::prelude::*;

#[cube]
pub(crate) fn sigmoid(x: f32) -> f32 {
    f32::new(1.0) / (f32::new(1.0) + (-x).exp())
}

/// silu(gate)·up
#[cube(launch, create_dummy_kernel)]
pub(crate) fn swiglu_kernel<F: Float>(
    gate: &[F],
    up: &[F],
    y: &mut [F],
    elements: usize,
    #[define(F)] _dtype: ElemType,
) {
    let i = ABSOLUTE_POS;
    if i < elements {
        let g = f32::cast_from(gate[i]);
        y[i] = F::cast_from(g * sigmoid(g) * f32::cast_from(up[i]));
    }
}

/// dgate = dy·up·σ(g)·(1 + g·(1 − σ(g))), dup = dy·g·σ(g)
#[cube(launch, create_dummy_kernel)]
pub(crate) fn swiglu_backward_kernel<F: Float>(
    dy: &[F],
    gate: &[F],
    up: &[F],
    dgate: &mut [F],
    dup: &mut [F],
    elements: usize,
    #[define(F)] _dtype: ElemType,
) {
    let i = ABSOLUTE_POS;
    if i < elements {
        let g = f32::cast_from(gate[i]);
        let d = f32::cast_from(dy[i]);
        let s = sigmoid(g);
        let slope = s * (f32::new(1.0) + g * (f32::new(1.0) - s));
        dgate[i] = F::cast_from(d * f32::cast_from(up[i]) * slope);
        dup[i] = F::cast_from(d * g * s);
    }
}
