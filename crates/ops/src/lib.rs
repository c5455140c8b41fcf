//! The differentiable operations of QLoRA that burn lacks.
//!
//! Read in order: [`reference`] (plain loops, the specification), [`schema`] (signatures),
//! `backends` (how tensors reach kernels, what the tape keeps), [`kernels`] (arithmetic on slices).
//! Models call the functions below; their tensors are f32 (on a GPU activations may be bf16), token-major `[tokens, features]`,
//! batches are ragged: sequences laid end to end, no padding. Results do not depend on the number
//! of threads, to the last bit.

mod allocator;
mod backends;
mod cache;
#[cfg(feature = "cuda")]
pub mod cuda;
mod decoding;
mod format;
mod functions;
mod kernels;
#[cfg(feature = "cube")]
mod launches;
pub mod reference;
pub mod schema;
mod segments;
mod selftest;
#[cfg(test)]
mod tests;
mod threads;
mod weight;

pub use allocator::{CacheLines, tune_heap};
#[cfg(feature = "cube")]
pub use backends::cube::{DeviceDecoding, DeviceKvCache, nf4_codes};
#[cfg(feature = "cube")]
pub use launches::count_launches;
/// Who multiplies on this GPU, for people to read: cuBLAS, or CubeCL and why. Nothing where it is none.
pub fn products(device: &burn::tensor::Device) -> Option<String> {
    backends::products(device)
}

/// Bytes that a GPU's attention scores and logits take at a time: longer ones are computed in chunks
/// that fit. At 32 heads and 2048 keys it is 512 query rows.
pub const GPU_WORKSPACE_BYTES: usize = 384 << 20;

pub use cache::KvCache;
pub use decoding::{Decoding, DecodingLayer, DecodingLinear};
pub use format::{ComputeDtype, DenseDtype, Encoding, WeightFormat};
pub use functions::{
    FanOut, Lora, Parameter, adamw, add, attention, embedding, linear, linear_cross_entropy,
    linear_with_gradient, rms_norm, rotary, sum_of_squares, swiglu, with_gradient,
};
pub use kernels::adamw::AdamW;
pub use kernels::dropout::Dropout;
pub use kernels::simd::Level;
pub use kernels::team::Team;
pub use kernels::tile::multiply_in_cache;
pub use segments::{AttentionKernel, AttentionOptions, Segment, Segments};
pub use selftest::{Check, flash_attention, self_test};
pub use threads::{awake, use_threads};
pub use weight::Weight;
