//! What rows does a table hold? CSV, TSV, JSONL, a JSON array, or plain lines, one row at a time.

mod delimited;

use std::fmt::{self, Display};
use std::io::{self, BufRead, Read};

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::members::Columns;
use crate::{BYTE_ORDER_MARK, Error, integers};
pub use delimited::Needless;

/// How the bytes of a table are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// RFC 4180, with this delimiter, or with quotes that are text.
    Delimited { delimiter: u8, quoting: Quoting },
    /// One JSON object a line.
    Jsonl,
    /// Arrays of objects, as `sqlite3 -json` and `duckdb -json` print one for each query.
    Json,
    /// Every line is a row with one column, `text`.
    Text,
}

/// What does a quote at the beginning of a cell mean?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quoting {
    /// It opens a quoted cell, as in RFC 4180 and in what spreadsheets export.
    Minimal,
    /// Nothing, it is text, as in IANA's text/tab-separated-values.
    None,
    /// Nobody said: as `Minimal`, and an error where the lines of a quoted cell would be rows by `None`.
    Unsaid,
}

/// Where a row lies in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Counted from 1.
    Line(u64),
    /// An element of a JSON array, counted from 1, on through all arrays of the file.
    Row(u64),
}

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line(line) => write!(f, "{line}"),
            Place::Row(row) => write!(f, "row {row}"),
        }
    }
}

/// One row: a value for each column, in the order of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub place: Place,
    pub columns: Map<String, Value>,
}

/// The rows of a table, read as they are asked for.
pub struct Rows<R> {
    source: Source<R>,
}

enum Source<R> {
    Delimited(Box<delimited::Delimited<R>>),
    Lines {
        reader: R,
        line: u64,
        buffer: Vec<u8>,
        is_text: bool,
    },
    Array {
        reader: Lined<R>,
        row: u64,
        /// No element of this array has been read.
        is_fresh: bool,
    },
}

impl<R: BufRead> Rows<R> {
    /// Begins to read. `columns` names the columns of a delimited table that has no header.
    pub fn new(
        mut reader: R,
        format: Format,
        columns: Option<Vec<String>>,
    ) -> Result<Rows<R>, Error> {
        skip_byte_order_mark(&mut reader)?;
        let source = match format {
            Format::Delimited { delimiter, quoting } => Source::Delimited(Box::new(
                delimited::open(reader, delimiter, quoting, columns)?,
            )),
            Format::Jsonl => Source::Lines {
                reader,
                line: 0,
                buffer: Vec::new(),
                is_text: false,
            },
            Format::Text => Source::Lines {
                reader,
                line: 0,
                buffer: Vec::new(),
                is_text: true,
            },
            Format::Json => {
                let mut reader = Lined {
                    inner: reader,
                    line: 1,
                };
                if next_mark(&mut reader)? != Some(b'[') {
                    return Err(Error::shape("is no JSON array"));
                }
                Source::Array {
                    reader,
                    row: 0,
                    is_fresh: true,
                }
            }
        };
        Ok(Rows { source })
    }

    /// The columns, where the table says them once and for all.
    pub fn header(&self) -> Option<&[String]> {
        match &self.source {
            Source::Delimited(table) => Some(table.header()),
            _ => None,
        }
    }
}

impl<R: BufRead> Rows<R> {
    /// Of the cells read so far, those in quotes that nothing in them asks for.
    pub fn needless_quotes(&self) -> Needless {
        match &self.source {
            Source::Delimited(table) => table.needless_quotes(),
            _ => Needless::default(),
        }
    }
}

impl<R: BufRead> Iterator for Rows<R> {
    type Item = Result<Row, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.source {
            Source::Delimited(table) => table.next().transpose(),
            Source::Lines {
                reader,
                line,
                buffer,
                is_text,
            } => next_line(reader, line, buffer, *is_text).transpose(),
            Source::Array {
                reader,
                row,
                is_fresh,
            } => next_element(reader, row, is_fresh).transpose(),
        }
    }
}

fn next_line<R: BufRead>(
    reader: &mut R,
    line: &mut u64,
    buffer: &mut Vec<u8>,
    is_text: bool,
) -> Result<Option<Row>, Error> {
    loop {
        buffer.clear();
        if reader.read_until(b'\n', buffer)? == 0 {
            return Ok(None);
        }
        *line += 1;
        let place = Place::Line(*line);
        let text = std::str::from_utf8(buffer)
            .map_err(|error| Error::at(place, not_utf8(buffer, error)))?;
        let text = text.trim_end_matches(['\n', '\r']);
        if text.trim().is_empty() {
            continue;
        }
        let columns = if is_text {
            Map::from_iter([("text".to_owned(), Value::String(text.to_owned()))])
        } else {
            columns_of(text, place)?
        };
        return Ok(Some(Row { place, columns }));
    }
}

