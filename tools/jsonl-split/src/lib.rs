//! Which examples are trained on, watched, held out? Reads them, places them, writes the files.

mod args;
mod fixed;
mod lines;
mod place;
mod report;
mod seen;

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, anyhow};
use cli::{AtomicDir, Files, Hint, Input, Outcome, Output, OutputWriter, Progress, Unit};
use dataset::ledger::{Fate, Ledger};
use dataset::split::Split;

pub use args::Args;
use fixed::FixedSet;
use lines::Lines;
use place::Place;
use report::Report;

const MANIFEST: &str = "split.json";
const BLANK_LINE: &str = "blank_line";

/// Reads, places, writes, publishes.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    check(&args)?;
    let fixed = FixedSet::read(&args)?;
    let input = lines::open(&args.input, place::needs_two_passes(&args))?;
    let place = place::decide(&args, &input, &fixed)?;
    let mut sink = Sink::create(&args)?;
    let mut report = Report::new(&args);
    write_all(&input, &place, &mut sink, &mut report)?;
    report.finish(&args)?;
    sink.publish(&args, &report, place.strata())?;
    report.print(place.strata());
    Ok(Outcome::Done)
}

fn check(args: &Args) -> anyhow::Result<()> {
    let files = Files::default()
        .reads("FILE", [&args.input])
        .reads("--against", &args.against)
        .reads_paths("--ledger-from", &args.ledger_from);
    match &args.out_dir {
        Some(folder) if !args.dry_run => {
            files
                .writes("--ledger", &args.ledger)
                .replaces("--out-dir", folder)
                .check()?;
            refuse_unsplit(folder)
        }
        _ => files.check(),
    }
}

/// Anybody may have written a train.jsonl: only beside a manifest it is a split's, which another may replace.
fn refuse_unsplit(folder: &Path) -> anyhow::Result<()> {
    let mut entries = match fs::read_dir(folder) {
        Ok(entries) if !folder.join(MANIFEST).exists() => entries,
        _ => return Ok(()), // of a folder that cannot be read the writing tells
    };
    let Some(entry) = entries.next() else {
        return Ok(());
    };
    let name = entry
        .with_context(|| folder.display().to_string())?
        .file_name();
    Err(anyhow!(
        "{}: holds {} and no {MANIFEST}, so it is no split of this tool's; the folder would be replaced",
        folder.display(),
        name.display()
    ))
    .hint("choose a folder of its own, or move the file away")
}

fn write_all(
    input: &Lines,
    place: &Place,
    sink: &mut Sink,
    report: &mut Report,
) -> anyhow::Result<()> {
    let name = input.name();
    let progress = Progress::new("split", input.bytes(), Unit::Bytes);
    input.each(&mut |line| {
        progress.inc(line.bytes.len() as u64);
        let Some(index) = line.index else {
            return sink.leave_out(&name, line, BLANK_LINE);
        };
        let placed = place.of(line, index)?;
        report.count(&placed);
        match placed.fate {
            Ok(split) => sink.write(&name, line, split),
            Err(rule) => sink.leave_out(&name, line, rule),
        }
    })?;
    progress.finish();
    Ok(())
}

/// Where the lines go.
struct Sink {
    folder: Option<AtomicDir>,
    files: [Option<BufWriter<fs::File>>; 3],
    written: [u64; 3],
    ledger: Ledger<OutputWriter>,
}

impl Sink {
    fn create(args: &Args) -> anyhow::Result<Sink> {
        let ledger = args.ledger.as_ref().filter(|_| !args.dry_run);
        let ledger = ledger.map(Output::create).transpose()?;
        let mut sink = Sink {
            folder: None,
            files: [None, None, None],
            written: [0; 3],
            ledger: follow(Ledger::new(ledger)?, args)?,
        };
        if let (Some(target), false) = (&args.out_dir, args.dry_run) {
            let folder = AtomicDir::create(target, is_ours)?;
            for split in Split::ALL
                .into_iter()
                .filter(|split| place::wants(args, *split))
            {
                let path = folder.path().join(file_name(split));
                let file = fs::File::create(&path).with_context(|| path.display().to_string())?;
                sink.files[split as usize] = Some(BufWriter::with_capacity(1 << 18, file));
            }
            sink.folder = Some(folder);
        }
        Ok(sink)
    }

    fn write(&mut self, input: &str, line: &lines::Line, split: Split) -> anyhow::Result<()> {
        self.written[split as usize] += 1;
        if let Some(file) = &mut self.files[split as usize] {
            file.write_all(line.bytes)?;
            if !line.bytes.ends_with(b"\n") {
                file.write_all(b"\n")?;
            }
        }
        let fate = Fate::Kept {
            output: file_name(split),
            output_line: self.written[split as usize],
        };
        Ok(self.ledger.record(input, line.number, fate)?)
    }

    fn leave_out(&mut self, input: &str, line: &lines::Line, rule: &str) -> anyhow::Result<()> {
        Ok(self
            .ledger
            .record(input, line.number, Fate::Dropped { rule })?)
    }

    /// The manifest comes last, then all of it appears.
    fn publish(self, args: &Args, report: &Report, strata: &[String]) -> anyhow::Result<()> {
        let ledger = self.ledger.finish().map_err(cli::ledger_error)?; // a foreign one stops the run with nothing written
        if let Some(folder) = &self.folder {
            for file in self.files.into_iter().flatten() {
                file.into_inner()
                    .map_err(|error| error.into_error())
                    .context("writing the splits")?;
            }
            let mut manifest = serde_json::to_string_pretty(&report.manifest(args, strata))?;
            manifest.push('\n');
            fs::write(folder.path().join(MANIFEST), manifest).context(MANIFEST)?;
        }
        cli::publish(ledger, self.folder).hint("nothing was replaced")
    }
}

fn follow(ledger: Ledger<OutputWriter>, args: &Args) -> anyhow::Result<Ledger<OutputWriter>> {
    let from = args.ledger_from.as_ref().filter(|_| !args.dry_run);
    Ok(match (from, &args.input) {
        (Some(path), Input::Stdin) => ledger.following_through_a_pipe(path)?,
        (Some(path), Input::File(_)) => ledger.following(path)?,
        (None, _) => ledger,
    })
}

fn is_ours(name: &str) -> bool {
    name == MANIFEST || Split::ALL.into_iter().any(|split| name == file_name(split))
}

/// The name that mlx-lm and others look for.
pub fn file_name(split: Split) -> &'static str {
    match split {
        Split::Train => "train.jsonl",
        Split::Valid => "valid.jsonl",
        Split::Test => "test.jsonl",
    }
}
