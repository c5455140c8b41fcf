//! The command line of tokenize-pack.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Parser, ValueEnum};
use cli::{CommonArgs, Input, Output};
use serde::{Serialize, Serializer};
use tokens::Date;

/// Turn training examples into token ids with a loss mask, and pack them into rows.
///
/// The base's own chat template and tokenizer are used; what the assistant says is learned, from its
/// first token through the end-of-turn token. Lines of token ids ({"input_ids", "labels"}) are taken
/// as they are. Examples that share a row never see each other.
#[derive(Debug, Parser, Serialize)]
#[command(name = "tokenize-pack", version, after_help = EXAMPLES)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    /// JSONL of examples; none or `-` is standard input
    #[arg(value_name = "FILE")]
    pub files: Vec<Input>,
    /// Folder of the base model (tokenizer, chat template, vocabulary)
    #[arg(long, value_name = "DIR")]
    pub base: PathBuf,
    /// Tokens in a row
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = row_length)]
    pub max_seq_length: usize,
    /// How examples share rows
    #[arg(long, value_enum, default_value = "bfd")]
    pub packing: Packing,
    /// Which of the assistant's turns are learned; a message's "weight": 0 takes it out besides
    #[arg(long, value_enum, default_value = "all")]
    pub train_on: TrainOn,
    /// What becomes of an example longer than a row [default: drop; bfd_split and wrapped cut it]
    #[arg(long, value_enum)]
    pub long: Option<Long>,
    /// A template that renders as the base's own does, but marks what the assistant generates
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// The date that templates print, YYYY-MM-DD [default: the one that the base was trained with, or
    /// the fixed date they carry]
    #[arg(long, value_name = "DATE")]
    pub date: Option<Date>,
    /// Packed file for training, or JSONL of packed rows for pipes [default: safetensors]
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Take every N-th line from the I-th on, as one of N machines does: I/N
    #[arg(
        long,
        value_name = "I/N",
        default_value = "1/1",
        hide_default_value = true
    )]
    pub shard: Share,
    /// Write N files, OUTPUT-00001-of-0000N and so on, of equally many rows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=99_999))]
    pub output_shards: Option<u32>,
    /// Write the fate of every line as CSV: kept, dropped or truncated, why, and in which row it is
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<Output>,
    /// Go on from the ledger of the tool that wrote the input: the fates are then those of the lines
    /// that the first tool read
    #[arg(long, value_name = "FILE", requires = "ledger")]
    pub ledger_from: Option<PathBuf>,
    /// Instead of packing, show the first N examples token by token, what is learned marked, where
    /// packing would cut them or why it would drop them; a page if --output ends in .html
    #[arg(long, value_name = "N", conflicts_with_all = ["ledger", "output_shards", "format"])]
    pub show_mask: Option<usize>,
    /// Threads, 1 to 1024 [default: one a core]; the output is the same for any number
    #[arg(long, value_name = "N", value_parser = cli::threads())]
    pub threads: Option<usize>,
    /// Where the result goes; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub output: Output,
    #[command(flatten)]
    #[serde(flatten)]
    pub common: CommonArgs,
}

impl Args {
    pub fn format(&self) -> Format {
        self.format.unwrap_or(Format::Safetensors)
    }
}

const EXAMPLES: &str = "\
Examples:
  tokenize-pack train.jsonl --base base --max-seq-length 2048 -o train.safetensors
  tokenize-pack train.jsonl --base base --show-mask 3

Memory: what the tokenizer takes, and 20 bytes for each example (22 with --ledger), however long the
examples are; their token ids wait in a file without a name beside the output.";

/// As TRL names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Packing {
    /// Best-fit decreasing: whole examples, each where least room is left over
    Bfd,
    /// The same, after cutting examples longer than a row
    BfdSplit,
    /// End to end, cut every row
    Wrapped,
    /// One example a row, in the order given
    None,
}

impl From<Packing> for tokens::Packing {
    fn from(packing: Packing) -> tokens::Packing {
        match packing {
            Packing::Bfd => tokens::Packing::Bfd,
            Packing::BfdSplit => tokens::Packing::BfdSplit,
            Packing::Wrapped => tokens::Packing::Wrapped,
            Packing::None => tokens::Packing::None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainOn {
    /// Every turn
    All,
    /// The last turn only
    Last,
}

impl From<TrainOn> for tokens::TrainOn {
    fn from(train_on: TrainOn) -> tokens::TrainOn {
        match train_on {
            TrainOn::All => tokens::TrainOn::All,
            TrainOn::Last => tokens::TrainOn::Last,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Long {
    /// Leave it out
    Drop,
    /// Cut its end off, and with it the end-of-turn token
    Truncate,
    /// Stop
    Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    Safetensors,
    Jsonl,
}

/// One machine's share of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// From 1.
    pub index: usize,
    pub of: usize,
}

impl Share {
    /// Is the `n`-th line of all inputs, counted from 0, in this share?
    pub fn takes(self, n: u64) -> bool {
        n % self.of as u64 == self.index as u64 - 1
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Share, String> {
        let share = text.split_once('/').and_then(|(index, of)| {
            let (index, of): (usize, usize) = (index.parse().ok()?, of.parse().ok()?);
            (1..=of).contains(&index).then_some(Share { index, of })
        });
        share.ok_or_else(|| "a share is written I/N with I from 1 to N, such as 2/8".into())
    }
}

impl fmt::Display for Share {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.index, self.of)
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn row_length(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(length @ 2..=16_777_216) => Ok(length),
        _ => Err("a row has 2 to 16777216 tokens".into()),
    }
}