fn next_element<R: BufRead>(
    reader: &mut Lined<R>,
    row: &mut u64,
    is_fresh: &mut bool,
) -> Result<Option<Row>, Error> {
    *row += 1;
    let place = Place::Row(*row);
    loop {
        match peek_mark(reader)? {
            Some(b',') if !*is_fresh => break reader.consume(1),
            Some(b']') => reader.consume(1),
            None => {
                return Err(Error::at(
                    place,
                    "the array has no end: is the file cut short?",
                ));
            }
            Some(_) if !*is_fresh => return Err(Error::at(place, "expected , or ]")),
            Some(_) => break,
        }
        // The array has ended: another may follow, and nothing else.
        match peek_mark(reader)? {
            None => return Ok(None),
            Some(b'[') => reader.consume(1),
            Some(_) => {
                let line = Place::Line(reader.line);
                return Err(Error::at(line, "something follows the array"));
            }
        }
        *is_fresh = true;
    }
    *is_fresh = false;
    // An object ends with its brace, so the parser takes no byte of what follows.
    let mut element =
        serde_json::Deserializer::from_reader(&mut *reader).into_iter::<Box<RawValue>>();
    match element.next() {
        Some(Ok(text)) => {
            let columns = columns_of(text.get(), place)?;
            Ok(Some(Row { place, columns }))
        }
        Some(Err(error)) => Err(Error::at(place, Error::from(error).to_string())),
        None => Err(Error::at(
            place,
            "the array has no end: is the file cut short?",
        )),
    }
}

fn columns_of(text: &str, place: Place) -> Result<Map<String, Value>, Error> {
    let Columns(mut columns) = serde_json::from_str(text)
        .map_err(|error| Error::at(place, Error::from(error).to_string()))?;
    integers::keep_columns_exact(&mut columns, text)
        .map_err(|(path, what)| Error::at(place, format!("{path:?} {what}")))?;
    Ok(columns)
}

/// A reader that knows on which line it is, counted from 1.
struct Lined<R> {
    inner: R,
    line: u64,
}

impl<R: Read> Read for Lined<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.line += newlines(&buffer[..length]);
        Ok(length)
    }
}

impl<R: BufRead> BufRead for Lined<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, length: usize) {
        if let Ok(buffer) = self.inner.fill_buf() {
            self.line += newlines(&buffer[..length]);
        }
        self.inner.consume(length);
    }
}

fn newlines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

fn skip_byte_order_mark<R: BufRead>(reader: &mut R) -> Result<(), Error> {
    let start = reader.fill_buf()?;
    if let Some(what) = no_text(start) {
        return Err(Error::Shape(what));
    }
    if start.starts_with(BYTE_ORDER_MARK) {
        reader.consume(BYTE_ORDER_MARK.len());
    }
    Ok(())
}

/// What is said about a file that begins as no text in UTF-8 does.
pub(crate) fn no_text(start: &[u8]) -> Option<String> {
    for (magic, what) in [
        (
            &b"\x1F\x8B"[..],
            "is compressed; gunzip -c FILE writes what is in it",
        ),
        (
            b"\x28\xB5\x2F\xFD",
            "is compressed; zstd -dc FILE writes what is in it",
        ),
        (
            b"PK\x03\x04",
            "is a zip archive or a spreadsheet (xlsx, ods); save the sheet as CSV UTF-8",
        ),
        (
            b"PAR1",
            "is Parquet; duckdb -json -c \"from 'FILE'\" writes its rows",
        ),
        (
            b"SQLite format 3\0",
            "is a database of SQLite; sqlite3 -json FILE 'select …' writes rows",
        ),
    ] {
        if start.starts_with(magic) {
            return Some(what.to_owned());
        }
    }
    let encoding = match start {
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => "UTF-16",
        [0, ..] => "UTF-16BE", // no table and no JSON has a NUL at its beginning
        [_, 0, ..] => "UTF-16LE",
        _ => return None,
    };
    let what = format!("is UTF-16; convert it with iconv -f {encoding} -t UTF-8");
    Some(what)
}

/// The next byte that is no white space, left in place.
fn peek_mark<R: BufRead>(reader: &mut R) -> Result<Option<u8>, Error> {
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(None);
        }
        match buffer.iter().position(|byte| !byte.is_ascii_whitespace()) {
            Some(at) => {
                let mark = buffer[at];
                reader.consume(at);
                return Ok(Some(mark));
            }
            None => {
                let length = buffer.len();
                reader.consume(length);
            }
        }
    }
}

