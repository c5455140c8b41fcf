//! Everything adapter-eval can be told on the command line.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::{Parser, ValueEnum};
use cli::{CommonArgs, Hint, Input};
use serde::Serialize;

use crate::metric::Metric;
use crate::names::distinct;

/// Judge an adapter: ask it, the base and no model at all the same questions, and compare.
///
/// Cases are chat JSONL: the last assistant message is the reference, everything before it the prompt. Writes
/// report.json, report.html and predictions.jsonl into --out-dir and prints a table. Exit status 1 says that
/// --min-accuracy, --must-beat or --must-beat-clearly was not met.
///
/// With --data instead of --cases: loss and perplexity of a packed file, as one line of JSON.
#[derive(Debug, Parser, Serialize)]
#[command(name = "adapter-eval", version, after_help = EXAMPLES)]
pub struct Args {
    /// The base model's folder; not needed for --systems majority,nearest
    #[arg(long, value_name = "DIR")]
    pub base: Option<PathBuf>,
    /// The adapter (PEFT folder) on top of it
    #[arg(long, value_name = "DIR", requires = "base")]
    pub adapter: Option<PathBuf>,
    /// What the adapter is called in tables
    #[arg(
        long,
        value_name = "NAME",
        default_value = "adapter",
        conflicts_with = "data"
    )]
    pub name: String,
    /// Questions with their right answers, chat JSONL
    #[arg(long, value_name = "FILE", required_unless_present = "data")]
    pub cases: Option<Input>,
    /// Packed file of tokenize-pack: print loss and perplexity, generate nothing
    #[arg(long, value_name = "FILE", conflicts_with = "cases", requires = "base")]
    pub data: Option<PathBuf>,
    /// Who answers [default: adapter when there is one, else zero-shot]
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        conflicts_with = "data"
    )]
    pub systems: Vec<SystemName>,
    /// Training examples, chat JSONL: for majority, nearest and few-shot
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    pub train: Option<Input>,
    /// Keep the first N cases only: a trial before hours of generating
    #[arg(long, value_name = "N", value_parser = at_least_one, conflicts_with = "data")]
    pub limit: Option<usize>,
    /// Numbers of examples to try in the few-shot prompt [default: 8,32]
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        conflicts_with = "data"
    )]
    pub shots: Vec<usize>,
    /// Where the best number of shots is chosen, chat JSONL; never the test cases
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    pub select: Option<Input>,
    /// What decides: exact, normalised, json-valid, json-match, json-field:NAME, json-found:NAME, json-set:NAME (F1 of
    /// a list in any order), word-f1, rouge-1, rouge-2, rouge-l, rouge-lsum (F1, words by their Porter stems), bleu,
    /// chrf, bertscore (its F1), bertscore-precision or bertscore-recall
    #[arg(
        long,
        value_name = "METRIC",
        default_value = "exact",
        conflicts_with = "data"
    )]
    pub metric: Metric,
    /// An encoder (BERT or RoBERTa, Hugging Face folder) to measure BERTScore by, beside other metrics or as
    /// --metric bertscore; it runs in f32 on the CPU. Compare only scores of one encoder and layer
    #[arg(long, value_name = "DIR", conflicts_with = "data")]
    pub bertscore_model: Option<PathBuf>,
    /// The encoder's layer, from 1 [default: bert_score's for models of the same shape, else the last]
    #[arg(long, value_name = "N", requires = "bertscore_model")]
    pub bertscore_layer: Option<usize>,
    /// Weigh each token by its inverse document frequency among the references, as bert_score's idf
    #[arg(long, requires = "bertscore_model")]
    pub bertscore_idf: bool,
    /// Rescale by what unrelated sentences score: bert_score's file of this encoder (LAYER,P,R,F)
    #[arg(long, value_name = "FILE", requires = "bertscore_model")]
    pub bertscore_baseline: Option<PathBuf>,
    /// Evaluations of the same cases to compare with
    #[arg(long, value_name = "DIR", num_args = 1.., conflicts_with = "data")]
    pub against: Vec<PathBuf>,
    /// Exit with 1 when the judged system scores below this, 0 to 1
    #[arg(long, value_name = "SCORE", value_parser = share, conflicts_with = "data")]
    pub min_accuracy: Option<f64>,
    /// Exit with 1 when the judged system does not score above this one by its mean, within chance or not; `base`
    /// names all bases
    #[arg(long, value_name = "SYSTEM", num_args = 1.., conflicts_with = "data")]
    pub must_beat: Vec<String>,
    /// The same, and exit with 1 too when the difference is within chance (p of 0.05 or more)
    #[arg(long, value_name = "SYSTEM", num_args = 1.., conflicts_with = "data")]
    pub must_beat_clearly: Vec<String>,
    /// JSON field in which answers state how sure they are, 0 to 1: adds Brier score and calibration error
    #[arg(long, value_name = "FIELD", conflicts_with = "data")]
    pub confidence_field: Option<String>,
    /// Folder of the outcome; replaced whole
    #[arg(long, value_name = "DIR")]
    pub out_dir: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub generation: GenerationArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub common: CommonArgs,
}

