//! Everything that qlora-train can be told.

mod values;

use std::path::PathBuf;

use anyhow::anyhow;
use clap::{
    Args as ClapArgs, Parser,
    builder::{ArgPredicate, RangedU64ValueParser},
};
use cli::Hint;
use serde::{Serialize, ser::SerializeMap};

use crate::schedule::{Shape, Warmup};
pub use values::{ByteSize, Checkpointing, Dtype, Parameter, Quantization, Resume, Scheduler};
use values::{above_zero, as_text, below_one, epochs, fraction, non_negative, plainly, positive};

/// Fine-tune a language model with QLoRA: a LoRA adapter over a frozen 4-bit base.
///
/// Reads packed shards that tokenize-pack made with the same base, and writes RUN/adapter (PEFT),
/// RUN/metrics.jsonl, RUN/checkpoints and RUN/config.json, which --config takes to do it again. The
/// base is never changed. A run that was stopped goes on where it was, to the same bytes.
#[derive(Debug, Parser, Serialize)]
#[command(name = "qlora-train", version, after_help = EXAMPLES)]
#[serde(rename_all = "kebab-case")]
pub struct Args {
    /// Base model: a folder made by model-import, or any Hugging Face folder of a known architecture
    #[arg(
        long,
        value_name = "DIR",
        default_value_if("doctor", ArgPredicate::IsPresent, Some("."))
    )]
    pub base: PathBuf,

    /// Packed shards to train on
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub train: Vec<PathBuf>,

    /// Packed shards to evaluate on, before the first step and after each epoch
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub eval: Vec<PathBuf>,

    /// Folder of the run
    #[arg(
        long,
        value_name = "RUN",
        default_value_if("doctor", ArgPredicate::IsPresent, Some("."))
    )]
    pub out_dir: PathBuf,

    #[command(flatten)]
    #[serde(flatten)]
    pub schedule: ScheduleArgs,

    #[command(flatten)]
    #[serde(flatten)]
    pub lora: LoraArgs,

    #[command(flatten)]
    #[serde(flatten)]
    pub engine: EngineArgs,

    #[command(flatten)]
    #[serde(flatten)]
    pub run: RunArgs,

    #[command(flatten)]
    #[serde(flatten)]
    pub common: cli::CommonArgs,
}

/// How long, how fast, how much at once.
#[derive(Clone, Debug, ClapArgs, Serialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Schedule")]
pub struct ScheduleArgs {
    // Of the defaults those of QLoRA (arXiv 2305.14314, section 4 and appendix B: 7B and 13B) are learning
    // rate, rows a step, NF4 with double quantisation and LoRA on every linear layer. Where practice has
    // moved on since, the paper's value stands beside ours.
    // epochs: transformers' TrainingArguments
    /// Passes over the training rows; 0.5 reads half of them
    #[arg(long, value_name = "N", default_value_t = 3.0, value_parser = epochs)]
    #[serde(serialize_with = "plainly")]
    pub epochs: f64,

    /// Stop after this many optimizer steps; the schedule then spans these
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,

