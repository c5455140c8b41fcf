//! Rows of a table with delimiters: CSV and TSV, RFC 4180, with the line of each row.

use std::io::{BufRead, Read};

use serde_json::{Map, Value};

use super::{Place, Row, utf8};
use crate::Error;
use crate::line_counter::LineCounter;

/// The rows, and the names of their columns.
pub(super) struct Delimited<R> {
    reader: csv::Reader<LineCounter<R>>,
    header: Vec<String>,
    record: csv::ByteRecord,
}

/// Begins to read; `columns` are the header where the file has none.
pub(super) fn open<R: BufRead>(
    reader: R,
    delimiter: u8,
    columns: Option<Vec<String>>,
) -> Result<Delimited<R>, Error> {
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(true)
        .has_headers(false)
        .from_reader(LineCounter::new(reader));
    let mut record = csv::ByteRecord::new();
    let header = match columns {
        Some(columns) => columns,
        None => {
            if !reader.read_byte_record(&mut record)? {
                return Err(Error::shape("is empty"));
            }
            let (start, end) = (
                record.position().map_or(0, csv::Position::byte),
                reader.position().byte(),
            );
            reader.get_mut().line_of(start, end);
            let name = |(index, name): (usize, &[u8])| {
                utf8(name).map_err(|what| {
                    Error::at(Place::Line(1), format!("column {}: {what}", index + 1))
                })
            };
            record
                .iter()
                .enumerate()
                .map(name)
                .collect::<Result<Vec<_>, _>>()?
        }
    };
    if let Some(twice) = header
        .iter()
        .enumerate()
        .find(|(index, name)| header[..*index].contains(name))
    {
        return Err(Error::at(
            Place::Line(1),
            format!("column {:?} is there twice", twice.1),
        ));
    }
    Ok(Delimited {
        reader,
        header,
        record,
    })
}

impl<R: Read> Delimited<R> {
    pub(super) fn header(&self) -> &[String] {
        &self.header
    }

    pub(super) fn next(&mut self) -> Result<Option<Row>, Error> {
        let Delimited {
            reader,
            header,
            record,
        } = self;
        if !reader.read_byte_record(record)? {
            return Ok(None);
        }
        let start = record.position().map_or(0, csv::Position::byte);
        let end = reader.position().byte();
        let place = Place::Line(reader.get_mut().line_of(start, end));
        if is_left_open(reader, record) {
            return Err(Error::at(place, "a quote is opened and never closed"));
        }
        if record.len() < header.len() {
            let missing = format!(
                "has {} fields where the header has {}: column {:?} is missing",
                record.len(),
                header.len(),
                header[record.len()]
            );
            return Err(Error::at(place, missing));
        }
        if record.len() > header.len() {
            let more = format!(
                "has {} fields where the header has {}: is a comma or a quote in a field unquoted?",
                record.len(),
                header.len()
            );
            return Err(Error::at(place, more));
        }
        let mut columns = Map::with_capacity(header.len());
        for (name, field) in header.iter().zip(record.iter()) {
            let text =
                utf8(field).map_err(|what| Error::at(place, format!("column {name:?}: {what}")))?;
            columns.insert(name.clone(), Value::String(text));
        }
        Ok(Some(Row { place, columns }))
    }
}

/// A field that spans lines was quoted: a file that ends in one ends in a quote.
fn is_left_open<R: Read>(reader: &csv::Reader<LineCounter<R>>, record: &csv::ByteRecord) -> bool {
    let last = record.iter().next_back().unwrap_or_default();
    reader.get_ref().is_at_end() && last.contains(&b'\n') && reader.get_ref().last_mark() != b'"'
}
