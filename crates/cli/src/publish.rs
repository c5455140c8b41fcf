//! How do the outputs of one run appear? Together: none is put in its place before all are on the disk.

use crate::directory::SyncedDir;
use crate::output::SyncedFile;
use crate::{AtomicDir, OutputWriter};

/// Flushes and syncs all, then puts them in their places in this order, the folder last: name what a run is
/// for after what is told about it. A disk that is full for one of them leaves every older output as it was.
pub fn publish(
    files: impl IntoIterator<Item = OutputWriter>,
    folder: Option<AtomicDir>,
) -> anyhow::Result<()> {
    let files = files.into_iter().map(OutputWriter::synced);
    let files: Vec<Option<SyncedFile>> = files.collect::<anyhow::Result<_>>()?;
    let folder = folder.map(AtomicDir::synced).transpose()?;
    let mut files = files.into_iter().flatten();
    files.try_for_each(SyncedFile::put_in_place)?;
    folder.map_or(Ok(()), SyncedDir::put_in_place)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::path::Path;

    use super::*;
    use crate::Output;

    #[test]
    fn a_disk_that_is_full_for_one_output_leaves_all_others_as_they_were() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        let write = |path: &Path, text: &str| {
            let mut out = Output::File(path.to_owned()).create().unwrap();
            out.write_all(text.as_bytes()).unwrap();
            out
        };
        let folder = |text: &str| {
            let folder = AtomicDir::create(&path("folder"), |_| true).unwrap();
            fs::write(folder.path().join("a"), text).unwrap();
            folder
        };
        let read =
            || ["one", "two", "folder/a"].map(|name| fs::read_to_string(path(name)).unwrap());
        let files = |text: &str| [write(&path("one"), text), write(&path("two"), text)];
        publish(files("old"), Some(folder("old"))).unwrap();
        assert_eq!(read(), ["old"; 3]);
        let full = write(Path::new("/dev/full"), "x");
        let error = publish(files("new").into_iter().chain([full]), Some(folder("new")));
        let said = format!("{:#}", error.unwrap_err());
        assert!(
            said.starts_with("writing /dev/full: No space left"),
            "{said}"
        );
        assert_eq!(read(), ["old"; 3]);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 3);
        publish(files("new"), Some(folder("new"))).unwrap();
        assert_eq!(read(), ["new"; 3]);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 3);
    }
}
