//! Is the adapter worth it? The same questions to the adapter, the prompted base and no model at all.
//!
//! Read in order: `cases`, `inputs` (what is asked) → `metric`, `judge` (what is right) → `lookup`, `shots`,
//! `answer` (who answers) → `system`, `names`, `kept` (answers gathered) → `compare`, `verdict` (what they
//! mean) → `report`, `table`, `html` (how it is told).

mod against;
mod answer;
mod args;
mod baseline;
mod cases;
mod compare;
mod confidence;
mod evaluate;
mod fit;
mod html;
mod inputs;
mod judge;
mod kept;
mod lookup;
mod loss;
mod metric;
mod names;
mod report;
mod shots;
mod system;
mod table;
mod verdict;

pub use args::Args;

use std::io::Write;

use cli::{AtomicDir, Files, Hint, Outcome, Output};
use evaluate::Evaluation;
use kept::Kept;

/// The tool: reads the command line's wishes, judges, and says so by its exit status.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    files(&args).check()?;
    model::device_memory_errors(|| judged(args)).hint("lower --batch-size")?
}

fn judged(args: Args) -> anyhow::Result<Outcome> {
    args.model.check()?;
    model::tune_heap();
    model::use_threads(args.model.threads)?;
    // An output folder that cannot be replaced is told before the work, not after.
    let out_dir = args
        .out_dir
        .as_deref()
        .map(|dir| AtomicDir::create(dir, is_ours))
        .transpose()?;
    if let Some(data) = &args.data {
        let loss = evaluate::loss(&args, data)?;
        publish(
            out_dir,
            &[("report.json", serde_json::to_string_pretty(&loss)? + "\n")],
        )?;
        print(&args, &(serde_json::to_string(&loss)? + "\n"))?;
        return Ok(Outcome::Done);
    }
    let Evaluation {
        report,
        runs,
        cases,
        judge,
        kept,
    } = evaluate::cases(&args, out_dir.as_ref())?;
    let metrics: Vec<metric::Metric> = report.systems[0]
        .scores
        .iter()
        .map(|(metric, _)| metric.clone())
        .collect();
    let scores = runs
        .iter()
        .map(|run| judge.scores(&report.metric, &cases, &run.answers));
    let scores = scores.collect::<anyhow::Result<Vec<_>>>()?;
    let mut predictions = String::new();
    for run in &runs {
        for prediction in run.predictions(&cases, &metrics, &judge)? {
            predictions.push_str(&serde_json::to_string(&prediction)?);
            predictions.push('\n');
        }
    }
    publish(
        out_dir,
        &[
            ("predictions.jsonl", predictions),
            ("report.html", html::page(&report, &runs, &cases, &scores)),
            ("report.json", serde_json::to_string_pretty(&report)? + "\n"),
        ],
    )?;
    kept.map_or(Ok(()), Kept::remove)?;
    let printed = print(&args, &table::text(&report));
    let unmet = Vec::from_iter(report.gates.iter().filter(|gate| !gate.met));
    for gate in &unmet {
        cli::reason(format_args!("{} is not met: {}", gate.gate, gate.because));
    }
    match printed {
        // Who reads no table still hears the verdict.
        Err(error) if !unmet.is_empty() && cli::is_closed_pipe(&error) => Ok(Outcome::No),
        Err(error) => Err(error),
        Ok(()) if unmet.is_empty() => Ok(Outcome::Done),
        Ok(()) => Ok(Outcome::No),
    }
}

fn files(args: &Args) -> Files {
    let files = Files::default()
        .reads("--cases", &args.cases)
        .reads("--train", &args.train)
        .reads("--select", &args.select)
        .reads_paths("--data", &args.data)
        .reads_paths("--chat-template", &args.model.chat_template)
        .reads_paths("--base", &args.base)
        .reads_paths("--adapter", &args.adapter)
        .reads_paths("--bertscore-model", &args.bertscore_model)
        .reads_paths("--bertscore-baseline", &args.bertscore_baseline)
        .reads_paths("--against", &args.against);
    match &args.out_dir {
        Some(folder) => files.replaces("--out-dir", folder),
        None => files,
    }
}

fn is_ours(name: &str) -> bool {
    matches!(name, "report.json" | "report.html" | "predictions.jsonl")
}

fn publish(out_dir: Option<AtomicDir>, files: &[(&str, String)]) -> anyhow::Result<()> {
    let Some(dir) = out_dir else { return Ok(()) };
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::write(&path, text)
            .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
    }
    dir.publish()
}

/// Says the outcome. The folder that holds it stays where nobody can be told: hours may be in it.
fn print(args: &Args, text: &str) -> anyhow::Result<()> {
    let mut out = Output::Stdout.create()?;
    let printed = out.write_all(text.as_bytes()).map_err(anyhow::Error::from);
    let printed = printed.and_then(|()| out.commit());
    match &args.out_dir {
        Some(dir) => printed.hint(format!("{} holds the whole outcome", dir.display())),
        None => printed,
    }
}
