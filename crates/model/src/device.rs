//! Which device a run uses: chosen by name, found by enumeration.

use std::str::FromStr;

use burn::tensor::Device;
use ops::{AttentionKernel, AttentionOptions, Check, ComputeDtype};

use crate::Error;

/// Where tensors live. A GPU that was asked for by name and is not there is an error, never a silent
/// fall-back; only `auto` chooses, and it chooses the first GPU there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    #[default]
    Cpu,
    /// The N-th NVIDIA GPU.
    Cuda(usize),
    /// The GPU's kernels on the CPU, to test them.
    #[cfg(feature = "cube-cpu")]
    CubeCpu,
}

impl DeviceChoice {
    /// The device to put tensors on.
    pub fn device(self) -> Device {
        match self {
            Self::Cpu => Device::flex(),
            #[cfg(feature = "cuda")]
            Self::Cuda(index) => Device::cuda(index),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda(_) => unreachable!("without the feature no name parses to a GPU"),
            #[cfg(feature = "cube-cpu")]
            Self::CubeCpu => Device::cpu(),
        }
    }

    /// Whether tensors are on the CPU back end, in host memory.
    pub fn is_cpu(self) -> bool {
        self == Self::Cpu
    }

    /// Whether this is a GPU, not its stand-in on the CPU.
    pub fn is_gpu(self) -> bool {
        matches!(self, Self::Cuda(_))
    }

    /// Every operation on this device against its specification.
    pub fn self_test(self, compute: ComputeDtype) -> Vec<Check> {
        ops::self_test(&self.device(), compute)
    }

    /// Who multiplies on this GPU, for people to read; nothing for the CPU.
    pub fn products(self) -> Option<String> {
        ops::products(&self.device())
    }

    /// Whether attention in heads of this many values may take the flash kernel here: it is there,
    /// and its results are its specification's. An error says why not.
    pub fn flash_attention(self, compute: ComputeDtype, head_dim: usize) -> Result<(), String> {
        let options = AttentionOptions {
            heads: 4,
            kv_heads: 2,
            head_dim,
            scale: (head_dim as f32).powf(-0.5),
            window: None,
            softcap: None,
            compute,
            kernel: AttentionKernel::Flash,
        };
        ops::flash_attention(&self.device(), compute, &options)
    }

    /// Bytes of the device's own memory that other processes leave free; none for the CPU.
    pub fn free_memory(self) -> Option<u64> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda(index) => ops::cuda::free_bytes(index),
            _ => None,
        }
    }

    /// The names this build knows.
    pub fn names() -> &'static str {
        match (cfg!(feature = "cuda"), cfg!(feature = "cube-cpu")) {
            (false, false) => "auto or cpu",
            (true, false) => "auto, cpu or cuda:N",
            (false, true) => "auto, cpu or cube-cpu",
            (true, true) => "auto, cpu, cuda:N or cube-cpu",
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = Error;

    /// `auto`, `cpu`, `cuda:N`; `cuda` is `cuda:0`. A GPU must be there.
    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "auto" => first_gpu().map(|gpu| gpu.unwrap_or(Self::Cpu)),
            "cpu" => Ok(Self::Cpu),
            #[cfg(feature = "cube-cpu")]
            "cube-cpu" => Ok(Self::CubeCpu),
            "cuda" => gpu(name, 0),
            _ => match name.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(index)) => gpu(name, index),
                _ => Err(Error::Device(format!(
                    "{name} (this build knows {})",
                    Self::names()
                ))),
            },
        }
    }
}

// burn's `Device::default()` names a GPU even where no driver is; it is never asked.
/// A GPU that is there but cannot be used is an error: days on the CPU are not what was meant.
#[cfg(feature = "cuda")]
fn first_gpu() -> Result<Option<DeviceChoice>, Error> {
    let survey = ops::cuda::survey();
    let Some(first) = survey.gpus.first() else {
        return Ok(None);
    };
    match survey.complete(first.index) {
        Ok(()) => Ok(Some(DeviceChoice::Cuda(first.index))),
        Err(why) => Err(Error::Device(format!(
            "auto (there is cuda:{} {}, but {why}; `--device cpu` does without)",
            first.index, first.name
        ))),
    }
}

#[cfg(not(feature = "cuda"))]
fn first_gpu() -> Result<Option<DeviceChoice>, Error> {
    Ok(None)
}

#[cfg(feature = "cuda")]
fn gpu(name: &str, index: usize) -> Result<DeviceChoice, Error> {
    let survey = ops::cuda::survey();
    if let Err(why) = survey.complete(index) {
        return Err(Error::Device(format!("{name} ({why})")));
    }
    if survey.gpus.iter().any(|gpu| gpu.index == index) {
        return Ok(DeviceChoice::Cuda(index));
    }
    let there = survey
        .gpus
        .iter()
        .map(|gpu| format!("cuda:{} {}", gpu.index, gpu.name));
    let there: Vec<String> = there.collect();
    Err(Error::Device(match there.is_empty() {
        true => format!("{name} (the driver knows no GPU)"),
        false => format!("{name} (there is {})", there.join(", ")),
    }))
}

#[cfg(not(feature = "cuda"))]
fn gpu(name: &str, _: usize) -> Result<DeviceChoice, Error> {
    Err(Error::Device(format!(
        "{name} (this build has no GPU back end; `make cuda` builds one)"
    )))
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            #[cfg(feature = "cube-cpu")]
            Self::CubeCpu => f.write_str("cube-cpu"),
        }
    }
}

/// What was asked to multiply in: a type, or the fastest of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComputeChoice {
    Auto,
    Dtype(ComputeDtype),
}

impl ComputeChoice {
    /// The type, `auto` being bf16 on a GPU and what the processor is fastest in on the CPU.
    pub fn on(self, device: DeviceChoice) -> ComputeDtype {
        match self {
            Self::Dtype(dtype) => dtype,
            Self::Auto if device.is_cpu() => ComputeDtype::fastest(),
            Self::Auto => ComputeDtype::Bf16,
        }
    }
}

impl FromStr for ComputeChoice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "auto" => Ok(Self::Auto),
            _ => match name.parse() {
                Ok(dtype) => Ok(Self::Dtype(dtype)),
                Err(_) => Err("one of auto, f32, bf16".into()),
            },
        }
    }
}

impl std::fmt::Display for ComputeChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Dtype(dtype) => dtype.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_is_not_there_is_an_error_and_auto_finds_the_cpu() {
        if !matches!(first_gpu(), Ok(None)) {
            return workspace_tests::skip_here("there is a GPU here");
        }
        assert_eq!("auto".parse::<DeviceChoice>().ok(), Some(DeviceChoice::Cpu));
        let error = "cuda:7"
            .parse::<DeviceChoice>()
            .expect_err("it is not there");
        assert!(error.to_string().contains("cuda:7 ("), "{error}");
        let error = "tpu".parse::<DeviceChoice>().expect_err("unknown");
        assert!(
            error.to_string().contains("this build knows auto"),
            "{error}"
        );
    }
}
