//! Does every operation give on this device what its specification says?
//!
//! The same checks on any device: tests run them on CubeCL's CPU runtime, where every kernel of a
//! GPU can be proven without one, and on a GPU where there is one; `qlora-train --doctor` runs them
//! for its user. Random data, ragged shapes, forward and every gradient, through the public
//! functions and the tape. Here is what carries a check out; `checks` and its neighbours
//! have the operations.

mod checks;
mod few_rows;
mod optimizer;

use crate::reference::widen;
use crate::{AttentionOptions, ComputeDtype, DenseDtype, Weight};
use burn::tensor::{DType, Device, Tensor, TensorData};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How far an operation is from its specification.
#[derive(Clone, Debug)]
pub struct Check {
    /// The operation, its variant, and which of its results.
    pub name: String,
    /// Largest difference, relative to the largest expected magnitude (at least 0.1).
    pub error: f64,
    pub tolerance: f64,
}

impl Check {
    /// Whether it is near enough; a result that is not a number never is.
    pub fn passed(&self) -> bool {
        self.error <= self.tolerance
    }
}

/// Every operation on `device`, its activations in `compute`.
pub fn self_test(device: &Device, compute: ComputeDtype) -> Vec<Check> {
    let mut bench = Bench::new(device, compute);
    bench.linears();
    bench.few_rows();
    bench.attentions();
    bench.cross_entropies();
    bench.elementwise();
    bench.optimizer();
    bench.checks
}

/// Whether attention of such heads may take [`crate::AttentionKernel::Flash`] on this device: there is such
/// a kernel for it, and what it gives is its specification, forward and backward, on small data. An
/// error says why not.
///
/// Nothing takes that kernel unasked: what a compiler and tensor cores make of it is known only where
/// it runs. Some tens of milliseconds besides compiling what will be used.
pub fn flash_attention(
    device: &Device,
    compute: ComputeDtype,
    options: &AttentionOptions,
) -> Result<(), String> {
    crate::backends::flash_plan(device, compute, options)?;
    let group = options.heads / options.kv_heads;
    let checks = catch_unwind(AssertUnwindSafe(|| {
        let mut bench = Bench::new(device, compute);
        bench.flash_attentions(AttentionOptions {
            heads: 2 * group.min(3),
            kv_heads: 2,
            ..*options
        });
        bench.checks
    }));
    let Ok(checks) = checks else {
        return Err("its kernels do not run here".into());
    };
    let failed: Vec<&Check> = checks.iter().filter(|check| !check.passed()).collect();
    match failed.first() {
        None => Ok(()),
        Some(first) => Err(format!(
            "{} of {} checks of it failed, first {}, off by {:.1e}",
            failed.len(),
            checks.len(),
            first.name,
            first.error
        )),
    }
}

/// The name that kernels are compiled for says it: PTX.
#[cfg(feature = "cube")]
fn is_gpu(device: &Device) -> bool {
    let identity = device.identity();
    identity.is_some_and(|i| i.fingerprint.starts_with("ptx"))
}

#[cfg(not(feature = "cube"))]
fn is_gpu(_: &Device) -> bool {
    false
}

struct Bench {
    plain: Device,
    taped: Device,
    compute: ComputeDtype,
    tensor_cores: bool,
    state: u64,
    checks: Vec<Check>,
}

impl Bench {
    fn new(device: &Device, compute: ComputeDtype) -> Bench {
        Bench {
            plain: device.clone(),
            taped: device.clone().autodiff(),
            compute,
            tensor_cores: is_gpu(device),
            state: 0x9e37_79b9_7f4a_7c15,
            checks: Vec::new(),
        }
    }

    /// What activations are stored in: f32 on the CPU back end, whatever they are multiplied in.
    fn dtype(&self) -> DType {
        match self.compute {
            _ if self.plain == Device::flex() => DType::F32,
            ComputeDtype::F32 => DType::F32,
            ComputeDtype::Bf16 => DType::BF16,
        }
    }

    /// Uniform in −1..1, rounded to what the activations can hold.
    fn draw(&mut self, count: usize) -> Vec<f32> {
        let next = |state: &mut u64| {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            (*state >> 40) as f32 / 8_388_608.0 - 1.0
        };
        let values = (0..count).map(|_| next(&mut self.state));
        match self.compute {
            ComputeDtype::F32 => values.collect(),
            ComputeDtype::Bf16 => values.map(|v| half::bf16::from_f32(v).to_f32()).collect(),
        }
    }

