//! What a linear adds to its matmul on a GPU: bias and the adapter's product, in place.

use cubecl::prelude::*;

/// `y += scaling·t`, and `bias` of the column where there is one; t is skipped where `adapted` is not.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn add_to_kernel<F: Float>(
    y: &mut [F],
    t: &[F],
    bias: &[f32],
    elements: usize,
    width: usize,
    scaling: f32,
    #[comptime] adapted: bool,
    #[comptime] biased: bool,
    #[define(F)] _dtype: ElemType,
) {
    let i = ABSOLUTE_POS;
    if i < elements {
        let mut sum = f32::cast_from(y[i]);
        if comptime!(adapted) {
            sum += scaling * f32::cast_from(t[i]);
        }
        if comptime!(biased) {
            sum += bias[i % width];
        }
        y[i] = F::cast_from(sum);
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
