//! One file per back end: how its tensors reach the kernels.

mod autodiff;
pub(crate) mod flex;
