//! How does somebody else's model become a base that every tool here accepts?

mod args;
mod config;
mod folder;
mod gguf;
mod manifest;
mod source;
mod tokenizer;
mod weights;

pub use args::Args;

use anyhow::Context;
use checkpoint::beside;
use cli::{AtomicDir, Files, Hint, Outcome};
use source::Source;
use std::io::Write;
use std::path::PathBuf;
use weights::Plan;

/// Is this the name of a file that this tool writes, and so may replace in `--out-dir`?
fn writes(name: &str) -> bool {
    let own = [
        "config.json",
        "generation_config.json",
        "manifest.json",
        "model.safetensors",
    ];
    own.contains(&name) || beside::FILES.contains(&name)
}

pub fn run(args: Args) -> anyhow::Result<Outcome> {
    files(&args).check()?;
    let source = Source::open(&args.source)?;
    let plan = Plan::new(&source, &args)?;
    let Some(out_dir) = args.out_dir.as_ref().filter(|_| !args.dry_run) else {
        let (disk, memory) = plan.bytes();
        let (disk, memory) = (disk as f64 / 1e6, memory as f64 / 1e6);
        let what = describe(&source, &plan);
        writeln!(
            std::io::stdout(),
            "{what}: {disk:.0} MB of disk, {memory:.0} MB of memory"
        )?;
        return Ok(Outcome::Done);
    };
    let out = AtomicDir::create(out_dir, writes)?;

    config::write(&source, &plan, out.path())?;
    match &args.tokenizer {
        Some(folder) => tokenizer::copy(folder, out.path(), true)?,
        None => source.write_tokenizer(out.path())?,
    }
    if !tokenizer::check(out.path(), source.config().vocab_size)? {
        cli::note("the source has no tokenizer.json: only pre-tokenised data can be used");
    }
    if let Some(signal) = weights::write(&source, &plan, out.path())? {
        return Ok(Outcome::Interrupted(signal));
    }
    checkpoint::Base::open(out.path()).context("checking what was written")?;
    manifest::write(&args, &plan, out.path())?;
    out.publish()
        .hint("the folder that was there before, if any, is as it was")?;
    cli::note(format!(
        "{}: {}",
        out_dir.display(),
        describe(&source, &plan)
    ));
    Ok(Outcome::Done)
}

fn files(args: &Args) -> Files {
    let snapshot = |path: &PathBuf| checkpoint::resolve(path).ok(); // of an entry of the cache
    let tokenizer = args
        .tokenizer
        .iter()
        .flat_map(|path| [Some(path.clone()), snapshot(path)]);
    let tokenizer: Vec<_> = tokenizer.flatten().collect();
    let files = Files::default()
        .reads_paths(
            "SOURCE",
            [&args.source].into_iter().chain(&snapshot(&args.source)),
        )
        .reads_paths("--tokenizer", &tokenizer);
    match &args.out_dir {
        Some(folder) if !args.dry_run => files.replaces("--out-dir", folder),
        _ => files,
    }
}

/// For people: `llama, 134.5 million weights, bfloat16`.
fn describe(source: &Source, plan: &Plan) -> String {
    let config = source.config();
    format!(
        "{}, {:.1} million weights, {}",
        config.model_type.name(),
        config.parameters() as f64 / 1e6,
        plan.describe()
    )
}
