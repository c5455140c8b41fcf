//! What is there to import, and how are its bytes laid out?

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use clap::ValueEnum;
use cli::{Hint, Input, Progress};
use dataset::BYTE_ORDER_MARK;
use dataset::rows::{self, Format};

use crate::args::{Args, Quoting, TableFormat};

/// One file to read.
pub struct Source {
    pub input: Input,
    /// In an mlx-lm folder: which of its files.
    pub split: Option<&'static str>,
}

const MLX_LM_SPLITS: [&str; 3] = ["train", "valid", "test"];

/// The file named, or the files of the folder named.
pub fn find(args: &Args) -> anyhow::Result<Vec<Source>> {
    match &args.input {
        Input::File(folder) if folder.is_dir() => in_folder(folder),
        input => Ok(vec![Source {
            input: input.clone(),
            split: None,
        }]),
    }
}

fn in_folder(folder: &Path) -> anyhow::Result<Vec<Source>> {
    let sources: Vec<Source> = MLX_LM_SPLITS
        .into_iter()
        .map(|split| (folder.join(format!("{split}.jsonl")), split))
        .filter(|(file, _)| file.is_file())
        .map(|(file, split)| Source {
            input: Input::File(file),
            split: Some(split),
        })
        .collect();
    if sources.is_empty() {
        bail!(
            "{}: holds none of train.jsonl, valid.jsonl, test.jsonl",
            folder.display()
        );
    }
    Ok(sources)
}

impl Source {
    /// Opens it, and decides the format: by flag, by name, by first byte.
    pub fn open<'a>(
        &self,
        args: &Args,
        progress: &'a Progress,
    ) -> anyhow::Result<(impl BufRead + use<'a>, Format)> {
        let raw = Counted {
            inner: self.input.open_raw()?,
            progress,
        };
        let mut reader = BufReader::with_capacity(1 << 18, raw);
        let format = match args.format.or_else(|| self.by_name()) {
            Some(format) => format,
            None => by_first_byte(reader.fill_buf().with_context(|| self.input.name())?),
        };
        self.check_flags(args, format)?;
        let quoting = args.quoting.map(|quoting| match quoting {
            Quoting::Minimal => rows::Quoting::Minimal,
            Quoting::None => rows::Quoting::None,
        });
        let format = match format {
            TableFormat::Csv => Format::Delimited {
                delimiter: u8::try_from(args.delimiter.unwrap_or(',')).expect("args takes ASCII"),
                quoting: quoting.unwrap_or(rows::Quoting::Minimal),
            },
            TableFormat::Tsv => Format::Delimited {
                delimiter: b'\t',
                quoting: quoting.unwrap_or(rows::Quoting::Unsaid),
            },
            TableFormat::Jsonl => Format::Jsonl,
            TableFormat::Json => Format::Json,
            TableFormat::Text => Format::Text,
        };
        Ok((reader, format))
    }

    /// A flag that the format does not know would be ignored.
    fn check_flags(&self, args: &Args, format: TableFormat) -> anyhow::Result<()> {
        let is_table = matches!(format, TableFormat::Csv | TableFormat::Tsv);
        let (flag, of) = if args.delimiter.is_some() && format != TableFormat::Csv {
            ("--delimiter", "csv")
        } else if args.columns.is_some() && !is_table {
            ("--columns", "csv and tsv")
        } else if args.quoting.is_some() && !is_table {
            ("--quoting", "csv and tsv")
        } else {
            return Ok(());
        };
        let (name, value) = (self.input.name(), format.to_possible_value());
        let format = value.as_ref().map_or("", |value| value.get_name());
        Err(anyhow!(
            "{name}: {flag} is for {of}, and this is read as {format}"
        ))
        .hint(format!("leave out {flag}, or say --format csv"))
    }

    /// A `.json` may hold an array or lines: its first byte tells.
    fn by_name(&self) -> Option<TableFormat> {
        let Input::File(path) = &self.input else {
            return None;
        };
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "csv" => Some(TableFormat::Csv),
            "tsv" | "tab" => Some(TableFormat::Tsv),
            "jsonl" | "ndjson" => Some(TableFormat::Jsonl),
            "txt" => Some(TableFormat::Text),
            _ => None,
        }
    }
}

fn by_first_byte(start: &[u8]) -> TableFormat {
    let start = start.strip_prefix(BYTE_ORDER_MARK).unwrap_or(start);
    match start.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => TableFormat::Json,
        Some(b'{') => TableFormat::Jsonl,
        _ => TableFormat::Csv,
    }
}

struct Counted<'a> {
    inner: Box<dyn Read + Send>,
    progress: &'a Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.progress.inc(length as u64);
        Ok(length)
    }
}
