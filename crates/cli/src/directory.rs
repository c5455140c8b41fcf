//! How does a folder of outputs appear whole or not at all?

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use tempfile::TempDir;

use crate::output::{parent, sync_folder};
use crate::{Hint, progress, signals};

const SUFFIX: &str = ".tmp";
const RANDOM: usize = 6; // letters that make a staged folder's name its own

/// A folder being filled beside its target; dropped unpublished, it is gone.
#[derive(Debug)]
pub struct AtomicDir {
    staged: TempDir,
    target: PathBuf,
    /// Held as long as somebody writes here; none where the file system has no locks.
    lock: Option<File>,
}

impl AtomicDir {
    /// Begins a folder that will stand at `target`. An older folder there is kept until
    /// [`publish`](Self::publish), and replaced only when every entry in it satisfies `is_ours`:
    /// nobody loses a home directory to a mistyped `--out-dir`. What a killed run left beside it is removed.
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
        let prefix = format!(".{name}.");
        remove_abandoned(folder, &prefix);
        let (staged, lock) =
            stage(folder, &prefix).with_context(|| format!("writing {}", target.display()))?;
        signals::remove_on_exit(staged.path());
        keep_mode(&target, staged.path())
            .with_context(|| format!("writing {}", target.display()))?;
        Ok(AtomicDir {
            staged,
            target,
            lock,
        })
    }

    /// Refuses what [`create`](Self::create) would refuse, long before there is anything to write.
    pub fn check(target: &Path, is_ours: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        refuse_foreign(target, is_ours)
    }

    /// Where to write the files.
    pub fn path(&self) -> &Path {
        self.staged.path()
    }

    /// Where the folder will stand.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// A hidden file beside the folder, for what is to outlive a run that does not get to the end: `.NAME.what`.
    pub fn beside(&self, what: &str) -> PathBuf {
        let name = self.target.file_name().unwrap_or_default();
        parent(&self.target).join(format!(".{}.{what}", name.to_string_lossy()))
    }

    /// Syncs every file and puts the folder in its place, whole; the older one is removed after. Beside other
    /// outputs of a run: [`crate::publish`].
    pub fn publish(self) -> anyhow::Result<()> {
        self.synced()?.put_in_place()
    }

    /// Syncs every file: after this no full disk can come between.
    pub(crate) fn synced(self) -> anyhow::Result<SyncedDir> {
        let AtomicDir {
            staged,
            target,
            lock,
        } = self;
        let sync = || -> io::Result<()> {
            for entry in fs::read_dir(staged.path())? {
                let entry = entry?;
                keep_mode(&target.join(entry.file_name()), &entry.path())?;
            }
            sync_all(staged.path())
        };
        sync().with_context(|| format!("writing {}", target.display()))?;
        Ok(SyncedDir {
            staged,
            target,
            _lock: lock,
        })
    }
}

/// A whole folder beside its place.
pub(crate) struct SyncedDir {
    staged: TempDir,
    target: PathBuf,
    _lock: Option<File>,
}

impl SyncedDir {
    pub fn put_in_place(self) -> anyhow::Result<()> {
        let SyncedDir { staged, target, .. } = &self;
        let put = || -> io::Result<()> {
            if !target.exists() {
                fs::rename(staged.path(), target)?;
            } else if exchange(staged.path(), target).is_err() {
                // A file system that cannot exchange: no signal may end the run between the renames.
                signals::undisturbed(|| exchange_by_renames(staged.path(), target))?;
            }
            sync_folder(parent(target))
        };
        put().with_context(|| format!("writing {}", target.display()))?;
        signals::keep(staged.path());
        // After an exchange the staged folder is the older one, after a rename there is none.
        match self.staged.close() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => progress::note(format_args!(
                "{}: is written, but what it replaced is not all removed: {error}",
                self.target.display()
            )),
            _ => {}
        }
        Ok(())
    }
}

