//! SwiGLU on a GPU: a unit a vector, of 16 bytes where there are so many.

use cubecl::prelude::*;

#[cube]
pub(crate) fn sigmoid(x: f32) -> f32 {
    f32::new(1.0) / (f32::new(1.0) + (-x).exp())
}

/// silu(gate)·up
#[cube(launch, create_dummy_kernel)]
pub(crate) fn swiglu_kernel<F: Float, N: Size>(
    gate: &[Vector<F, N>],
    up: &[Vector<F, N>],
    y: &mut [Vector<F, N>],
    vectors: usize,
    #[define(F)] _dtype: ElemType,
) {
    let i = ABSOLUTE_POS;
    if i < vectors {
        let (gate, up) = (gate[i], up[i]);
        let mut product = Vector::<F, N>::empty();
        #[unroll]
        for lane in 0..N::value() {
            let g = f32::cast_from(gate.extract(lane));
            let value = g * sigmoid(g) * f32::cast_from(up.extract(lane));
            product.insert(lane, F::cast_from(value));
        }
        y[i] = product;
    }
}

/// dgate = dy·up·σ(g)·(1 + g·(1 − σ(g))), dup = dy·g·σ(g)
#[cube(launch, create_dummy_kernel)]
pub(crate) fn swiglu_backward_kernel<F: Float, N: Size>(
    dy: &[Vector<F, N>],
    gate: &[Vector<F, N>],
    up: &[Vector<F, N>],
    dgate: &mut [Vector<F, N>],
    dup: &mut [Vector<F, N>],
    vectors: usize,
    #[define(F)] _dtype: ElemType,
) {
    let i = ABSOLUTE_POS;
    if i < vectors {
        let (dy, gate, up) = (dy[i], gate[i], up[i]);
        let mut of_gate = Vector::<F, N>::empty();
        let mut of_up = Vector::<F, N>::empty();
        #[unroll]
        for lane in 0..N::value() {
            let g = f32::cast_from(gate.extract(lane));
            let d = f32::cast_from(dy.extract(lane));
            let s = sigmoid(g);
            let slope = s * (f32::new(1.0) + g * (f32::new(1.0) - s));
            of_gate.insert(
                lane,
                F::cast_from(d * f32::cast_from(up.extract(lane)) * slope),
            );
            of_up.insert(lane, F::cast_from(d * g * s));
        }
        dgate[i] = of_gate;
        dup[i] = of_up;
    }
}
