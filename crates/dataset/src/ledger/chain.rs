//! One ledger for a whole preparation: the fates of this tool's lines, told of the lines that the
//! first tool read.
//!
//! Our rows wait in a file without a name until our input has ended; the ledger before ours is
//! whole by then, in a pipe too. The two are joined by (output, output_line) of the one and
//! (file, line) of the other, both in rising order, so memory does not grow with the data.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use csv::{Reader, StringRecord};

use super::{Fate, write_row};

/// In our waiting rows: not ours to decide on.
const LEFT: &str = "left";

/// When the ledger before ours is there to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    Now,
    WhenInputEnds,
}

#[derive(Debug)]
pub(super) struct Chain {
    previous: PathBuf,
    opened: Option<File>,
    waiting: BufWriter<File>,
    written: u64, // bytes
    /// Each input file, and where its rows begin.
    inputs: Vec<(String, u64)>,
    row: Vec<u8>,
}

impl Chain {
    pub fn new(previous: &Path, start: Start) -> io::Result<Chain> {
        let opened = match start {
            Start::Now => Some(File::open(previous).map_err(|error| named(previous, error))?),
            Start::WhenInputEnds => None,
        };
        Ok(Chain {
            previous: previous.to_owned(),
            opened,
            waiting: BufWriter::with_capacity(1 << 18, tempfile::tempfile()?),
            written: 0,
            inputs: Vec::new(),
            row: Vec::new(),
        })
    }

    pub fn record(&mut self, file: &str, line: u64, fate: Fate) -> io::Result<()> {
        self.row.clear();
        write_row(&mut self.row, file, line, fate)?;
        self.wait(file)
    }

    pub fn leave(&mut self, file: &str, line: u64) -> io::Result<()> {
        self.row.clear();
        super::write_field(&mut self.row, file)?;
        writeln!(self.row, ",{line},{LEFT},,,")?;
        self.wait(file)
    }

    fn wait(&mut self, file: &str) -> io::Result<()> {
        if self.inputs.last().is_none_or(|(last, _)| last != file) {
            self.inputs.push((file.to_owned(), self.written));
        }
        self.written += self.row.len() as u64;
        self.waiting.write_all(&self.row)
    }

    /// Writes every row of the ledger before ours, with what we did to its line.
    pub fn join(self, writer: &mut impl Write) -> io::Result<()> {
        let named = |error| named(&self.previous, error);
        let previous = match self.opened {
            Some(file) => file,
            None => File::open(&self.previous).map_err(named)?,
        };
        let waiting = self
            .waiting
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        let mut ours: Vec<Ours> = Vec::with_capacity(self.inputs.len());
        for (index, (input, start)) in self.inputs.iter().enumerate() {
            let next = self.inputs.get(index + 1);
            let end = next.map_or(self.written, |(_, start)| *start);
            ours.push(Ours::open(input, waiting.try_clone()?, *start, end)?);
        }
        join(previous, &mut ours, writer).map_err(named)
    }
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn join(previous: impl Read, ours: &mut [Ours], writer: &mut impl Write) -> io::Result<()> {
    let mut previous = rows(BufReader::with_capacity(1 << 18, previous), true);
    let mut row = StringRecord::new();
    while next(&mut previous, &mut row)? {
        let placed = &row[2] == "kept" || &row[2] == "truncated";
        let of_this_output = |ours: &&mut Ours| placed && is_same(&row[4], &ours.input);
        match ours.iter_mut().find(of_this_output) {
            Some(ours) => {
                ours.pass_over_left(Some(&row[5]))?;
                ours.check(&row)?;
                write_joined(writer, &row, &ours.row)?;
                ours.advance()?;
            }
            None => write_joined(writer, &row, &row)?,
        }
    }
    for ours in ours {
        ours.pass_over_left(None)?;
        if ours.is_there {
            let (line, input) = (&ours.row[1], &ours.input);
            return Err(foreign(format!(
                "it does not speak of line {line} of {input}"
            )));
        }
    }
    Ok(())
}

/// The origin that the row before has, and the fate that ours has. What was cut before and is kept
/// now remains cut.
fn write_joined(
    writer: &mut impl Write,
    before: &StringRecord,
    ours: &StringRecord,
) -> io::Result<()> {
    let fate = match &ours[2] {
        "dropped" => Fate::Dropped { rule: &ours[3] },
        name => {
            let row = if name == LEFT { before } else { ours };
            let (output, output_line) = (&row[4], number(row, 5)?);
            let rule = [&row[3], &before[3]]
                .into_iter()
                .find(|rule| !rule.is_empty());
            match rule {
                Some(rule) => Fate::Truncated {
                    rule,
                    output,
                    output_line,
                },
                None => Fate::Kept {
                    output,
                    output_line,
                },
            }
        }
    };
    write_row(writer, &before[0], number(before, 1)?, fate)
}

/// Our rows about one input file.
struct Ours {
    input: String,
    rows: Reader<BufReader<Window>>,
    row: StringRecord,
    is_there: bool,
}

impl Ours {
    fn open(input: &str, file: File, start: u64, end: u64) -> io::Result<Ours> {
        let window = Window { file, start, end };
        let mut ours = Ours {
            input: input.to_owned(),
            rows: rows(BufReader::with_capacity(1 << 16, window), false),
            row: StringRecord::new(),
            is_there: false,
        };
        ours.advance()?;
        Ok(ours)
    }

