//! The kernels of a few rows: products with codes, alone and for three weights with adapters, and
//! what becomes of their sums.

use super::AbsentGpu;
use crate::kernels::cube::few_rows::{project_few_kernel, project_rows_kernel};
use crate::kernels::cube::finish::{
    PlaceLaunch, finish_heads_kernel, finish_linear_kernel, finish_norm_kernel,
    finish_swiglu_kernel, likeliest_kernel,
};
use cubecl::ir::{ElemType, FloatKind};

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
    let types = [ElemType::Float(kind), ElemType::Float(FloatKind::BF16)];
    let lanes = if kind == FloatKind::F32 { 4 } else { 8 };
    for (weights, adapters, nested) in [(1, 0, false), (1, 0, true), (3, 3, true)] {
        let what = format!("{weights} weights, {adapters} adapters, nested {nested}, in {kind:?}");
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
    for (rank, biased) in [(0, false), (16, true)] {
        let what = format!("rank {rank}, bias {biased}, in {kind:?}");
        let kernel = finish_linear_kernel::create_dummy_kernel(
            gpu.properties(),
            gpu.target(),
            gpu.cubes(),
            gpu.units(),
            gpu.buffer(),
            gpu.buffer(),
            gpu.buffer(),
            gpu.buffer(),
            gpu.buffer(),
            place(),
            1,
            64,
            1,
            8,
            rank,
            biased,
            dtype,
        );
        gpu.add(format!("finish linear {what}"), kernel);
        let kernel = finish_norm_kernel::create_dummy_kernel(
            gpu.properties(),
            gpu.target(),
            gpu.cubes(),
            gpu.units(),
            gpu.buffer(),
            gpu.buffer(),
            gpu.buffer(),
            gpu.buffer(),
            gpu.buffer(),
            gpu.buffer(),
            place(),
            1,
            64,
            1,
            8,
            1e-5,
            rank > 0,
            rank,
            biased,
            128,
            dtype,
        );
        gpu.add(format!("finish norm {what}"), kernel);
        let kernel = finish_swiglu_kernel::create_dummy_kernel(
            gpu.properties(),
            gpu.target(),
            gpu.cubes(),
            gpu.units(),
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
            1,
            8,
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
            1,
            2,
            1,
            1e-5,
            64,
            [rank; 3],
            [biased; 3],
            biased,
            128,
            dtype,
        );
        gpu.add(format!("finish heads {what}"), kernel);
    }
}
