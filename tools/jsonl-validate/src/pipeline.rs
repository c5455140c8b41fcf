//! How are lines checked on every core and still come out in order?
//!
//! Each thread takes the next block of whole lines from the input, checks it, and puts it where it
//! waits for its turn; whoever finds the door to the output free hands on all blocks whose turn it
//! is. No thread waits for another as long as there is work, with one thread there is only one, and
//! what comes out does not depend on how many there are. Few blocks are under way at a time, and
//! their buffers are used again: memory stays flat however long the file is.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::Context;
use cli::{Hint, Progress, Unit};
use dataset::{Checked, Checker, Options};

use crate::args::Args;
use crate::tokens_check::Tokenizer;

/// Small enough to stay in a core's cache while it is read, checked and written.
const BLOCK_BYTES: usize = 1 << 18;
/// Blocks under way for each thread.
const AHEAD: usize = 3;

/// Whole lines with what was found in them. Lines are counted from 1 in each block, since nobody
/// knows yet how many came before.
#[derive(Default)]
pub struct Block {
    pub bytes: Vec<u8>,
    pub lines: Vec<(Range<usize>, Checked)>,
}

/// Takes a block in its turn, and the number of lines before it.
pub type Each<'e> = dyn FnMut(u64, &mut Block) -> anyhow::Result<()> + Send + 'e;

/// Checks every line of the input and hands the blocks on in order.
pub fn each_block(
    args: &Args,
    options: &Options,
    tokenizer: Option<&Tokenizer>,
    each: &mut Each,
) -> anyhow::Result<()> {
    let threads = args
        .threads
        .unwrap_or_else(|| thread::available_parallelism().map_or(1, Into::into));
    let work = Work {
        source: Mutex::new(Source {
            reader: args.input.open_raw()?,
            rest: Vec::new(),
            next: 0,
            is_at_end: false,
        }),
        queue: Mutex::new(Queue::default()),
        has_moved: Condvar::new(),
        door: Mutex::new(Door { each, lines: 0 }),
        ahead: AHEAD * threads,
        progress: Progress::new("validate", args.input.bytes(), Unit::Bytes),
    };
    let name = args.input.name();
    let run = || {
        let _stop = StopOnPanic(&work);
        let done = work.run(options, tokenizer).with_context(|| name.clone());
        if done.is_err() {
            work.stop();
        }
        done
    };
    thread::scope(|scope| {
        let mut others = Vec::with_capacity(threads);
        let mut done = Ok(());
        for number in 1..threads {
            match thread::Builder::new().spawn_scoped(scope, run) {
                Ok(other) => others.push(other),
                Err(error) => {
                    work.stop();
                    let what = format!("starting thread {} of {threads}", number + 1);
                    done = Err(error).context(what).hint("--threads N takes fewer");
                    break;
                }
            }
        }
        done = done.and_then(|()| run());
        for other in others {
            match other.join() {
                Ok(result) => done = done.and(result),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    })?;
    match lock(&work.queue).failure.take() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Wakes the others when a thread panics; they would wait for its block for ever.
struct StopOnPanic<'a, 'w, 'e>(&'a Work<'w, 'e>);

impl Drop for StopOnPanic<'_, '_, '_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop();
        }
    }
}

/// What the threads share. Locks are taken in this order, and never two of a kind.
struct Work<'w, 'e> {
    source: Mutex<Source>,
    door: Mutex<Door<'w, 'e>>,
    queue: Mutex<Queue>,
    has_moved: Condvar,
    ahead: usize,
    progress: Progress,
}

/// The input, read in blocks that end with a line's end, but for the last.
struct Source {
    reader: Box<dyn Read + Send>,
    rest: Vec<u8>,
    next: usize,
    is_at_end: bool,
}

/// Where blocks leave, one thread at a time.
struct Door<'w, 'e> {
    each: &'w mut Each<'e>,
    /// Handed on so far.
    lines: u64,
}

/// Blocks that wait for their turn.
#[derive(Default)]
struct Queue {
    waiting: BTreeMap<usize, Block>,
    /// Whose turn it is.
    turn: usize,
    /// Buffers of blocks that have left.
    free: Vec<Block>,
    has_stopped: bool,
    failure: Option<anyhow::Error>,
}