/// How the base is loaded.
#[derive(Clone, Debug, clap::Args, Serialize)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Precision of the base's linear weights; a base stored in 4 bits is taken as it is, and not as `none`
    #[arg(long, value_enum, default_value_t = Quantization::Nf4)]
    pub quantize: Quantization,
    /// The template to ask through, where the base brings none or one without generation marks
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    pub chat_template: Option<PathBuf>,
    /// The date that templates print, YYYY-MM-DD [default: the one that the adapter, else the base,
    /// was trained with, or the fixed date they carry]
    #[arg(long, value_name = "DATE", conflicts_with = "data")]
    pub date: Option<tokens::Date>,
    /// Keep the 4-bit scales in 32 bits
    #[arg(long)]
    pub no_double_quant: bool,
    /// What the base's weights are multiplied in: f32, bf16, or auto, which is bf16 on a GPU and where
    /// the processor has AVX512-BF16 or AMX. The adapter and all sums are f32; on a GPU
    /// bf16 rounds the adapter where it is multiplied. On the CPU an answer is the same bits whatever is
    /// read and continued beside it, in either
    #[arg(long, value_name = "DTYPE", default_value = "f32")]
    #[serde(serialize_with = "as_text")]
    pub compute_dtype: model::ComputeChoice,
    /// Which of a GPU's kernels computes attention: flash, chunked, or auto, which is flash where it
    /// exists for the model and passes its self test on this GPU first. The CPU has one of its own
    #[arg(long, value_name = "KERNEL", default_value = "auto")]
    #[serde(serialize_with = "as_text")]
    pub attention: model::AttentionChoice,
    /// auto, cpu or cuda:N; auto is the first NVIDIA GPU where this build and the machine have one
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    #[serde(serialize_with = "as_text")]
    pub device: model::DeviceChoice,
    /// Prompts continued, or packed rows read, at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = at_least_one)]
    pub batch_size: usize,
    /// Worker threads, 1 to 1024 [default: one a core]. Results do not depend on it
    #[arg(long, value_name = "N", value_parser = cli::threads())]
    #[serde(skip)]
    pub threads: Option<usize>,
}

/// How answers are generated.
#[derive(Clone, Debug, clap::Args, Serialize)]
#[command(next_help_heading = "Generation")]
pub struct GenerationArgs {
    /// Cut an answer after this many tokens
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = at_least_one, conflicts_with = "data")]
    pub max_new_tokens: usize,
    /// 0 takes the likeliest token each time; above 0 draws
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = temperature, conflicts_with = "data")]
    pub temperature: f32,
    /// Draw from the likeliest tokens that make up this share
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = top_p, conflicts_with = "data")]
    pub top_p: f32,
    /// Of drawn tokens, the examples in the few-shot prompt, and what intervals and p-values draw
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "data")]
    pub seed: u64,
}

