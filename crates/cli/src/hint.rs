//! How does an error tell the way out? A hint travels with it and is printed on a line of its own.

use std::error::Error;
use std::fmt::{self, Display};
use std::io;

/// Attaches the way out to an error: `tool: message`, then `hint: …`.
pub trait Hint {
    /// The same thing, carrying a hint.
    type Hinted;
    /// Attaches `hint`, worded as what to do next.
    fn hint(self, hint: impl Display) -> Self::Hinted;
}

impl Hint for anyhow::Error {
    type Hinted = anyhow::Error;
    fn hint(self, hint: impl Display) -> anyhow::Error {
        anyhow::Error::new(Hinted {
            error: self,
            hint: hint.to_string(),
        })
    }
}

impl<T, E: Into<anyhow::Error>> Hint for Result<T, E> {
    type Hinted = anyhow::Result<T>;
    fn hint(self, hint: impl Display) -> anyhow::Result<T> {
        self.map_err(|error| error.into().hint(hint))
    }
}

/// An error with a way out; prints as the error alone.
#[derive(Debug)]
struct Hinted {
    error: anyhow::Error,
    hint: String,
}

impl Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for Hinted {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // `{:#}` of an outer error walks this chain; `{}` above prints only the first link.
        self.error.source()
    }
}

/// What a tool's ledger failed with as it was finished: a foreign one says where the right one is.
pub fn ledger_error(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::InvalidData => anyhow::Error::new(error)
            .hint("--ledger-from takes what --ledger wrote when this input was made"),
        _ => error.into(),
    }
}

/// The hints of an error, outermost first.
pub(crate) fn hints(error: &anyhow::Error) -> Vec<&str> {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<Hinted>())
        .flat_map(|hinted| std::iter::once(hinted.hint.as_str()).chain(hints(&hinted.error)))
        .fold(Vec::new(), |mut seen, hint| {
            if !seen.contains(&hint) {
                seen.push(hint);
            }
            seen
        })
}

/// The kind of the first i/o error among the causes.
pub(crate) fn io_kind(error: &anyhow::Error) -> Option<io::ErrorKind> {
    find(error, &|cause| {
        cause.downcast_ref::<io::Error>().map(io::Error::kind)
    })
}

/// Looks through the causes, and through what a hint wraps.
pub(crate) fn find<T>(
    error: &anyhow::Error,
    look: &dyn Fn(&(dyn Error + 'static)) -> Option<T>,
) -> Option<T> {
    error
        .chain()
        .find_map(|cause| match cause.downcast_ref::<Hinted>() {
            Some(hinted) => find(&hinted.error, look),
            None => look(cause),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    #[test]
    fn a_hint_is_found_below_later_context_and_changes_no_message() {
        let error = anyhow!("cause")
            .context("message")
            .hint("the way out")
            .context("reading a.json");
        assert_eq!(format!("{error:#}"), "reading a.json: message: cause");
        assert_eq!(hints(&error), ["the way out"]);
    }

    #[test]
    fn an_io_error_is_found_below_a_hint() {
        let broken: Result<(), _> = Err(io::Error::from(io::ErrorKind::BrokenPipe));
        let error = broken.hint("none").context("writing").unwrap_err();
        assert_eq!(io_kind(&error), Some(io::ErrorKind::BrokenPipe));
    }
}
