//! What is done in place to a linear's output on a GPU, and to gradients.

use cubecl::prelude::*;

/// `y += bias` of the column.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn add_bias_kernel<F: Float>(
    y: &mut [F],
    bias: &[f32],
    elements: usize,
    width: usize,
    #[define(F)] _dtype: ElemType,
) {
    let i = ABSOLUTE_POS;
    if i < elements {
        y[i] = F::cast_from(f32::cast_from(y[i]) + bias[i % width]);
    }
}

/// `values *= factor·upstream[0]`, upstream being a tensor of one element.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn scale_kernel<F: Float>(
    values: &mut [F],
    upstream: &[f32],
    elements: usize,
    factor: f32,
    #[define(F)] _dtype: ElemType,
) {
    let i = ABSOLUTE_POS;
    if i < elements {
        values[i] = F::cast_from(f32::cast_from(values[i]) * upstream[0] * factor);
    }
}
