//! The command line of prompt-cost.

use std::path::PathBuf;

use clap::{ArgGroup, Parser, ValueEnum};
use cli::{CommonArgs, Input, Output};
use serde::Serialize;

/// What do the instructions in a prompt cost, and does training a model to do without them pay?
///
/// Counts the instructions with the model's own tokenizer, multiplies by the requests, and compares
/// with the shorter prompt that a tuned model needs. Prices come from a file of yours; without one
/// only tokens are compared, which decide nothing alone. The recommendation gives its reasons, and they
/// can speak against tuning.
#[derive(Debug, Parser, Serialize)]
#[command(name = "prompt-cost", version, after_help = EXAMPLES)]
#[command(group(ArgGroup::new("prompt").args(["files", "prompt_tokens"])))]
#[command(group(ArgGroup::new("training").args(["train", "train_tokens"])))]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    /// The prompt as it is sent with every request, without the request itself; several files are
    /// one prompt (system message, few-shot examples); `-` is standard input, and with --base and
    /// without --prompt-tokens so is no FILE
    #[arg(value_name = "FILE", requires = "base")]
    pub files: Vec<Input>,
    /// Folder of the model whose tokenizer counts
    #[arg(long, value_name = "DIR", required_unless_present = "prompt_tokens")]
    pub base: Option<PathBuf>,
    /// Tokens of the prompt, where they are known
    #[arg(long, value_name = "N")]
    pub prompt_tokens: Option<u64>,
    /// The prompt that the tuned model will be sent
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "tuned_prompt_tokens",
        requires = "base"
    )]
    pub tuned_prompt: Option<PathBuf>,
    /// Tokens of the prompt that the tuned model will be sent
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub tuned_prompt_tokens: u64,
    /// Requests in a day
    #[arg(long, value_name = "N")]
    pub requests_per_day: u64,
    /// Prices as TOML: [prompted], [tuned] and [training]; see the example below
    #[arg(long, value_name = "FILE")]
    pub prices: Option<PathBuf>,
    /// With --prices: tokens of an answer, on the average; part of what a day costs, and of what is
    /// saved where the two models' prices differ
    #[arg(long, value_name = "N", default_value_t = 0, requires = "prices")]
    pub answer_tokens: u64,
    /// With --prices: tokens of the request itself, on the average; likewise
    #[arg(long, value_name = "N", default_value_t = 0, requires = "prices")]
    pub request_tokens: u64,
    /// Packed training data, whose tokens are counted
    #[arg(long, value_name = "FILE")]
    pub train: Vec<PathBuf>,
    /// Tokens of the training data, where they are known
    #[arg(long, value_name = "N")]
    pub train_tokens: Option<u64>,
    /// With --train or --train-tokens: epochs of training
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..), requires = "training")]
    pub epochs: u32,
    /// With --train or --train-tokens: measured training speed
    #[arg(long, value_name = "N", value_parser = positive, requires = "training")]
    pub tokens_per_second: Option<f64>,
    /// Share of answers that are wrong with the best prompt there is, from 0 to 1, as measured
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub failure_rate: Option<f64>,
    /// The answers have a format of their own that the prompted model does not keep to
    #[arg(long)]
    pub needs_format: bool,
    /// The task has a vocabulary of its own that the prompted model does not know
    #[arg(long)]
    pub needs_vocabulary: bool,
    /// With --prices: how long a tuned model may take to pay
    #[arg(long, value_name = "DAYS", default_value_t = 365, requires = "prices")]
    pub horizon_days: u32,
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// Where the result goes; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub output: Output,
    #[command(flatten)]
    #[serde(flatten)]
    pub common: CommonArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    Text,
    Json,
    Csv,
}

const EXAMPLES: &str = "\
Examples:
  prompt-cost system.txt shots.txt --base base --requests-per-day 10000
  prompt-cost --prompt-tokens 600 --requests-per-day 10000 --prices prices.toml \\
      --train train.safetensors --tokens-per-second 4000 --failure-rate 0.2

Prices, in a currency of yours:
  currency = \"EUR\"
  [prompted]                         # the model that is prompted now
  input_per_million_tokens = 0.0
  cached_input_per_million_tokens = 0.0  # for the share of the prompt that is cached
  cached_share = 0.0
  output_per_million_tokens = 0.0
  per_hour = 0.0                     # a machine that runs all day
  [tuned]                            # the same keys for the tuned model
  [training]                         # without an amount, what training costs is not known
  per_hour = 0.0
  once = 0.0                         # preparing the data, say";

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if number > 0.0 && f64::is_finite(number) => Ok(number),
        _ => Err("a number above 0".into()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a share is a number from 0 to 1".into()),
    }
}
