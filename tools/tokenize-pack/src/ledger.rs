//! What became of every line: kept, dropped or truncated, by which rule, and in which row it is.
//!
//! A line is noted when it is read and written down when packing has decided its row.

use std::fmt::Write as _;
use std::ops::Range;

use cli::{Input, Output, OutputWriter};
use dataset::ledger;
use tokens::{Packing, Rows};

use crate::args::Args;
use crate::read::Place;
use crate::write::lies_in;

/// Rules that cost a line its place here, or its end, or its being in one piece; the other tools' ledgers
/// have more.
const TOO_LONG: &str = "too_long";
const SPLIT: &str = "split";
const BLANK_LINE: &str = "blank_line";
const NAMED: usize = 5; // places in the report before "and n more"

/// What happened to one segment; a line has one, unless it came packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Kept,
    Dropped,
    Truncated,
    Blank,
    NotOurs,
}

/// Notes fates; the list of them only if a ledger was asked for.
pub struct Ledger {
    written: ledger::Ledger<OutputWriter>,
    is_wanted: bool,
    files: Vec<Input>,
    noted: Vec<Noted>,
    /// In `noted`: where the lines of each file begin.
    starts: Vec<usize>,
    last: Option<Place>,
    pub dropped: Cases,
    pub truncated: Cases,
}

/// Every line is noted, so that their order is their number.
struct Noted {
    fate: Fate,
    begins_line: bool,
}

/// Lines that met the same fate.
#[derive(Default)]
pub struct Cases {
    pub count: usize,
    first: Vec<String>,
}

impl Ledger {
    pub fn open(args: &Args) -> anyhow::Result<Ledger> {
        let out = args.ledger.as_ref().map(Output::create).transpose()?;
        let is_wanted = out.is_some();
        let written = ledger::Ledger::new(out)?;
        let written = match &args.ledger_from {
            Some(path) if args.files.contains(&Input::Stdin) => {
                written.following_through_a_pipe(path)?
            }
            Some(path) => written.following(path)?,
            None => written,
        };
        Ok(Ledger {
            written,
            is_wanted,
            files: args.files.clone(),
            noted: Vec::new(),
            starts: Vec::new(),
            last: None,
            dropped: Cases::default(),
            truncated: Cases::default(),
        })
    }

    pub fn note(&mut self, place: Place, fate: Fate) {
        match fate {
            Fate::Dropped => self.dropped.add(place, &self.files),
            Fate::Truncated => self.truncated.add(place, &self.files),
            Fate::Kept | Fate::Blank | Fate::NotOurs => {}
        }
        if self.is_wanted {
            while self.starts.len() <= place.file {
                self.starts.push(self.noted.len());
            }
            let begins_line = self.last.replace(place) != Some(place);
            self.noted.push(Noted { fate, begins_line });
        }
    }

    /// Writes a row for every line. The n-th segment kept is the n-th example of `rows`, and has the n-th
    /// of `lengths`.
    pub fn finish(
        mut self,
        args: &Args,
        rows: &Rows,
        lengths: &[u32],
    ) -> anyhow::Result<Option<OutputWriter>> {
        if !self.is_wanted {
            return Ok(None);
        }
        let first = FirstPieces::of(rows, lengths, args.packing.into());
        let mut example = 0;
        for (file, start) in self.starts.iter().enumerate() {
            let end = self.starts.get(file + 1).copied();
            let noted = &self.noted[*start..end.unwrap_or(self.noted.len())];
            let file = &self.files[file].name();
            for (line, segments) in (1..).zip(noted.chunk_by(|_, next| !next.begins_line)) {
                if segments[0].fate == Fate::NotOurs {
                    self.written.leave(file, line)?;
                    continue;
                }
                let is_kept = |noted: &&Noted| matches!(noted.fate, Fate::Kept | Fate::Truncated);
                let kept = segments.iter().filter(is_kept).count();
                let row = first.rows.get(example).copied().unwrap_or(0) as usize;
                let (output, output_line) = lies_in(args, rows.len(), row);
                let output = &output.name();
                let is_cut = first.is_any_cut(example..example + kept);
                example += kept;
                let truncated = |rule| ledger::Fate::Truncated {
                    rule,
                    output,
                    output_line,
                };
                let fate = if segments[0].fate == Fate::Blank {
                    ledger::Fate::Dropped { rule: BLANK_LINE }
                } else if kept == 0 {
                    ledger::Fate::Dropped { rule: TOO_LONG }
                } else if segments.iter().any(|noted| noted.fate != Fate::Kept) {
                    truncated(TOO_LONG)
                } else if is_cut {
                    truncated(SPLIT)
                } else {
                    ledger::Fate::Kept {
                        output,
                        output_line,
                    }
                };
                self.written.record(file, line, fate)?;
            }
        }
        self.written.finish().map_err(cli::ledger_error)
    }
}

/// Of every example: in which row its first piece is, and, where packing cuts, whether more follow it.
struct FirstPieces {
    rows: Vec<u32>,
    are_cut: Vec<bool>,
}

impl FirstPieces {
    fn of(rows: &Rows, lengths: &[u32], packing: Packing) -> FirstPieces {
        let may_be_cut = if packing.splits() { lengths.len() } else { 0 };
        let mut first = FirstPieces {
            rows: vec![0; lengths.len()],
            are_cut: vec![false; may_be_cut],
        };
        for row in 0..rows.len() {
            for piece in rows.row(row).iter().filter(|piece| piece.tokens.start == 0) {
                let example = piece.example as usize;
                first.rows[example] = row as u32;
                if let Some(is_cut) = first.are_cut.get_mut(example) {
                    *is_cut = piece.is_cut_from(lengths);
                }
            }
        }
        first
    }

    fn is_any_cut(&self, examples: Range<usize>) -> bool {
        let are_cut = self.are_cut.get(examples);
        are_cut.is_some_and(|are_cut| are_cut.contains(&true))
    }
}

impl Cases {
    fn add(&mut self, place: Place, files: &[Input]) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(place.name(files));
        }
    }

    /// `7 (train.jsonl:3, train.jsonl:9, and 5 more)`
    pub fn summary(&self) -> String {
        let mut text = format!("{} ({}", self.count, self.first.join(", "));
        if self.count > self.first.len() {
            let _ = write!(text, ", and {} more", self.count - self.first.len());
        }
        text.push(')');
        text
    }
}
