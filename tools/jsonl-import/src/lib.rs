//! How does a table become chat JSONL? Row by row, by templates or by the shape of its records.

mod args;
mod source;

use std::collections::BTreeMap;
use std::io::Write;

use cli::{Files, Hint, Outcome, OutputWriter, Progress, Unit};
use dataset::convert::{self, NameMap};
use dataset::ledger::{Fate, Ledger};
use dataset::rows::{Format, Needless, Place, Quoting, Row, Rows};
use dataset::template::Templates;
use dataset::{Error, Message};
use serde_json::{Map, Value};

pub use args::Args;
use source::Source;

/// Reads every source, converts every row, publishes the outputs.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    let sources = source::find(&args)?;
    Files::default()
        .reads("FILE", sources.iter().map(|source| &source.input))
        .writes_main("-o", &args.output)
        .writes("--ledger", &args.ledger)
        .check()?;
    let mut converter = Converter::new(&args)?;
    let mut sink = Sink::new(&args)?;
    for source in &sources {
        import(source, &args, &mut converter, &mut sink)?;
    }
    if sink.ledger.counts.read() == 0 {
        return Err(anyhow::anyhow!("{}: holds no rows", args.input.name()))
            .hint("an empty training file would train on nothing");
    }
    let outcome = sink.commit(&args.input.name())?;
    if let Converter::Shapes { left_behind, .. } = &converter {
        tell_left_behind(left_behind);
    }
    Ok(outcome)
}

fn import(
    source: &Source,
    args: &Args,
    converter: &mut Converter,
    sink: &mut Sink,
) -> anyhow::Result<()> {
    let name = source.input.name();
    let progress = Progress::new("import", source.input.bytes(), Unit::Bytes);
    let (reader, format) = source.open(args, &progress)?;
    let mut rows =
        Rows::new(reader, format, args.columns.clone()).map_err(|error| explained(error, &name))?;
    if let Some(header) = rows.header() {
        converter
            .check_header(header)
            .map_err(|error| explained(error, &name))?;
    }
    for row in rows.by_ref() {
        let row = row.map_err(|error| explained(error, &name))?;
        let (Place::Line(line) | Place::Row(line)) = row.place;
        match converter
            .convert(row, source.split)
            .map_err(|error| explained(error, &name))?
        {
            Some(example) => sink.keep(&name, line, &example)?,
            None => sink.skip(&name, line)?,
        }
    }
    let needless = rows.needless_quotes();
    drop(rows); // which counts what it reads
    progress.finish();
    tell_needless_quotes(needless, format, &name);
    Ok(())
}

/// Quotes that a tab-separated file did not need may be text: somebody's whole answer is a quotation.
fn tell_needless_quotes(needless: Needless, format: Format, name: &str) {
    let Format::Delimited {
        quoting: Quoting::Unsaid,
        ..
    } = format
    else {
        return;
    };
    let Needless { cells, first_line } = needless;
    if cells > 0 {
        cli::note(format_args!(
            "{name}:{first_line}: quotes around a cell were taken off, {cells} times where nothing in it needs \
             them; --quoting none keeps quotes as text, --quoting minimal says that this is right"
        ));
    }
}

/// The keys shown of those that were left behind.
const SHOWN: usize = 5;

/// Columns that templates do not name are nobody's loss; a key of a record might be meant.
fn tell_left_behind(rows: &BTreeMap<String, u64>) {
    let mut keys: Vec<_> = rows.iter().collect();
    keys.sort_by_key(|(_, rows)| std::cmp::Reverse(**rows));
    let mut told: Vec<String> = keys
        .iter()
        .take(SHOWN)
        .map(|(key, rows)| format!("{key:?} of {rows}"))
        .collect();
    match keys.len().saturating_sub(SHOWN) {
        0 if told.is_empty() => return,
        0 => {}
        more => told.push(format!("{more} keys more")),
    }
    cli::note(format_args!(
        "left behind: {} rows; --keep KEY takes a key along, into metadata",
        told.join(", ")
    ));
}

/// By templates, or by the keys of each record.
enum Converter<'a> {
    Templates {
        templates: Box<Templates>,
        args: &'a Args,
    },
    Shapes {
        names: NameMap,
        args: &'a Args,
        /// In how many rows a key was not read.
        left_behind: BTreeMap<String, u64>,
    },
}

