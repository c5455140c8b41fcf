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

An adapter trained with --quantize nf4 has learned to make up for the errors of the 4-bit weights.
Given --quantize nf4 here too, it is merged into those weights, dequantized; else into the base's.";

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
    /// How training loaded the base's linear layers
    #[arg(long, value_name = "HOW", default_value = "none")]
    pub quantize: Quantize,
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
    /// Quantized to NF4 with double quantization
    Nf4,
}

/// `--dtype`
fn dtypes() -> impl TypedValueParser<Value = DtypeChoice> {
    PossibleValuesParser::new(DtypeChoice::NAMES).try_map(|name| name.parse())
}
