//! Training examples in, packed token ids with a loss mask out.

mod args;
mod ledger;
mod read;
mod report;
mod show;
mod spill;
mod write;

pub use args::Args;

use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, anyhow, bail};
use cli::{Files, Hint, Input, Outcome, Output};
use tokens::{Chat, Encoded, Meta, Packing, pack, shard};

use args::{Format, Long};
use ledger::{Fate, Ledger};
use read::{Interrupted, Line, Place, Reader};

/// Reads, encodes, packs, writes, reports.
pub fn run(mut args: Args) -> anyhow::Result<Outcome> {
    if args.files.is_empty() {
        args.files.push(Input::Stdin);
    }
    check(&args)?;
    let threads = args.threads;
    let threads = threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, Into::into));
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()?;
    let reader = Reader::open(&args)?;
    cli::give_back_freed_memory();
    let done = match args.show_mask {
        Some(count) => show::run(&args, &reader, count),
        None => pack_all(&args, reader),
    };
    match done {
        Ok(()) => Ok(Outcome::Done),
        Err(error) => match error.downcast_ref::<Interrupted>() {
            Some(Interrupted(signal)) => Ok(Outcome::Interrupted(*signal)),
            None => Err(error),
        },
    }
}

fn check(args: &Args) -> anyhow::Result<()> {
    let files = Files::default()
        .reads("FILE", &args.files)
        .reads_paths("--base", &tokens::base_files(&args.base))
        .reads_paths("--chat-template", &args.chat_template)
        .reads_paths("--ledger-from", &args.ledger_from);
    // Never over the only FILE: packed rows are no examples any more, and nothing gives those back.
    files
        .writes("-o", &write::outputs(args))
        .writes("--ledger", &args.ledger)
        .check()?;
    if args.output_shards.is_some() && args.output == Output::Stdout {
        return Err(anyhow!("--output-shards needs files to write"))
            .hint("-o train.safetensors writes train-00001-of-0000N.safetensors and so on");
    }
    let packing = Packing::from(args.packing);
    if args.long.is_some() && packing.splits() {
        bail!(
            "--packing {} cuts long examples, so --long has nothing to decide",
            packing.name()
        );
    }
    if args.show_mask.is_none() && args.format() == Format::Safetensors {
        write::refuse_terminal(&args.output)?;
    }
    Ok(())
}

fn pack_all(args: &Args, reader: Reader) -> anyhow::Result<()> {
    let mut ledger = Ledger::open(args)?;
    let folder = scratch_folder(&args.output);
    let spilling = || format!("writing to {}", folder.display());
    let mut spill = spill::Writer::create(&folder).with_context(spilling)?;
    let (mut came_encoded, mut targets) = (true, 0);
    reader.each_line(&args.files, |place, line| {
        match line {
            Line::Blank => ledger.note(place, Fate::Blank),
            Line::NotOurs => ledger.note(place, Fate::NotOurs),
            Line::Examples {
                examples,
                is_pretokenized,
            } => {
                came_encoded &= is_pretokenized;
                for example in examples {
                    if let Some(example) = keep(example, place, args, &mut ledger)? {
                        targets += example.supervised_tokens();
                        spill.push(&example).with_context(spilling)?;
                    }
                }
            }
        }
        Ok(true)
    })?;
    let spill = spill.finish().with_context(spilling)?;
    if spill.lengths().is_empty() {
        return nothing_left(args, &ledger);
    }
    let (fingerprint, vocab_size) = (reader.fingerprint().clone(), reader.vocab_size());
    let date = reader.chat().filter(|_| !came_encoded).and_then(Chat::date);
    drop(reader); // packing needs no tokenizer, but memory in its place
    cli::give_back_freed_memory();

    let packing = Packing::from(args.packing);
    let rows = pack(spill.lengths(), args.max_seq_length, packing)?;
    let counts = shard::count(&rows, &spill)?;
    if counts.supervised_tokens == 0 {
        bail!(
            "nothing is supervised: no token of {} rows would be learned",
            counts.rows
        );
    }
    let train_on = (!came_encoded).then(|| args.train_on.into());
    let mut meta = Meta::new(
        fingerprint,
        vocab_size,
        args.max_seq_length,
        packing,
        train_on,
        counts,
    );
    meta.date = date;
    let written = write::packed(args, &meta, &rows, &spill)?;
    let lost = targets - meta.counts.supervised_tokens;
    report::print(&meta, &rows, spill.lengths(), lost, &ledger);
    let ledger = ledger.finish(args, &rows, spill.lengths())?; // a foreign one stops the run with nothing written
    cli::publish(ledger.into_iter().chain(written), None)
}

/// Applies the policy for long examples, and records the fate.
fn keep(
    example: Encoded,
    place: Place,
    args: &Args,
    ledger: &mut Ledger,
) -> anyhow::Result<Option<Encoded>> {
    let (fate, kept) = match fit(example, place, args)? {
        Fit::Whole(example) => (Fate::Kept, Some(example)),
        Fit::Truncated(example) => (Fate::Truncated, Some(example)),
        Fit::Dropped => (Fate::Dropped, None),
    };
    ledger.note(place, fate);
    Ok(kept)
}

/// What of an example goes on to be packed.
enum Fit {
    /// All. A packing that cuts will do so if it must.
    Whole(Encoded),
    Truncated(Encoded),
    Dropped,
}

/// The policy for long examples.
fn fit(mut example: Encoded, place: Place, args: &Args) -> anyhow::Result<Fit> {
    let (length, most) = (example.input_ids.len(), args.max_seq_length);
    if length <= most || Packing::from(args.packing).splits() {
        return Ok(Fit::Whole(example));
    }
    match args.long.unwrap_or(Long::Drop) {
        Long::Error => {
            let error = anyhow!("{}: {length} tokens, over {most}", place.name(&args.files));
            return Err(error)
                .hint("--long drop leaves such examples out, --max-seq-length makes rows longer");
        }
        Long::Truncate => {
            example.input_ids.truncate(most);
            example.loss_mask.truncate(most);
            // Where the answer begins beyond the cut nothing is left to learn.
            if example.supervised_tokens() > 0 {
                return Ok(Fit::Truncated(example));
            }
        }
        Long::Drop => {}
    }
    Ok(Fit::Dropped)
}

fn nothing_left(args: &Args, ledger: &Ledger) -> anyhow::Result<()> {
    if ledger.dropped.count == 0 {
        return no_examples(args);
    }
    let dropped = ledger.dropped.summary();
    Err(anyhow!(
        "nothing is supervised: every example was dropped as too long: {dropped}"
    ))
    .hint(format!("--max-seq-length is {}", args.max_seq_length))
}

fn no_examples(args: &Args) -> anyhow::Result<()> {
    let files: Vec<String> = args.files.iter().map(Input::name).collect();
    bail!(
        "{}: no examples, so nothing is supervised",
        files.join(", ")
    );
}

/// Beside the output, where there must be room for it anyway.
fn scratch_folder(output: &Output) -> PathBuf {
    match output {
        Output::Stdout => std::env::temp_dir(),
        Output::File(path) => match path.parent() {
            Some(folder) if folder.is_dir() => folder.to_owned(),
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => Path::new(".").to_owned(),
        },
    }
}
