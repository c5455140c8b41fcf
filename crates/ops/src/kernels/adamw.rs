//! AdamW as torch.optim.AdamW computes it (arXiv 1711.05101), one pass over four arrays.

use rayon::prelude::*;

/// Settings of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// 1 for the first step.
    pub step: usize,
    /// Multiplies the gradient first (clipping, averaging).
    pub grad_scale: f64,
}

/// One parameter: four arrays of one length.
pub struct Arrays<'a> {
    pub param: &'a mut [f32],
    pub grad: &'a [f32],
    pub exp_avg: &'a mut [f32],
    pub exp_avg_sq: &'a mut [f32],
}

/// Updates every parameter in place, all threads sharing them.
pub fn update_all(parameters: Vec<Arrays<'_>>, o: &AdamW) {
    parameters
        .into_par_iter()
        .for_each(|p| update(p.param, p.grad, p.exp_avg, p.exp_avg_sq, o));
}

/// Updates param, exp_avg and exp_avg_sq in place.
pub fn update(
    param: &mut [f32],
    grad: &[f32],
    exp_avg: &mut [f32],
    exp_avg_sq: &mut [f32],
    o: &AdamW,
) {
    let decay = (1.0 - o.lr * o.weight_decay) as f32;
    let beta2 = o.beta2 as f32;
    let (rest1, rest2) = ((1.0 - o.beta1) as f32, (1.0 - o.beta2) as f32);
    let step_size = (o.lr / (1.0 - o.beta1.powi(o.step as i32))) as f32;
    let root = (1.0 - o.beta2.powi(o.step as i32)).sqrt() as f32;
    let (eps, scale) = (o.eps as f32, o.grad_scale as f32);
    for (((p, g), m), v) in param.iter_mut().zip(grad).zip(exp_avg).zip(exp_avg_sq) {
        let g = g * scale;
        *m += (g - *m) * rest1; // torch: exp_avg.lerp_(grad, 1 − β₁)
        *v = *v * beta2 + g * g * rest2;
        *p = *p * decay - step_size * (*m / (v.sqrt() / root + eps));
    }
}