impl Work<'_, '_> {
    fn run(&self, options: &Options, tokenizer: Option<&Tokenizer>) -> io::Result<()> {
        let mut checker = Checker::new(options);
        while let Some((number, mut block)) = self.next_block()? {
            check(&mut checker, tokenizer, number == 0, &mut block);
            lock(&self.queue).waiting.insert(number, block);
            self.hand_on();
        }
        Ok(())
    }

    /// Reads a block, as soon as not too many are under way.
    fn next_block(&self) -> io::Result<Option<(usize, Block)>> {
        let mut source = lock(&self.source);
        let mut queue = lock(&self.queue);
        while source.next >= queue.turn + self.ahead && !queue.has_stopped {
            queue = self
                .has_moved
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if queue.has_stopped || source.is_at_end {
            return Ok(None);
        }
        let mut block = queue.free.pop().unwrap_or_default();
        drop(queue);
        let number = source.next;
        source.next += 1;
        source.read(&mut block.bytes)?;
        Ok((!block.bytes.is_empty()).then_some((number, block)))
    }

    /// Hands on what has its turn, unless another thread is doing that; it will see our block too.
    fn hand_on(&self) {
        loop {
            let Ok(mut door) = self.door.try_lock() else {
                return;
            };
            while let Some(mut block) = self.take_turn() {
                let before = door.lines;
                if let Err(error) = (door.each)(before, &mut block) {
                    lock(&self.queue).failure.get_or_insert(error);
                    return self.stop();
                }
                door.lines = before + block.lines.len() as u64;
                self.progress.inc(block.bytes.len() as u64);
                block.lines.clear();
                block.bytes.clear();
                let mut queue = lock(&self.queue);
                queue.free.push(block);
                queue.turn += 1;
                self.has_moved.notify_all();
            }
            drop(door);
            // A block that came while we were leaving has found the door shut.
            let queue = lock(&self.queue);
            if !queue.waiting.contains_key(&queue.turn) {
                return;
            }
        }
    }

    fn take_turn(&self) -> Option<Block> {
        let mut queue = lock(&self.queue);
        let turn = queue.turn;
        if queue.has_stopped {
            None
        } else {
            queue.waiting.remove(&turn)
        }
    }

    /// Nothing more is read or handed on.
    fn stop(&self) {
        lock(&self.queue).has_stopped = true;
        self.has_moved.notify_all();
    }
}

impl Source {
    fn read(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        bytes.append(&mut self.rest);
        bytes.reserve(BLOCK_BYTES + 64); // so that the end of the file is met without more memory
        loop {
            let start = bytes.len();
            let length = Read::take(&mut self.reader, BLOCK_BYTES as u64).read_to_end(bytes)?;
            if length < BLOCK_BYTES {
                self.is_at_end = true;
                return Ok(());
            }
            if let Some(end) = memchr::memrchr(b'\n', &bytes[start..]) {
                self.rest.extend_from_slice(&bytes[start + end + 1..]);
                bytes.truncate(start + end + 1);
                return Ok(());
            }
        }
    }
}

fn check(checker: &mut Checker, tokenizer: Option<&Tokenizer>, is_first: bool, block: &mut Block) {
    let Block { bytes, lines } = block;
    checker.check_block(bytes, is_first, &mut |number, range, mut checked| {
        if let Some(tokenizer) = tokenizer {
            tokenizer.check(number, &bytes[range.clone()], &mut checked);
        }
        lines.push((range, checked));
    });
}

/// A thread that panicked ends the run; what it left behind is not looked at.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn a_panic_ends_every_thread() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("in");
        std::fs::write(&file, "no JSON\n".repeat(1 << 20)).unwrap(); // many more blocks than go ahead
        let file = file.to_str().unwrap();
        for threads in ["--threads=1", "--threads=3"] {
            let args = Args::parse_from(["jsonl-validate", file, threads]);
            let ended = catch_unwind(AssertUnwindSafe(|| {
                each_block(&args, &Options::default(), None, &mut |before, _| {
                    assert_eq!(before, 0, "the second block is one too many");
                    Ok(())
                })
            }));
            assert!(ended.is_err());
        }
    }
}
