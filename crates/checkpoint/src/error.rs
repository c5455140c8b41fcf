//! What can be wrong with a file, in words for whoever has it?

use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}", .path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    /// The file as a whole is not what its name says.
    #[error("{}: {message}", .path.display())]
    File { path: PathBuf, message: String },
    /// One tensor of the file is not as it should be.
    #[error("{}: {tensor}: {message}", .path.display())]
    Tensor {
        path: PathBuf,
        tensor: String,
        message: String,
    },
    /// A binary file stops making sense at this byte.
    #[error("{}: byte {offset}: {message}", .path.display())]
    Byte {
        path: PathBuf,
        offset: u64,
        message: String,
    },
}

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    }

    pub(crate) fn file(path: &Path, message: impl Into<String>) -> Error {
        Error::File {
            path: path.to_owned(),
            message: message.into(),
        }
    }

    pub(crate) fn tensor(path: &Path, tensor: &str, message: impl Into<String>) -> Error {
        Error::Tensor {
            path: path.to_owned(),
            tensor: tensor.to_owned(),
            message: message.into(),
        }
    }
}
