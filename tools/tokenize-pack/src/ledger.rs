//! What became of every line: kept, dropped or truncated, by which rule, and in which row it is.
//!
//! A line is noted when it is read and written down when packing has decided its row.

use std::fmt::Write as _;

use cli::{Input, Output, OutputWriter};
use dataset::ledger;
use tokens::Rows;

use crate::read::Place;

/// The only rule that costs a line its place here; the other tools' ledgers have more.
const TOO_LONG: &str = "too_long";
const NAMED: usize = 5; // places in the report before "and n more"

/// What happened to one segment; a line has one, unless it came packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Kept,
    Dropped,
    Truncated,
}

/// Notes fates; the list of them only if a ledger was asked for.
pub struct Ledger {
    out: Option<OutputWriter>,
    noted: Vec<(Place, Fate)>,
    pub dropped: Cases,
    pub truncated: Cases,
}

/// Lines that met the same fate.
#[derive(Default)]
pub struct Cases {
    pub count: usize,
    first: Vec<String>,
}

impl Ledger {
    pub fn new(out: Option<OutputWriter>) -> Ledger {
        Ledger {
            out,
            noted: Vec::new(),
            dropped: Cases::default(),
            truncated: Cases::default(),
        }
    }

    pub fn note(&mut self, place: Place, fate: Fate, files: &[Input]) {
        match fate {
            Fate::Kept => {}
            Fate::Dropped => self.dropped.add(place, files),
            Fate::Truncated => self.truncated.add(place, files),
        }
        if self.out.is_some() {
            self.noted.push((place, fate));
        }
    }

    /// Writes a row for every line. The n-th segment kept is the n-th example of `rows`; `lies_in`
    /// says in which file a row is, and as its which, from 1.
    pub fn commit(
        self,
        files: &[Input],
        rows: &Rows,
        lies_in: impl Fn(usize) -> (Output, u64),
    ) -> anyhow::Result<()> {
        let Some(out) = self.out else { return Ok(()) };
        let row_of = first_rows(rows);
        let mut ledger = ledger::Ledger::new(Some(out))?;
        let mut example = 0;
        for line in self.noted.chunk_by(|(a, _), (b, _)| a == b) {
            let place = line[0].0;
            let kept = line
                .iter()
                .filter(|(_, fate)| *fate != Fate::Dropped)
                .count();
            let (output, output_line) = lies_in(row_of.get(example).copied().unwrap_or(0) as usize);
            let output = &output.name();
            example += kept;
            let fate = if kept == 0 {
                ledger::Fate::Dropped { rule: TOO_LONG }
            } else if line.iter().all(|(_, fate)| *fate == Fate::Kept) {
                ledger::Fate::Kept {
                    output,
                    output_line,
                }
            } else {
                ledger::Fate::Truncated {
                    rule: TOO_LONG,
                    output,
                    output_line,
                }
            };
            ledger.record(&files[place.file].name(), place.line, fate)?;
        }
        ledger.into_inner().map_or(Ok(()), OutputWriter::commit)
    }
}

/// For every example the row its first piece is in.
fn first_rows(rows: &Rows) -> Vec<u32> {
    let examples = rows
        .pieces
        .iter()
        .map(|piece| piece.example as usize + 1)
        .max();
    let mut row_of = vec![0; examples.unwrap_or(0)];
    for row in 0..rows.len() {
        for piece in rows.row(row).iter().filter(|piece| piece.tokens.start == 0) {
            row_of[piece.example as usize] = row as u32;
        }
    }
    row_of
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
