//! What the optimizer does to many tensors in one launch, on a GPU: AdamW, and the sums of squares
//! of the gradients.
//!
//! CUBE_POS_Y names the tensor, as PyTorch's multi-tensor apply has it: the choice is the same for a
//! whole cube, so that it costs a few uniform branches, and the cubes of x stride over its elements.
//! AdamW moves 28 bytes an element (four arrays read, three written) and is bound by that.

use super::cube_sum;
use cubecl::prelude::*;

/// Tensors of one launch at most. AdamW names four buffers of each: 256 addresses are 2 KB of a
/// kernel's parameters, of which there are 4 KB on every GPU and driver.
pub(crate) const GROUP: usize = 64;

/// Settings of a step that are the same for every element, see [`crate::kernels::adamw`].
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(crate) struct Hyper {
    /// 1 − lr·λ
    pub decay: f32,
    /// 1 − β₁
    pub rest1: f32,
    pub beta2: f32,
    /// 1 − β₂
    pub rest2: f32,
    /// lr / (1 − β₁ᵗ)
    pub step_size: f32,
    /// √(1 − β₂ᵗ)
    pub root: f32,
    pub eps: f32,
    /// Multiplies the gradient first.
    pub scale: f32,
}

#[cube]
fn update(param: &mut [f32], grad: &[f32], exp_avg: &mut [f32], exp_avg_sq: &mut [f32], o: &Hyper) {
    let mut i = (CUBE_POS_X * CUBE_DIM + UNIT_POS) as usize;
    let stride = (CUBE_COUNT_X * CUBE_DIM) as usize;
    while i < param.len() {
        let g = grad[i] * o.scale;
        let m = exp_avg[i] + (g - exp_avg[i]) * o.rest1;
        let v = exp_avg_sq[i] * o.beta2 + g * g * o.rest2;
        exp_avg[i] = m;
        exp_avg_sq[i] = v;
        param[i] = param[i] * o.decay - o.step_size * (m / (v.sqrt() / o.root + o.eps));
        i += stride;
    }
}

/// One step of every tensor in place; all four sequences name `tensors` tensors in one order.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn adamw_kernel(
    params: &mut Sequence<Box<[f32]>>,
    grads: &Sequence<Box<[f32]>>,
    exp_avgs: &mut Sequence<Box<[f32]>>,
    exp_avg_sqs: &mut Sequence<Box<[f32]>>,
    hyper: &Hyper,
    #[comptime] tensors: usize,
) {
    #[unroll]
    for tensor in 0..tensors {
        if CUBE_POS_Y as usize == tensor {
            update(
                &mut params[tensor],
                &grads[tensor],
                &mut exp_avgs[tensor],
                &mut exp_avg_sqs[tensor],
                hyper,
            );
        }
    }
}

/// Σ t² of each tensor, a partial sum for each of the CUBE_COUNT_X cubes that read it, from
/// `parts[first·CUBE_COUNT_X]` on.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn squares_kernel(
    values: &Sequence<Box<[f32]>>,
    parts: &mut [f32],
    first: usize,
    #[comptime] tensors: usize,
    #[comptime] units: usize,
) {
    let mut squares = f32::new(0.0);
    #[unroll]
    for tensor in 0..tensors {
        if CUBE_POS_Y as usize == tensor {
            let mut i = (CUBE_POS_X * CUBE_DIM + UNIT_POS) as usize;
            while i < values[tensor].len() {
                let v = values[tensor][i];
                squares += v * v;
                i += (CUBE_COUNT_X * CUBE_DIM) as usize;
            }
        }
    }
    let squares = cube_sum(squares, units);
    if UNIT_POS == 0 {
        let cubes = CUBE_COUNT_X as usize;
        parts[(first + CUBE_POS_Y as usize) * cubes + CUBE_POS_X as usize] = squares;
    }
}
