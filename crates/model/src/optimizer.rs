//! AdamW over every adapter tensor, as torch.optim.AdamW does it.

use burn::tensor::Tensor;

use crate::{
    Adapter, Gradients,
    lora::{host, matrix},
};

/// Decoupled weight decay, arXiv 1711.05101; names and defaults as torch and transformers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
        }
    }
}

/// The optimizer and its moments, one pair for each adapter tensor in the adapter's order.
pub struct AdamW {
    config: AdamWConfig,
    step: u32,
    moments: Vec<[Tensor<2>; 2]>,
}

impl AdamW {
    /// Moments at zero.
    pub fn new(adapter: &Adapter, config: AdamWConfig) -> Self {
        let moments = adapter
            .named_tensors()
            .map(|(_, t)| [t.zeros_like(), t.zeros_like()])
            .collect();
        Self {
            config,
            step: 0,
            moments,
        }
    }

    /// One update with `lr`; gradients are multiplied by `grad_scale` (clipping) first.
    pub fn step(&mut self, adapter: &mut Adapter, gradients: Gradients, lr: f64, grad_scale: f64) {
        self.step += 1;
        let hyper = ops::AdamW {
            lr,
            beta1: self.config.beta1,
            beta2: self.config.beta2,
            eps: self.config.epsilon,
            weight_decay: self.config.weight_decay,
            step: self.step as usize,
            grad_scale,
        };
        let gradients = gradients.layers.into_iter().flatten().flatten().flatten();
        let states = adapter.tensors_mut().zip(&mut self.moments);
        let parameters = states
            .zip(gradients)
            .map(|((param, [exp_avg, exp_avg_sq]), grad)| {
                // Handed over, not cloned: a tensor with one owner is updated in place.
                let gone = Tensor::empty([1, 1], &param.device());
                let take = |t: &mut Tensor<2>| std::mem::replace(t, gone.clone());
                ops::Parameter {
                    value: take(param),
                    grad,
                    exp_avg: take(exp_avg),
                    exp_avg_sq: take(exp_avg_sq),
                }
            })
            .collect();
        let updated = ops::adamw(parameters, &hyper);
        let states = adapter.tensors_mut().zip(&mut self.moments);
        for ((param, moments), [new, exp_avg, exp_avg_sq]) in states.zip(updated) {
            *param = new;
            *moments = [exp_avg, exp_avg_sq];
        }
    }

    /// Moments by the adapter's PEFT keys with `.exp_avg` / `.exp_avg_sq`, for a checkpoint.
    pub fn to_host(&self, adapter: &Adapter) -> Vec<(String, [usize; 2], Vec<f32>)> {
        let named = adapter.named_tensors().zip(&self.moments);
        named
            .flat_map(|((name, _), [avg, sq])| {
                [("exp_avg", avg), ("exp_avg_sq", sq)]
                    .map(|(moment, t)| (format!("{name}.{moment}"), t.dims(), host(t)))
            })
            .collect()
    }

    /// Takes up where [`AdamW::to_host`] left off. `lookup` finds the values of a key; a missing key
    /// or another length is answered with that key.
    pub fn restore(
        &mut self,
        adapter: &Adapter,
        step: u32,
        mut lookup: impl FnMut(&str) -> Option<Vec<f32>>,
    ) -> Result<(), String> {
        for ((name, param), moments) in adapter.named_tensors().zip(&mut self.moments) {
            for (slot, moment) in moments.iter_mut().zip(["exp_avg", "exp_avg_sq"]) {
                let key = format!("{name}.{moment}");
                let shape = param.dims();
                match lookup(&key) {
                    Some(values) if values.len() == shape[0] * shape[1] => {
                        *slot = matrix(values, shape, &param.device());
                    }
                    _ => return Err(key),
                }
            }
        }
        self.step = step;
        Ok(())
    }
}
