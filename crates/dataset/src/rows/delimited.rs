//! Rows of a table with delimiters: CSV as RFC 4180 has it, TSV with quotes or without, and the line of each row.
//!
//! The csv crate finds the cells. It takes whatever quotes there are, so each record with a quote is looked at
//! again as it lies in the file: a quote that is never closed, or closed before its cell ends, is an error.
//! There quotes are not what they seem, and rows that vanish inside a cell are missed by nobody.

use std::io::{self, BufRead, Read};

use memchr::memchr;
use serde_json::{Map, Value};

use super::{Place, Quoting, Row, newlines, utf8};
use crate::Error;

/// The rows, and the names of their columns.
pub(super) struct Delimited<R> {
    reader: csv::Reader<Tape<R>>,
    delimiter: u8,
    quoting: Quoting,
    header: Vec<String>,
    record: csv::ByteRecord,
    needless: Needless,
}

/// Cells that were quoted although nothing in them asks for it: the quotes may have been text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needless {
    pub cells: u64,
    /// Where the first one is.
    pub first_line: u64,
}

/// Begins to read; `columns` are the header where the file has none.
pub(super) fn open<R: BufRead>(
    reader: R,
    delimiter: u8,
    quoting: Quoting,
    columns: Option<Vec<String>>,
) -> Result<Delimited<R>, Error> {
    let mut table = Delimited {
        reader: csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .quoting(quoting != Quoting::None)
            .flexible(true)
            .has_headers(false)
            .from_reader(Tape::new(reader)),
        delimiter,
        quoting,
        header: Vec::new(),
        record: csv::ByteRecord::new(),
        needless: Needless::default(),
    };
    let mut place = Place::Line(1);
    table.header = match columns {
        Some(columns) => columns,
        None => {
            place = table
                .read_record()?
                .ok_or_else(|| Error::shape("is empty"))?;
            let name = |(index, name): (usize, &[u8])| {
                utf8(name).map_err(|what| Error::at(place, format!("column {}: {what}", index + 1)))
            };
            if let Some(b"sep=") = table.record.get(0).and_then(|cell| cell.get(..4)) {
                let what = "is Excel's word for the delimiter and no header: take the line off (tail -n +2) and \
                            give --delimiter";
                return Err(Error::at(place, what));
            }
            let names = table.record.iter().enumerate().map(name);
            names.collect::<Result<_, _>>()?
        }
    };
    let names = table.header.iter().enumerate();
    let mut named = names.filter(|(_, name)| !name.is_empty());
    match named.find(|(index, name)| table.header[..*index].contains(name)) {
        Some((_, name)) => Err(Error::at(place, format!("column {name:?} is there twice"))),
        None => Ok(table),
    }
}

impl<R: BufRead> Delimited<R> {
    pub(super) fn header(&self) -> &[String] {
        &self.header
    }

    pub(super) fn needless_quotes(&self) -> Needless {
        self.needless
    }

    /// The next row. A column without a name, such as a spreadsheet's last commas make, is left out.
    pub(super) fn next(&mut self) -> Result<Option<Row>, Error> {
        let Some(place) = self.read_record()? else {
            return Ok(None);
        };
        let (cells, wanted) = (self.record.len(), self.header.len());
        if cells < wanted {
            let missing = format!(
                "has {cells} fields where the header has {wanted}: column {:?} is missing",
                self.header[cells]
            );
            return Err(Error::at(place, missing));
        }
        if cells > wanted {
            let delimiter = match self.delimiter {
                b',' => "comma".to_owned(),
                b'\t' => "tab".to_owned(),
                other => format!("{:?}", char::from(other)),
            };
            let more = format!(
                "has {cells} fields where the header has {wanted}: is a {delimiter} or a quote in a field unquoted?"
            );
            return Err(Error::at(place, more));
        }
        let mut columns = Map::with_capacity(wanted);
        for (name, cell) in self.header.iter().zip(&self.record) {
            let text =
                utf8(cell).map_err(|what| Error::at(place, format!("column {name:?}: {what}")))?;
            if !name.is_empty() {
                columns.insert(name.clone(), Value::String(text));
            }
        }
        Ok(Some(Row { place, columns }))
    }

    /// Reads the cells of the next record, and says where it begins; `None` at the end of the file.
    fn read_record(&mut self) -> Result<Option<Place>, Error> {
        let start = self.reader.position().byte();
        if !self.reader.read_byte_record(&mut self.record)? {
            return Ok(None);
        }
        let length = self.reader.position().byte() - start;
        let (line, record) = self.reader.get_mut().take(length as usize);
        if self.quoting != Quoting::None && memchr(b'"', record).is_some() {
            let quotes = Quotes {
                record,
                line,
                delimiter: self.delimiter,
                header: &self.header,
            };
            quotes.look(&mut self.needless)?;
            if self.quoting == Quoting::Unsaid {
                quotes.refuse_whole_rows(self.record.len())?;
            }
        }
        Ok(Some(Place::Line(line)))
    }
}