    fn advance(&mut self) -> io::Result<()> {
        self.is_there = next(&mut self.rows, &mut self.row)?;
        Ok(())
    }

    /// Lines left to another machine may have found their fate there already.
    fn pass_over_left(&mut self, until: Option<&str>) -> io::Result<()> {
        while self.is_there && &self.row[2] == LEFT && until != Some(&self.row[1]) {
            self.advance()?;
        }
        Ok(())
    }

    /// Our next line must be the one that the row before says it wrote.
    fn check(&self, before: &StringRecord) -> io::Result<()> {
        let (output, line, input) = (&before[4], &before[5], &self.input);
        if !self.is_there {
            return Err(foreign(format!(
                "{input} ends before line {line} of {output}"
            )));
        }
        if self.row[1] != *line {
            return Err(foreign(format!(
                "it goes on with line {line} of {output}, and {input} with line {}",
                &self.row[1]
            )));
        }
        Ok(())
    }
}

/// Is the output of the tool before us this input? A pipe has no name, and a file may have been
/// written to standard output, or been moved to another folder.
fn is_same(output: &str, input: &str) -> bool {
    let last = |name| Path::new(name).file_name();
    output == "<stdout>" || input == "<stdin>" || last(output) == last(input)
}

fn rows<R: BufRead>(reader: R, has_headers: bool) -> Reader<R> {
    csv::ReaderBuilder::new()
        .has_headers(has_headers)
        .flexible(true)
        .from_reader(reader)
}

fn next<R: BufRead>(rows: &mut Reader<R>, row: &mut StringRecord) -> io::Result<bool> {
    let is_there = rows.read_record(row).map_err(io::Error::from)?;
    if is_there && row.len() < 6 {
        return Err(foreign(format!(
            "line {} has fewer than six columns",
            line_of(row)
        )));
    }
    Ok(is_there)
}

fn number(row: &StringRecord, column: usize) -> io::Result<u64> {
    let text = &row[column];
    text.parse().map_err(|_| {
        let line = line_of(row);
        foreign(format!("line {line} has {text:?} where a number should be"))
    })
}

/// Where a row stands in its ledger, from 1.
fn line_of(row: &StringRecord) -> u64 {
    row.position().map_or(0, csv::Position::line)
}

fn foreign(what: String) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("this ledger is not of the tool that wrote the input: {what}"),
    )
}

/// A part of a file, read without moving the place where others read.
struct Window {
    file: File,
    start: u64,
    end: u64,
}