    fn activation(&self, values: &[f32], columns: usize) -> Tensor<2> {
        self.tensor(values, columns, self.dtype()).require_grad()
    }

    fn tensor(&self, values: &[f32], columns: usize, dtype: DType) -> Tensor<2> {
        let shape = [values.len() / columns, columns];
        Tensor::from_data(
            TensorData::new(values.to_vec(), shape),
            (&self.taped, dtype),
        )
    }

    fn vector(&self, values: &[f32]) -> Tensor<1> {
        let data = TensorData::new(values.to_vec(), [values.len()]);
        Tensor::from_data(data, (&self.plain, DType::F32))
    }

    fn check<const D: usize>(&mut self, name: String, got: Tensor<D>, expected: &[f64]) {
        // bf16 has 8 bits of mantissa, rounded once on the way in and once on the way out of each
        // operation; f32 sums of a few hundred terms err by some 1e-6, but a GPU's tensor cores
        // multiply f32 as TF32, which has 10 bits.
        let tolerance = match self.compute {
            ComputeDtype::F32 if self.tensor_cores => 5e-3,
            ComputeDtype::F32 => 1e-5,
            ComputeDtype::Bf16 => 2e-2,
        };
        let got: Vec<f32> = got.into_data().convert::<f32>().try_to_vec().expect("f32");
        let largest = expected.iter().fold(0.1f64, |a, b| a.max(b.abs()));
        let errors = got
            .iter()
            .zip(expected)
            .map(|(g, e)| (f64::from(*g) - e).abs() / largest);
        let error = match got.len() == expected.len() {
            true => largest_error(errors),
            false => f64::NAN,
        };
        self.checks.push(Check {
            name,
            error,
            tolerance,
        });
    }

    /// Weighs y with dy and differentiates.
    fn backward(&self, y: &Tensor<2>, dy: &[f32]) -> burn::tensor::Gradients {
        let columns = y.dims()[1];
        let dy = self.tensor(dy, columns, self.dtype());
        (y.clone() * dy).sum().backward()
    }

    fn weight(&mut self, [n, k]: [usize; 2], encoding: &str) -> (Weight, Vec<f64>) {
        let values = self.draw(n * k);
        let (weight, dense) = match encoding {
            "bf16" => {
                let half: Vec<_> = values.iter().map(|v| half::bf16::from_f32(*v)).collect();
                let bytes: Vec<u8> = half.iter().flat_map(|v| v.to_le_bytes()).collect();
                let dense: Vec<f32> = half.iter().map(|v| v.to_f32()).collect();
                let weight = Weight::dense(&bytes, DenseDtype::BF16, [n, k], &self.plain);
                (weight, dense)
            }
            "f32" => (Weight::dense_f32(&values, [n, k], &self.plain), values),
            nf4_kind => {
                let double = nf4_kind.contains("double");
                let dtype = match double {
                    true => nf4::Dtype::BF16,
                    false => nf4::Dtype::F32,
                };
                let quantized = nf4::quantize(&values, [n, k], dtype, double);
                let dense = quantized.dequantize();
                (Weight::nf4(&quantized, &self.plain), dense)
            }
        };
        (weight.with_compute(self.compute), widen(&dense))
    }
}

/// Not a number where any of them is none.
fn largest_error(errors: impl Iterator<Item = f64>) -> f64 {
    errors.fold(0.0, |a: f64, b| match a.is_nan() || b.is_nan() {
        true => f64::NAN,
        false => a.max(b),
    })
}

#[cfg(test)]
mod tests {
    use super::{Check, largest_error};

    #[test]
    fn a_result_that_is_not_a_number_fails_wherever_it_stands() {
        for at in 0..3 {
            let mut errors = [0.0, 1e-7, 0.0];
            errors[at] = f64::NAN;
            let check = Check {
                name: "an operation".into(),
                error: largest_error(errors.into_iter()),
                tolerance: 1.0,
            };
            assert!(!check.passed(), "{at}");
        }
        assert_eq!(largest_error([0.5, 2.0, 1.0].into_iter()), 2.0);
    }
}
