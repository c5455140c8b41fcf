//! The kernels over many tensors, with as many as one launch takes.

use super::AbsentGpu;
use crate::kernels::cube::adamw::{GROUP, HyperLaunch, adamw_kernel, squares_kernel};

pub(super) fn add(gpu: &mut AbsentGpu) {
    let hyper = || HyperLaunch::new(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0);
    let all = |gpu: &AbsentGpu| (0..GROUP).map(|_| gpu.buffer()).collect();
    let kernel = adamw_kernel::create_dummy_kernel(
        gpu.properties(),
        gpu.target(),
        gpu.cubes(),
        gpu.units(),
        all(gpu),
        all(gpu),
        all(gpu),
        all(gpu),
        hyper(),
        GROUP,
    );
    gpu.add(format!("adamw of {GROUP} tensors"), kernel);
    let kernel = squares_kernel::create_dummy_kernel(
        gpu.properties(),
        gpu.target(),
        gpu.cubes(),
        gpu.units(),
        all(gpu),
        gpu.buffer(),
        0,
        GROUP,
        128,
    );
    gpu.add(format!("squares of {GROUP} tensors"), kernel);
}
