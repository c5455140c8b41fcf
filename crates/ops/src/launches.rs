//! How many kernels does a piece of work launch on a GPU?
//!
//! A launch costs a few microseconds on the host whatever it does, and a decoded token is made of
//! launches that do little else: their number is held by tests and printed by `scripts/gpu-bench`.

use cubecl::logging::{LaunchObservation, LaunchObserver};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};

/// Counts what one thread launches, by the kernels' names; others may be at work meanwhile.
struct Counter {
    thread: ThreadId,
    counts: Mutex<BTreeMap<&'static str, usize>>,
}

impl LaunchObserver for Counter {
    fn launched(&self, kernel: &'static str) {
        if thread::current().id() == self.thread {
            let mut counts = self
                .counts
                .lock()
                .expect("nothing panics while it holds this");
            *counts.entry(kernel).or_default() += 1;
        }
    }
}

/// Does `work`, and counts the kernels that this thread launches for it, by name.
pub fn count_launches<R>(work: impl FnOnce() -> R) -> (R, BTreeMap<&'static str, usize>) {
    let counter = Arc::new(Counter {
        thread: thread::current().id(),
        counts: Mutex::default(),
    });
    let watching = LaunchObservation::new(counter.clone());
    let done = work();
    drop(watching);
    let mut counts = counter
        .counts
        .lock()
        .expect("nothing panics while it holds this");
    (done, std::mem::take(&mut *counts))
}
