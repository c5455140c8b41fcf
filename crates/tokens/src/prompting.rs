//! What must a prompt for trained weights say that their template does not? `prompt.json` beside them.
//!
//! What was trained on prompts of one template, with one date in them, answers best to the same ones: an
//! adapter, and the base that it was merged into.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Date, Error, Fingerprint};

/// How the examples that were learned were rendered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompting {
    /// The date that the template printed, if it printed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<Date>,
    /// Their tokenizer and template, as far as they are known.
    #[serde(default, skip_serializing_if = "Fingerprint::is_empty")]
    pub fingerprint: Fingerprint,
}

impl Prompting {
    /// Its file's name in the folder of an adapter or a base.
    pub const FILE: &'static str = "prompt.json";

    /// What stands in the folder; without the file, nothing is said.
    pub fn read(folder: &Path) -> Result<Prompting, Error> {
        let path = folder.join(Self::FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(Error::Io { path, source }),
        };
        serde_json::from_slice(&text).map_err(|error| Error::Base {
            path,
            reason: format!(
                "not what training says of its prompts: {error}; without this file the template \
                 prints its own date, and --date another"
            ),
        })
    }

    /// Writes the file, if there is anything to say.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        if *self == Self::default() {
            return Ok(());
        }
        let path = folder.join(Self::FILE);
        let text = serde_json::to_string(self).expect("plain data") + "\n";
        fs::write(&path, text).map_err(|source| Error::Io { path, source })
    }
}
