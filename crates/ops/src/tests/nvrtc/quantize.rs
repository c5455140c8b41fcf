//! Quantising values of either type.

use super::AbsentGpu;
use crate::kernels::cube::quantize::quantize_kernel;
use cubecl::ir::{ElemType, FloatKind};

pub(super) fn add(gpu: &mut AbsentGpu) {
    for (kind, lanes) in [(FloatKind::F32, 4), (FloatKind::BF16, 8)] {
        let kernel = quantize_kernel::create_dummy_kernel(
            gpu.properties(),
            gpu.target(),
            gpu.cubes(),
            gpu.units(),
            lanes,
            gpu.buffer(),
            gpu.buffer(),
            gpu.buffer(),
            8,
            1,
            128,
            ElemType::Float(kind),
        );
        gpu.add(format!("quantize in {kind:?}"), kernel);
    }
}
