//! What is inside a GGUF file, llama.cpp's own format, and how is a small one written?
//!
//! Version 2 or 3: a header, key-value pairs, tensor descriptions, then the data. [`Gguf::open`]
//! holds every count, length and offset against the file before using it; a file that is cut off
//! or made to deceive gives an [`Error`](crate::Error) with the byte where it stops making sense.

mod blocks;
mod cursor;
mod file;
mod k_quants;
mod llama;
mod value;
mod writer;

pub use blocks::TensorType;
pub use file::{Gguf, TensorInfo};
pub use llama::{hugging_face_name, llama_cpp_name, permute, unpermute};
pub use value::Value;
pub use writer::{GgufWriter, Key};
