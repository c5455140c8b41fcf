//! What is inside a GGUF file, llama.cpp's own format?
//!
//! Version 2 or 3: a header, key-value pairs, tensor descriptions, then the data. [`Gguf::open`]
//! holds every count, length and offset against the file before using it; a file that is cut off
//! or made to deceive gives an [`Error`](crate::Error) with the byte where it stops making sense.

mod blocks;
mod cursor;
mod file;
mod llama;
mod value;

pub use blocks::TensorType;
pub use file::{Gguf, TensorInfo};
pub use llama::{hugging_face_name, unpermute};
pub use value::Value;
