//! RMSNorm on a GPU: a cube a row, a unit every so many vectors of it.

use super::cube_sum;
use cubecl::prelude::*;

/// x / √(mean(x²) + ε)·weight, rows of `vectors`.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn rms_norm_kernel<F: Float, N: Size>(
    x: &[Vector<F, N>],
    weight: &[f32],
    y: &mut [Vector<F, N>],
    vectors: usize,
    epsilon: f32,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let lanes = N::value();
    let row = CUBE_POS * vectors;
    let unit = UNIT_POS as usize;
    let mut squares = f32::new(0.0);
    let mut j = unit;
    while j < vectors {
        let values = x[row + j];
        #[unroll]
        for lane in 0..lanes {
            let v = f32::cast_from(values.extract(lane));
            squares += v * v;
        }
        j += units;
    }
    let mean = cube_sum(squares, units) / f32::cast_from((vectors * lanes) as u32);
    let r = f32::new(1.0) / (mean + epsilon).sqrt();
    let mut j = unit;
    while j < vectors {
        let values = x[row + j];
        let mut scaled = Vector::<F, N>::empty();
        #[unroll]
        for lane in 0..lanes {
            let v = f32::cast_from(values.extract(lane));
            scaled.insert(lane, F::cast_from(v * r * weight[j * lanes + lane]));
        }
        y[row + j] = scaled;
        j += units;
    }
}

/// dx = r·w∘dy − x·r³·(Σ dy∘w∘x)/width, with r = 1/√(mean(x²) + ε), and what was left of dx where there is some.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn rms_norm_backward_kernel<F: Float, N: Size>(
    dy: &[Vector<F, N>],
    x: &[Vector<F, N>],
    weight: &[f32],
    left: &[Vector<F, N>],
    dx: &mut [Vector<F, N>],
    vectors: usize,
    epsilon: f32,
    #[comptime] added: bool,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let lanes = N::value();
    let row = CUBE_POS * vectors;
    let unit = UNIT_POS as usize;
    let mut squares = f32::new(0.0);
    let mut dot = f32::new(0.0);
    let mut j = unit;
    while j < vectors {
        let (values, slopes) = (x[row + j], dy[row + j]);
        #[unroll]
        for lane in 0..lanes {
            let v = f32::cast_from(values.extract(lane));
            squares += v * v;
            dot += f32::cast_from(slopes.extract(lane)) * weight[j * lanes + lane] * v;
        }
        j += units;
    }
    let count = f32::cast_from((vectors * lanes) as u32);
    let mean = cube_sum(squares, units) / count;
    let dot = cube_sum(dot, units);
    let r = f32::new(1.0) / (mean + epsilon).sqrt();
    let pull = r * r * r * dot / count;
    let mut j = unit;
    while j < vectors {
        let (values, slopes) = (x[row + j], dy[row + j]);
        let mut gradient = Vector::<F, N>::empty();
        #[unroll]
        for lane in 0..lanes {
            let d = f32::cast_from(slopes.extract(lane)) * weight[j * lanes + lane] * r;
            let mut slope = d - f32::cast_from(values.extract(lane)) * pull;
            if comptime!(added) {
                slope += f32::cast_from(left[row + j].extract(lane));
            }
            gradient.insert(lane, F::cast_from(slope));
        }
        dx[row + j] = gradient;
        j += units;
    }
}
