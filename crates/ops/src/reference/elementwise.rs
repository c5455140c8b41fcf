//! RMSNorm, rotary embedding, SwiGLU and AdamW.

use crate::kernels::adamw::AdamW;

/// x / √(mean(x²) + ε)·weight
pub fn rms_norm(x: &[f64], weight: &[f64], epsilon: f64) -> Vec<f64> {
    let mut y = Vec::with_capacity(x.len());
    for x in x.chunks_exact(weight.len()) {
        let mean = x.iter().map(|v| v * v).sum::<f64>() / weight.len() as f64;
        y.extend(
            x.iter()
                .zip(weight)
                .map(|(x, w)| x / (mean + epsilon).sqrt() * w),
        );
    }
    y
}

/// dx of [`rms_norm`].
pub fn rms_norm_backward(dy: &[f64], x: &[f64], weight: &[f64], epsilon: f64) -> Vec<f64> {
    let width = weight.len();
    let mut dx = Vec::with_capacity(x.len());
    for (x, dy) in x.chunks_exact(width).zip(dy.chunks_exact(width)) {
        let r = 1.0 / (x.iter().map(|v| v * v).sum::<f64>() / width as f64 + epsilon).sqrt();
        let dot: f64 = (0..width).map(|j| dy[j] * weight[j] * x[j]).sum();
        dx.extend(
            (0..width).map(|j| r * dy[j] * weight[j] - x[j] * r * r * r * dot / width as f64),
        );
    }
    dx
}

/// Half-split rotation of every head by its row's angles, `[rows, half]`; by the negative ones if `inverse`.
pub fn rotary(
    x: &[f64],
    cos: &[f64],
    sin: &[f64],
    heads: usize,
    half: usize,
    inverse: bool,
) -> Vec<f64> {
    let width = heads * 2 * half;
    let mut y = vec![0.0; x.len()];
    for i in 0..x.len() / width {
        for head in 0..heads {
            let at = i * width + head * 2 * half;
            for j in 0..half {
                let angle = i * half + j;
                let (c, s) = (cos[angle], if inverse { -sin[angle] } else { sin[angle] });
                y[at + j] = x[at + j] * c - x[at + half + j] * s;
                y[at + half + j] = x[at + half + j] * c + x[at + j] * s;
            }
        }
    }
    y
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// silu(gate)·up
pub fn swiglu(gate: &[f64], up: &[f64]) -> Vec<f64> {
    gate.iter()
        .zip(up)
        .map(|(g, u)| g * sigmoid(*g) * u)
        .collect()
}

/// (dgate, dup) of [`swiglu`].
pub fn swiglu_backward(dy: &[f64], gate: &[f64], up: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let slope = |g: f64| sigmoid(g) * (1.0 + g * (1.0 - sigmoid(g)));
    let dgate = (0..dy.len())
        .map(|i| dy[i] * up[i] * slope(gate[i]))
        .collect();
    let dup = (0..dy.len())
        .map(|i| dy[i] * gate[i] * sigmoid(gate[i]))
        .collect();
    (dgate, dup)
}

/// One step of torch.optim.AdamW on (param, exp_avg, exp_avg_sq).
pub fn adamw(
    param: &mut [f64],
    grad: &[f64],
    exp_avg: &mut [f64],
    exp_avg_sq: &mut [f64],
    o: &AdamW,
) {
    for i in 0..param.len() {
        let g = grad[i] * o.grad_scale;
        param[i] *= 1.0 - o.lr * o.weight_decay;
        exp_avg[i] = o.beta1 * exp_avg[i] + (1.0 - o.beta1) * g;
        exp_avg_sq[i] = o.beta2 * exp_avg_sq[i] + (1.0 - o.beta2) * g * g;
        let m = exp_avg[i] / (1.0 - o.beta1.powi(o.step as i32));
        let v = exp_avg_sq[i] / (1.0 - o.beta2.powi(o.step as i32));
        param[i] -= o.lr * m / (v.sqrt() + o.eps);
    }
}
