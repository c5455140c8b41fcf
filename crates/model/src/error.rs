//! What can go wrong between a base folder and a number, worded for the person at the terminal.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    #[error("{module} is [{got_out}, {got_in}], config.json asks for [{out}, {input}]")]
    WeightShape {
        module: String,
        out: usize,
        input: usize,
        got_out: usize,
        got_in: usize,
    },
    #[error("{0}.weight holds values that are not finite")]
    NonFiniteWeight(String),
    #[error("{tensor} has {got} values, config.json asks for {expected}")]
    TensorSize {
        tensor: String,
        expected: usize,
        got: usize,
    },
    #[error("{dir} is stored in 4-bit, {lost} are gone")]
    AlreadyQuantized { dir: PathBuf, lost: &'static str },
    #[error("that attention: {0}")]
    Attention(String),
    #[error("the adapter has no tensor {0}")]
    AdapterTensorMissing(String),
    #[error("the adapter's {key} is [{got_rows}, {got_cols}], this base needs [{rows}, {cols}]")]
    AdapterShape {
        key: String,
        rows: usize,
        cols: usize,
        got_rows: usize,
        got_cols: usize,
    },
    #[error("the adapter's tensor {0} belongs to no projection of this base")]
    AdapterTensorUnknown(String),
    #[error("target module {0:?} is not one of {known}", known = crate::decoder::Projection::names())]
    UnknownTarget(String),
    #[error("token id {id} is outside the model's vocabulary of {vocab_size}")]
    TokenId { id: u32, vocab_size: usize },
    #[error("a prompt is empty: there is nothing to continue")]
    EmptyPrompt,
    #[error("the batch has no supervised token")]
    NothingSupervised,
    #[error("the loss is {0}: not a finite number")]
    NonFiniteLoss(f64),
    #[error(
        "the hidden state of a token is not finite: weights of the base or of the adapter are damaged"
    )]
    NonFiniteState,
    #[error("no such device: {0}")]
    Device(String),
    #[error("the GPU has not enough memory: {0}")]
    DeviceMemory(String),
}
