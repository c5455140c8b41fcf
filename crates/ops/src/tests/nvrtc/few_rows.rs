//! The kernels of a few rows: products with codes, alone and for three weights with adapters, and
//! what becomes of their sums.

use super::AbsentGpu;
use crate::kernels::cube::few_rows::{project_few_kernel, project_rows_kernel};
use crate::kernels::cube::finish::{
    PlaceLaunch, finish_heads_kernel, finish_linear_kernel, finish_norm_kernel,
    finish_swiglu_kernel, likeliest_kernel,
};
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::CubeDim;

pub(super) fn add(gpu: &mut AbsentGpu) {
    for kind in [FloatKind::F32, FloatKind::BF16] {
        products(gpu, kind);
        finishes(gpu, kind);
    }
    let kernel = likeliest_kernel::create_dummy_kernel(
        gpu.properties(),
        gpu.target(),
        gpu.cubes(),
        gpu.units(),
        gpu.buffer(),
        gpu.buffer(),
        64,
        128,
    );
    gpu.add("likeliest".into(), kernel);
}

fn products(gpu: &mut AbsentGpu, kind: FloatKind) {
    let (f32, bf16) = (FloatKind::F32, FloatKind::BF16);
    let lanes = if kind == f32 { 4 } else { 8 };
    for (weights, adapters, nested, rounding) in [
        (1, 0, false, bf16),
        (1, 0, true, bf16),
        (3, 3, true, bf16),
        (3, 3, true, f32),
    ] {
        let types = [kind, rounding].map(ElemType::Float);
        let what = format!(
            "{weights} weights of {rounding:?}, {adapters} adapters, nested {nested}, in {kind:?}"
        );
        for rows in [1, 4] {
            let kernel = project_few_kernel::create_dummy_kernel(
                gpu.properties(),
                gpu.target(),
                gpu.cubes(),
                gpu.units(),
                4,
                lanes,
                gpu.buffer(),
                gpu.buffers(weights).collect(),
                gpu.buffers(weights).collect(),
                gpu.buffers(adapters).collect(),
                gpu.buffer(),
                gpu.buffer(),
                64,
                64,
                weights,
                adapters,
                nested,
                rounding != f32,
                rows,
                128,
                types,
            );
            gpu.add(format!("{rows} rows of {what}"), kernel);
        }
        for tile_rows in [16, 32] {
            let tensor_cores = kind == FloatKind::BF16;
            let kernel = project_rows_kernel::create_dummy_kernel(
                gpu.properties(),
                gpu.target(),
                gpu.cubes(),
                gpu.units(),
                4,
                lanes,
                gpu.buffer(),
                gpu.buffers(weights).collect(),
                gpu.buffers(weights).collect(),
                gpu.buffers(adapters).collect(),
                gpu.buffer(),
                gpu.buffer(),
                8,
                64,
                64,
                128,
                weights,
                adapters,
                nested,
                tile_rows,
                tensor_cores,
                128,
                types,
            );
            gpu.add(format!("a tile of {tile_rows} rows of {what}"), kernel);
        }
    }
}

fn finishes(gpu: &mut AbsentGpu, kind: FloatKind) {
    let dtype = ElemType::Float(kind);
    let place = || PlaceLaunch::new(0, 64, 2.0);
    // All of B's vectors, one value at a time; a loop over splits, and none.
    for (rank, biased, splits) in [(0, false, 3), (16, true, 3), (16, true, 1), (6, true, 3)] {
        let what = format!("rank {rank}, bias {biased}, splits {splits}, in {kind:?}");
        let lanes = if rank % 4 == 0 { 4 } else { 1 };
        let kernel = finish_linear_kernel::create_dummy_kernel(
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
            place(),
            1,
            64,
            8,
            splits,
            rank,
            biased,
            dtype,
        );
        gpu.add(format!("finish linear {what}"), kernel);
        for units in [128, 1024] {
            let kernel = finish_norm_kernel::create_dummy_kernel(
                gpu.properties(),
                gpu.target(),
                gpu.cubes(),
                CubeDim::new_1d(units as u32),
                lanes,
                gpu.buffer(),
                gpu.buffer(),
                gpu.buffer(),
                gpu.buffer(),
                gpu.buffer(),
                gpu.buffer(),
                place(),
                1,
                64,
                8,
                1e-5,
                rank > 0,
                splits,
                rank,
                biased,
                units,
                dtype,
            );
            gpu.add(format!("finish norm of {units} units {what}"), kernel);
        }
        let kernel = finish_swiglu_kernel::create_dummy_kernel(
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
            gpu.buffer(),
            place(),
            place(),
            1,
            64,
            8,
            splits,
            rank,
            rank,
            biased,
            biased,
            dtype,
        );
        gpu.add(format!("finish swiglu {what}"), kernel);
        let kernel = finish_heads_kernel::create_dummy_kernel(
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
            gpu.buffer(),
            gpu.buffer(),
            gpu.buffer(),
            gpu.buffer(),
            gpu.buffer(),
            gpu.buffer(),
            gpu.buffer(),
            gpu.buffer(),
            gpu.buffer(),
            gpu.buffer(),
            place(),
            place(),
            place(),
            1,
            64,
            2,
            1,
            1e-5,
            64,
            splits,
            [rank; 3],
            [biased; 3],
            biased,
            128,
            dtype,
        );
        gpu.add(format!("finish heads {what}"), kernel);
    }
}
