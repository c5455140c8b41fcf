//! Threads that wait for work instead of sleeping: who is there when a region begins?
//!
//! A layer is some fifty parallel regions of 50 µs to 2 ms with a few µs between them, in which
//! rayon's threads fall asleep. Under a hypervisor waking one takes as long as a short region.

use rayon::{ThreadPoolBuildError, Yield};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};

/// Looks for work before a thread lets others have its processor: about 50 µs.
const LOOKS: u32 = 100;

/// How often a leader looks for threads that sleep, and lets others have its processor: some ms. Waking one
/// takes 5 to 100 µs, and longer where other processes want the processors; the work it is for takes
/// tens to hundreds of ms.
const A_MOMENT: u32 = 3000;

/// Makes the pool of `threads` (`None`: one a core), the calling one among them: its kernels begin at
/// once, where a thread outside the pool would wake it and be woken by it, some ten thousand times a
/// training step. Call it once, first in a program.
pub fn use_threads(threads: Option<usize>) -> Result<(), ThreadPoolBuildError> {
    // Not rayon's own default, which RAYON_NUM_THREADS changes.
    let threads = threads.or_else(|| Some(std::thread::available_parallelism().ok()?.get()));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(1));
    pool.use_current_thread().build_global()
}

/// Runs `work`, during which the other threads of the pool look for its tasks without sleeping, and
/// let other processes go first when there are none for long.
pub fn awake<R>(work: impl FnOnce() -> R) -> R {
    let threads = rayon::current_num_threads();
    if threads == 1 {
        return work();
    }
    let watch = &Watch::default();
    let leader = rayon::current_thread_index();
    rayon::in_place_scope(|scope| {
        scope.spawn_broadcast(move |_, context| {
            // Also called where the leader waits, which must go back to its work.
            if Some(context.index()) != leader {
                watch.keep();
            }
        });
        let _end = End(watch);
        watch.begin(threads - usize::from(leader.is_some()));
        work()
    })
}

/// The threads that look for the work of one leader until it ends.
///
/// Who waits for a task of that work must not begin to look: the task would wait for the look to end,
/// the look for the work, and the work for the task. rayon hands a look to every thread before a task,
/// but for the thread that was between its own queue and the others' when both came, and takes the
/// look up while it waits in the task. So a look begins before the work or not at all. A task of a
/// work X can then wait only for a work that began after X, never the other way round.
#[derive(Default)]
struct Watch {
    /// How many threads look; with [`BEGUN`], no further one may.
    lookers: AtomicUsize,
    has_ended: AtomicBool,
}

const BEGUN: usize = 1 << (usize::BITS - 1);

impl Watch {
    /// Gives `others` [`A_MOMENT`] to come, then shuts the door.
    fn begin(&self, others: usize) {
        let mut looks = 0;
        while self.lookers.load(Acquire) < others && looks < A_MOMENT {
            looks += 1;
            std::thread::yield_now(); // the processor of one of them may be ours
        }
        self.lookers.fetch_or(BEGUN, AcqRel);
    }

    /// Looks for work until the leader's has ended; returns at once if it has begun.
    fn keep(&self) {
        let come = |lookers| (lookers & BEGUN == 0).then_some(lookers + 1);
        if self.lookers.fetch_update(AcqRel, Acquire, come).is_err() {
            return;
        }
        let mut looks = 0;
        while !self.has_ended.load(Relaxed) {
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
}

/// Ends a watch, even when the work panics.
struct End<'a>(&'a Watch);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.has_ended.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{Watch, awake};
    use rayon::prelude::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
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

    #[test]
    fn a_thread_that_comes_late_does_not_look() {
        let watch = Watch::default();
        watch.begin(1);
        watch.keep(); // would not return: nothing ends this watch
    }

    #[test]
    fn leaders_side_by_side_do_not_wait_for_each_other() {
        fn leaves(depth: u32) -> u32 {
            match depth {
                0 => 1,
                _ => {
                    let (a, b) = rayon::join(|| leaves(depth - 1), || leaves(depth - 1));
                    a + b
                }
            }
        }
        let (done, both) = std::sync::mpsc::channel();
        let is_over = Arc::new(AtomicBool::new(false));
        for _ in 0..2 {
            let (done, is_over) = (done.clone(), is_over.clone());
            // From outside of rayon's pool, as tests are, and not waited for where they hang.
            std::thread::spawn(move || {
                while !is_over.load(Relaxed) {
                    awake(|| assert_eq!(leaves(4), 16));
                }
                done.send(()).expect("the test waits");
            });
        }
        std::thread::sleep(Duration::from_secs(1));
        is_over.store(true, Relaxed);
        for _ in 0..2 {
            both.recv_timeout(Duration::from_secs(100))
                .expect("both leaders come to an end");
        }
    }
}
