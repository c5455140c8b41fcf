//! What can be asked of adapter-export?

use checkpoint::DtypeChoice;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, ValueEnum};
use cli::{CommonArgs, Output};
use serde::Serialize;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  adapter-export --base base --adapter run/adapter --out-dir merged
  adapter-export --base base --adapter run/adapter -o adapter.gguf   # llama-cli --lora adapter.gguf

An adapter trained over 4-bit weights has learned to make up for their errors, and is merged into those
weights, dequantized. How training loaded the base is read from the config.json of the run that the
adapter lies in, run/adapter or run/checkpoints/checkpoint-N; --quantize, --no-double-quant and
--dequantized-dtype say otherwise, or say it for an adapter from elsewhere.";

/// Writes an adapter for other programs: merged into its base, or as llama.cpp's GGUF
#[derive(Debug, Parser, Serialize)]
#[command(name = "adapter-export", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(true).args(["out_dir", "output"])))]
pub struct Args {
    /// The base folder that the adapter was trained on, or an entry of the Hugging Face cache
    #[arg(long, value_name = "DIR")]
    pub base: PathBuf,
    /// The PEFT adapter folder, or an entry of the Hugging Face cache
    #[arg(long, value_name = "DIR")]
    pub adapter: PathBuf,
    /// Write base and adapter as one Hugging Face folder
    #[arg(long, value_name = "DIR")]
    pub out_dir: Option<PathBuf>,
    /// Write the adapter alone as GGUF, for llama.cpp's --lora
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<Output>,
    /// How training loaded the base's linear layers [default: as the adapter's run did, else none]. A
    /// base that is stored in 4 bits is taken as it is
    #[arg(long, value_name = "HOW")]
    pub quantize: Option<Quantize>,
    /// Training kept the scales of 4-bit blocks in f32 instead of 8 bits [default: as the run did]
    #[arg(long)]
    pub no_double_quant: bool,
    /// The type that training rounded dequantized weights to, its --dtype [default: as the run did]
    #[arg(long, value_name = "TYPE", value_parser = dtypes())]
    pub dequantized_dtype: Option<DtypeChoice>,
    /// The type of the numbers written; auto: merged, as the base's embedding is stored; GGUF, f32
    #[arg(long, value_name = "TYPE", default_value = "auto", value_parser = dtypes())]
    pub dtype: DtypeChoice,
    #[command(flatten)]
    #[serde(flatten)]
    pub common: CommonArgs,
}

/// `--quantize`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantize {
    /// As they are stored
    None,
    /// Quantized to NF4
    Nf4,
}

/// Its own names, so that help and errors list them.
fn dtypes() -> impl TypedValueParser<Value = DtypeChoice> {
    PossibleValuesParser::new(DtypeChoice::NAMES).try_map(|name| name.parse())
}
