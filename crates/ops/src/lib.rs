//! The differentiable operations of QLoRA that burn lacks.
//!
//! Read in order: [`reference`] (plain loops, the specification), [`schema`] (signatures),
//! `backends` (how tensors reach kernels, what the tape keeps), [`kernels`] (arithmetic on slices).
//! Models call the functions below; their tensors are f32, token-major `[tokens, features]`,
//! batches are ragged: sequences laid end to end, no padding. Results do not depend on the number
//! of threads, to the last bit.

mod allocator;
mod backends;
mod cache;
mod decoding;
mod format;
mod functions;
pub mod kernels;
pub mod reference;
pub mod schema;
mod segments;
#[cfg(test)]
mod tests;
mod weight;

pub use allocator::keep_freed_memory;
pub use cache::KvCache;
pub use decoding::{Decoding, DecodingLayer, DecodingLinear};
pub use format::{ComputeDtype, DenseDtype, Encoding, WeightFormat};
pub use functions::{
    Lora, Parameter, adamw, attention, embedding, linear, linear_cross_entropy, rms_norm, rotary,
    sum_of_squares, swiglu,
};
pub use kernels::adamw::AdamW;
pub use kernels::dropout::Dropout;
pub use kernels::team::Team;
pub use segments::{AttentionOptions, Segment, Segments};
pub use weight::Weight;
