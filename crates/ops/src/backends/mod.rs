//! One file per back end: how its tensors reach the kernels.

mod autodiff;
#[cfg(feature = "cube")]
pub(crate) mod cube;
pub(crate) mod flex;
