//! What is a tensor in a file?

use crate::{Dtype, Error};
use std::path::Path;

/// A tensor where it lies in its mapped file.
#[derive(Clone, Debug)]
pub struct TensorView<'a> {
    pub dtype: Dtype,
    /// Row-major, outermost dimension first.
    pub shape: Vec<usize>,
    /// Little-endian, as many as `dtype` and `shape` say.
    pub bytes: &'a [u8],
    pub(crate) path: &'a Path,
    pub(crate) name: &'a str,
}

impl TensorView<'_> {
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// The values in f32; an error for integers.
    pub fn to_f32(&self) -> Result<Vec<f32>, Error> {
        self.dtype.decode(self.bytes).ok_or_else(|| {
            self.error(format!(
                "holds {}, where floating-point numbers are needed",
                self.dtype
            ))
        })
    }

    /// The same, after checking the shape.
    pub fn to_f32_of_shape(&self, shape: &[usize]) -> Result<Vec<f32>, Error> {
        if self.shape != shape {
            return Err(self.error(format!("has shape {:?}, not {shape:?}", self.shape)));
        }
        self.to_f32()
    }

    /// Whether all values are finite in f32.
    pub fn is_finite(&self) -> bool {
        self.dtype.are_finite(self.bytes)
    }

    /// The file it lies in.
    pub fn path(&self) -> &Path {
        self.path
    }

    pub(crate) fn error(&self, message: impl Into<String>) -> Error {
        Error::tensor(self.path, self.name, message)
    }
}
