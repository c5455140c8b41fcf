//! What became of every input line? A CSV with one row for each, whose sums equal the input.

mod chain;

use std::io::{self, Write};
use std::path::Path;

use chain::{Chain, Start};

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
    chain: Option<Chain>,
    /// So far, of the lines this tool has read.
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
            chain: None,
            counts: Counts::default(),
        })
    }

    /// Goes on from the ledger of the tool that wrote our input: rows then name the lines of its
    /// input, and what it dropped is in this ledger too.
    pub fn following(mut self, previous: &Path) -> io::Result<Ledger<W>> {
        self.chain = Some(Chain::new(previous, Start::Now)?);
        Ok(self)
    }

    /// The same where our input is a pipe: the tool before us publishes its ledger when it ends,
    /// which is when our input does, and [`Ledger::finish`] reads it then.
    pub fn following_through_a_pipe(mut self, previous: &Path) -> io::Result<Ledger<W>> {
        self.chain = Some(Chain::new(previous, Start::WhenInputEnds)?);
        Ok(self)
    }

    /// Notes the fate of a line of `file`. Lines of one file come together, in their order.
    pub fn record(&mut self, file: &str, line: u64, fate: Fate) -> io::Result<()> {
        match fate {
            Fate::Kept { .. } => self.counts.kept += 1,
            Fate::Truncated { .. } => self.counts.truncated += 1,
            Fate::Dropped { .. } => self.counts.dropped += 1,
        }
        match (&mut self.chain, &mut self.writer) {
            (Some(chain), Some(_)) => chain.record(file, line, fate),
            (None, Some(writer)) => write_row(writer, file, line, fate),
            (_, None) => Ok(()),
        }
    }

    /// Notes that a line of `file` is left for somebody else to decide on: another machine's share.
    /// It is in this ledger only if the tool before us spoke of it, and then as that tool left it.
    pub fn leave(&mut self, file: &str, line: u64) -> io::Result<()> {
        match &mut self.chain {
            Some(chain) => chain.leave(file, line),
            None => Ok(()),
        }
    }

    /// Completes the ledger and gives the writer back, to be committed.
    pub fn finish(mut self) -> io::Result<Option<W>> {
        if let (Some(chain), Some(writer)) = (self.chain, &mut self.writer) {
            chain.join(writer)?;
        }
        Ok(self.writer)
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
        let text = String::from_utf8(ledger.finish().unwrap().unwrap()).unwrap();
        let want = "\"a,b.csv\",2,kept,,train.jsonl,1\na.csv,3,dropped,exact_duplicate,,\n";
        assert_eq!(text, format!("{HEADER}\n{want}"));
    }
}
