//! What became of every input line? A CSV with one row for each, whose sums equal the input.

use std::io::{self, Read, Write};

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
    previous: Option<Previous>,
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
            previous: None,
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
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        match &mut self.previous {
            None => write_row(writer, file, line, fate),
            Some(previous) => {
                let origin = previous.origin(line, writer)?;
                let fate = match (fate, &origin.truncated) {
                    (
                        Fate::Kept {
                            output,
                            output_line,
                        },
                        Some(rule),
                    ) => Fate::Truncated {
                        rule,
                        output,
                        output_line,
                    },
                    (fate, _) => fate,
                };
                write_row(writer, &origin.file, origin.line, fate)
            }
        }
    }

    /// Gives the writer back, to be committed, where no earlier ledger is followed.
    pub fn into_inner(self) -> Option<W> {
        self.writer
    }

    /// Writes what is left of the ledger that is followed, and gives the writer back.
    pub fn finish(mut self) -> io::Result<Option<W>> {
        if let (Some(writer), Some(previous)) = (&mut self.writer, &mut self.previous) {
            previous.rest(writer)?;
        }
        Ok(self.into_inner())
    }

    /// Goes on from the ledger of the tool that wrote our input: rows then name the lines of its
    /// input, and what it dropped is in this ledger too.
    pub fn following(mut self, previous: impl Read + Send + 'static) -> Ledger<W> {
        self.previous = Some(Previous::new(Box::new(previous)));
        self
    }
}

/// The ledger of the tool before, read alongside.
struct Previous {
    rows: csv::Reader<Box<dyn Read + Send>>,
    record: csv::StringRecord,
}

/// Where a line was before the tool before.
struct Origin {
    file: String,
    line: u64,
    /// The rule that cut it.
    truncated: Option<String>,
}

impl std::fmt::Debug for Previous {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Previous")
    }
}

impl Previous {
    fn new(reader: Box<dyn Read + Send>) -> Previous {
        Previous {
            rows: csv::Reader::from_reader(reader),
            record: csv::StringRecord::new(),
        }
    }

    /// Finds the row that became our line; rows of dropped lines before it are written through.
    fn origin(&mut self, line: u64, writer: &mut impl Write) -> io::Result<Origin> {
        while self.next()? {
            let row = &self.record;
            if &row[2] == "dropped" {
                self.copy(writer)?;
            } else if row[5].parse() == Ok(line) {
                let truncated = (&row[2] == "truncated").then(|| row[3].to_owned());
                let place = row[1]
                    .parse()
                    .map_err(|_| foreign("a line number is no number"))?;
                return Ok(Origin {
                    file: row[0].to_owned(),
                    line: place,
                    truncated,
                });
            } else {
                return Err(foreign(&format!(
                    "it goes on with line {}, and the input with line {line}",
                    &row[5]
                )));
            }
        }
        Err(foreign(&format!("it ends before line {line} of the input")))
    }

    fn rest(&mut self, writer: &mut impl Write) -> io::Result<()> {
        while self.next()? {
            if &self.record[2] != "dropped" {
                return Err(foreign(&format!(
                    "the input ends before its line {}",
                    &self.record[5]
                )));
            }
            self.copy(writer)?;
        }
        Ok(())
    }

    fn next(&mut self) -> io::Result<bool> {
        let is_there = self
            .rows
            .read_record(&mut self.record)
            .map_err(|error| foreign(&error.to_string()))?;
        if is_there && self.record.len() < 6 {
            return Err(foreign("a row has fewer than six columns"));
        }
        Ok(is_there)
    }

    fn copy(&self, writer: &mut impl Write) -> io::Result<()> {
        let line = self.record[1]
            .parse()
            .map_err(|_| foreign("a line number is no number"))?;
        write_row(
            writer,
            &self.record[0],
            line,
            Fate::Dropped {
                rule: &self.record[3],
            },
        )
    }
}

fn foreign(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the ledger does not belong to this input: {what}"),
    )
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

    #[test]
    fn a_ledger_that_follows_another_tells_the_fate_of_the_first_input() {
        let first = format!(
            "{HEADER}\na.csv,2,kept,,raw.jsonl,1\na.csv,3,dropped,empty_cell,,\na.csv,4,kept,,raw.jsonl,2\n"
        );
        let mut ledger = Ledger::new(Some(Vec::new()))
            .unwrap()
            .following(io::Cursor::new(first));
        ledger
            .record("raw.jsonl", 1, Fate::Dropped { rule: "role_order" })
            .unwrap();
        ledger
            .record(
                "raw.jsonl",
                2,
                Fate::Kept {
                    output: "clean.jsonl",
                    output_line: 1,
                },
            )
            .unwrap();
        let text = String::from_utf8(ledger.finish().unwrap().unwrap()).unwrap();
        let want = "a.csv,2,dropped,role_order,,\na.csv,3,dropped,empty_cell,,\na.csv,4,kept,,clean.jsonl,1\n";
        assert_eq!(text, format!("{HEADER}\n{want}"));
    }

    #[test]
    fn a_ledger_of_another_file_is_refused() {
        let mut ledger = Ledger::new(Some(Vec::new()))
            .unwrap()
            .following(io::Cursor::new(format!("{HEADER}\n")));
        let error = ledger
            .record("raw.jsonl", 1, Fate::Dropped { rule: "role_order" })
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "the ledger does not belong to this input: it ends before line 1 of the input"
        );
    }
}
