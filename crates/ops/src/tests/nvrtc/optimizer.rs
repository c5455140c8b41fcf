//! The kernels over many tensors, with as many as one launch takes and with a few.

use super::AbsentGpu;
use crate::kernels::cube::adamw::{GROUP, HyperLaunch, adamw_kernel, squares_kernel};

pub(super) fn add(gpu: &mut AbsentGpu) {
    for tensors in [GROUP, 3] {
        of(gpu, tensors);
    }
}

fn of(gpu: &mut AbsentGpu, tensors: usize) {
    let hyper = || HyperLaunch::new(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0);
    let all = |gpu: &AbsentGpu| (0..tensors).map(|_| gpu.buffer()).collect();
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
        tensors,
    );
    gpu.add(format!("adamw of {tensors} tensors"), kernel);
    let kernel = squares_kernel::create_dummy_kernel(
        gpu.properties(),
        gpu.target(),
        gpu.cubes(),
        gpu.units(),
        all(gpu),
        gpu.buffer(),
        0,
        tensors,
        128,
    );
    gpu.add(format!("squares of {tensors} tensors"), kernel);
}
