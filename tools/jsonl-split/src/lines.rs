//! What lines does the input hold? Read once, or twice when the whole must be seen first.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};

use anyhow::Context;
use cli::{Hint, Input};
use dataset::{BYTE_ORDER_MARK, Example};

/// One line, its end included.
pub struct Line<'a> {
    /// Counted from 1.
    pub number: u64,
    /// As they were read, less a byte order mark.
    pub bytes: &'a [u8],
    /// Among the lines that are not blank, counted from 0; none for a blank one.
    pub index: Option<usize>,
    name: &'a str,
}

impl Line<'_> {
    /// The example it holds.
    pub fn example(&self) -> anyhow::Result<Example> {
        Example::from_json(self.text()?)
            .with_context(|| self.place())
            .hint("jsonl-validate shows every such line, and lets the good ones through")
    }

    /// All of it, with the keys that are the writer's own.
    pub fn value(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_str(self.text()?).with_context(|| self.place())
    }

    /// `file:line`
    pub fn place(&self) -> String {
        format!("{}:{}", self.name, self.number)
    }

    fn text(&self) -> anyhow::Result<&str> {
        std::str::from_utf8(self.bytes)
            .with_context(|| format!("{}: is not UTF-8", self.place()))
            .hint("jsonl-validate shows every such line, and lets the good ones through")
    }
}

/// The input, readable as often as was asked.
pub enum Lines {
    /// Read as it comes: a file, as often as is asked; anything else once.
    Once(Input),
    /// A copy of standard input, of a pipe or of a device, which goes away by itself.
    Spooled { input: Input, copy: File },
}

/// Opens the input. What is no regular file gives its bytes once: it is copied to a temporary file
/// when it must be read twice.
pub fn open(input: &Input, twice: bool) -> anyhow::Result<Lines> {
    let is_regular = input.bytes().is_some();
    if is_regular || !twice {
        return Ok(Lines::Once(input.clone()));
    }
    let copying = || format!("copying {}", input.name());
    let mut source = input.open_raw()?;
    let mut copy = tempfile::tempfile().with_context(copying)?;
    io::copy(&mut source, &mut copy).with_context(copying)?;
    Ok(Lines::Spooled {
        input: input.clone(),
        copy,
    })
}

impl Lines {
    pub fn name(&self) -> String {
        self.input().name()
    }

    pub fn bytes(&self) -> Option<u64> {
        match self {
            Lines::Once(input) => input.bytes(),
            Lines::Spooled { copy, .. } => copy.metadata().ok().map(|meta| meta.len()),
        }
    }

    /// Calls `each` for every line, in order.
    pub fn each(&self, each: &mut dyn FnMut(&Line) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut reader = self.reader()?;
        let name = self.name();
        let (mut buffer, mut number, mut index) = (Vec::new(), 0, 0);
        loop {
            buffer.clear();
            if reader
                .read_until(b'\n', &mut buffer)
                .with_context(|| name.clone())?
                == 0
            {
                return Ok(());
            }
            number += 1;
            let bytes = match number {
                1 => buffer.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&buffer),
                _ => &buffer,
            };
            let is_blank = bytes.trim_ascii().is_empty();
            each(&Line {
                number,
                bytes,
                index: (!is_blank).then_some(index),
                name: &name,
            })?;
            index += usize::from(!is_blank);
        }
    }

    fn input(&self) -> &Input {
        match self {
            Lines::Once(input) | Lines::Spooled { input, .. } => input,
        }
    }

    fn reader(&self) -> anyhow::Result<Box<dyn BufRead>> {
        match self {
            Lines::Once(input) => Ok(input.open()?),
            Lines::Spooled { copy, .. } => {
                let again = || format!("reading {} again", self.name());
                let mut copy = copy.try_clone().with_context(again)?;
                copy.seek(SeekFrom::Start(0)).with_context(again)?;
                Ok(Box::new(BufReader::with_capacity(1 << 18, copy)))
            }
        }
    }
}