/// Who can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SystemName {
    /// Always the commonest training answer
    Majority,
    /// The answer to the training question that shares most words
    Nearest,
    /// The base, asked as the cases are
    ZeroShot,
    /// The base with training examples as earlier turns
    FewShot,
    /// The base with --adapter
    Adapter,
}

impl SystemName {
    /// Lookups answer without a model.
    pub fn needs_model(self) -> bool {
        !matches!(self, SystemName::Majority | SystemName::Nearest)
    }

    pub fn needs_train(self) -> bool {
        matches!(
            self,
            SystemName::Majority | SystemName::Nearest | SystemName::FewShot
        )
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// 4-bit NormalFloat
    Nf4,
    /// Full precision
    None,
}

impl Args {
    /// The systems asked for, or the default ones.
    pub fn systems(&self) -> Vec<SystemName> {
        match (&self.systems[..], &self.adapter) {
            ([], Some(_)) => vec![SystemName::Adapter],
            ([], None) => vec![SystemName::ZeroShot],
            (asked, _) => asked.to_vec(),
        }
    }

    /// The numbers of shots asked for, each once, or the default ones.
    pub fn shots(&self) -> Vec<usize> {
        match &self.shots[..] {
            [] => vec![8, 32],
            asked => distinct(asked.to_vec()),
        }
    }
}

impl ModelArgs {
    /// Refuses what says how to quantise where nothing is quantised.
    pub fn check(&self) -> anyhow::Result<()> {
        match self.quantize {
            Quantization::None if self.no_double_quant => {
                Err(anyhow!("--no-double-quant: nothing is quantised"))
                    .hint("it goes with --quantize nf4")
            }
            _ => Ok(()),
        }
    }

    pub fn load_options(&self) -> model::LoadOptions {
        let quantize = match self.quantize {
            Quantization::Nf4 => model::Quantize::Nf4 {
                double_quant: !self.no_double_quant,
            },
            Quantization::None => model::Quantize::None,
        };
        model::LoadOptions {
            dtype: None,
            quantize,
            compute_dtype: self.compute_dtype.on(self.device),
            device: self.device,
        }
    }

    /// How prompts are rendered; `date` is what is left of --date and what was trained with.
    pub fn chat_options(&self, date: Option<tokens::Date>) -> tokens::ChatOptions {
        tokens::ChatOptions {
            chat_template: self.chat_template.clone(),
            date,
        }
    }

    /// As in keys and report.json.
    pub fn precision(&self) -> &'static str {
        match self.quantize {
            Quantization::Nf4 => "nf4",
            Quantization::None => "full",
        }
    }
}

impl GenerationArgs {
    pub fn options(&self, batch_size: usize) -> model::GenerateOptions {
        model::GenerateOptions {
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            seed: self.seed,
            stop_token_ids: Vec::new(),
            batch_size,
        }
    }
}

fn as_text<T: std::fmt::Display, S: serde::Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err("a whole number, 1 or more".into()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(x) if (0.0..=1.0).contains(&x) => Ok(x),
        _ => Err("a number from 0 to 1".into()),
    }
}

fn temperature(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(t) if (0.0..=100.0).contains(&t) => Ok(t),
        _ => Err("a number, 0 or more".into()),
    }
}

fn top_p(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(p) if p > 0.0 && p <= 1.0 => Ok(p),
        _ => Err("a number above 0, at most 1".into()),
    }
}

const EXAMPLES: &str = "\
Examples:
  adapter-eval --base base/ --train train.jsonl --select valid.jsonl --cases test.jsonl \\
      --systems majority,nearest,zero-shot,few-shot --metric json-field:code --out-dir eval/base
  adapter-eval --base base/ --adapter run/adapter --cases test.jsonl --metric json-field:code \\
      --against eval/base --must-beat base --out-dir eval/adapter
  adapter-eval --base base/ --adapter run/adapter --data valid.safetensors";
