//! Which examples are trained on, watched, held out? Reads them, places them, writes the files.

mod args;
mod fixed;
mod lines;
mod place;
mod report;

use std::fs;
use std::io::{BufWriter, Write};

use anyhow::Context;
use cli::{AtomicDir, Hint, Outcome, Output, OutputWriter, Progress, Unit};
use dataset::ledger::{Fate, Ledger};
use dataset::split::Split;

pub use args::Args;
use fixed::FixedSet;
use lines::Lines;
use place::Place;
use report::Report;

const MANIFEST: &str = "split.json";

/// Reads, places, writes, publishes.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    let fixed = FixedSet::read(&args)?;
    let input = lines::open(&args.input, place::needs_two_passes(&args))?;
    let place = place::decide(&args, &input, &fixed)?;
    let mut sink = Sink::create(&args)?;
    let mut report = Report::new(&args);
    write_all(&input, &place, &mut sink, &mut report)?;
    report.check(&args)?;
    sink.publish(&args, &report, place.strata())?;
    report.print(place.strata());
    Ok(Outcome::Done)
}

fn write_all(
    input: &Lines,
    place: &Place,
    sink: &mut Sink,
    report: &mut Report,
) -> anyhow::Result<()> {
    let progress = Progress::new("split", input.bytes(), Unit::Bytes);
    input.each(&mut |line| {
        progress.inc(line.bytes.len() as u64);
        let placed = place.of(line)?;
        report.count(&placed);
        sink.write(&input.name(), line, &placed)
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
        let ledger = args.ledger.as_ref().map(Output::create).transpose()?;
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

    fn write(
        &mut self,
        input: &str,
        line: &lines::Line,
        placed: &place::Placed,
    ) -> anyhow::Result<()> {
        let fate = match placed.fate {
            Ok(split) => {
                self.written[split as usize] += 1;
                if let Some(file) = &mut self.files[split as usize] {
                    file.write_all(line.bytes)?;
                    if !line.bytes.ends_with(b"\n") {
                        file.write_all(b"\n")?;
                    }
                }
                Fate::Kept {
                    output: file_name(split),
                    output_line: self.written[split as usize],
                }
            }
            Err(rule) => Fate::Dropped { rule },
        };
        Ok(self.ledger.record(input, line.number, fate)?)
    }

    /// The manifest comes last, then all of it appears.
    fn publish(self, args: &Args, report: &Report, strata: &[String]) -> anyhow::Result<()> {
        if let Some(folder) = self.folder {
            for file in self.files.into_iter().flatten() {
                file.into_inner()
                    .map_err(|error| error.into_error())
                    .context("writing the splits")?;
            }
            let mut manifest = serde_json::to_string_pretty(&report.manifest(args, strata))?;
            manifest.push('\n');
            fs::write(folder.path().join(MANIFEST), manifest).context(MANIFEST)?;
            folder.publish().hint("nothing was replaced")?;
        }
        match self.ledger.finish()? {
            Some(ledger) => ledger.commit(),
            None => Ok(()),
        }
    }
}

fn follow(ledger: Ledger<OutputWriter>, args: &Args) -> anyhow::Result<Ledger<OutputWriter>> {
    let Some(path) = &args.ledger_from else {
        return Ok(ledger);
    };
    let file = fs::File::open(path).with_context(|| path.display().to_string())?;
    Ok(ledger.following(file))
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
