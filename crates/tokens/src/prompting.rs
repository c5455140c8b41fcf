//! What must a prompt for trained weights say that their template does not? `prompt.json` beside them.
//!
//! What was trained on prompts that print a date answers best to prompts that print the same one: an
//! adapter, and the base that it was merged into.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Date, Error};

/// How the examples that were learned were rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompting {
    /// The date that the template printed.
    pub date: Date,
}

impl Prompting {
    /// Its file's name in the folder of an adapter or a base.
    pub const FILE: &'static str = "prompt.json";

    /// What stands in the folder; none where there is nothing to say.
    pub fn read(folder: &Path) -> Result<Option<Prompting>, Error> {
        let path = folder.join(Self::FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Io { path, source }),
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| Error::Base {
                path,
                reason: format!(
                    "not what training says of its prompts: {error}; without this file the template \
                     prints its own date, and --date another"
                ),
            })
    }

    pub fn write(self, folder: &Path) -> Result<(), Error> {
        let path = folder.join(Self::FILE);
        let text = serde_json::to_string(&self).expect("plain data") + "\n";
        fs::write(&path, text).map_err(|source| Error::Io { path, source })
    }
}
