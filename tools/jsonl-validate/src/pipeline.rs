//! How are lines checked on every core and still come out in order?
//!
//! One thread reads blocks of whole lines, workers check them, and the caller's thread takes the
//! blocks in their order, so that the result does not depend on how many workers there are. Channels
//! are short: memory stays flat however long the file is.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use anyhow::Context;
use cli::{Progress, Unit};
use dataset::{Checked, Checker, Options};

use crate::args::Args;
use crate::tokens_check::Tokenizer;

/// Big enough that handing over costs nothing, small enough to stay in the cache.
const BLOCK_BYTES: usize = 1 << 20;

/// Whole lines, in their place among the blocks.
struct Block {
    sequence: usize,
    bytes: Vec<u8>,
}

/// The lines of a block with what was found in them. Lines are counted from 1 in each block, since
/// nobody knows yet how many came before.
pub struct CheckedBlock {
    sequence: usize,
    pub bytes: Vec<u8>,
    pub lines: Vec<(Range<usize>, Checked)>,
}

/// Checks every line of the input and hands the blocks on in order, with the number of lines before.
pub fn each_block(
    args: &Args,
    options: &Options,
    tokenizer: Option<&Tokenizer>,
    each: &mut dyn FnMut(u64, CheckedBlock) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut reader = args.input.open_raw()?;
    let name = args.input.name();
    let progress = Progress::new("validate", args.input.bytes(), Unit::Bytes);
    let threads = args
        .threads
        .unwrap_or_else(|| thread::available_parallelism().map_or(1, Into::into))
        .max(1);
    let (blocks_in, blocks_out) = sync_channel::<Block>(threads);
    let (checked_in, checked_out) = sync_channel::<CheckedBlock>(threads);
    let blocks_out = Mutex::new(blocks_out);
    thread::scope(|scope| {
        let reading = scope.spawn(move || read_blocks(&mut reader, &blocks_in));
        for _ in 0..threads {
            let (blocks_out, checked_in) = (&blocks_out, checked_in.clone());
            scope.spawn(move || check_blocks(options, tokenizer, blocks_out, &checked_in));
        }
        drop(checked_in);
        let done = in_order(&checked_out, &mut |before, block| {
            progress.inc(block.bytes.len() as u64);
            each(before, block)
        });
        drop(checked_out); // after an error: workers stop, then drain what the reader still sends
        if done.is_err() {
            while blocks_out.lock().is_ok_and(|blocks| blocks.recv().is_ok()) {}
        }
        match reading.join() {
            Ok(read) => done.and(read.context(name)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Reads blocks that end with a line's end, but for the last.
fn read_blocks(reader: &mut dyn Read, blocks: &SyncSender<Block>) -> std::io::Result<()> {
    let mut sequence = 0;
    let mut rest = Vec::new();
    loop {
        let mut bytes = Vec::with_capacity(rest.len() + BLOCK_BYTES);
        bytes.append(&mut rest);
        let is_last = fill(reader, &mut bytes)?;
        if !is_last {
            let end = memchr::memrchr(b'\n', &bytes).map_or(0, |at| at + 1);
            rest.extend_from_slice(&bytes[end..]);
            bytes.truncate(end);
        }
        if !bytes.is_empty() && blocks.send(Block { sequence, bytes }).is_err() {
            return Ok(()); // the other end has failed and says why
        }
        if is_last {
            return Ok(());
        }
        sequence += 1;
    }
}

/// Reads until there is at least one whole line more; true at the end of the file.
fn fill(reader: &mut dyn Read, bytes: &mut Vec<u8>) -> std::io::Result<bool> {
    loop {
        let start = bytes.len();
        let length = Read::take(&mut *reader, BLOCK_BYTES as u64).read_to_end(bytes)?;
        if length < BLOCK_BYTES {
            return Ok(true);
        }
        if memchr::memchr(b'\n', &bytes[start..]).is_some() {
            return Ok(false);
        }
    }
}

fn check_blocks(
    options: &Options,
    tokenizer: Option<&Tokenizer>,
    blocks: &Mutex<Receiver<Block>>,
    checked: &SyncSender<CheckedBlock>,
) {
    let mut checker = Checker::new(options);
    loop {
        let Ok(Ok(Block { sequence, bytes })) = blocks.lock().map(|blocks| blocks.recv()) else {
            return;
        };
        let mut lines = Vec::with_capacity(bytes.len() / 256 + 1);
        let mut start = 0;
        while start < bytes.len() {
            let end =
                memchr::memchr(b'\n', &bytes[start..]).map_or(bytes.len(), |at| start + at + 1);
            let number = lines.len() as u64 + 1;
            let is_first_of_file = sequence == 0 && start == 0;
            let mut line = checker.check(number, &bytes[start..end], is_first_of_file);
            if let Some(tokenizer) = tokenizer {
                tokenizer.check(number, &bytes[start..end], &mut line);
            }
            lines.push((start..end, line));
            start = end;
        }
        if checked
            .send(CheckedBlock {
                sequence,
                bytes,
                lines,
            })
            .is_err()
        {
            return;
        }
    }
}

/// Hands blocks on in the order in which they were read.
fn in_order(
    checked: &Receiver<CheckedBlock>,
    each: &mut dyn FnMut(u64, CheckedBlock) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut early = BTreeMap::new();
    let (mut next, mut before) = (0, 0);
    for block in checked {
        early.insert(block.sequence, block);
        while let Some(block) = early.remove(&next) {
            let lines = block.lines.len() as u64;
            each(before, block)?;
            before += lines;
            next += 1;
        }
    }
    Ok(())
}
