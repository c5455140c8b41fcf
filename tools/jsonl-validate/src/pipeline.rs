//! How are lines checked on every core and still come out in order?
//!
//! One thread reads blocks of whole lines, workers check them, and the caller's thread takes the
//! blocks in their order, so that the result does not depend on how many workers there are. Channels
//! are short: memory stays flat however long the file is.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::Context;
use cli::{Progress, Unit};
use dataset::{Checked, Checker, Options};

use crate::args::Args;

/// Big enough that handing over costs nothing, small enough to stay in the cache.
const BLOCK_BYTES: usize = 1 << 20;

/// Whole lines, and the number of the first.
struct Block {
    sequence: usize,
    first_line: u64,
    bytes: Vec<u8>,
}

struct CheckedBlock {
    block: Block,
    lines: Vec<(Range<usize>, Checked)>,
}

/// What is done with a line, in order: its number, its bytes with their end, what was found.
pub type Each<'a> = dyn FnMut(u64, &[u8], Checked) -> anyhow::Result<()> + 'a;

/// Checks every line of the input.
pub fn each_line(args: &Args, options: &Options, each: &mut Each) -> anyhow::Result<()> {
    let mut reader = args.input.open_raw()?;
    let name = args.input.name();
    let progress = Progress::new("validate", args.input.bytes(), Unit::Bytes);
    let threads = args
        .threads
        .unwrap_or_else(|| thread::available_parallelism().map_or(1, Into::into))
        .max(1);
    thread::scope(|scope| {
        let (blocks_in, blocks_out) = sync_channel::<Block>(threads);
        let (checked_in, checked_out) = sync_channel::<CheckedBlock>(threads);
        let reading = scope.spawn(move || read_blocks(&mut reader, &blocks_in));
        let blocks_out = Arc::new(Mutex::new(blocks_out));
        for _ in 0..threads {
            let (blocks_out, checked_in) = (Arc::clone(&blocks_out), checked_in.clone());
            scope.spawn(move || check_blocks(options, &blocks_out, &checked_in));
        }
        drop((checked_in, blocks_out));
        in_order(&checked_out, &mut |block| {
            progress.inc(block.block.bytes.len() as u64);
            let first_line = block.block.first_line;
            for (number, (range, checked)) in (first_line..).zip(block.lines) {
                each(number, &block.block.bytes[range], checked)?;
            }
            Ok(())
        })?;
        drop(checked_out);
        match reading.join() {
            Ok(read) => read.context(name),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Reads blocks that end with a line's end, but for the last.
fn read_blocks(reader: &mut dyn Read, blocks: &SyncSender<Block>) -> std::io::Result<()> {
    let (mut sequence, mut first_line) = (0, 1);
    let mut rest = Vec::new();
    loop {
        let mut bytes = std::mem::take(&mut rest);
        let is_last = fill(reader, &mut bytes)?;
        if !is_last {
            let end = bytes
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1);
            rest.reserve(BLOCK_BYTES);
            rest.extend_from_slice(&bytes[end..]);
            bytes.truncate(end);
        }
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        if !bytes.is_empty()
            && blocks
                .send(Block {
                    sequence,
                    first_line,
                    bytes,
                })
                .is_err()
        {
            return Ok(()); // the other end has failed and says why
        }
        if is_last {
            return Ok(());
        }
        first_line += lines;
        sequence += 1;
    }
}

/// Reads until there is a block with at least one whole line; true at the end of the file.
fn fill(reader: &mut dyn Read, bytes: &mut Vec<u8>) -> std::io::Result<bool> {
    let mut end = bytes.len();
    let mut has_line = false;
    loop {
        bytes.resize(end + BLOCK_BYTES, 0);
        while end < bytes.len() {
            match reader.read(&mut bytes[end..]) {
                Ok(0) => {
                    bytes.truncate(end);
                    return Ok(true);
                }
                Ok(length) => {
                    has_line = has_line || bytes[end..end + length].contains(&b'\n');
                    end += length;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if has_line {
            return Ok(false);
        }
    }
}

fn check_blocks(
    options: &Options,
    blocks: &Mutex<Receiver<Block>>,
    checked: &SyncSender<CheckedBlock>,
) {
    let mut checker = Checker::new(options);
    loop {
        let Ok(Ok(block)) = blocks.lock().map(|blocks| blocks.recv()) else {
            return;
        };
        let mut lines = Vec::new();
        let mut start = 0;
        for (number, line) in
            (block.first_line..).zip(block.bytes.split_inclusive(|byte| *byte == b'\n'))
        {
            lines.push((start..start + line.len(), checker.check(number, line)));
            start += line.len();
        }
        if checked.send(CheckedBlock { block, lines }).is_err() {
            return;
        }
    }
}

/// Hands blocks on in the order in which they were read.
fn in_order(
    checked: &Receiver<CheckedBlock>,
    each: &mut dyn FnMut(CheckedBlock) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut early = BTreeMap::new();
    let mut next = 0;
    for block in checked {
        early.insert(block.block.sequence, block);
        while let Some(block) = early.remove(&next) {
            each(block)?;
            next += 1;
        }
    }
    Ok(())
}
