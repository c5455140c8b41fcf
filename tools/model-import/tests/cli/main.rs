//! model-import through the door: the command line.

mod gguf;
mod import;
mod refusals;
