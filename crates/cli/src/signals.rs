//! What happens on Ctrl-C? Half-written files go away, or, in a tool that asks, the run saves first.
//!
//! A tool that never calls [`interrupted`] is ended by the first signal, after its temporary files
//! are removed. A tool that does call it is given time: the first signal only raises the flag, the
//! second ends it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

static SIGNAL: AtomicI32 = AtomicI32::new(0);
static IS_POLLED: AtomicBool = AtomicBool::new(false);
static TEMPORARIES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// The signal that asked this run to stop, if one did. Poll it where the run can save and leave.
pub fn interrupted() -> Option<i32> {
    IS_POLLED.store(true, Ordering::SeqCst);
    match SIGNAL.load(Ordering::SeqCst) {
        0 => None,
        signal => Some(signal),
    }
}

/// The exit status of a run stopped by `signal`.
pub(crate) fn status(signal: i32) -> u8 {
    128 + u8::try_from(signal).unwrap_or(0) % 128
}

/// Starts the thread that waits for INT, TERM and HUP. HUP stays ignored under `nohup`.
pub(crate) fn watch() {
    let wanted: &[i32] = if hangup_is_ignored() {
        &[SIGINT, SIGTERM]
    } else {
        &[SIGINT, SIGTERM, SIGHUP]
    };
    let Ok(mut signals) = Signals::new(wanted) else {
        return;
    };
    std::thread::spawn(move || {
        for signal in signals.forever() {
            let is_first = SIGNAL.swap(signal, Ordering::SeqCst) == 0;
            if !(is_first && IS_POLLED.load(Ordering::SeqCst)) {
                remove_temporaries();
                std::process::exit(status(signal).into());
            }
        }
    });
}

/// Notes a path that must not outlive a killed run.
pub(crate) fn remove_on_exit(path: &Path) {
    if let Ok(mut temporaries) = TEMPORARIES.lock() {
        temporaries.push(path.to_owned());
    }
}

/// Takes it back: the path is the result now.
pub(crate) fn keep(path: &Path) {
    if let Ok(mut temporaries) = TEMPORARIES.lock() {
        temporaries.retain(|temporary| temporary != path);
    }
}

/// Does what must be done whole or not at all: a signal waits until then.
pub(crate) fn undisturbed<T>(work: impl FnOnce() -> T) -> T {
    let _temporaries = TEMPORARIES.lock(); // which must be had before a signal ends the run
    work()
}

/// Was a file or folder begun that has not been put in its place?
pub(crate) fn is_output_pending() -> bool {
    TEMPORARIES
        .lock()
        .is_ok_and(|temporaries| !temporaries.is_empty())
}

fn remove_temporaries() {
    if let Ok(temporaries) = TEMPORARIES.lock() {
        for path in temporaries.iter() {
            let _ = if path.is_dir() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            };
        }
    }
}

fn hangup_is_ignored() -> bool {
    let mask = fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|text| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("SigIgn:"))?
                .trim()
                .to_owned();
            u64::from_str_radix(&line, 16).ok()
        });
    mask.is_some_and(|mask| mask >> (SIGHUP - 1) & 1 == 1)
}
