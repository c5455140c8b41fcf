//! Which folder holds the files, when the name given is that of a cache entry?

use crate::Error;
use std::path::{Path, PathBuf};

/// What a model, an adapter and a tokenizer are told by.
const OF_A_SNAPSHOT: [&str; 3] = ["config.json", "adapter_config.json", "tokenizer.json"];

/// Follows a Hugging Face cache entry to its snapshot.
///
/// `models--ORG--NAME/refs/main` names the commit whose files lie in `snapshots/COMMIT/`. A
/// folder that has files of a model, an adapter or a tokenizer is its own answer.
pub fn resolve(dir: &Path) -> Result<PathBuf, Error> {
    let metadata = std::fs::metadata(dir).map_err(Error::io(dir))?;
    if !metadata.is_dir() {
        return Err(Error::file(
            dir,
            "is a file; a model or an adapter is a folder with files in it",
        ));
    }
    let snapshots = dir.join("snapshots");
    let is_snapshot = OF_A_SNAPSHOT.iter().any(|name| dir.join(name).exists());
    if is_snapshot || !snapshots.is_dir() {
        return Ok(dir.to_owned());
    }
    let main = dir.join("refs").join("main");
    if main.exists() {
        let commit = std::fs::read_to_string(&main).map_err(Error::io(&main))?;
        let commit = commit.trim();
        if commit.is_empty() || !commit.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Error::file(
                &main,
                format!("holds {commit:?}, not a commit"),
            ));
        }
        let snapshot = snapshots.join(commit);
        return match snapshot.is_dir() {
            true => Ok(snapshot),
            false => Err(Error::file(
                &main,
                format!("names {commit}, which is not downloaded"),
            )),
        };
    }
    let entries = std::fs::read_dir(&snapshots).map_err(Error::io(&snapshots))?;
    let mut found = Vec::new();
    for entry in entries {
        found.push(entry.map_err(Error::io(&snapshots))?.path());
    }
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Error::file(
            &snapshots,
            "is empty: nothing has been downloaded",
        )),
        _ => Err(Error::file(
            dir,
            "has several snapshots and no refs/main; name one of snapshots/*",
        )),
    }
}
