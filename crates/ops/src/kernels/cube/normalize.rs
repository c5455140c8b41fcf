//! RMSNorm on a GPU: a cube a row.

use super::cube_sum;
use cubecl::prelude::*;

/// x / √(mean(x²) + ε)·weight
#[cube(launch, create_dummy_kernel)]
pub(crate) fn rms_norm_kernel<F: Float>(
    x: &[F],
    weight: &[f32],
    y: &mut [F],
    width: usize,
    epsilon: f32,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS * width;
    let unit = UNIT_POS as usize;
    let mut squares = f32::new(0.0);
    let mut j = unit;
    while j < width {
        let v = f32::cast_from(x[row + j]);
        squares += v * v;
        j += units;
    }
    let mean = cube_sum(squares, units) / f32::cast_from(width as u32);
    let r = f32::new(1.0) / (mean + epsilon).sqrt();
    let mut j = unit;
    while j < width {
        y[row + j] = F::cast_from(f32::cast_from(x[row + j]) * r * weight[j]);
        j += units;
    }
}

/// dx = r·w∘dy − x·r³·(Σ dy∘w∘x)/width, with r = 1/√(mean(x²) + ε)
#[cube(launch, create_dummy_kernel)]
pub(crate) fn rms_norm_backward_kernel<F: Float>(
    dy: &[F],
    x: &[F],
    weight: &[f32],
    dx: &mut [F],
    width: usize,
    epsilon: f32,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS * width;
    let unit = UNIT_POS as usize;
    let mut squares = f32::new(0.0);
    let mut dot = f32::new(0.0);
    let mut j = unit;
    while j < width {
        let v = f32::cast_from(x[row + j]);
        squares += v * v;
        dot += f32::cast_from(dy[row + j]) * weight[j] * v;
        j += units;
    }
    let count = f32::cast_from(width as u32);
    let mean = cube_sum(squares, units) / count;
    let dot = cube_sum(dot, units);
    let r = f32::new(1.0) / (mean + epsilon).sqrt();
    let pull = r * r * r * dot / count;
    let mut j = unit;
    while j < width {
        let d = f32::cast_from(dy[row + j]) * weight[j] * r;
        dx[row + j] = F::cast_from(d - f32::cast_from(x[row + j]) * pull);
        j += units;
    }
}
