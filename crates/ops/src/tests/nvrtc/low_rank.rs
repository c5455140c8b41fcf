//! What adapters add to outputs, and to gradients of inputs.

use super::AbsentGpu;
use crate::kernels::cube::low_rank::add_low_rank_kernel;
use cubecl::ir::{ElemType, FloatKind};

pub(super) fn add(gpu: &mut AbsentGpu) {
    for (kind, lanes) in [
        (FloatKind::F32, 4),
        (FloatKind::BF16, 8),
        (FloatKind::BF16, 1),
    ] {
        for (by_rank, biased, masked) in [
            (false, true, false),
            (false, false, false),
            (true, false, true),
            (true, false, false),
        ] {
            let kernel = add_low_rank_kernel::create_dummy_kernel(
                gpu.properties(),
                gpu.target(),
                gpu.cubes(),
                gpu.units(),
                lanes,
                gpu.buffer(),
                gpu.buffer(),
                gpu.buffer(),
                gpu.buffer(),
                gpu.buffer(),
                8,
                64,
                16,
                2.0,
                7,
                1.5,
                16,
                by_rank,
                biased,
                masked,
                128,
                ElemType::Float(kind),
            );
            let what = format!("A {by_rank}, bias {biased}, mask {masked}");
            gpu.add(format!("low rank {what} of {lanes} in {kind:?}"), kernel);
        }
    }
}