    // QLoRA: 16 rows a step, here in four parts
    /// Packed rows in a micro-batch
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = positive)]
    pub batch_size: usize,

    /// Micro-batches in an optimizer step
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = positive)]
    pub gradient_accumulation_steps: usize,

    // QLoRA
    /// Peak learning rate. 2e-4 suits 7B models (QLoRA, arXiv 2305.14314); small ones want more
    #[arg(long, value_name = "LR", default_value_t = 2e-4, value_parser = above_zero)]
    pub learning_rate: f64,

    // Stanford Alpaca, as its warm-up of 0.03; QLoRA: constant
    /// Shape of the learning rate after warm-up, by transformers' names
    #[arg(long, value_name = "SHAPE", value_enum, default_value_t = Scheduler::Cosine)]
    pub lr_scheduler: Scheduler,

    /// Parameters of that shape, e.g. num_cycles=3 or power=2,lr_end=1e-6
    #[arg(long, value_name = "NAME=VALUE", num_args = 1.., value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lr_scheduler_kwargs: Vec<Parameter>,

    /// Share of all steps in which the rate rises from 0, rounded up to whole steps; none with
    /// --lr-scheduler constant
    #[arg(
        long,
        value_name = "R",
        default_value = "0.03",
        default_value_ifs([
            ("warmup_steps", ArgPredicate::IsPresent, None),
            ("lr_scheduler", ArgPredicate::Equals("constant".into()), Some("0")),
        ]),
        overrides_with = "warmup_steps",
        value_parser = fraction
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_ratio: Option<f64>,

    /// The same as a number of steps; of these two flags the last one counts
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,

    // torch's AdamW
    /// Decoupled weight decay of AdamW
    #[arg(long, value_name = "W", default_value_t = 0.01, value_parser = non_negative)]
    pub weight_decay: f64,

    // transformers' TrainingArguments; QLoRA: 0.3
    /// Clip gradients to this global norm; 0 clips nothing
    #[arg(long, value_name = "NORM", default_value_t = 1.0, value_parser = non_negative)]
    pub max_grad_norm: f64,

    /// Train on the rows in the order they have in the shards
    #[arg(long)]
    pub no_shuffle: bool,

    /// Seed of the adapter's start, the shuffling and the dropout
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// Stop when the loss on --eval has not improved for this many evaluations; 0 never stops early
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub early_stopping_patience: u32,
}

/// The adapter.
#[derive(Clone, Debug, ClapArgs)]
#[command(next_help_heading = "LoRA")]
pub struct LoraArgs {
    // common with alpha = 2 · rank; QLoRA: rank 64, alpha 16
    /// Inner dimension of the update
    #[arg(long, value_name = "R", default_value_t = 16, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 20))]
    pub rank: usize,

    /// The update is scaled by alpha / rank
    #[arg(long, value_name = "A", default_value_t = 32.0, value_parser = above_zero)]
    pub alpha: f64,

    /// Scale the update by alpha / sqrt(rank) instead (rsLoRA, arXiv 2312.03732), for high ranks
    #[arg(long)]
    pub use_rslora: bool,

    // Alpaca-LoRA, and QLoRA from 33B on; below, QLoRA: 0.1
    /// Probability that an input value of A is zeroed in training
    #[arg(long, value_name = "P", default_value_t = 0.05, value_parser = below_one)]
    pub dropout: f64,

    // QLoRA
    /// Projections that carry a LoRA; `all-linear` is PEFT's word for these seven
    #[arg(
        long,
        value_name = "NAME",
        num_args = 1..,
        value_delimiter = ',',
        default_values_t = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"].map(String::from)
    )]
    pub target_modules: Vec<String>,

    /// Start from this PEFT adapter: rank, alpha and targets are its own, dropout is --dropout's
    #[arg(long, value_name = "DIR", conflicts_with_all = ["rank", "alpha", "use_rslora", "target_modules"])]
    pub init_adapter: Option<PathBuf>,
}

/// How it is computed.
#[derive(Clone, Debug, ClapArgs, Serialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Engine")]
pub struct EngineArgs {
    // QLoRA, with its double quantisation
    /// Precision of the frozen base: 4-bit NormalFloat, or full
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Quantization::Nf4)]
    pub quantize: Quantization,

    /// Keep the 4-bit block scales in f32 instead of quantising them too
    #[arg(long)]
    pub no_double_quant: bool,

    /// Type that 4-bit values are rounded to after dequantising, transformers' dtype=; auto is f32,
    /// or what an already quantised base says
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = Dtype::Auto)]
    pub dtype: Dtype,

    /// What the frozen weights are multiplied in: auto, f32 or bf16; auto is bf16 on a GPU and where
    /// the processor has AVX512-BF16 or AMX. The adapter and all sums are f32; on a GPU bf16 rounds the
    /// adapter where it is multiplied
    #[arg(long, value_name = "DTYPE", default_value = "auto")]
    #[serde(serialize_with = "as_text")]
    pub compute_dtype: model::ComputeChoice,

    /// Which of a GPU's kernels computes attention: flash, chunked, or auto, which is flash where it
    /// exists for the model and passes its self test on this GPU first. The CPU has one of its own
    #[arg(long, value_name = "KERNEL", default_value = "auto")]
    #[serde(serialize_with = "as_text")]
    pub attention: model::AttentionChoice,

    /// Compute activations again in the backward pass instead of keeping them; auto recomputes as
    /// many layers as do not fit --max-memory
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Checkpointing::Auto)]
    pub activation_checkpointing: Checkpointing,

    /// Memory that auto plans for, e.g. 6GiB [default: what the machine has available]
    #[arg(long, value_name = "SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memory: Option<ByteSize>,

    /// Where to compute: auto, cpu or cuda:N; auto is the first NVIDIA GPU where this build and the
    /// machine have one
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    #[serde(serialize_with = "as_text")]
    pub device: model::DeviceChoice,

    /// Worker threads, 1 to 1024 [default: one a core]. Results do not depend on it
    #[arg(long, value_name = "N", value_parser = cli::threads())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
}