impl<'a> Converter<'a> {
    fn new(args: &'a Args) -> anyhow::Result<Converter<'a>> {
        if let (Some(user), Some(assistant)) = (&args.user, &args.assistant) {
            let templates = Box::new(Templates::new(args.system.as_deref(), user, assistant)?);
            return Ok(Converter::Templates { templates, args });
        }
        let split = |pair: &String| {
            pair.split_once('=')
                .map(|(ours, theirs)| (ours.to_owned(), theirs.to_owned()))
        };
        let mut names = NameMap::new();
        for (ours, theirs) in args.map.iter().filter_map(split) {
            if let Some(other) = names.insert(ours.clone(), theirs.clone()) {
                return Err(anyhow::anyhow!(
                    "--map names {ours:?} twice: {other:?} and {theirs:?}"
                ));
            }
        }
        Ok(Converter::Shapes {
            names,
            args,
            left_behind: BTreeMap::new(),
        })
    }

    fn args(&self) -> &Args {
        match self {
            Converter::Templates { args, .. } | Converter::Shapes { args, .. } => args,
        }
    }

    fn check_header(&self, header: &[String]) -> Result<(), Error> {
        let place = Place::Line(1);
        if let Converter::Templates { templates, .. } = self {
            templates.check_header(header)?;
        }
        match self
            .args()
            .keep
            .iter()
            .find(|column| !header.contains(column))
        {
            Some(column) => Err(Error::MissingColumn {
                place,
                column: column.clone(),
                columns: header.to_vec(),
            }),
            None => Ok(()),
        }
    }

    /// One line of output, or `None` for a row that is skipped.
    fn convert(
        &mut self,
        row: Row,
        split: Option<&str>,
    ) -> Result<Option<Map<String, Value>>, Error> {
        let place = row.place;
        let metadata = self.metadata(&row, split)?;
        let mut line = match self {
            Converter::Templates { templates, args } => {
                match templates.render(&row, args.on_empty.into())? {
                    Some(messages) => line_of(&messages)?,
                    None => return Ok(None),
                }
            }
            Converter::Shapes {
                names,
                args,
                left_behind,
            } => {
                convert::refuse_preference(&row.columns, names, &args.keep, place)?;
                let alpaca = args.alpaca_prompt.map(Into::into);
                let shape = convert::shape_of(&row.columns, names, alpaca).ok_or_else(|| {
                    let columns: Vec<&str> = row.columns.keys().map(String::as_str).collect();
                    Error::At {
                        place,
                        what: format!("no known shape has the columns {}", columns.join(", ")),
                    }
                })?;
                let (system, on_empty) = (args.system.as_deref(), args.on_empty.into());
                let left: Vec<String> = convert::left_behind(&row.columns, shape, names)
                    .filter(|key| !args.keep.iter().any(|kept| kept == key))
                    .map(str::to_owned)
                    .collect();
                match convert::convert(row, shape, names, system, on_empty)? {
                    Some(line) => {
                        for key in left {
                            *left_behind.entry(key).or_default() += 1;
                        }
                        line
                    }
                    None => return Ok(None),
                }
            }
        };
        if metadata.is_empty() {
            return Ok(Some(line));
        }
        let own = line
            .entry("metadata")
            .or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(own) = own else {
            let what = "metadata is no object that --keep could add to".to_owned();
            return Err(Error::At { place, what });
        };
        for (key, value) in metadata {
            if own.get(&key).is_some_and(|own| *own != value) {
                let what = format!("metadata holds another {key:?}, which would be replaced");
                return Err(Error::At { place, what });
            }
            own.insert(key, value);
        }
        Ok(Some(line))
    }

    fn metadata(&self, row: &Row, split: Option<&str>) -> Result<Map<String, Value>, Error> {
        let mut metadata = Map::new();
        for column in &self.args().keep {
            let value = row
                .columns
                .get(column)
                .cloned()
                .ok_or_else(|| Error::MissingColumn {
                    place: row.place,
                    column: column.clone(),
                    columns: row.columns.keys().cloned().collect(),
                })?;
            metadata.insert(column.clone(), value);
        }
        if let Some(split) = split {
            metadata.insert("split".to_owned(), split.into());
        }
        Ok(metadata)
    }
}

fn line_of(messages: &[Message]) -> Result<Map<String, Value>, Error> {
    Ok(Map::from_iter([(
        "messages".to_owned(),
        serde_json::to_value(messages)?,
    )]))
}

/// Names the file, and the way out.
fn explained(error: Error, name: &str) -> anyhow::Error {
    let hint = match &error {
        Error::MissingColumn { columns, .. } => Some(columns_are(columns)),
        Error::Quotes { .. } => Some(
            "--quoting none reads quotes as text, --quoting minimal as a spreadsheet writes them: around a whole \
             cell, and doubled inside"
                .to_owned(),
        ),
        Error::EmptyCell { .. } | Error::EmptyMessage { .. } => Some("--on-empty skip leaves such rows out, --on-empty keep writes them".to_owned()),
        Error::WholeRow { .. } => Some("row[\"row\"] is the column".to_owned()),
        Error::PreferenceAt { what, .. } if *what == convert::LABEL_SAYS_NO => Some(
            "leave out the rows whose label says no; where label is no verdict, --keep label takes it along"
                .to_owned(),
        ),
        Error::PreferenceAt { .. } => Some(
            "take the answer that is wanted and drop the other: jq -c 'select(.label != false)' before, \
             --map completion=chosen, --map messages=chosen, or --user and --assistant templates"
                .to_owned(),
        ),
        Error::At { what, .. } if what.contains(" is not UTF-8") => Some(
            "iconv -f CP1252 -t UTF-8 converts what Windows writes, iconv -f LATIN1 older files".to_owned(),
        ),
        Error::At { place: Place::Line(_), what } if what.starts_with("EOF while parsing") => Some(
            "a line is a whole object: jq -c . makes lines of objects that go over several".to_owned(),
        ),
        Error::At { what, .. } if what.starts_with("invalid type: sequence") => {
            Some("--format json reads arrays of objects".to_owned())
        }
        Error::At { what, .. } if what.starts_with("no known shape") => Some(
            "give --user and --assistant templates; for Alpaca's columns give --alpaca-prompt plain or stanford"
                .to_owned(),
        ),
        _ => None,
    };
    let error = match error {
        Error::At { .. }
        | Error::PreferenceAt { .. }
        | Error::Quotes { .. }
        | Error::MissingColumn { .. }
        | Error::EmptyCell { .. }
        | Error::EmptyMessage { .. }
        | Error::WholeRow { .. } => {
            anyhow::anyhow!("{name}:{error}")
        }
        of_no_place => anyhow::Error::new(of_no_place).context(name.to_owned()),
    };
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// A single column with another delimiter in its name was not cut.
fn columns_are(columns: &[String]) -> String {
    if let [uncut] = columns {
        for (delimiter, flag) in [
            ('\t', "--format tsv"),
            (';', "--delimiter ';'"),
            ('|', "--delimiter '|'"),
        ] {
            if uncut.contains(delimiter) {
                return format!("the only column is {uncut:?}: {flag} cuts it");
            }
        }
    }
    format!("the columns are {}", columns.join(", "))
}

/// Where lines and fates go.
struct Sink {
    output: OutputWriter,
    output_name: String,
    ledger: Ledger<OutputWriter>,
}

impl Sink {
    fn new(args: &Args) -> anyhow::Result<Sink> {
        let ledger = args.ledger.as_ref().map(cli::Output::create).transpose()?;
        Ok(Sink {
            output: args.output.create()?,
            output_name: args.output.name(),
            ledger: Ledger::new(ledger)?,
        })
    }

    fn keep(&mut self, file: &str, line: u64, example: &Map<String, Value>) -> anyhow::Result<()> {
        serde_json::to_writer(&mut self.output, example).map_err(std::io::Error::from)?;
        self.output.write_all(b"\n")?;
        let output_line = self.ledger.counts.kept + 1;
        Ok(self.ledger.record(
            file,
            line,
            Fate::Kept {
                output: &self.output_name,
                output_line,
            },
        )?)
    }

    fn skip(&mut self, file: &str, line: u64) -> anyhow::Result<()> {
        Ok(self
            .ledger
            .record(file, line, Fate::Dropped { rule: "empty_cell" })?)
    }

    /// Publishes what was written. Where every row is left out an older output stays.
    fn commit(self, input_name: &str) -> anyhow::Result<Outcome> {
        let counts = self.ledger.counts;
        let output = (counts.kept > 0).then_some(self.output);
        cli::publish(self.ledger.finish()?.into_iter().chain(output), None)?;
        if counts.kept == 0 {
            return Err(anyhow::anyhow!(
                "{input_name}: all {} rows have an empty cell and were left out; nothing is written",
                counts.dropped
            ))
            .hint(
                "an empty training file would train on nothing; --on-empty error names the first \
                 empty cell, --ledger FILE lists the rows",
            );
        }
        match counts.dropped {
            0 => cli::note(format_args!(
                "{} rows read, {} written",
                counts.read(),
                counts.kept
            )),
            skipped => cli::note(format_args!(
                "{} rows read, {} written, {skipped} skipped for an empty cell",
                counts.read(),
                counts.kept
            )),
        }
        Ok(Outcome::Done)
    }
}
