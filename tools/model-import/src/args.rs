//! What can be asked of model-import?

use checkpoint::DtypeChoice;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, ValueEnum};
use cli::CommonArgs;
use serde::Serialize;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  model-import SmolLM2-135M-Instruct.Q4_1.gguf --out-dir base
  model-import ~/.cache/huggingface/hub/models--Qwen--Qwen3-0.6B --quantize nf4 --out-dir base-nf4

What transformers' save_pretrained makes of a 4-bit model depends on the dtype it was loaded with:
  from_pretrained(dir, dtype=torch.float32, quantization_config=…)   --quantize nf4 --dtype f32
  from_pretrained(dir, dtype=torch.bfloat16, quantization_config=…)  --quantize nf4 --dtype bf16
With --dtype auto the 4-bit weights dequantize to f32, which loses nothing, and what is not
quantized keeps the type it has.";

/// Turns a GGUF file or a Hugging Face folder into a checked base folder
///
/// The folder holds config.json, generation_config.json, model.safetensors, tokenizer.json,
/// tokenizer_config.json, chat_template.jinja and, written last, manifest.json.
#[derive(Debug, Parser, Serialize)]
#[command(name = "model-import", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Args {
    /// A .gguf file, a Hugging Face folder, or an entry of the Hugging Face cache. Of GGUF's types F32,
    /// F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL and IQ4_XS are read
    #[arg(value_name = "SOURCE")]
    pub source: PathBuf,
    /// The base folder to write
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    pub out_dir: Option<PathBuf>,
    /// Store the linear layers in bitsandbytes' 4 bits, or in full; else as the source has them
    #[arg(long, value_name = "HOW")]
    pub quantize: Option<Quantize>,
    /// Keep the scales of 4-bit blocks in f32 instead of 8 bits (0.5 instead of 0.127 bits a weight)
    #[arg(long)]
    pub no_double_quant: bool,
    /// The type of what is not quantized, and the type 4-bit weights dequantize to; auto: as the source
    /// has it, of GGUF bf16
    #[arg(long, value_name = "TYPE", default_value = "auto", value_parser = dtypes())]
    pub dtype: DtypeChoice,
    /// Take the tokenizer and chat template from this Hugging Face folder or entry of its cache
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,
    /// Say what would be written, and how much disk and memory it takes, and stop
    #[arg(long)]
    #[serde(skip)]
    pub dry_run: bool,
    #[command(flatten)]
    #[serde(flatten)]
    pub common: CommonArgs,
}

/// `--quantize`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantize {
    /// 4-bit NormalFloat (QLoRA), blocks of 64
    Nf4,
    /// Not quantized; a 4-bit source is dequantized
    None,
}

/// Its own names, so that help and errors list them.
fn dtypes() -> impl TypedValueParser<Value = DtypeChoice> {
    PossibleValuesParser::new(DtypeChoice::NAMES).try_map(|name| name.parse())
}