/// Logging, checkpoints, taking up again.
#[derive(Clone, Debug, ClapArgs, Serialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Run")]
pub struct RunArgs {
    /// A row in metrics.jsonl every N optimizer steps
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub logging_steps: u64,

    /// Also evaluate on --eval, and save, every N optimizer steps, beside at each epoch's end
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_steps: Option<u64>,

    /// Also save a checkpoint every N optimizer steps, beside those at each epoch's end
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save_steps: Option<u64>,

    /// Checkpoints to keep, besides the best one
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = positive)]
    pub save_total_limit: usize,

    /// Go on from RUN's newest checkpoint: if there is one, never, or only then
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Resume::Auto)]
    #[serde(skip)]
    pub resume: Resume,

    /// Replace a run in RUN that was made with other settings or inputs
    #[arg(long)]
    #[serde(skip)]
    pub overwrite: bool,

    /// Say what would be done, in steps, arithmetic, memory and disk, and stop; refuse what a run would refuse
    #[arg(long)]
    #[serde(skip)]
    pub dry_run: bool,

    /// Say what driver, compiler and GPUs there are, test every operation on DEVICE, and stop
    #[arg(long, value_name = "DEVICE", exclusive = true, num_args = 0..=1, default_missing_value = "auto")]
    #[serde(skip)]
    pub doctor: Option<model::DeviceChoice>,
}

/// What --init-adapter brings is not said beside it.
impl Serialize for LoraArgs {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if self.init_adapter.is_none() {
            map.serialize_entry("rank", &self.rank)?;
            map.serialize_entry("alpha", &self.alpha)?;
            if self.use_rslora {
                map.serialize_entry("use-rslora", &true)?;
            }
        }
        map.serialize_entry("dropout", &self.dropout)?;
        match &self.init_adapter {
            None => map.serialize_entry("target-modules", &self.target_modules)?,
            Some(dir) => map.serialize_entry("init-adapter", dir)?,
        }
        map.end()
    }
}

impl LoraArgs {
    /// With `all-linear` spelled out and every projection once, in the model's order, so that the run is the
    /// same run however they are named. What is no projection stays, to be refused by its name.
    pub fn resolved(self) -> Self {
        let named = |name: &str| self.target_modules.iter().any(|target| target == name);
        let is_projection = |name: &str| model::Projection::by_name(name).is_ok();
        let projections = model::Projection::ALL.map(|p| p.name());
        let chosen = projections
            .iter()
            .filter(|name| named("all-linear") || named(name));
        let others = self.target_modules.iter().map(String::as_str);
        let others = others.filter(|name| !is_projection(name) && *name != "all-linear");
        let target_modules = chosen.copied().chain(others).map(String::from).collect();
        Self {
            target_modules,
            ..self
        }
    }
}

impl ScheduleArgs {
    /// Refuses a warm-up where the shape has none.
    pub fn check(&self) -> anyhow::Result<()> {
        let warms_up = !matches!(self.warmup(), Warmup::Steps(0) | Warmup::Ratio(0.0));
        match self.lr_scheduler {
            Scheduler::Constant if warms_up => {
                Err(anyhow!("--lr-scheduler constant has no warm-up"))
                    .hint("constant_with_warmup has one")
            }
            _ => Ok(()),
        }
    }

