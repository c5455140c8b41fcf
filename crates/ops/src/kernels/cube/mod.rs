//! The kernels of GPUs, in CubeCL: arithmetic on slices, one unit or one cube at a time.
//!
//! Every kernel computes in f32, whatever `F` its activations are stored in. Where a row has to be
//! summed, one cube takes one row: its units stride over the columns and meet in shared memory, in
//! an order that depends on the number of units only. `backends::cube` chooses shapes and launches.

pub(crate) mod adamw;
pub(crate) mod attention;
pub(crate) mod cross_entropy;
pub(crate) mod dequantize;
pub(crate) mod dropout;
pub(crate) mod few_rows;
pub(crate) mod finish;
pub(crate) mod flash;
pub(crate) mod linear;
pub(crate) mod low_rank;
pub(crate) mod normalize;
pub(crate) mod patch;
pub(crate) mod quantize;
pub(crate) mod rotary;
pub(crate) mod swiglu;

use cubecl::prelude::*;

/// The sum of every unit's `value`, given to each of them; all units of the cube must call it.
#[cube]
pub(crate) fn cube_sum(value: f32, #[comptime] units: usize) -> f32 {
    let mut parts = Shared::<[f32]>::new_slice(units);
    let unit = UNIT_POS as usize;
    parts[unit] = value;
    sync_cube();
    let mut half = CUBE_DIM as usize / 2;
    while half > 0 {
        if unit < half {
            let other = parts[unit + half];
            parts[unit] += other;
        }
        sync_cube();
        half /= 2;
    }
    let total = parts[0];
    sync_cube(); // before the next call writes parts
    total
}

/// The largest of every unit's `value`, given to each of them; all units of the cube must call it.
#[cube]
pub(crate) fn cube_max(value: f32, #[comptime] units: usize) -> f32 {
    let mut parts = Shared::<[f32]>::new_slice(units);
    let unit = UNIT_POS as usize;
    parts[unit] = value;
    sync_cube();
    let mut half = CUBE_DIM as usize / 2;
    while half > 0 {
        if unit < half {
            let other = parts[unit + half];
            if other > parts[unit] {
                parts[unit] = other;
            }
        }
        sync_cube();
        half /= 2;
    }
    let largest = parts[0];
    sync_cube(); // before the next call writes parts
    largest
}
