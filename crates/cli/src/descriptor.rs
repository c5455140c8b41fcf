//! Which open descriptor does a path mean? /dev/stdout, /dev/stderr, /dev/fd/N and /proc/self/fd/N
//! name what the shell has opened, which may be a regular file that others write to as well.

use std::fs::{self, File};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::output::parent;

const LINKS: usize = 4; // /dev/stdout is one, a link to it another

/// The number of the descriptor that `path` names, if it names one.
pub(crate) fn named_by(path: &Path) -> Option<RawFd> {
    let own = fs::canonicalize("/proc/self").ok()?;
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        let folder = fs::canonicalize(parent(&path)).ok()?;
        if folder.starts_with(&own) && folder.ends_with("fd") {
            return path.file_name()?.to_str()?.parse().ok();
        }
        path = parent(&path).join(fs::read_link(&path).ok()?);
    }
    None
}

/// As the shell's `>&-` leaves it. Before main Rust opens /dev/null in its place, and nothing tells that
/// from a /dev/null which was meant.
static IS_STDOUT_CLOSED: AtomicBool = AtomicBool::new(false);

#[cfg(target_os = "linux")]
#[used]
#[unsafe(link_section = ".init_array")] // SAFETY: it lists functions that are called before Rust's start
static LOOK: extern "C" fn() = {
    extern "C" fn look() {
        // SAFETY: fcntl with F_GETFD takes any number and changes nothing; a store needs no runtime.
        let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
        IS_STDOUT_CLOSED.store(flags < 0, Ordering::Relaxed);
    }
    look
};

/// The same open file under another number: it shares the place where the next byte goes, and
/// whether that is the end.
pub(crate) fn duplicate(number: RawFd) -> io::Result<File> {
    if number == libc::STDOUT_FILENO && IS_STDOUT_CLOSED.load(Ordering::Relaxed) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: fcntl with F_DUPFD_CLOEXEC takes any number, and refuses one that is not open.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(copy) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_known_by_all_their_names() {
        for (path, number) in [
            ("/dev/stdout", Some(1)),
            ("/dev/stderr", Some(2)),
            ("/dev/fd/7", Some(7)),
            ("/proc/self/fd/3", Some(3)),
            ("/dev/null", None),
            ("out.jsonl", None),
            ("1", None),
        ] {
            assert_eq!(named_by(Path::new(path)), number, "{path}");
        }
    }

    #[test]
    fn a_number_that_is_not_open_is_an_error() {
        assert!(duplicate(-1).is_err() && duplicate(9999).is_err());
    }
}
