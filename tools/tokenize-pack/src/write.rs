//! Packed rows to the output: a packed file, or JSON lines.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io::{IsTerminal, Write};
use std::ops::Range;

use anyhow::bail;
use cli::{Hint, Output, OutputWriter};
use serde::Serialize;
use tokens::shard::{self, Examples, segment_loss_mask};
use tokens::{Meta, Part, Rows};

use crate::args::{Args, Format, Share};
use crate::spill::Spill;

/// One packed row as TRL writes it: labels −100 where nothing is learned.
#[derive(Serialize)]
struct PackedLine<'a> {
    input_ids: &'a [u32],
    labels: &'a [i64],
    seq_lengths: &'a [usize],
}

/// Writes all rows to one file, or to several of equally many rows, which are to appear together.
pub fn packed(
    args: &Args,
    meta: &Meta,
    rows: &Rows,
    spill: &Spill,
) -> anyhow::Result<Vec<OutputWriter>> {
    let files = args.output_shards.unwrap_or(1) as usize;
    if files > rows.len() {
        bail!("{} rows are too few for {files} files", rows.len());
    }
    let mut written = Vec::with_capacity(files);
    for file in 0..files {
        let mut meta = meta.clone();
        let Share { index, of } = args.shard;
        meta.part = Part {
            index: (index - 1) * files + file + 1,
            of: of * files,
        };
        let slice = if files == 1 {
            Cow::Borrowed(rows)
        } else {
            let slice = rows.slice(share(rows.len(), file, files));
            meta.counts = shard::count(&slice, spill)?;
            Cow::Owned(slice)
        };
        let output = file_of(args, file);
        let mut out = output.create()?;
        match args.format() {
            Format::Safetensors => shard::write(&mut out, &meta, &slice, spill)?,
            Format::Jsonl => lines(&mut out, &slice, spill)?,
        }
        written.push(out);
    }
    Ok(written)
}

/// In which file a row is, and as its which, from 1.
pub fn lies_in(args: &Args, rows: usize, row: usize) -> (Output, u64) {
    let files = args.output_shards.unwrap_or(1) as usize;
    let file = (0..files)
        .find(|file| share(rows, *file, files).contains(&row))
        .unwrap_or(0);
    (
        file_of(args, file),
        (row - share(rows, file, files).start) as u64 + 1,
    )
}

/// The rows of one of several files.
fn share(rows: usize, file: usize, files: usize) -> Range<usize> {
    file * rows / files..(file + 1) * rows / files
}

/// All files that will be written.
pub fn outputs(args: &Args) -> Vec<Output> {
    let files = args.output_shards.unwrap_or(1) as usize;
    (0..files).map(|file| file_of(args, file)).collect()
}

fn file_of(args: &Args, file: usize) -> Output {
    match args.output_shards {
        Some(files) => numbered(&args.output, file + 1, files),
        None => args.output.clone(),
    }
}

/// `train.safetensors` to `train-00001-of-00004.safetensors`
fn numbered(output: &Output, file: usize, files: u32) -> Output {
    let Output::File(path) = output else {
        return output.clone();
    };
    let part = |part: Option<&OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let (stem, extension) = (part(path.file_stem()), part(path.extension()));
    let dot = if extension.is_empty() { "" } else { "." };
    let name = format!("{stem}-{file:05}-of-{files:05}{dot}{extension}");
    Output::File(path.with_file_name(name))
}

fn lines(out: &mut dyn Write, rows: &Rows, spill: &Spill) -> anyhow::Result<()> {
    let (mut ids, mut loss_mask) = (Vec::new(), Vec::new());
    for row in 0..rows.len() {
        let (mut input_ids, mut labels, mut seq_lengths) = (Vec::new(), Vec::new(), Vec::new());
        for piece in rows.row(row) {
            spill.input_ids(piece, &mut ids)?;
            segment_loss_mask(spill, piece, &mut loss_mask)?;
            let label = |(id, target): (&u32, &u8)| {
                if *target == 1 {
                    i64::from(*id)
                } else {
                    dataset::IGNORED_LABEL
                }
            };
            labels.extend(ids.iter().zip(&loss_mask).map(label));
            input_ids.extend_from_slice(&ids);
            seq_lengths.push(piece.len());
        }
        let line = PackedLine {
            input_ids: &input_ids,
            labels: &labels,
            seq_lengths: &seq_lengths,
        };
        serde_json::to_writer(&mut *out, &line).map_err(std::io::Error::from)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// A packed file is no reading matter.
pub fn refuse_terminal(output: &Output) -> anyhow::Result<()> {
    if *output == Output::Stdout && std::io::stdout().is_terminal() {
        return Err(anyhow::anyhow!(
            "a packed file is binary and is not written to a terminal"
        ))
        .hint("-o FILE.safetensors, or --format jsonl");
    }
    Ok(())
}
