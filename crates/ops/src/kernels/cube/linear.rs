//! What is done to a linear's output on a GPU, and to gradients.

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

/// y = factor·pᵀ·q, a sum over `rows`: what its first `from` rows give is there, cut into `count` parts
/// `[count, height, width]`, which are added in order; of the last few the products are added here.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn add_parts_kernel<F: Float>(
    parts: &[f32],
    p: &[F],
    q: &[F],
    y: &mut [f32],
    height: usize,
    width: usize,
    from: usize,
    rows: usize,
    factor: f32,
    #[comptime] count: usize,
    #[define(F)] _dtype: ElemType,
) {
    let i = ABSOLUTE_POS;
    if i < height * width {
        let mut sum = parts[i];
        #[unroll]
        for part in 1..count {
            sum += parts[part * height * width + i];
        }
        for row in from..rows {
            let left = f32::cast_from(p[row * height + i / width]);
            sum += left * f32::cast_from(q[row * width + i % width]);
        }
        y[i] = sum * factor;
    }
}
