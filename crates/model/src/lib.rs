//! The decoder on a device: loading a base, LoRA, the loss and its gradients, generation.
//!
//! Read in order: `decoder` (the model as the paper draws it) → `lora` → `load` → `training`
//! (loss, gradients, what is kept and what is recomputed) → `optimizer` → `generation`. `encoder` stands apart:
//! another kind of model, which judges answers.

mod attention;
mod batch;
mod decoder;
mod device;
mod device_memory;
mod encoder;
mod error;
mod generation;
mod load;
mod lora;
mod optimizer;
mod random;
mod rotary;
mod training;

pub use attention::AttentionChoice;
pub use batch::Batch;
pub use decoder::{Decoder, Projection};
pub use device::{ComputeChoice, DeviceChoice};
pub use device_memory::device_memory_errors;
pub use encoder::Encoder;
pub use error::Error;
pub use generation::{Completion, Finish, GenerateOptions};
pub use load::{LoadOptions, Quantize};
pub use lora::{Adapter, LoraConfig};
#[cfg(feature = "cuda")]
pub use ops::cuda::{Gpu, Survey, Version, free_bytes, survey};
pub use ops::{
    AttentionKernel, CacheLines, Check, ComputeDtype, GPU_WORKSPACE_BYTES, tune_heap, use_threads,
};
pub use optimizer::{AdamW, AdamWConfig};
pub use training::{Dropout, Gradients, Loss, Recompute};

/// A base on a device, with or without an adapter on top of it.
pub struct Model {
    pub(crate) decoder: Decoder,
    pub(crate) adapter: Option<Adapter>,
    pub(crate) adapter_enabled: bool,
}

impl Model {
    /// The adapter on top of the base, if one was loaded or made.
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// The adapter, for the optimizer to move.
    pub fn adapter_mut(&mut self) -> Option<&mut Adapter> {
        self.adapter.as_mut()
    }

    /// Puts an adapter on top of the base; it is enabled from then on.
    pub fn set_adapter(&mut self, adapter: Adapter) {
        self.adapter = Some(adapter);
        self.adapter_enabled = true;
    }

    /// With `false`, [`Model::loss`] and [`Model::generate`] answer as the base alone would.
    pub fn set_adapter_enabled(&mut self, enabled: bool) {
        self.adapter_enabled = enabled;
    }

    /// The decoder under the adapter.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    fn active_adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref().filter(|_| self.adapter_enabled)
    }
}
