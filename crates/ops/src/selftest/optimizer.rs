//! AdamW and the gradients' norm: more tensors than one launch takes, of ragged sizes.

use super::Bench;
use crate::reference::{self, widen};
use crate::{AdamW, Parameter};
use burn::tensor::{DType, Tensor, TensorData};

/// A GPU takes 64 tensors a launch.
const TENSORS: usize = 70;

impl Bench {
    pub(super) fn optimizer(&mut self) {
        let options = AdamW {
            lr: 1e-2,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.1,
            step: 3,
            grad_scale: 0.5,
        };
        let plain = self.plain.clone();
        let tensor = |values: &[f32]| {
            let data = TensorData::new(values.to_vec(), [1, values.len()]);
            Tensor::<2>::from_data(data, (&plain, DType::F32))
        };
        let (mut parameters, mut kept) = (Vec::new(), Vec::new());
        let mut expected: [Vec<f64>; 3] = Default::default();
        let mut before = Vec::new();
        let mut squares = 0.0;
        for index in 0..TENSORS {
            let length = 1 + index * index * 7 % 1013;
            let [param, grad, m, v] = [(); 4].map(|()| self.draw(length));
            let v: Vec<f32> = v.iter().map(|v| v * v).collect();
            let parameter = Parameter {
                value: tensor(&param),
                grad: tensor(&grad),
                exp_avg: tensor(&m),
                exp_avg_sq: tensor(&v),
            };
            kept.push(parameter.value.clone());
            parameters.push(parameter);
            let grad = widen(&grad);
            squares += grad.iter().map(|g| g * g).sum::<f64>();
            before.extend(widen(&param));
            let (mut param, mut m, mut v) = (widen(&param), widen(&m), widen(&v));
            reference::elementwise::adamw(&mut param, &grad, &mut m, &mut v, &options);
            for (all, one) in expected.iter_mut().zip([param, m, v]) {
                all.extend(one);
            }
        }
        let norm = crate::sum_of_squares(parameters.iter().map(|p| &p.grad)).sqrt();
        let norm = Tensor::<1>::from_data([norm as f32], (&plain, DType::F32));
        self.check("gradient norm".into(), norm, &[squares.sqrt()]);
        let updated = crate::adamw(parameters, &options);
        for (which, name) in ["param", "exp_avg", "exp_avg_sq"].into_iter().enumerate() {
            let all = updated.iter().map(|state| state[which].clone()).collect();
            let name = format!("adamw of {TENSORS} tensors: {name}");
            self.check(name, Tensor::cat(all, 1), &expected[which]);
        }
        let kept = Tensor::cat(kept, 1);
        self.check("adamw: a shared tensor is left alone".into(), kept, &before);
    }
}
