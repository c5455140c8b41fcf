//! What became of every input line? A CSV with one row for each, whose sums equal the input.

use std::io::{self, Write};

/// The columns, which are a contract: new ones go at the end.
pub const HEADER: &str = "file,line,fate,rule,output,output_line";

/// What happened to a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate<'a> {
    /// Written to `output`, as its line `output_line`, unchanged.
    Kept { output: &'a str, output_line: u64 },
    /// The same, but cut; `rule` says why.
    Truncated {
        rule: &'a str,
        output: &'a str,
        output_line: u64,
    },
    /// Written nowhere; `rule` says why.
    Dropped { rule: &'a str },
}

/// Writes the fates down, if somebody asked for that, and counts them.
#[derive(Debug)]
pub struct Ledger<W> {
    writer: Option<W>,
    /// So far.
    pub counts: Counts,
}

/// How many lines had which fate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub kept: u64,
    pub truncated: u64,
    pub dropped: u64,
}

impl Counts {
    /// All lines that were read.
    pub fn read(&self) -> u64 {
        self.kept + self.truncated + self.dropped
    }
}

impl<W: Write> Ledger<W> {
    /// Begins with the header; without a writer it only counts.
    pub fn new(mut writer: Option<W>) -> io::Result<Ledger<W>> {
        if let Some(writer) = &mut writer {
            writeln!(writer, "{HEADER}")?;
        }
        Ok(Ledger {
            writer,
            counts: Counts::default(),
        })
    }

    /// Notes the fate of a line of `file`.
    pub fn record(&mut self, file: &str, line: u64, fate: Fate) -> io::Result<()> {
        match fate {
            Fate::Kept { .. } => self.counts.kept += 1,
            Fate::Truncated { .. } => self.counts.truncated += 1,
            Fate::Dropped { .. } => self.counts.dropped += 1,
        }
        match &mut self.writer {
            Some(writer) => write_row(writer, file, line, fate),
            None => Ok(()),
        }
    }

    /// Gives the writer back, to be committed.
    pub fn into_inner(self) -> Option<W> {
        self.writer
    }
}

fn write_row(writer: &mut impl Write, file: &str, line: u64, fate: Fate) -> io::Result<()> {
    write_field(writer, file)?;
    let (name, rule, placed) = match fate {
        Fate::Kept {
            output,
            output_line,
        } => ("kept", "", Some((output, output_line))),
        Fate::Truncated {
            rule,
            output,
            output_line,
        } => ("truncated", rule, Some((output, output_line))),
        Fate::Dropped { rule } => ("dropped", rule, None),
    };
    write!(writer, ",{line},{name},{rule},")?;
    match placed {
        Some((output, output_line)) => {
            write_field(writer, output)?;
            writeln!(writer, ",{output_line}")
        }
        None => writeln!(writer, ","),
    }
}

/// A CSV field, quoted when it must be.
pub fn write_field(writer: &mut impl Write, text: &str) -> io::Result<()> {
    if text.contains(['"', ',', '\n', '\r']) {
        write!(writer, "\"{}\"", text.replace('"', "\"\""))
    } else {
        writer.write_all(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_one_row_and_one_fate() {
        let mut ledger = Ledger::new(Some(Vec::new())).unwrap();
        ledger
            .record(
                "a,b.csv",
                2,
                Fate::Kept {
                    output: "train.jsonl",
                    output_line: 1,
                },
            )
            .unwrap();
        ledger
            .record(
                "a.csv",
                3,
                Fate::Dropped {
                    rule: "exact_duplicate",
                },
            )
            .unwrap();
        assert_eq!(
            ledger.counts,
            Counts {
                kept: 1,
                truncated: 0,
                dropped: 1
            }
        );
        let text = String::from_utf8(ledger.into_inner().unwrap()).unwrap();
        let want = "\"a,b.csv\",2,kept,,train.jsonl,1\na.csv,3,dropped,exact_duplicate,,\n";
        assert_eq!(text, format!("{HEADER}\n{want}"));
    }
}