/// A record as it lies in the file, with quotes.
struct Quotes<'a> {
    /// Without the line's end.
    record: &'a [u8],
    line: u64,
    delimiter: u8,
    header: &'a [String],
}

impl Quotes<'_> {
    /// Is each quoted cell closed where it ends?
    fn look(&self, needless: &mut Needless) -> Result<(), Error> {
        let (record, mut at) = (self.record, 0);
        for column in 0.. {
            if record.get(at) == Some(&b'"') {
                let open = at;
                let close = self.closing(open)?;
                let needs = |byte: &u8| {
                    *byte == self.delimiter || matches!(byte, b'"' | b',' | b'\n' | b'\r')
                };
                if !record[open + 1..close].iter().any(needs) {
                    if needless.cells == 0 {
                        needless.first_line = self.line_of(open);
                    }
                    needless.cells += 1;
                }
                at = close + 1;
                if record.get(at).is_some_and(|byte| *byte != self.delimiter) {
                    return Err(self.text_follows(column, open, close));
                }
            }
            match memchr(self.delimiter, &record[at..]) {
                Some(length) => at += length + 1,
                None => break,
            }
        }
        Ok(())
    }

    /// Where the quote that was opened is closed; one that is written twice is text.
    fn closing(&self, opened: usize) -> Result<usize, Error> {
        let mut at = opened + 1;
        while let Some(length) = memchr(b'"', &self.record[at..]) {
            at += length;
            if self.record.get(at + 1) != Some(&b'"') {
                return Ok(at);
            }
            at += 2;
        }
        Err(self.error(opened, "a quote is opened and never closed"))
    }

    /// Of a cell of several lines the quote that opens it is the one to look at: what it swallowed are rows.
    fn text_follows(&self, column: usize, open: usize, close: usize) -> Error {
        let column = self.header.get(column);
        let column = column.map_or_else(String::new, |name| format!("column {name:?}: "));
        let what = match self.line_of(close) {
            line if line == self.line_of(open) => "text follows the closing quote".to_owned(),
            line => {
                format!("a quote is opened, and where it is closed, on line {line}, text follows")
            }
        };
        self.error(open, format!("{column}{what}"))
    }

    /// A row whose every line would be a row if quotes were text: are two of them quotations?
    fn refuse_whole_rows(&self, columns: usize) -> Result<(), Error> {
        let lines = newlines(self.record) + 1;
        let cells = |line: &[u8]| memchr::memchr_iter(self.delimiter, line).count() + 1;
        let is_row = |line: &[u8]| cells(line) == columns;
        if lines > 1 && self.record.split(|byte| *byte == b'\n').all(is_row) {
            let what = format!(
                "is one row of {lines} lines if its quotes are quoting, {lines} rows if they are text"
            );
            return Err(self.error(0, what));
        }
        Ok(())
    }

    fn error(&self, at: usize, what: impl Into<String>) -> Error {
        Error::Quotes {
            place: Place::Line(self.line_of(at)),
            what: what.into(),
        }
    }

    fn line_of(&self, at: usize) -> u64 {
        self.line + newlines(&self.record[..at])
    }
}

/// A reader that keeps what its consumer has read and not taken yet, and counts lines as an editor does: the
/// csv crate's own count lags by one after a CRLF and leaves out blank lines.
struct Tape<R> {
    inner: R,
    bytes: Vec<u8>,
    /// Of `bytes`, those that were taken.
    taken: usize,
    /// Number of the line after them, but for an end that the next byte decides.
    line: u64,
    /// The last of them.
    last: u8,
}

impl<R> Tape<R> {
    fn new(inner: R) -> Tape<R> {
        Tape {
            inner,
            bytes: Vec::new(),
            taken: 0,
            line: 1,
            last: 0,
        }
    }

    /// The next record, which is the next `length` bytes but for line ends around it, and its line.
    fn take(&mut self, length: usize) -> (u64, &[u8]) {
        let end = self.taken + length;
        let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
        let before = self.bytes[self.taken..end]
            .iter()
            .take_while(|byte| is_end(byte));
        let start = self.taken + before.count();
        self.pass(start);
        let line = self.line + u64::from(self.last == b'\r');
        self.pass(end);
        let record = &self.bytes[start..end];
        let text = record.iter().rposition(|byte| !is_end(byte));
        (line, &record[..text.map_or(0, |last| last + 1)])
    }

    /// A newline ends a line, with the carriage returns before it; so do these alone.
    fn pass(&mut self, to: usize) {
        for byte in &self.bytes[self.taken..to] {
            let ends = *byte == b'\n' || self.last == b'\r' && *byte != b'\r';
            self.line += u64::from(ends);
            self.last = *byte;
        }
        self.taken = to;
    }
}

impl<R: Read> Read for Tape<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.bytes.drain(..std::mem::take(&mut self.taken));
        let length = self.inner.read(buffer)?;
        self.bytes.extend_from_slice(&buffer[..length]);
        Ok(length)
    }
}
