//! On which line does a CSV record begin? Lines as an editor counts them.
//!
//! The csv crate's own count lags by one after a CRLF and ignores blank lines, and an error that
//! points at the wrong line of a hospital's export is worse than none.

use std::collections::VecDeque;
use std::io::{self, Read};

/// A reader that remembers where the newlines were that its consumer has not passed yet.
pub(crate) struct LineCounter<R> {
    inner: R,
    /// Offsets of newlines to come, and whether a carriage return stands before each.
    newlines: VecDeque<(u64, bool)>,
    offset: u64,
    line: u64,
    last: u8,
    last_mark: u8,
    is_at_end: bool,
}

impl<R> LineCounter<R> {
    pub(crate) fn new(inner: R) -> LineCounter<R> {
        LineCounter {
            inner,
            newlines: VecDeque::new(),
            offset: 0,
            line: 1,
            last: 0,
            last_mark: 0,
            is_at_end: false,
        }
    }

    /// The line of the record that occupies the bytes from `start` to `end`, which grow.
    pub(crate) fn line_of(&mut self, start: u64, end: u64) -> u64 {
        let mut at = start;
        // Line ends that belong to nobody: the rest of a CRLF, blank lines.
        while let Some((newline, is_crlf)) = self.newlines.front().copied() {
            if newline != at && !(is_crlf && newline == at + 1) {
                break;
            }
            self.pass();
            at = newline + 1;
        }
        let line = self.line;
        while self
            .newlines
            .front()
            .is_some_and(|(newline, _)| *newline < end)
        {
            self.pass();
        }
        line
    }

    /// The last byte read that ends no line.
    pub(crate) fn last_mark(&self) -> u8 {
        self.last_mark
    }

    /// Has the consumer met the end?
    pub(crate) fn is_at_end(&self) -> bool {
        self.is_at_end
    }

    fn pass(&mut self) {
        self.newlines.pop_front();
        self.line += 1;
    }
}

impl<R: Read> Read for LineCounter<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.is_at_end = length == 0 && !buffer.is_empty();
        for &byte in &buffer[..length] {
            if byte == b'\n' {
                self.newlines.push_back((self.offset, self.last == b'\r'));
            } else if byte != b'\r' {
                self.last_mark = byte;
            }
            self.last = byte;
            self.offset += 1;
        }
        Ok(length)
    }
}
