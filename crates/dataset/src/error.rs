//! What can go wrong with an example? Worded for the person at the terminal.

use crate::Role;
use crate::rows::Place;

/// Why a line is no example, or a request about examples cannot be met.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The line is not JSON, or a field has the wrong type; the parser says where.
    #[error("{0}")]
    Json(String),
    /// The line is JSON, and no example; or the file is no table.
    #[error("{0}")]
    Shape(String),
    /// The line holds an answer that is not to be given.
    #[error("{0}")]
    Preference(&'static str),
    /// The same, at a place of a file.
    #[error("{place}: {what}")]
    PreferenceAt { place: Place, what: &'static str },
    /// It is no example, at a place of a file.
    #[error("{place}: {what}")]
    At { place: Place, what: String },
    /// A quote of a table does not quote as its format has it.
    #[error("{place}: {what}")]
    Quotes { place: Place, what: String },
    /// A column that a template names is not there.
    #[error("{place}: no column {column:?}")]
    MissingColumn {
        place: Place,
        column: String,
        columns: Vec<String>,
    },
    /// A cell that a template names is empty.
    #[error("{place}: column {column:?} is empty")]
    EmptyCell { place: Place, column: String },
    /// All that a template makes of a row is white space.
    #[error("{place}: --{role} says nothing")]
    EmptyMessage { place: Place, role: Role },
    /// A template says `row`, which is the whole row and also a column of it.
    #[error("{place}: --{role}: row is the whole row, and also one of its columns")]
    WholeRow { place: Place, role: Role },
    /// A template does not parse or cannot be rendered.
    #[error("{0}")]
    Template(String),
    /// The file could not be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Error {
    pub(crate) fn shape(message: impl Into<String>) -> Error {
        Error::Shape(message.into())
    }

    pub(crate) fn at(place: Place, what: impl Into<String>) -> Error {
        Error::At {
            place,
            what: what.into(),
        }
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

impl From<csv::Error> for Error {
    fn from(error: csv::Error) -> Self {
        match error.into_kind() {
            csv::ErrorKind::Io(error) => Error::Io(error),
            other => Error::Shape(format!("{other:?}")),
        }
    }
}
