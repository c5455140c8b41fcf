//! Which examples are sound, and what is wrong with the others?

mod args;
mod explain;
mod pipeline;
mod report;
mod review;
mod tokens_check;

use std::io::Write;

use anyhow::Context;
use cli::{Files, Hint, Input, Outcome, Output, OutputWriter};
use dataset::ledger::{Fate, Ledger};
use dataset::{BYTE_ORDER_MARK, Finding, Judge, Options, Severities, Severity, Verdict};

pub use args::Args;
use args::{FailOn, parse_severity};
use report::Report;

/// Checks every line, lets the sound ones through, and reports.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    if let Some(what) = &args.explain {
        return explain::print(what);
    }
    files(&args).check()?;
    let options = options(&args)?;
    let mut judge = Judge::new(&options, args.min_per_label);
    let mut sink = Sink::create(&args)?;
    let mut report = Report::create(&args, &options.severities)?;
    let verdicts = review::read_verdicts(&args.verdicts)?;
    let mut sample = review::Sample::create(&args)?;
    let tokenizer = tokens_check::open(&args, &options.severities)?;
    pipeline::each_block(&args, &options, tokenizer.as_ref(), &mut |before, block| {
        judge.warm(block.lines.iter().map(|(_, checked)| checked));
        let mut kept = 0..0; // lines that follow one another are written at once
        for (number, (range, checked)) in (before + 1..).zip(&mut block.lines) {
            for finding in &mut checked.findings {
                finding.line = Some(number);
            }
            let id = checked.id();
            checked.findings.extend(verdicts.rejection(id, number));
            let verdict = judge.judge(number, checked);
            report.add(&checked.findings)?;
            let line = &block.bytes[range.clone()];
            if sink.note(number, line, verdict)? {
                if number == 1 && line.starts_with(BYTE_ORDER_MARK) {
                    range.start += BYTE_ORDER_MARK.len();
                }
                sample.offer(id, number, &block.bytes[range.clone()]);
                if kept.end != range.start {
                    sink.output.write_all(&block.bytes[kept])?;
                    kept = range.start..range.start;
                }
                kept.end = range.end;
            }
        }
        Ok(sink.output.write_all(&block.bytes[kept])?)
    })?;
    if sink.ledger.counts.read() == 0 {
        return Err(anyhow::anyhow!("{}: is empty", args.input.name()))
            .hint("an empty training file would train on nothing");
    }
    if let (Some(label), true, true) = (
        &args.label,
        judge.labels().is_empty(),
        sink.ledger.counts.kept > 0,
    ) {
        let name = args.input.name();
        return Err(anyhow::anyhow!(
            "{name}: no line that passes has the field {label:?}"
        ))
        .hint("--label is a key of the line (metadata.code) or of the JSON in the answer");
    }
    let at_end = judge.finish();
    report.add(&at_end)?;
    let counts = sink.ledger.counts;
    let sheets = match counts.kept {
        0 => Vec::new(), // as with the output, older ones stay
        _ => sample.write(&args.input.name())?,
    };
    let written = report.finish(counts, &judge.labels())?;
    cli::publish(
        written.into_iter().chain(sheets).chain(sink.finish()?),
        None,
    )?;
    report.tell(counts, &judge.labels());
    let outcome = outcome(&args, &report, &at_end, &options.severities);
    if counts.kept == 0 && outcome == Outcome::Done {
        let name = args.input.name();
        return Err(anyhow::anyhow!(
            "{name}: no line passes, {} were left out; nothing is written",
            counts.dropped
        ))
        .hint(
            "an empty training file would train on nothing; --rejects FILE keeps what is left out, \
             --report FILE says why",
        );
    }
    Ok(outcome)
}

