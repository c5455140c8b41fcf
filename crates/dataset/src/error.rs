//! What can go wrong with an example? Worded for the person at the terminal.

/// Why a line is no example, or a request about examples cannot be met.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The line is not JSON, or a field has the wrong type; the parser says where.
    #[error("{0}")]
    Json(String),
    /// The line is JSON, and no example.
    #[error("{0}")]
    Shape(String),
}

impl Error {
    pub(crate) fn shape(message: impl Into<String>) -> Error {
        Error::Shape(message.into())
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        // A line of JSONL is line 1 to the parser; only its column says anything.
        Error::Json(
            error
                .to_string()
                .replace(" at line 1 column ", " at column "),
        )
    }
}
