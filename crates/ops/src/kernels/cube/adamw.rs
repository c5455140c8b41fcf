//! AdamW on a GPU: a unit an element, four arrays in one launch, see [`crate::kernels::adamw`].

use cubecl::prelude::*;

/// `o`: decay, 1 − β₁, β₂, 1 − β₂, step size, √(1 − β₂ᵗ), ε, gradient scale.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn adamw_kernel(
    param: &mut [f32],
    grad: &[f32],
    exp_avg: &mut [f32],
    exp_avg_sq: &mut [f32],
    elements: usize,
    decay: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    step_size: f32,
    root: f32,
    eps: f32,
    scale: f32,
) {
    let i = ABSOLUTE_POS;
    if i < elements {
        let g = grad[i] * scale;
        let m = exp_avg[i] + (g - exp_avg[i]) * rest1;
        let v = exp_avg_sq[i] * beta2 + g * g * rest2;
        exp_avg[i] = m;
        exp_avg_sq[i] = v;
        param[i] = param[i] * decay - step_size * (m / (v.sqrt() / root + eps));
    }
}