    pub fn shape(&self) -> anyhow::Result<Shape> {
        let (kind, kwargs) = (self.lr_scheduler, &self.lr_scheduler_kwargs);
        let shape = Shape::new(kind, kwargs, self.learning_rate);
        shape.map_err(|why| anyhow!("--lr-scheduler-kwargs: {why}"))
    }

    pub fn warmup(&self) -> Warmup {
        match (self.warmup_steps, self.warmup_ratio) {
            (Some(steps), _) => Warmup::Steps(steps),
            (None, ratio) => Warmup::Ratio(ratio.expect("clap has a default for it")),
        }
    }
}

impl EngineArgs {
    /// With `auto` replaced by what it comes to here, so that RUN/config.json says what was computed.
    pub fn resolved(self) -> Self {
        Self {
            compute_dtype: model::ComputeChoice::Dtype(self.compute_dtype.on(self.device)),
            ..self
        }
    }

    /// Refuses what says how to quantise where nothing is quantised.
    pub fn check(&self) -> anyhow::Result<()> {
        let flags = [
            ("--no-double-quant", self.no_double_quant),
            ("--dtype", self.dtype != Dtype::Auto),
        ];
        match flags.into_iter().find(|(_, given)| *given) {
            Some((flag, _)) if self.quantize == Quantization::None => {
                Err(anyhow!("{flag}: nothing is quantised")).hint("it goes with --quantize nf4")
            }
            _ => Ok(()),
        }
    }

    pub fn load_options(&self) -> model::LoadOptions {
        model::LoadOptions {
            quantize: match self.quantize {
                Quantization::Nf4 => model::Quantize::Nf4 {
                    double_quant: !self.no_double_quant,
                },
                Quantization::None => model::Quantize::None,
            },
            dtype: match self.dtype {
                Dtype::Auto => None,
                Dtype::F32 => Some(checkpoint::Dtype::F32),
                Dtype::Bf16 => Some(checkpoint::Dtype::BF16),
                Dtype::F16 => Some(checkpoint::Dtype::F16),
            },
            compute_dtype: self.compute_dtype.on(self.device),
            device: self.device,
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  qlora-train --base base/ --train train.safetensors --eval valid.safetensors --out-dir run/
  qlora-train --config run/config.json --out-dir again/    # the same run once more";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_lengths_of_the_warm_up_the_last_one_counts() {
        let warmup = |flags: &str| {
            let words = format!("qlora-train --base b --train t --out-dir o {flags}");
            Args::parse_from(words.split_whitespace()).schedule.warmup()
        };
        for (flags, expected) in [
            ("", Warmup::Ratio(0.03)),
            ("--warmup-steps 3", Warmup::Steps(3)),
            ("--warmup-ratio 0.1 --warmup-steps 3", Warmup::Steps(3)),
            ("--warmup-steps 3 --warmup-ratio 0.1", Warmup::Ratio(0.1)),
            ("--lr-scheduler constant", Warmup::Ratio(0.0)),
            ("--lr-scheduler constant_with_warmup", Warmup::Ratio(0.03)),
        ] {
            assert_eq!(warmup(flags), expected, "{flags}");
        }
    }

    #[test]
    fn target_modules_are_a_set_and_all_linear_is_the_seven_projections() {
        let targets = |words: &[&str]| {
            let words = [
                "qlora-train",
                "--base",
                "b",
                "--train",
                "t",
                "--out-dir",
                "o",
            ]
            .into_iter()
            .chain(words.iter().copied());
            let args = Args::try_parse_from(words).expect("known flags");
            args.lora.resolved().target_modules
        };
        assert_eq!(targets(&["--target-modules", "all-linear"]), targets(&[]));
        assert_eq!(
            targets(&["--target-modules", "q_proj,all-linear"]),
            targets(&[])
        );
        assert_eq!(targets(&["--target-modules", "q_proj"]), ["q_proj"]);
        let mixed = targets(&["--target-modules", "v_proj,q_proj,v_proj,router"]);
        assert_eq!(mixed, ["q_proj", "v_proj", "router"]);
    }
}
