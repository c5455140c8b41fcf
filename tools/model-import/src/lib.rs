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
use cli::{AtomicDir, Hint, Outcome};
use source::Source;

/// Every file this tool writes, and so may replace in `--out-dir`.
const FILES: [&str; 13] = [
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "manifest.json",
    "merges.txt",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

pub fn run(args: Args) -> anyhow::Result<Outcome> {
    let source = Source::open(&args.source)?;
    let plan = weights::Plan::new(&source, &args)?;
    let out = AtomicDir::create(&args.out_dir, |name| FILES.contains(&name))?;

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
    let base = checkpoint::Base::open(out.path()).context("checking what was written")?;
    let parameters = base.config().parameters();
    drop(base);
    manifest::write(&args, out.path())?;
    out.publish()
        .hint("the folder that was there before, if any, is as it was")?;
    cli::note(format!(
        "{}: {}, {:.1} million weights, {}",
        args.out_dir.display(),
        source.config().model_type.name(),
        parameters as f64 / 1e6,
        plan.describe()
    ));
    Ok(Outcome::Done)
}
