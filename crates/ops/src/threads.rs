//! Threads that wait for work instead of sleeping: who is there when a region begins?
//!
//! A layer is some fifty parallel regions of 50 µs to 2 ms with a few µs between them, in which
//! rayon's threads fall asleep. Under a hypervisor waking one takes as long as a short region.

use rayon::{ThreadPoolBuildError, Yield};
use std::sync::atomic::{AtomicBool, Ordering::*};

/// Looks for work before a thread lets others have its processor: about 50 µs.
const LOOKS: u32 = 100;

/// Makes the pool of `threads` (`None`: one a core), the calling one among them: its kernels begin at
/// once, where a thread outside the pool would wake it and be woken by it, some ten thousand times a
/// training step. Call it once, first in a program.
pub fn use_threads(threads: Option<usize>) -> Result<(), ThreadPoolBuildError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0));
    pool.use_current_thread().build_global()
}

/// Runs `work`, during which the other threads of the pool look for its tasks without sleeping, and
/// let other processes go first when there are none for long.
pub fn awake<R>(work: impl FnOnce() -> R) -> R {
    if rayon::current_num_threads() == 1 {
        return work();
    }
    let done = &AtomicBool::new(false);
    let leader = rayon::current_thread_index();
    rayon::in_place_scope(|scope| {
        scope.spawn_broadcast(move |_, context| {
            // Also called where the leader waits, which must go back to its work.
            if Some(context.index()) != leader {
                look_for_work(done);
            }
        });
        let _done = Done(done);
        work()
    })
}

fn look_for_work(done: &AtomicBool) {
    let mut looks = 0;
    while !done.load(Relaxed) {
        if rayon::yield_now() == Some(Yield::Executed) {
            looks = 0;
        } else if looks < LOOKS {
            looks += 1;
            (0..10).for_each(|_| std::hint::spin_loop());
        } else {
            std::thread::yield_now();
        }
    }
}

/// Even when the work panics.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::awake;
    use rayon::prelude::*;
    use std::time::Duration;

    fn pool(threads: usize) -> rayon::ThreadPool {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().expect("threads")
    }

    #[test]
    fn regions_run_whoever_leads_and_however_many_threads_there_are() {
        let regions = || {
            let sums = (0..200).map(|n| (0..n).into_par_iter().map(|i| i * i).sum::<u64>());
            sums.sum::<u64>()
        };
        let expected = regions();
        assert_eq!(awake(regions), expected, "from outside the pool");
        for threads in [1, 2, 5] {
            assert_eq!(pool(threads).install(|| awake(regions)), expected);
            let nested = pool(threads).install(|| awake(|| awake(regions)));
            assert_eq!(nested, expected, "nested");
        }
    }

    #[test]
    fn a_panic_in_the_work_reaches_the_caller_and_frees_the_threads() {
        pool(3).install(|| {
            let caught = std::panic::catch_unwind(|| awake(|| panic!("as the work does")));
            assert!(caught.is_err());
            assert_eq!((0..100).into_par_iter().sum::<u32>(), 4950);
        });
    }

    #[test]
    fn threads_that_found_nothing_for_long_still_help() {
        pool(2).install(|| {
            awake(|| {
                std::thread::sleep(Duration::from_millis(20));
                let barrier = std::sync::Barrier::new(2);
                // Ends when both halves run at once.
                rayon::join(|| barrier.wait(), || barrier.wait());
            });
        });
    }
}
