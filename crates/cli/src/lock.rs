//! Is another run already at work on this folder?

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::Hint;

/// Held while a run works on a folder; released when dropped, and by the kernel when the run dies.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Another run holds the lock: exit status 75, try later.
#[derive(Debug)]
pub struct Locked {
    folder: PathBuf,
}

impl Locked {
    /// Another run holds this folder, or file.
    pub fn new(path: &Path) -> Locked {
        Locked {
            folder: path.to_owned(),
        }
    }
}

impl std::fmt::Display for Locked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: another run is at work here", self.folder.display())
    }
}

impl std::error::Error for Locked {}

impl Lock {
    /// Creates `folder` if need be and locks `folder/.lock`, without waiting.
    pub fn acquire(folder: &Path) -> anyhow::Result<Lock> {
        if folder.is_file() {
            return Err(anyhow::anyhow!(
                "{}: is a file, not a folder",
                folder.display()
            ))
            .hint("choose another folder");
        }
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let path = folder.join(".lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) => {
                Err(Locked::new(folder)).hint("wait for it, or choose another folder")
            }
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| path.display().to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_until_the_first_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let first = Lock::acquire(folder.path()).unwrap();
        let error = Lock::acquire(folder.path()).unwrap_err();
        assert!(
            crate::hint::find(&error, &|cause| cause.downcast_ref::<Locked>().map(drop)).is_some()
        );
        drop(first);
        Lock::acquire(folder.path()).unwrap();
    }
}
