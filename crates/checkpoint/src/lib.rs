//! How do models lie on disk?
//!
//! A [`Base`] is a Hugging Face folder: `config.json` and safetensors, whole or sharded, in full
//! precision or in bitsandbytes' 4 bits; or the same as a snapshot in the local Hugging Face
//! cache; an [`EncoderBase`] is the same of a BERT or RoBERTa. [`adapter`] reads and writes PEFT's
//! LoRA folders, [`gguf`] reads llama.cpp's files, [`beside`] copies what goes with weights, and
//! [`SafetensorsWriter`] writes models too large to hold.
//!
//! Files are mapped into memory and read where they lie. Nothing here knows tensors of a
//! computing library, tokens or the network. Every file is taken for hostile until checked:
//! offsets and counts are held against the file's length before they are used.

pub mod adapter;
mod base;
pub mod beside;
pub mod bitsandbytes;
mod config;
mod dtype;
mod dtype_choice;
mod encoder;
mod error;
pub mod fingerprint;
mod folder;
pub mod gguf;
mod json;
mod layout;
pub mod python;
mod rope;
mod safetensors_file;
mod safetensors_writer;
mod tensor;
mod tensors;

pub use base::{Base, LinearWeight};
pub use config::{ModelConfig, ModelType};
pub use dtype::Dtype;
pub use dtype_choice::DtypeChoice;
pub use encoder::{Activation, EncoderBase, EncoderConfig};
pub use error::Error;
pub use folder::resolve;
pub use layout::{Part, Role, parts};
pub use rope::{Rope, RopeScaling};
pub use safetensors_file::SafetensorsFile;
pub use safetensors_writer::{Entry, SafetensorsWriter};
pub use tensor::TensorView;
