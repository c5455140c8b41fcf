//! What do the instructions in a prompt cost, and does training them away pay?

mod advice;
mod args;
mod cost;
mod prices;
mod render;

pub use args::Args;

use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, anyhow};
use cli::{Files, Hint, Input, Outcome};
use tokens::{Chat, Shard};

use advice::{Needs, advise};
use args::Format;
use cost::{Training, Volume, costs};
use prices::Prices;
use render::Report;

/// Counts, multiplies, compares, recommends.
pub fn run(mut args: Args) -> anyhow::Result<Outcome> {
    if args.prompt_tokens.is_none() && args.files.is_empty() {
        args.files.push(Input::Stdin);
    }
    files(&args).check()?;
    let prices = args.prices.as_deref().map(Prices::read).transpose()?;
    let volume = volume(&args)?;
    let costs = costs(&volume, training(&args)?, prices.as_ref());
    let needs = Needs {
        failure_rate: args.failure_rate,
        format: args.needs_format,
        vocabulary: args.needs_vocabulary,
        horizon_days: args.horizon_days,
    };
    let report = Report {
        costs: &costs,
        advice: &advise(&costs, &needs),
    };
    let text = match args.format {
        Format::Text => render::text(&report),
        Format::Json => render::json(&report)?,
        Format::Csv => render::csv(&report),
    };
    let mut out = args.output.create()?;
    out.write_all(text.as_bytes())?;
    out.commit()?;
    Ok(Outcome::Done)
}

fn files(args: &Args) -> Files {
    let base = args.base.as_deref().map(tokens::base_files);
    Files::default()
        .reads("FILE", &args.files)
        .reads_paths("--base", base.iter().flatten())
        .reads_paths("--tuned-prompt", &args.tuned_prompt)
        .reads_paths("--prices", &args.prices)
        .reads_paths("--train", &args.train)
        .writes("-o", [&args.output])
}

fn volume(args: &Args) -> anyhow::Result<Volume> {
    let chat = args.base.as_deref().map(open).transpose()?;
    let count = |input: &Input| -> anyhow::Result<u64> {
        let mut text = String::new();
        input
            .open()?
            .read_to_string(&mut text)
            .with_context(|| input.name())?;
        let chat = chat
            .as_ref()
            .ok_or_else(|| anyhow!("--base is needed to count {}", input.name()))?;
        refuse_examples(&text, &input.name())?;
        // An editor's last line break is not sent.
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Ok(chat.encode(text).with_context(|| input.name())?.len() as u64)
    };
    let prompted_tokens = match args.prompt_tokens {
        Some(tokens) => tokens,
        None => args.files.iter().map(count).sum::<anyhow::Result<u64>>()?,
    };
    let tuned_tokens = match &args.tuned_prompt {
        Some(path) => count(&Input::File(path.clone()))?,
        None => args.tuned_prompt_tokens,
    };
    Ok(Volume {
        prompted_tokens,
        tuned_tokens,
        requests_per_day: args.requests_per_day,
        request_tokens: args.request_tokens,
        answer_tokens: args.answer_tokens,
    })
}

/// A file of examples counted as it stands would be braces and quotes, and every line of it one request's.
fn refuse_examples(text: &str, name: &str) -> anyhow::Result<()> {
    let mut lines = (1..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim().is_empty());
    let is_example = |line: &str| {
        let line: Result<serde_json::Value, _> = serde_json::from_str(line);
        line.is_ok_and(|line| line["messages"].is_array())
    };
    match lines.next() {
        Some((number, line)) if is_example(line) => {
            let told =
                anyhow!("{name}:{number}: is an example with messages, no prompt's own text");
            Err(told).hint(format!(
                "give the instructions alone: head -n 1 {name} | jq -r '.messages[0].content' prints a first message"
            ))
        }
        _ => Ok(()),
    }
}

fn training(args: &Args) -> anyhow::Result<Option<Training>> {
    let tokens = match args.train_tokens {
        Some(tokens) => tokens,
        None if args.train.is_empty() => return Ok(None),
        None => {
            let counted = args.train.iter().map(|path| {
                let shard = Shard::open(path).hint("--train takes what tokenize-pack wrote")?;
                Ok(shard.meta().counts.tokens as u64)
            });
            counted.sum::<anyhow::Result<u64>>()?
        }
    };
    let epochs = args.epochs;
    let seconds = args
        .tokens_per_second
        .map(|speed| tokens as f64 * f64::from(epochs) / speed);
    Ok(Some(Training {
        tokens,
        epochs,
        hours: seconds.map(|seconds| seconds / 3600.0),
    }))
}

fn open(base: &Path) -> anyhow::Result<Chat> {
    Chat::open(base).hint("--base is a model folder with its tokenizer, as model-import writes it")
}
