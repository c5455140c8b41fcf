//! What can be asked of jsonl-validate?

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use cli::{CommonArgs, Input, Output};
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  jsonl-validate raw.jsonl --assistant-json --drop-invalid -o clean.jsonl
  jsonl-import notes.csv --user '{{ note }}' --assistant '{{ code }}' |
      jsonl-validate --rejects bad.jsonl --report findings.csv --format csv > clean.jsonl
  jsonl-validate raw.jsonl --severity short_user_message=off \\
      --severity ambiguous_answer=error > clean.jsonl
  jsonl-validate raw.jsonl --tokenizer base --max-seq-length 1024 > clean.jsonl
  jsonl-validate raw.jsonl --sample 50 --review sheet > /dev/null
  jsonl-validate raw.jsonl --verdicts sheet.csv > clean.jsonl
  jsonl-validate --explain role_order

Lines without errors go to the output, byte for byte; warnings let a line pass. Exit status 1 says
that there were errors, unless --drop-invalid says that leaving them out is what is wanted. Where no
line passes, an older output is kept, and the exit status is 2 instead of 0.
Rules about the whole file (rare_label, low_diversity, other_script, other_language,
mixed_languages, few_examples, crlf) speak at the end, when the lines have passed. Memory: some
20 MB, and 50 bytes for each different example, whatever the size of the file.";

/// Lets sound training examples through, and says what is wrong with the others
#[derive(Debug, Parser, Serialize)]
#[command(name = "jsonl-validate", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Args {
    /// Examples, one a line
    #[arg(value_name = "FILE", default_value = "-")]
    pub input: Input,
    /// Where the lines that pass go
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub output: Output,
    /// Where the lines that do not pass go, unchanged
    #[arg(long, value_name = "FILE")]
    pub rejects: Option<Output>,
    /// Exit with 0 although errors left lines out; other errors (--severity few_examples=error) and
    /// --fail-on warning still count
    #[arg(long)]
    pub drop_invalid: bool,
    /// What counts as a no, exit status 1
    #[arg(long, value_name = "SEVERITY", default_value = "error")]
    pub fail_on: FailOn,
    /// Write every finding to this file
    #[arg(long, value_name = "FILE")]
    pub report: Option<Output>,
    /// How the report is written
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "json",
        requires = "report"
    )]
    pub format: ReportFormat,
    /// Write the fate of every line to this CSV
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<Output>,
    /// Go on from the ledger of the tool that wrote the input
    #[arg(long, value_name = "FILE", requires = "ledger")]
    pub ledger_from: Option<PathBuf>,
    /// Change how grave a rule is: RULE=error, RULE=warning, RULE=off
    #[arg(long, value_name = "RULE=SEVERITY", value_parser = severity)]
    pub severity: Vec<String>,
    /// The last answer must be JSON
    #[arg(long)]
    pub assistant_json: bool,
    /// The last answer must be JSON that matches this JSON schema
    #[arg(long, value_name = "FILE")]
    pub schema: Option<PathBuf>,
    /// Remark on user messages with fewer characters
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub min_user_chars: usize,
    /// Look for prompts at least this similar, 0 to 1, among the first million (at most 320
    /// bytes of memory each), as 128 bytes of each estimate it: with 0.8 one in 80 pairs of 0.80 to
    /// 0.82 is missed and next to none above, and half of those of 0.7 and one in 20 of those of 0.6
    /// are told too; with 0.5 a third is missed
    #[arg(long, value_name = "SIMILARITY", num_args = 0..=1, default_missing_value = "0.8", require_equals = true, value_parser = share)]
    pub near_duplicates: Option<f64>,
    /// The field that is the label: a key of the line, or of the JSON in the answer
    #[arg(long, value_name = "FIELD")]
    pub label: Option<String>,
    /// With --label: remark on labels with fewer examples
    #[arg(long, value_name = "N", default_value_t = 5, requires = "label")]
    pub min_per_label: u64,
    /// A base folder: also check each example as the model will read it, with its tokenizer and
    /// chat template
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,
    /// With --tokenizer: the most tokens an example may have
    #[arg(long, value_name = "N", default_value_t = 2048, requires = "tokenizer")]
    pub max_seq_length: usize,
    /// Write a review sheet of this many passing examples, for experts to judge
    #[arg(long, value_name = "N", requires = "review")]
    pub sample: Option<usize>,
    /// Where the sheet goes: NAME.csv and NAME.html, the latter one page without network
    #[arg(long, value_name = "NAME", requires = "sample")]
    pub review: Option<PathBuf>,
    /// Another seed is another sample
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// A review sheet that came back, whatever a spreadsheet made of its commas and encoding: what is
    /// rejected there does not pass
    #[arg(long, value_name = "FILE")]
    pub verdicts: Vec<PathBuf>,
    /// Explain a rule with an example, or list all of them, and stop
    #[arg(long, value_name = "RULE|all")]
    pub explain: Option<String>,
    /// Threads that check lines, 1 to 1024; the output is the same with any number
    #[arg(long, value_name = "N", value_parser = cli::threads())]
    pub threads: Option<usize>,
    #[command(flatten)]
    #[serde(flatten)]
    pub common: CommonArgs,
}

/// `--format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReportFormat {
    /// One object: findings, rules, lines
    Json,
    /// One row a finding: file, line, column, rule, severity, message, other_line
    Csv,
}

/// `--fail-on`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FailOn {
    Error,
    Warning,
}

/// Checked here, taken apart in `run`.
fn severity(text: &str) -> Result<String, String> {
    parse_severity(text).map(|_| text.to_owned())
}

pub(crate) fn parse_severity(text: &str) -> Result<(dataset::Rule, dataset::Severity), String> {
    let (rule, severity) = text
        .split_once('=')
        .ok_or("write RULE=error, RULE=warning or RULE=off")?;
    Ok((rule.parse()?, severity.parse()?))
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a similarity is a number from 0 to 1".into()),
    }
}