/// Makes a folder that nobody else writes, and locks it. A run that looks for abandoned ones may come
/// between the two: then it is made again.
fn stage(folder: &Path, prefix: &str) -> io::Result<(TempDir, Option<File>)> {
    loop {
        let staged = tempfile::Builder::new()
            .prefix(prefix)
            .rand_bytes(RANDOM)
            .suffix(SUFFIX)
            .permissions(fs::Permissions::from_mode(0o777)) // less the umask
            .tempdir_in(folder)?;
        let locked = File::open(staged.path())
            .map_err(TryLockError::Error)
            .and_then(|lock| lock.try_lock().map(|()| lock));
        match locked {
            Ok(lock) if staged.path().exists() => return Ok((staged, Some(lock))),
            Err(TryLockError::Error(error)) if error.kind() != io::ErrorKind::NotFound => {
                return Ok((staged, None));
            }
            _ => {}
        }
    }
}

/// Removes the staged folders whose writers are gone: the kernel has given up their locks. Whatever stands
/// in the way of that is no reason not to write.
fn remove_abandoned(folder: &Path, prefix: &str) {
    let is_staged = |name: &str| {
        let random = name
            .strip_prefix(prefix)
            .and_then(|name| name.strip_suffix(SUFFIX));
        random.is_some_and(|random| {
            random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
        })
    };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && entry.file_name().to_str().is_some_and(is_staged) {
            let lock = File::open(entry.path());
            if lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
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
            return Err(anyhow!(
                "{}: holds {name}, which this tool does not write; the folder would be replaced",
                target.display()
            ))
            .hint("choose a folder of its own, or move the file away");
        }
    }
    Ok(())
}

fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

/// The same in three steps. Where the second fails the older folder is back in its place.
fn exchange_by_renames(staged: &Path, target: &Path) -> io::Result<()> {
    let aside = staged.with_extension("old");
    fs::rename(target, &aside)?;
    if let Err(error) = fs::rename(staged, target) {
        fs::rename(&aside, target)?;
        return Err(error);
    }
    fs::rename(&aside, staged)
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
    fn folders_change_places_by_renames_and_a_rename_that_fails_loses_none() {
        let root = tempfile::tempdir().unwrap();
        let (staged, target) = (root.path().join(".base.tmp"), root.path().join("base"));
        fs::create_dir(&target).unwrap();
        fs::write(target.join("config.json"), "old").unwrap();
        exchange_by_renames(&staged, &target).unwrap_err();
        let read = |folder: &Path| fs::read_to_string(folder.join("config.json")).unwrap();
        assert_eq!(read(&target), "old");
        fs::create_dir(&staged).unwrap();
        fs::write(staged.join("config.json"), "new").unwrap();
        exchange_by_renames(&staged, &target).unwrap();
        assert_eq!((read(&target), read(&staged)), ("new".into(), "old".into()));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_a_killed_run_left_is_removed_and_what_a_live_one_writes_is_not() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("base");
        let others = [".base.v2.Ab12Cd.tmp", ".base.Ab12C.tmp", "base.Ab12Cd.tmp"];
        for name in [".base.Ab12Cd.tmp", ".base.Ef34Gh.tmp"]
            .iter()
            .chain(&others)
        {
            fs::create_dir(root.path().join(name)).unwrap();
            fs::write(root.path().join(name).join("weights"), "half").unwrap();
        }
        let live = AtomicDir::create(&target, |_| true).unwrap();
        fs::write(live.path().join("config.json"), "live").unwrap();
        let second = AtomicDir::create(&target, |_| true).unwrap();
        let mut left: Vec<PathBuf> = fs::read_dir(root.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        let mut expected = others.map(|name| root.path().join(name)).to_vec();
        expected.extend([live.path().to_owned(), second.path().to_owned()]);
        left.sort();
        expected.sort();
        assert_eq!(left, expected);
        drop(second);
        live.publish().unwrap();
        let written = fs::read_to_string(target.join("config.json")).unwrap();
        assert_eq!(written, "live");
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