impl Read for Window {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = (self.end - self.start).min(buffer.len() as u64) as usize;
        let read = self.file.read_at(&mut buffer[..left], self.start)?;
        self.start += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HEADER, Ledger};
    use super::*;

    /// What a ledger that follows `previous` says, after these fates.
    fn following(
        previous: &str,
        record: impl Fn(&mut Ledger<Vec<u8>>) -> io::Result<()>,
    ) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("before.csv");
        let ledger = Ledger::new(Some(Vec::new())).unwrap();
        let mut ledger = ledger.following_through_a_pipe(&path).unwrap();
        record(&mut ledger).unwrap();
        // Only now: a pipe's first tool publishes its ledger when it ends.
        std::fs::write(&path, format!("{HEADER}\n{previous}")).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let finished = ledger.finish().map_err(|error| error.to_string());
        finished
            .map(|bytes| text(bytes.unwrap()))
            .map(|text| {
                text.strip_prefix(&format!("{HEADER}\n"))
                    .unwrap()
                    .to_owned()
            })
            .map_err(|error| error.replace(&path.display().to_string(), "before.csv"))
    }

    fn kept(output: &str, output_line: u64) -> Fate<'_> {
        Fate::Kept {
            output,
            output_line,
        }
    }

    #[test]
    fn the_fate_of_the_first_input_is_told() {
        let before = "a.csv,2,kept,,raw.jsonl,1\na.csv,3,dropped,empty_cell,,\na.csv,4,truncated,long,raw.jsonl,2\n";
        let got = following(before, |ledger| {
            ledger.record("raw.jsonl", 1, Fate::Dropped { rule: "role_order" })?;
            ledger.record("raw.jsonl", 2, kept("clean.jsonl", 1))
        });
        let want = "a.csv,2,dropped,role_order,,\na.csv,3,dropped,empty_cell,,\na.csv,4,truncated,long,clean.jsonl,1\n";
        assert_eq!(got.unwrap(), want);
    }

    #[test]
    fn other_outputs_of_the_tool_before_are_left_as_they_were() {
        let split = "a,1,kept,,train.jsonl,1\na,2,kept,,test.jsonl,1\na,3,kept,,valid.jsonl,1\na,4,kept,,train.jsonl,2\n";
        let got = following(split, |ledger| {
            ledger.record("split/train.jsonl", 1, kept("t.safetensors", 1))?;
            ledger.record("split/train.jsonl", 2, Fate::Dropped { rule: "too_long" })?;
            ledger.record("split/valid.jsonl", 1, kept("t.safetensors", 1))
        });
        let want = "a,1,kept,,t.safetensors,1\na,2,kept,,test.jsonl,1\na,3,kept,,t.safetensors,1\na,4,dropped,too_long,,\n";
        assert_eq!(got.unwrap(), want);
    }

    #[test]
    fn what_is_left_to_another_machine_stays_as_it_was() {
        let before = "a,1,kept,,train.jsonl,1\na,2,kept,,train.jsonl,2\n";
        let got = following(before, |ledger| {
            ledger.leave("train.jsonl", 1)?;
            ledger.record("train.jsonl", 2, kept("t.safetensors", 7))
        });
        let want = "a,1,kept,,train.jsonl,1\na,2,kept,,t.safetensors,7\n";
        assert_eq!(got.unwrap(), want);
        let other_machine = following(want, |ledger| {
            ledger.record("train.jsonl", 1, kept("s.safetensors", 3))?;
            ledger.leave("train.jsonl", 2)
        });
        let want = "a,1,kept,,s.safetensors,3\na,2,kept,,t.safetensors,7\n";
        assert_eq!(other_machine.unwrap(), want);
    }

    #[test]
    fn a_ledger_of_another_file_is_refused() {
        let refused = |before: &str, lines: u64| {
            following(before, |ledger| {
                (1..=lines).try_for_each(|line| {
                    ledger.record("raw.jsonl", line, Fate::Dropped { rule: "r" })
                })
            })
            .unwrap_err()
        };
        let not_ours = "before.csv: this ledger is not of the tool that wrote the input: ";
        assert_eq!(
            refused("", 1),
            format!("{not_ours}it does not speak of line 1 of raw.jsonl")
        );
        assert_eq!(
            refused("a,1,kept,,other.jsonl,1\n", 1),
            format!("{not_ours}it does not speak of line 1 of raw.jsonl")
        );
        assert_eq!(
            refused("a,1,kept,,raw.jsonl,1\na,2,kept,,raw.jsonl,2\n", 1),
            format!("{not_ours}raw.jsonl ends before line 2 of raw.jsonl")
        );
        assert_eq!(
            refused("a,1,kept,,raw.jsonl,2\n", 1),
            format!("{not_ours}it goes on with line 2 of raw.jsonl, and raw.jsonl with line 1")
        );
        assert_eq!(
            refused("a,1,kept,,raw.jsonl,1\na,2\n", 1),
            format!("{not_ours}line 3 has fewer than six columns")
        );
        assert_eq!(
            refused("a,one,kept,,raw.jsonl,1\n", 1),
            format!("{not_ours}line 2 has \"one\" where a number should be")
        );
    }
}
