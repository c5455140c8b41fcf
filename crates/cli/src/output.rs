//! Where does a tool write to? Standard output, or a file that appears whole or not at all.

use std::convert::Infallible;
use std::fmt::{self, Display};
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context;
use serde::{Serialize, Serializer};
use tempfile::NamedTempFile;

use crate::{descriptor, signals};

const BUFFER_BYTES: usize = 1 << 18;

/// A file, or standard output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Output {
    /// `-`
    #[default]
    Stdout,
    /// Anything else
    File(PathBuf),
}

impl Output {
    /// The name for messages: the path, or `<stdout>`.
    pub fn name(&self) -> String {
        match self {
            Output::Stdout => "<stdout>".into(),
            Output::File(path) => path.display().to_string(),
        }
    }

    /// Begins to write. Nothing is seen at the path before [`OutputWriter::commit`] or [`crate::publish`];
    /// a pipe, a device or a descriptor is written to directly. Open the inputs first.
    pub fn create(&self) -> anyhow::Result<OutputWriter> {
        let target = match self {
            Output::Stdout => {
                let stdout = descriptor::duplicate(libc::STDOUT_FILENO);
                Target::Direct(stdout.with_context(|| self.name())?)
            }
            Output::File(path) => match (descriptor::named_by(path), fs::metadata(path)) {
                // What the shell has opened is gone on with where it stands, never replaced.
                (Some(number), _) => {
                    Target::Direct(descriptor::duplicate(number).with_context(|| self.name())?)
                }
                (_, Ok(meta)) if meta.is_dir() => anyhow::bail!("{}: is a directory", self.name()),
                (_, Ok(meta)) if !meta.is_file() => Target::Direct(
                    OpenOptions::new()
                        .write(true)
                        .open(path)
                        .with_context(|| self.name())?,
                ),
                // A link stays a link; what it points to is replaced, or made.
                (_, old) => Target::beside(resolved(path), old.ok())
                    .with_context(|| format!("writing {}", self.name()))?,
            },
        };
        Ok(OutputWriter {
            name: self.name(),
            target: BufWriter::with_capacity(BUFFER_BYTES, target),
        })
    }
}

/// Bytes on their way to an [`Output`]. Dropped without [`commit`](Self::commit), they are gone.
#[derive(Debug)]
pub struct OutputWriter {
    name: String,
    target: BufWriter<Target>,
}

impl OutputWriter {
    /// Flushes, syncs to disk and renames into place. Several outputs of a run: [`crate::publish`].
    pub fn commit(self) -> anyhow::Result<()> {
        self.synced()?.map_or(Ok(()), SyncedFile::put_in_place)
    }

    /// Flushes and syncs to disk: after this no full disk can come between. `None` where it was written to
    /// directly.
    pub(crate) fn synced(mut self) -> anyhow::Result<Option<SyncedFile>> {
        self.flush()?;
        let name = self.name;
        match self
            .target
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?
        {
            Target::Direct(_) => Ok(None),
            Target::Beside { temporary, path } => {
                let synced = temporary.as_file().sync_all();
                synced.with_context(|| format!("writing {name}"))?;
                Ok(Some(SyncedFile {
                    name,
                    temporary,
                    path,
                }))
            }
        }
    }
}

/// A whole file beside its place.
pub(crate) struct SyncedFile {
    name: String,
    temporary: NamedTempFile,
    path: PathBuf,
}

impl SyncedFile {
    pub fn put_in_place(self) -> anyhow::Result<()> {
        let SyncedFile {
            name,
            temporary,
            path,
        } = self;
        let put = || -> io::Result<()> {
            let was = temporary.path().to_owned();
            temporary.persist(&path).map_err(|error| error.error)?;
            signals::keep(&was);
            sync_folder(parent(&path))
        };
        put().with_context(|| format!("writing {name}"))
    }
}

impl Write for OutputWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.target
            .write(bytes)
            .map_err(|error| named(&self.name, error))
    }
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.target
            .write_all(bytes)
            .map_err(|error| named(&self.name, error))
    }
    fn flush(&mut self) -> io::Result<()> {
        self.target
            .flush()
            .map_err(|error| named(&self.name, error))
    }
}

#[derive(Debug)]
enum Target {
    Direct(File),
    Beside {
        temporary: NamedTempFile,
        path: PathBuf,
    },
}

impl Target {
    /// A file in the folder of `path`, with the mode of the `old` one there: notes that only their
    /// writer may read stay so.
    fn beside(path: PathBuf, old: Option<Metadata>) -> io::Result<Target> {
        let mode = old.map(|old| old.permissions().mode() & 0o7777);
        let folder = parent(&path);
        fs::metadata(folder)?; // a folder that is not there is told without the temporary's name
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let temporary = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .suffix(".tmp")
            .permissions(Permissions::from_mode(mode.unwrap_or(0o666))) // the umask is taken off by the kernel
            .tempfile_in(folder)?;
        signals::remove_on_exit(temporary.path());
        if let Some(mode) = mode {
            let file = temporary.as_file();
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        Ok(Target::Beside { temporary, path })
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Target::Direct(file) => file.write(bytes),
            Target::Beside { temporary, .. } => temporary.as_file_mut().write(bytes),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The path that a write to `path` ends at: links are followed, to a file that is not there yet too.
pub(crate) fn resolved(path: &Path) -> PathBuf {
    const LINKS: usize = 40; // as many as Linux follows
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        match fs::read_link(&path) {
            Ok(target) => path = parent(&path).join(target),
            Err(_) => break,
        }
    }
    match (fs::canonicalize(parent(&path)), path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => fs::canonicalize(&path).unwrap_or(path), // it ends in `..`
    }
}

/// The folder a path lies in.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Makes a rename inside `folder` survive a power cut.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn named(name: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("writing {name}: {error}"))
}

impl FromStr for Output {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(if text == "-" {
            Output::Stdout
        } else {
            Output::File(text.into())
        })
    }
}

impl Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Output::Stdout => f.write_str("-"),
            Output::File(path) => path.display().fmt(f),
        }
    }
}

impl Serialize for Output {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        fs::write(&path, "old").unwrap();
        let mut dropped = Output::File(path.clone()).create().unwrap();
        dropped.write_all(b"half").unwrap();
        drop(dropped);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        let mut kept = Output::File(path.clone()).create().unwrap();
        kept.write_all(b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        kept.commit().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_ne!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&real, "old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let mut writer = Output::File(link.clone()).create().unwrap();
        writer.write_all(b"new").unwrap();
        writer.commit().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&real).unwrap(), "new");
    }

    #[test]
    fn a_device_is_written_to_and_not_replaced() {
        let mut null = Output::File("/dev/null".into()).create().unwrap();
        null.write_all(b"gone").unwrap();
        null.commit().unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn a_full_disk_is_an_error_that_names_the_output() {
        let mut full = Output::File("/dev/full".into()).create().unwrap();
        full.write_all(b"x").unwrap();
        let error = full.commit().unwrap_err();
        assert!(
            format!("{error:#}").starts_with("writing /dev/full: No space left"),
            "{error:#}"
        );
    }
}
