//! What became of every line: kept, dropped or truncated, and by which rule.

use std::fmt::Write as _;
use std::io::Write;

use cli::{Input, OutputWriter};
use serde::Serialize;

use crate::read::Place;

const NAMED: usize = 5; // places in the report before "and n more"

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    Kept,
    Dropped,
    Truncated,
}

/// Counts fates, remembers the first places, and writes one JSON line for each if asked.
pub struct Ledger {
    out: Option<OutputWriter>,
    pub kept: usize,
    pub dropped: Cases,
    pub truncated: Cases,
}

/// Lines that met the same fate.
#[derive(Default)]
pub struct Cases {
    pub count: usize,
    first: Vec<String>,
}

#[derive(Serialize)]
struct Entry<'a> {
    file: &'a str,
    line: u64,
    fate: Fate,
    rule: Option<&'a str>,
    reason: Option<&'a str>,
}

impl Ledger {
    pub fn new(out: Option<OutputWriter>) -> Ledger {
        Ledger {
            out,
            kept: 0,
            dropped: Cases::default(),
            truncated: Cases::default(),
        }
    }

    pub fn kept(&mut self, place: Place, files: &[Input]) -> anyhow::Result<()> {
        self.kept += 1;
        self.write(place, files, Fate::Kept, None, None)
    }

    pub fn dropped(
        &mut self,
        place: Place,
        files: &[Input],
        rule: &str,
        reason: &str,
    ) -> anyhow::Result<()> {
        self.dropped.add(place, files);
        self.write(place, files, Fate::Dropped, Some(rule), Some(reason))
    }

    pub fn truncated(
        &mut self,
        place: Place,
        files: &[Input],
        rule: &str,
        reason: &str,
    ) -> anyhow::Result<()> {
        self.truncated.add(place, files);
        self.write(place, files, Fate::Truncated, Some(rule), Some(reason))
    }

    fn write(
        &mut self,
        place: Place,
        files: &[Input],
        fate: Fate,
        rule: Option<&str>,
        reason: Option<&str>,
    ) -> anyhow::Result<()> {
        if let Some(out) = &mut self.out {
            let file = &files[place.file].name();
            serde_json::to_writer(
                &mut *out,
                &Entry {
                    file,
                    line: place.line,
                    fate,
                    rule,
                    reason,
                },
            )?;
            out.write_all(b"\n")?;
        }
        Ok(())
    }

    pub fn commit(self) -> anyhow::Result<()> {
        self.out.map_or(Ok(()), OutputWriter::commit)
    }
}

impl Cases {
    fn add(&mut self, place: Place, files: &[Input]) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(place.name(files));
        }
    }

    /// `7 (train.jsonl:3, train.jsonl:9, … and 2 more)`
    pub fn summary(&self) -> String {
        let mut text = format!("{} ({}", self.count, self.first.join(", "));
        if self.count > self.first.len() {
            let _ = write!(text, ", and {} more", self.count - self.first.len());
        }
        text.push(')');
        text
    }
}