fn next_mark<R: BufRead>(reader: &mut R) -> Result<Option<u8>, Error> {
    let mark = peek_mark(reader)?;
    if mark.is_some() {
        reader.consume(1);
    }
    Ok(mark)
}

fn utf8(bytes: &[u8]) -> Result<String, String> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|error| not_utf8(bytes, error))
}

/// Names the first byte that is not UTF-8 and where it is, counted from 1.
pub(crate) fn not_utf8(bytes: &[u8], error: std::str::Utf8Error) -> String {
    let at = error.valid_up_to();
    let byte = bytes.get(at).copied().unwrap_or(0);
    format!("byte {} (0x{byte:02X}) is not UTF-8", at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows(text: &[u8], format: Format) -> Result<Vec<Row>, Error> {
        Rows::new(text, format, None)?.collect()
    }

    fn error(text: &[u8], format: Format) -> String {
        rows(text, format).unwrap_err().to_string()
    }

    const CSV: Format = Format::Delimited {
        delimiter: b',',
        quoting: Quoting::Minimal,
    };

    const fn tsv(quoting: Quoting) -> Format {
        Format::Delimited {
            delimiter: b'\t',
            quoting,
        }
    }

    #[test]
    fn the_same_table_reads_the_same_in_every_format() {
        let csv = rows(b"\xEF\xBB\xBFa,b\r\n1,\"x, \"\"y\"\"\nz\"\r\n2,w\r\n", CSV).unwrap();
        let tsv = rows(
            b"a\tb\n1\t\"x, \"\"y\"\"\nz\"\n2\tw\n",
            tsv(Quoting::Unsaid),
        )
        .unwrap();
        let jsonl = rows(
            br#"{"a":"1","b":"x, \"y\"\nz"}
{"a":"2","b":"w"}"#,
            Format::Jsonl,
        )
        .unwrap();
        let json = rows(
            br#" [{"a":"1","b":"x, \"y\"\nz"},
{"a":"2","b":"w"}]
"#,
            Format::Json,
        )
        .unwrap();
        let columns = |rows: &[Row]| {
            rows.iter()
                .map(|row| row.columns.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(columns(&csv), columns(&tsv));
        assert_eq!(columns(&csv), columns(&jsonl));
        assert_eq!(columns(&csv), columns(&json));
        assert_eq!(
            csv[1].place,
            Place::Line(4),
            "a quoted field may span lines"
        );
        assert_eq!(json[1].place, Place::Row(2));
    }

    #[test]
    fn every_array_of_a_file_is_read_and_nothing_else() {
        let text = b"[{\"a\":1},\n{\"a\":2}]\n[]\n[{\"a\":3}][{\"a\":4}]\n";
        let rows = rows(text, Format::Json).unwrap();
        let numbers: Vec<_> = rows.iter().map(|row| row.columns["a"].clone()).collect();
        assert_eq!(numbers, [1, 2, 3, 4]);
        assert_eq!(rows[3].place, Place::Row(4));
        for (more, want) in [
            ("junk", "2: something follows the array"),
            ("\n\n{\"a\":5}", "4: something follows the array"),
            ("\n]", "3: something follows the array"),
            (
                "[{\"a\":5}",
                "row 4: the array has no end: is the file cut short?",
            ),
            ("[,{\"a\":5}]", "row 3: expected value at column 1"),
            ("[{\"a\":5} {}]", "row 4: expected , or ]"),
        ] {
            let text = format!("[{{\"a\":1}},\n{{\"a\":2}}]{more}");
            assert_eq!(error(text.as_bytes(), Format::Json), want);
        }
    }

    #[test]
    fn a_broken_table_names_the_place() {
        assert_eq!(
            error(b"a,b\n1\n", CSV),
            r#"2: has 1 fields where the header has 2: column "b" is missing"#
        );
        assert_eq!(
            error(b"a,b\n1,\xE9\n", CSV),
            r#"2: column "b": byte 1 (0xE9) is not UTF-8"#
        );
        assert_eq!(error(b"a,a\n", CSV), r#"1: column "a" is there twice"#);
        assert_eq!(
            error(b"a,b\n\n1,\"x\n2,y\n", CSV),
            "3: a quote is opened and never closed"
        );
        assert_eq!(
            error(b"a,b\n1,\"x\n2,y\n3,\"z\"\n", CSV),
            r#"2: column "b": a quote is opened, and where it is closed, on line 4, text follows"#
        );
        assert_eq!(
            error(b"a,b\n1,\"x\"y\n", CSV),
            r#"2: column "b": text follows the closing quote"#
        );
        assert_eq!(
            error(b"a,b\r\n\r\n1,2\r\n1\r\n", CSV).split(':').next(),
            Some("4")
        );
        assert_eq!(error(b"", CSV), "is empty");
        assert_eq!(
            error(b"[{\"a\":1}", Format::Json),
            "row 2: the array has no end: is the file cut short?"
        );
        assert_eq!(
            error(b"{\"a\":1}\n{\"a\":", Format::Jsonl),
            "2: EOF while parsing a value at column 5"
        );
        for (start, encoding) in [
            (&b"\xFF\xFEa\0"[..], "UTF-16"),
            (b"\xFE\xFF\0a", "UTF-16"),
            (b"a\0,\0", "UTF-16LE"),
            (b"\0{\0}", "UTF-16BE"),
        ] {
            let want = format!("is UTF-16; convert it with iconv -f {encoding} -t UTF-8");
            assert_eq!(error(start, CSV), want);
        }
        for (text, format) in [
            (r#"{"a":{"b":1,"b":2}}"#, Format::Jsonl),
            (r#"[{"a":{"b":1,"b":2}}]"#, Format::Json),
        ] {
            let said = error(text.as_bytes(), format);
            let want = r#"1: a: key "b" is there twice at column "#;
            assert!(said.contains(want), "{said}");
        }
    }

    #[test]
    fn no_row_vanishes_in_a_cell_that_begins_with_a_quote() {
        let error = |text: &str, quoting| error(text.as_bytes(), tsv(quoting));
        let swallowed = "a\tb\n1\t\"Yes\n2\tno\n3\tsaid \"she\"\n4\tend\"\n5\tx\n";
        assert_eq!(
            error(swallowed, Quoting::Unsaid),
            "2: column \"b\": a quote is opened, and where it is closed, on line 4, text follows"
        );
        let swallowed = swallowed.replace(" \"she\"", "");
        assert_eq!(
            error(&swallowed, Quoting::Unsaid),
            "2: is one row of 4 lines if its quotes are quoting, 4 rows if they are text"
        );
        assert_eq!(
            error("a\tb\n1\tx\n2\t\"y\n3\tz\n", Quoting::Unsaid),
            "3: a quote is opened and never closed"
        );
        let count = |quoting| rows(swallowed.as_bytes(), tsv(quoting)).unwrap().len();
        assert_eq!((count(Quoting::Minimal), count(Quoting::None)), (2, 5));
        let text = rows(swallowed.as_bytes(), tsv(Quoting::None)).unwrap();
        assert_eq!(text[0].columns["b"], "\"Yes");
        // What a spreadsheet exports has lines that are no rows by themselves.
        let exported = "a\tb\tc\n1\t\"x\ny\tz\"\t\"\"\"w\"\"\"\n";
        let row = rows(exported.as_bytes(), tsv(Quoting::Unsaid)).unwrap();
        assert_eq!(row[0].columns["b"], "x\ny\tz");
        assert_eq!(row[0].columns["c"], "\"w\"");
    }

    #[test]
    fn quotes_that_nothing_asks_for_are_counted() {
        let text = b"a\tb\n1\t\"x,\"\n\"2\"\t\"\"\n";
        let mut rows = Rows::new(&text[..], tsv(Quoting::Unsaid), None).unwrap();
        assert!(rows.by_ref().all(|row| row.is_ok()));
        let want = Needless {
            cells: 2,
            first_line: 3,
        };
        assert_eq!(rows.needless_quotes(), want);
    }

    #[test]
    fn a_table_ends_its_lines_in_any_way_and_may_be_followed_by_commas() {
        for text in [
            "a,b\r\n\r\n1,2\r\n3,\r\n4",
            "a,b\n\n1,2\n3,\n4\n\n",
            "a,b\r\r\n\n1,2\r\r\n3,\r\r\n4\r\r\n", // converted twice
            "\n\"a\",b\r\"1\",2\r3,\r4",           // an old Mac's
            "a,b,,\n\n1,2,,\n3,,,\n4",
        ] {
            let rows: Vec<_> = Rows::new(text.as_bytes(), CSV, None).unwrap().collect();
            let places = rows.iter().flatten().map(|row| row.place);
            assert_eq!(
                places.collect::<Vec<_>>(),
                [3, 4].map(Place::Line),
                "{text:?}"
            );
            let row = rows[1].as_ref().unwrap();
            assert_eq!(
                Value::Object(row.columns.clone()),
                json!({"a": "3", "b": ""})
            );
            let last = rows[2].as_ref().unwrap_err().to_string();
            assert!(
                last.starts_with("5: has 1 fields where the header has"),
                "{last}"
            );
        }
    }
}
