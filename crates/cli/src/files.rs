//! Do a run's files get in each other's way? An output over another, or over what is read, loses data.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};

use crate::output::resolved;
use crate::{Hint, Input, Output, descriptor};

const STDIN: i32 = 0;
const STDOUT: i32 = 1;

/// All that a run reads and writes, by the flags that name it. Build it right after parsing, and
/// [`check`](Self::check) it before anything is opened.
#[derive(Clone, Debug, Default)]
pub struct Files {
    read: Vec<Named>,
    written: Vec<Named>,
    /// Of `written`, the one that may stand in the place of a single FILE.
    main: Option<usize>,
    replaced: Vec<(&'static str, PathBuf)>,
}

#[derive(Clone, Debug)]
struct Named {
    flag: &'static str,
    /// As it was written.
    name: String,
    place: Place,
}

/// What two names of the same thing share.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Descriptor(i32),
    /// Resolved. Of a pipe every byte is read by one reader only.
    Path {
        path: PathBuf,
        is_pipe: bool,
    },
    /// /dev/null, a terminal: any number may use it.
    Device,
}

impl Files {
    /// Inputs, which may be read by this flag alone.
    pub fn reads<'a>(
        mut self,
        flag: &'static str,
        inputs: impl IntoIterator<Item = &'a Input>,
    ) -> Files {
        self.read
            .extend(inputs.into_iter().map(|input| match input {
                Input::Stdin => named(flag, input.to_string(), Place::Descriptor(STDIN)),
                Input::File(path) => named(flag, input.to_string(), place(path)),
            }));
        self
    }

    /// Inputs that are never standard input.
    pub fn reads_paths<'a>(
        mut self,
        flag: &'static str,
        paths: impl IntoIterator<Item = &'a PathBuf>,
    ) -> Files {
        let paths = paths.into_iter();
        self.read
            .extend(paths.map(|path| named(flag, path.display().to_string(), place(path))));
        self
    }

    /// The main output. It may replace the FILE that was read, if that is one.
    pub fn writes_main(mut self, flag: &'static str, output: &Output) -> Files {
        self.main = Some(self.written.len());
        self.writes(flag, [output])
    }

    /// Outputs on the side.
    pub fn writes<'a>(
        mut self,
        flag: &'static str,
        outputs: impl IntoIterator<Item = &'a Output>,
    ) -> Files {
        self.written
            .extend(outputs.into_iter().map(|output| match output {
                Output::Stdout => named(flag, output.to_string(), Place::Descriptor(STDOUT)),
                Output::File(path) => named(flag, output.to_string(), place(path)),
            }));
        self
    }

    /// A folder that is replaced whole: nothing that is read or written may lie in it.
    pub fn replaces(mut self, flag: &'static str, folder: &Path) -> Files {
        self.replaced.push((flag, resolved(folder)));
        self
    }

    /// An error that names both flags, where two get in each other's way.
    pub fn check(&self) -> anyhow::Result<()> {
        for (index, input) in self.read.iter().enumerate() {
            let before = self.read[..index].iter();
            if let Some(other) = before
                .filter(|_| input.is_read_once())
                .find(|other| other.place == input.place)
            {
                bail!("{other} and {input} are one stream, which can be read once");
            }
        }
        for (index, output) in self.written.iter().enumerate() {
            let is_main = self.main == Some(index);
            if let Some(other) = self.written[..index]
                .iter()
                .find(|other| other.is_at(output))
            {
                return Err(anyhow!("{other} and {output} are the same file"))
                    .hint("each needs a file of its own; /dev/null takes what is not wanted");
            }
            let inputs = self.read.iter().filter(|input| output.goes_into(input));
            for input in inputs {
                let is_only_file = self
                    .read
                    .iter()
                    .filter(|other| other.flag == input.flag)
                    .count()
                    == 1
                    && input.flag == "FILE";
                // What the shell has opened is not replaced in the end, but written to while it is read.
                let is_opened = matches!(output.place, Place::Descriptor(_));
                if is_opened || !(is_main && is_only_file) {
                    let verb = if is_opened { "go into" } else { "replace" };
                    return Err(anyhow!("{output} would {verb} {input}, which is read"))
                        .hint("choose another name for the output");
                }
            }
        }
        for (flag, folder) in &self.replaced {
            let mut files = self.read.iter().chain(&self.written);
            if let Some(file) = files.find(|file| file.lies_in(folder)) {
                let folder = folder.display();
                return Err(anyhow!(
                    "{file} lies in {flag} {folder}, which is replaced whole"
                ))
                .hint(format!("choose another {flag}, or move the file out of it"));
            }
        }
        Ok(())
    }
}

impl Named {
    /// Two descriptors may share a file, as after `> log 2>&1`; a name beside one may not.
    fn is_at(&self, other: &Named) -> bool {
        match (&self.place, &other.place) {
            (Place::Device, _) | (_, Place::Device) => false,
            (Place::Descriptor(number), Place::Path { path, .. })
            | (Place::Path { path, .. }, Place::Descriptor(number)) => {
                behind(*number).as_ref() == Some(path)
            }
            (place, other) => place == other,
        }
    }

    /// Does this output end in what `input` reads? Of an open file every name counts, and every descriptor.
    fn goes_into(&self, input: &Named) -> bool {
        let is_opened = matches!(self.place, Place::Descriptor(_));
        self.is_at(input) || is_opened && self.file().is_some_and(|file| input.file() == Some(file))
    }

    /// Device and inode of a regular file.
    fn file(&self) -> Option<(u64, u64)> {
        let meta = match &self.place {
            Place::Descriptor(number) => fs::metadata(format!("/proc/self/fd/{number}")),
            Place::Path { path, .. } => fs::metadata(path),
            Place::Device => return None,
        };
        let meta = meta.ok().filter(|meta| meta.is_file())?;
        Some((meta.dev(), meta.ino()))
    }

    fn lies_in(&self, folder: &Path) -> bool {
        match &self.place {
            Place::Path { path, .. } => path.starts_with(folder),
            Place::Descriptor(number) => {
                behind(*number).is_some_and(|path| path.starts_with(folder))
            }
            Place::Device => false,
        }
    }

    fn is_read_once(&self) -> bool {
        matches!(
            self.place,
            Place::Descriptor(_) | Place::Path { is_pipe: true, .. }
        )
    }
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.flag, self.name)
    }
}

fn named(flag: &'static str, name: String, place: Place) -> Named {
    Named { flag, name, place }
}

/// The file that the shell redirected a descriptor to, if it is one.
fn behind(number: i32) -> Option<PathBuf> {
    let path = fs::canonicalize(format!("/proc/self/fd/{number}")).ok()?;
    path.is_file().then_some(path)
}

fn place(path: &Path) -> Place {
    let kind = fs::metadata(path).map(|meta| meta.file_type());
    match (descriptor::named_by(path), kind) {
        (Some(number), _) => Place::Descriptor(number),
        (None, Ok(kind)) if kind.is_char_device() => Place::Device,
        (None, kind) => Place::Path {
            path: resolved(path),
            is_pipe: kind.is_ok_and(|kind| kind.is_fifo() || kind.is_socket()),
        },
    }
}
