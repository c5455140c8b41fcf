//! Where does a tool read from? A file, or standard input when it says `-` or nothing.

use std::convert::Infallible;
use std::fmt::{self, Display};
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, bail};
use serde::{Serialize, Serializer};

use crate::progress;

const BUFFER_BYTES: usize = 1 << 18;

/// A file, or standard input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Input {
    /// `-`
    #[default]
    Stdin,
    /// Anything else
    File(PathBuf),
}

impl Input {
    /// The name for messages: the path, or `<stdin>`.
    pub fn name(&self) -> String {
        match self {
            Input::Stdin => "<stdin>".into(),
            Input::File(path) => path.display().to_string(),
        }
    }

    /// Opens it for reading, unbuffered.
    pub fn open_raw(&self) -> anyhow::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Input::Stdin => {
                if io::stdin().is_terminal() {
                    progress::note("reading from the terminal; end with Ctrl-D");
                }
                Box::new(File::from(
                    io::stdin()
                        .as_fd()
                        .try_clone_to_owned()
                        .context("<stdin>")?,
                ))
            }
            Input::File(path) => {
                let file = File::open(path).with_context(|| self.name())?;
                if file.metadata().with_context(|| self.name())?.is_dir() {
                    bail!("{}: is a directory", self.name());
                }
                Box::new(file)
            }
        })
    }

    /// Opens it for reading by lines.
    pub fn open(&self) -> anyhow::Result<Box<dyn BufRead + Send>> {
        Ok(Box::new(BufReader::with_capacity(
            BUFFER_BYTES,
            self.open_raw()?,
        )))
    }

    /// Its size, when it is a regular file: what a progress bar counts up to.
    pub fn bytes(&self) -> Option<u64> {
        match self {
            Input::Stdin => None,
            Input::File(path) => path
                .metadata()
                .ok()
                .filter(|meta| meta.is_file())
                .map(|meta| meta.len()),
        }
    }
}

impl FromStr for Input {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(if text == "-" {
            Input::Stdin
        } else {
            Input::File(text.into())
        })
    }
}

impl Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Input::Stdin => f.write_str("-"),
            Input::File(path) => path.display().fmt(f),
        }
    }
}

impl Serialize for Input {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
