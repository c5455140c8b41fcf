//! What can be asked of jsonl-split?

use std::path::PathBuf;

use clap::Parser;
use cli::{CommonArgs, Input, Output};
use dataset::split::{Counts, Ratios};
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  jsonl-split clean.jsonl --ratios 80,10,10 --out-dir split
  jsonl-split clean.jsonl --stratify code --counts train=12,valid=2,test=3 --out-dir split
  jsonl-split clean.jsonl --group-by metadata.patient --against gold.jsonl --out-dir split

By default a hash of the first question decides, so appending data moves no example, and examples
with the same one (but for case, white space and system prompts) stay together: a conversation and its
longer versions, whose every answer is learned, do. What stands before it in messages of weight 0 is
part of the question. --stratify, --counts and --exact
look at the whole file and meet the numbers instead. --group-by and --near-duplicates look at it
too, for what belongs together; alone they leave the place of each group to a hash, which meets the
ratios in the long run. The test set is filled first: asking for more training data never changes
what is held out.
Memory: some 5 MB, and for each example 8 bytes by hash, 23 by --exact or --counts, 28 with
--stratify or --group-by, and 320 more with --near-duplicates, however long the examples are.
A FIELD is a key of the line (metadata.patient) or of the JSON in the answer (code).";

/// Divides examples into training, validation and test sets that never leak into each other
#[derive(Debug, Parser, Serialize)]
#[command(name = "jsonl-split", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Args {
    /// Examples, one a line
    #[arg(value_name = "FILE", default_value = "-")]
    pub input: Input,
    /// The folder for train.jsonl, valid.jsonl, test.jsonl and split.json; replaced whole if it holds a
    /// split (its split.json) and nothing else
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    pub out_dir: Option<PathBuf>,
    /// Shares of train, valid and test: 90,10 or 80,10,10 or train=0.8,test=0.2
    #[arg(long, default_value = "90,10,0", conflicts_with = "counts")]
    pub ratios: Ratios,
    /// Numbers of examples, of each stratum with --stratify: train=12,valid=2,test=3 or train=rest,test=3
    #[arg(long)]
    pub counts: Option<Counts>,
    /// Meet the ratios exactly, instead of in the long run
    #[arg(long, conflicts_with = "counts")]
    pub exact: bool,
    /// Meet the ratios or counts for every value of this field; of ratios each gets its own rounded up or
    /// down, so that all together meet them, and the seed says who gets more
    #[arg(long, value_name = "FIELD")]
    pub stratify: Option<String>,
    /// Keep examples together that agree in this field, besides those with the same first question
    #[arg(long, value_name = "FIELD")]
    pub group_by: Option<String>,
    /// Keep examples together whose first questions are at least this similar, 0 to 1, as 128 bytes of each
    /// estimate it: with 0.8 one in 80 pairs of 0.80 to 0.82 is missed and next to none above, and
    /// half of those of 0.7 and one in 20 of those of 0.6 are kept together too; with 0.5 a third is
    /// missed (at most 320 bytes of memory an example)
    #[arg(
        long,
        value_name = "SIMILARITY",
        num_args = 0..=1,
        default_missing_value = "0.8",
        require_equals = true,
        value_parser = share
    )]
    pub near_duplicates: Option<f64>,
    /// Leave out examples that ask, in any turn that is learned, a first question of this file, e.g. a
    /// test set that is fixed, and the whole group of an example in it: all that --near-duplicates and
    /// --group-by keep together. If it came out of a split, give another --seed than that had
    #[arg(long, value_name = "FILE")]
    pub against: Vec<Input>,
    /// Another seed is another split. What a split left, split again with the same seed, is cut at
    /// the same places: nothing is held out. Give another one then
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Count, and write nothing, no --ledger either
    #[arg(long)]
    pub dry_run: bool,
    /// Write the fate of every line to this CSV
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<Output>,
    /// Go on from the ledger of the tool that wrote the input
    #[arg(long, value_name = "FILE", requires = "ledger")]
    pub ledger_from: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    pub common: CommonArgs,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a similarity is a number from 0 to 1".into()),
    }
}
