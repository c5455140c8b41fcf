//! A fork-join for regions of a few microseconds: who runs which task of a decoding step?
//!
//! A step is two hundred regions of 5 to 50 µs. Handing each to rayon costs a wake-up, which under a
//! hypervisor is as long as the region. Here the helpers of a [`Team`] watch one word for [`SPINS`]
//! looks before they sleep, and tasks are claimed one by one: a helper that is late, or that the
//! scheduler has put aside, costs a share of the speed and never the progress. Which thread runs a
//! task decides nothing about its result.
//!
//! The word holds a region's number, its count of tasks and the next task, so that a claim is one
//! atomic addition and a helper that comes late cannot take a task of another region.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Condvar, Mutex, PoisonError};

/// Looks at the word before a helper sleeps: about 100 µs, more than the leader does alone.
const SPINS: u32 = 5_000;
/// Bits of the next task, and of the count: the word is `number | count | next`.
const BITS: u32 = 20;
const MASK: u64 = (1 << BITS) - 1;

type Task = dyn Fn(usize) + Sync;

/// The leading thread's hold on its helpers.
pub struct Team<'a> {
    board: &'a Board,
    threads: usize,
}

/// What leader and helpers share.
struct Board {
    word: AtomicU64,
    finished: AtomicUsize,
    /// The current region's task: valid from the region's word until its last task has finished.
    task: UnsafeCell<*const Task>,
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    alarm: Condvar,
    dismissed: AtomicBool,
    failed: AtomicBool,
}

// SAFETY: the leader alone writes `task`, while no task is claimed, and publishes it by `word`.
unsafe impl Sync for Board {}

impl Team<'_> {
    /// Runs `lead` with a team of as many threads as rayon's pool has.
    pub fn like_rayon<R>(lead: impl FnOnce(&mut Team<'_>) -> R) -> R {
        Team::of(rayon::current_num_threads(), lead)
    }

    /// Runs `lead` with a team of `threads`, the calling one among them.
    pub fn of<R>(threads: usize, lead: impl FnOnce(&mut Team<'_>) -> R) -> R {
        let board = Board {
            word: AtomicU64::new(0),
            finished: AtomicUsize::new(0),
            task: UnsafeCell::new(std::ptr::from_ref::<Task>(&|_| ())),
            sleepers: AtomicUsize::new(0),
            bed: Mutex::new(()),
            alarm: Condvar::new(),
            dismissed: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        };
        let board = &board;
        std::thread::scope(|scope| {
            let _dismiss = Dismiss(board);
            for _ in 1..threads {
                scope.spawn(|| board.help());
            }
            lead(&mut Team { board, threads })
        })
    }

    /// How many threads share the tasks.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `task(0)` to `task(count - 1)`, in any order and side by side; returns when all are done.
    pub fn run(&mut self, count: usize, task: impl Fn(usize) + Sync) {
        if count <= 1 || self.threads == 1 {
            return (0..count).for_each(task);
        }
        assert!((count as u64) < MASK / 2, "{count} tasks in one region");
        let board = self.board;
        let task: &(dyn Fn(usize) + Sync + '_) = &task;
        // SAFETY: only the lifetime is erased, and `Finish` keeps this frame until the last use.
        let task: *const Task = unsafe { std::mem::transmute(task) };
        // SAFETY: every task of the region before has finished, so no helper reads this.
        unsafe { *board.task.get() = task };
        board.finished.store(0, Relaxed);
        let number = (board.word.load(Relaxed) >> (2 * BITS)).wrapping_add(1);
        let finish = Finish { board, count };
        board
            .word
            .store(number << (2 * BITS) | (count as u64) << BITS, SeqCst);
        if board.sleepers.load(SeqCst) > 0 {
            board.wake();
        }
        board.work();
        drop(finish);
        assert!(!board.failed.load(Relaxed), "a task of the region panicked");
    }
}

impl Board {
    /// Runs tasks of the current region while there are unclaimed ones.
    fn work(&self) {
        loop {
            let word = self.word.load(Acquire);
            if word & MASK >= word >> BITS & MASK {
                return;
            }
            let word = self.word.fetch_add(1, AcqRel);
            let (count, next) = (word >> BITS & MASK, word & MASK);
            if next >= count {
                return;
            }
            let _one = One(self);
            // SAFETY: task `next` is claimed and unfinished, so the leader is still in `run`.
            unsafe { (**self.task.get())(next as usize) };
        }
    }

    /// A helper's life: watch, work, and sleep when nothing happens for long.
    fn help(&self) {
        let mut seen = 0;
        let mut spins = 0;
        loop {
            let word = self.word.load(Acquire);
            if self.dismissed.load(Relaxed) {
                return;
            }
            if word >> BITS != seen {
                self.work();
                (seen, spins) = (word >> BITS, 0);
            } else if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
                // Announced before the last look: a leader that did not see it has published before.
                self.sleepers.fetch_add(1, SeqCst);
                while self.word.load(SeqCst) >> BITS == seen && !self.dismissed.load(SeqCst) {
                    bed = self.alarm.wait(bed).unwrap_or_else(PoisonError::into_inner);
                }
                self.sleepers.fetch_sub(1, SeqCst);
                spins = 0;
            }
        }
    }

    fn wake(&self) {
        let _bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        self.alarm.notify_all();
    }
}

/// Counts a task as finished, even when it panics.
struct One<'a>(&'a Board);

impl Drop for One<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failed.store(true, Relaxed);
        }
        self.0.finished.fetch_add(1, Release);
    }
}

/// Ends a region: waits for the tasks that helpers have claimed, even when the leader's own panicked.
struct Finish<'a> {
    board: &'a Board,
    count: usize,
}

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        // Nobody may begin another task; those already claimed are counted.
        let word = self.board.word.fetch_or(MASK / 2 + 1, AcqRel);
        let claimed = self.count.min((word & MASK) as usize);
        let mut looks = 0u32;
        while self.board.finished.load(Acquire) < claimed {
            looks += 1;
            if looks < SPINS {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now(); // the helper's processor may be ours
            }
        }
    }
}

struct Dismiss<'a>(&'a Board);

impl Drop for Dismiss<'_> {
    fn drop(&mut self) {
        self.0.dismissed.store(true, SeqCst);
        self.0.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_task_of_every_region_runs_once() {
        for threads in [1, 2, 5] {
            Team::of(threads, |team| {
                for region in 0..3000 {
                    let count = region % 17;
                    let runs: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                    team.run(count, |i| {
                        runs[i].fetch_add(1, Relaxed);
                    });
                    assert!(runs.iter().all(|r| r.load(Relaxed) == 1), "region {region}");
                }
            });
        }
    }

    #[test]
    fn helpers_that_fell_asleep_are_woken() {
        Team::of(2, |team| {
            for _ in 0..3 {
                std::thread::sleep(Duration::from_millis(20));
                let helped = AtomicBool::new(false);
                let leader = std::thread::current().id();
                // The leader's task ends when the helper's has begun.
                team.run(2, |_| {
                    if std::thread::current().id() == leader {
                        while !helped.load(SeqCst) {
                            std::thread::yield_now();
                        }
                    } else {
                        helped.store(true, SeqCst);
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_leader() {
        let caught = std::panic::catch_unwind(|| {
            Team::of(3, |team| team.run(64, |i| assert_ne!(i, 40, "task forty")))
        });
        assert!(caught.is_err());
    }
}