fn files(args: &Args) -> Files {
    let tokenizer = args.tokenizer.as_deref().map(tokens::base_files);
    Files::default()
        .reads("FILE", [&args.input])
        .reads_paths("--schema", &args.schema)
        .reads_paths("--verdicts", &args.verdicts)
        .reads_paths("--tokenizer", tokenizer.iter().flatten())
        .reads_paths("--ledger-from", &args.ledger_from)
        .writes_main("-o", &args.output)
        .writes("--rejects", &args.rejects)
        .writes("--report", &args.report)
        .writes("--ledger", &args.ledger)
        .writes("--review", review::outputs(args).iter().flatten())
}

fn options(args: &Args) -> anyhow::Result<Options> {
    let mut severities = Severities::default();
    for text in &args.severity {
        let (rule, severity) = parse_severity(text).map_err(anyhow::Error::msg)?;
        severities.set(rule, severity);
    }
    let schema = args
        .schema
        .as_ref()
        .map(|path| read_schema(path))
        .transpose()?;
    Ok(Options {
        severities,
        min_user_chars: args.min_user_chars,
        assistant_json: args.assistant_json || schema.is_some(),
        schema,
        label: args.label.clone(),
        near_duplicates: args.near_duplicates,
    })
}

fn read_schema(path: &std::path::Path) -> anyhow::Result<jsonschema::Validator> {
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| name.to_string())?;
    let schema = serde_json::from_str(&text).with_context(|| format!("{name}: not JSON"))?;
    jsonschema::validator_for(&schema)
        .map_err(|error| anyhow::anyhow!("{name}: not a JSON schema: {error}"))
}

/// `--drop-invalid` excuses the errors that left a line out, not those about the whole file, which
/// speak `at_end` and leave nothing out.
fn outcome(args: &Args, report: &Report, at_end: &[Finding], severities: &Severities) -> Outcome {
    let is_error = |finding: &&Finding| severities.of(finding.rule) == Severity::Error;
    let errors = if args.drop_invalid {
        at_end.iter().filter(is_error).count() as u64
    } else {
        report.count(Severity::Error)
    };
    let is_no = match args.fail_on {
        FailOn::Warning => report.count(Severity::Warning) + errors > 0,
        FailOn::Error => errors > 0,
    };
    if is_no { Outcome::No } else { Outcome::Done }
}

/// Where the lines go.
struct Sink {
    output: OutputWriter,
    rejects: Option<OutputWriter>,
    input_name: String,
    output_name: String,
    ledger: Ledger<OutputWriter>,
}

impl Sink {
    fn create(args: &Args) -> anyhow::Result<Sink> {
        let create = |output: &Option<Output>| output.as_ref().map(Output::create).transpose();
        let mut ledger = Ledger::new(create(&args.ledger)?)?;
        if let Some(path) = &args.ledger_from {
            ledger = match args.input {
                Input::Stdin => ledger.following_through_a_pipe(path)?,
                Input::File(_) => ledger.following(path)?,
            };
        }
        Ok(Sink {
            output: args.output.create()?,
            rejects: create(&args.rejects)?,
            input_name: args.input.name(),
            output_name: args.output.name(),
            ledger,
        })
    }

    /// Notes the fate of a line; true when it passes and is yet to be written.
    fn note(&mut self, number: u64, bytes: &[u8], verdict: Verdict) -> anyhow::Result<bool> {
        let fate = match verdict {
            Verdict::Keep => Fate::Kept {
                output: &self.output_name,
                output_line: self.ledger.counts.kept + 1,
            },
            Verdict::Drop(rule) => {
                if let Some(rejects) = &mut self.rejects {
                    rejects.write_all(bytes)?;
                }
                Fate::Dropped { rule: rule.code() }
            }
        };
        self.ledger.record(&self.input_name, number, fate)?;
        Ok(verdict == Verdict::Keep)
    }

    /// What is to be published, the examples last. Where no line passes an older output stays.
    fn finish(self) -> anyhow::Result<impl Iterator<Item = OutputWriter>> {
        let output = (self.ledger.counts.kept > 0).then_some(self.output);
        let ledger = self.ledger.finish().map_err(cli::ledger_error)?; // a foreign one stops the run with nothing written
        Ok([self.rejects, ledger, output].into_iter().flatten())
    }
}
