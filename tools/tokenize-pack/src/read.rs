//! Lines to encoded examples, on every core, in the order of the lines.

use std::io::BufRead;

use anyhow::{Context, anyhow, bail};
use cli::{Hint, Input, Progress, Unit};
use dataset::{BYTE_ORDER_MARK, Example, Pretokenized};
use rayon::prelude::*;
use tokens::{Chat, ChatOptions, Encoded, Error, Fingerprint, TrainOn, Vocabulary};

use crate::args::{Args, Share};

const CHUNK_BYTES: usize = 1 << 20; // enough lines to keep every core busy, little to hold

/// Where an example came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index into the inputs.
    pub file: usize,
    /// From 1.
    pub line: u64,
}

impl Place {
    /// `train.jsonl:812`
    pub fn name(&self, files: &[Input]) -> String {
        format!("{}:{}", files[self.file].name(), self.line)
    }
}

/// What makes examples of lines: a base with its tokenizer, or a base that is fed token ids.
pub struct Reader {
    chat: Option<Chat>,
    vocabulary: Vocabulary,
    train_on: TrainOn,
    share: Share,
}

const BROKEN: &str = "jsonl-validate names every broken line, and --drop-invalid keeps the others";

/// What a line came to.
pub enum Line {
    /// Its segments; more than one only where it came packed.
    Examples {
        examples: Vec<Encoded>,
        is_pretokenized: bool,
    },
    Blank,
    /// Another machine's, by `--shard`.
    NotOurs,
}

impl Reader {
    pub fn open(args: &Args) -> anyhow::Result<Reader> {
        let base = &args.base;
        if !base.is_dir() {
            return Err(anyhow!("{}: no such folder", base.display()))
                .hint("--base is a model folder as model-import writes it");
        }
        let vocabulary = Vocabulary::open(base).map_err(hinted)?;
        let options = ChatOptions {
            chat_template: args.chat_template.clone(),
            date: args.date,
        };
        let chat = match Chat::open_with(base, &options) {
            Ok(chat) => Some(chat),
            Err(Error::NoTokenizer { .. }) => None,
            Err(error) => return Err(hinted(error)),
        };
        Ok(Reader {
            chat,
            vocabulary,
            train_on: args.train_on.into(),
            share: args.shard,
        })
    }

    pub fn vocab_size(&self) -> usize {
        self.vocabulary.size
    }

    pub fn fingerprint(&self) -> &Fingerprint {
        self.chat
            .as_ref()
            .map_or(&self.vocabulary.fingerprint, Chat::fingerprint)
    }

    pub fn chat(&self) -> Option<&Chat> {
        self.chat.as_ref()
    }

    fn line(&self, line: &[u8]) -> anyhow::Result<Line> {
        if line.trim_ascii().is_empty() {
            return Ok(Line::Blank);
        }
        let text = std::str::from_utf8(line)
            .map_err(|error| anyhow!("not UTF-8 at byte {}", error.valid_up_to() + 1))
            .hint(BROKEN)?;
        if Pretokenized::recognises(line) {
            let examples = Pretokenized::parse(line)?.segments(Some(self.vocab_size()))?;
            if examples
                .iter()
                .all(|example| example.supervised_tokens() == 0)
            {
                bail!("no token of this line would be learned: its labels are all -100");
            }
            return Ok(Line::Examples {
                examples,
                is_pretokenized: true,
            });
        }
        let example = Example::from_json(text).hint(BROKEN)?;
        let Some(chat) = &self.chat else {
            return Err(anyhow!(
                "this base has no tokenizer.json, so only token ids can be packed"
            ))
            .hint("lines of {\"input_ids\": […], \"labels\": […]}, or a base with its tokenizer");
        };
        let encoded = chat.example(&example, self.train_on).map_err(hinted)?;
        Ok(Line::Examples {
            examples: vec![encoded],
            is_pretokenized: false,
        })
    }

    /// Hands every line to `take`, in order, until it says stop with `false`.
    pub fn each_line(
        &self,
        files: &[Input],
        mut take: impl FnMut(Place, Line) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let bytes: Option<u64> = files.iter().map(Input::bytes).sum();
        let progress = Progress::new("tokenizing", bytes, Unit::Bytes);
        let mut all = 0; // lines of all inputs so far
        for (file, input) in files.iter().enumerate() {
            let mut source = input.open()?;
            let mut line = 0;
            loop {
                let mut lines = chunk(&mut *source).with_context(|| input.name())?;
                match lines.first_mut() {
                    None => break,
                    Some(start) if line == 0 && start.starts_with(BYTE_ORDER_MARK) => {
                        start.drain(..BYTE_ORDER_MARK.len());
                    }
                    Some(_) => {}
                }
                let first = all;
                all += lines.len() as u64;
                let is_ours = |n: usize| self.share.takes(first + n as u64);
                let read: Vec<anyhow::Result<Line>> = lines
                    .par_iter()
                    .enumerate()
                    .map(|(n, line)| match is_ours(n) {
                        true => self.line(line),
                        false => Ok(Line::NotOurs),
                    })
                    .collect();
                for read in read {
                    line += 1;
                    let place = Place { file, line };
                    if !take(place, read.with_context(|| place.name(files))?)? {
                        return Ok(());
                    }
                }
                if let Some(signal) = cli::interrupted() {
                    return Err(anyhow::Error::new(Interrupted(signal)));
                }
                progress.inc(lines.iter().map(|line| line.len() as u64 + 1).sum());
            }
        }
        Ok(())
    }
}

/// A signal came; nothing was written.
#[derive(Debug)]
pub struct Interrupted(pub i32);

impl std::error::Error for Interrupted {}

impl std::fmt::Display for Interrupted {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "stopped by signal {}", self.0)
    }
}

/// The error with the library's way out, if it knows one.
pub fn hinted(error: Error) -> anyhow::Error {
    match error.hint() {
        Some(hint) => anyhow::Error::new(error).hint(hint),
        None => error.into(),
    }
}

/// The next lines, without their ends.
fn chunk(source: &mut dyn BufRead) -> std::io::Result<Vec<Vec<u8>>> {
    let (mut lines, mut bytes) = (Vec::new(), 0);
    while bytes < CHUNK_BYTES {
        let mut line = Vec::new();
        let read = source.read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        bytes += read;
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        lines.push(line);
    }
    Ok(lines)
}
