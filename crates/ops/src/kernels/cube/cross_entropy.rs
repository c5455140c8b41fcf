//! Softmax cross-entropy of rows of logits on a GPU: a cube a row.

use super::{cube_max, cube_sum};
use cubecl::prelude::*;

/// loss = ln Σ exp(l) − l[target], dlogits = softmax(l) − onehot(target) where wanted.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn cross_entropy_kernel<F: Float>(
    logits: &[f32],
    targets: &[u32],
    loss: &mut [f32],
    dlogits: &mut [F],
    vocabulary: usize,
    #[comptime] differentiate: bool,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let index = CUBE_POS;
    let row = index * vocabulary;
    let unit = UNIT_POS as usize;
    let mut largest = f32::new(-3.0e38);
    let mut j = unit;
    while j < vocabulary {
        if logits[row + j] > largest {
            largest = logits[row + j];
        }
        j += units;
    }
    let largest = cube_max(largest, units);
    let mut sum = f32::new(0.0);
    let mut j = unit;
    while j < vocabulary {
        sum += (logits[row + j] - largest).exp();
        j += units;
    }
    let sum = cube_sum(sum, units);
    let target = targets[index] as usize;
    if unit == 0 {
        loss[index] = largest + sum.ln() - logits[row + target];
    }
    if comptime!(differentiate) {
        let mut j = unit;
        while j < vocabulary {
            let mut slope = (logits[row + j] - largest).exp() / sum;
            if j == target {
                slope -= 1.0;
            }
            dlogits[row + j] = F::cast_from(slope);
            j += units;
        }
    }
}
