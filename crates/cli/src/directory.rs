//! How does a folder of outputs appear whole or not at all?

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::Hint;
use crate::output::{parent, sync_folder};
use crate::signals;

/// A folder being filled beside its target; dropped unpublished, it is gone.
#[derive(Debug)]
pub struct AtomicDir {
    staged: TempDir,
    target: PathBuf,
}

impl AtomicDir {
    /// Begins a folder that will stand at `target`. An older folder there is kept until
    /// [`publish`](Self::publish), and replaced only when every entry in it satisfies `is_ours`:
    /// nobody loses a home directory to a mistyped `--out-dir`.
    pub fn create(target: &Path, is_ours: impl Fn(&str) -> bool) -> anyhow::Result<AtomicDir> {
        let target = match fs::symlink_metadata(target) {
            Ok(_) => fs::canonicalize(target).with_context(|| target.display().to_string())?,
            Err(_) => target.to_owned(),
        };
        refuse_foreign(&target, is_ours)?;
        let folder = parent(&target);
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let name = target
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let staged = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .suffix(".tmp")
            .permissions(fs::Permissions::from_mode(0o777)) // less the umask
            .tempdir_in(folder)
            .with_context(|| format!("writing {}", target.display()))?;
        signals::remove_on_exit(staged.path());
        keep_mode(&target, staged.path())
            .with_context(|| format!("writing {}", target.display()))?;
        Ok(AtomicDir { staged, target })
    }

    /// Where to write the files.
    pub fn path(&self) -> &Path {
        self.staged.path()
    }

    /// Where the folder will stand.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Syncs every file and puts the folder in its place, whole; the older one is removed after. Beside other
    /// outputs of a run: [`crate::publish`].
    pub fn publish(self) -> anyhow::Result<()> {
        self.synced()?.put_in_place()
    }

    /// Syncs every file: after this no full disk can come between.
    pub(crate) fn synced(self) -> anyhow::Result<SyncedDir> {
        let AtomicDir { staged, target } = self;
        let sync = || -> io::Result<()> {
            for entry in fs::read_dir(staged.path())? {
                let entry = entry?;
                keep_mode(&target.join(entry.file_name()), &entry.path())?;
            }
            sync_all(staged.path())
        };
        sync().with_context(|| format!("writing {}", target.display()))?;
        Ok(SyncedDir { staged, target })
    }
}

/// A whole folder beside its place.
pub(crate) struct SyncedDir {
    staged: TempDir,
    target: PathBuf,
}

impl SyncedDir {
    pub fn put_in_place(self) -> anyhow::Result<()> {
        let SyncedDir { staged, target } = self;
        let put = || -> io::Result<()> {
            if !target.exists() {
                fs::rename(staged.path(), &target)?;
            } else if exchange(staged.path(), &target).is_err() {
                // A file system that cannot exchange: the old folder steps aside for a moment.
                let aside = staged.path().with_extension("old");
                fs::rename(&target, &aside)?;
                fs::rename(staged.path(), &target)?;
                fs::remove_dir_all(&aside)?;
            }
            sync_folder(parent(&target))
        };
        put().with_context(|| format!("writing {}", target.display()))?;
        signals::keep(staged.path());
        drop(staged); // after an exchange this is the older folder
        Ok(())
    }
}

/// Who may read the old one may read the new one, and nobody else.
fn keep_mode(old: &Path, new: &Path) -> io::Result<()> {
    match fs::metadata(old) {
        Ok(old) => {
            let mut permissions = old.permissions();
            if old.is_dir() {
                permissions.set_mode(permissions.mode() | 0o700); // it is yet to be filled
            }
            fs::set_permissions(new, permissions)
        }
        Err(_) => Ok(()),
    }
}

fn refuse_foreign(target: &Path, is_ours: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    let entries = match fs::read_dir(target) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| target.display().to_string()),
    };
    for entry in entries {
        let name = entry
            .with_context(|| target.display().to_string())?
            .file_name();
        let name = name.to_string_lossy();
        if !is_ours(&name) {
            let refusal: anyhow::Result<()> = (|| {
                bail!(
                    "{}: holds {name}, which this tool does not write; the folder would be replaced",
                    target.display()
                )
            })();
            return refusal.hint("choose a folder of its own, or move the file away");
        }
    }
    Ok(())
}

fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

fn sync_all(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => sync_all(&entry.path())?,
            kind if kind.is_file() => fs::File::open(entry.path())?.sync_all()?,
            _ => {}
        }
    }
    sync_folder(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_folder_replaces_the_older_one_and_leaves_nothing_beside() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("base");
        for text in ["one", "two"] {
            let dir = AtomicDir::create(&target, |name| name == "config.json").unwrap();
            fs::write(dir.path().join("config.json"), text).unwrap();
            dir.publish().unwrap();
            assert_eq!(
                fs::read_to_string(target.join("config.json")).unwrap(),
                text
            );
        }
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_unpublished_folder_leaves_the_older_one_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("base");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("config.json"), "old").unwrap();
        let dir = AtomicDir::create(&target, |_| true).unwrap();
        fs::write(dir.path().join("config.json"), "new").unwrap();
        drop(dir);
        assert_eq!(
            fs::read_to_string(target.join("config.json")).unwrap(),
            "old"
        );
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_replaced_folder_and_its_files_keep_who_may_read_them() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("split");
        let file = target.join("train.jsonl");
        fs::create_dir(&target).unwrap();
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let dir = AtomicDir::create(&target, |_| true).unwrap();
        fs::write(dir.path().join("train.jsonl"), "new").unwrap();
        dir.publish().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&target), mode(&file)), (0o700, 0o600));
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
    }

    #[test]
    fn a_folder_with_foreign_files_is_refused() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("thesis.tex"), "").unwrap();
        let error = AtomicDir::create(root.path(), |name| name == "config.json").unwrap_err();
        assert!(
            format!("{error:#}").contains("holds thesis.tex"),
            "{error:#}"
        );
    }
}
