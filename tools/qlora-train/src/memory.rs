//! How much memory a run takes, and so how many layers recompute their activations.

use anyhow::Context;
use checkpoint::ModelConfig;
use cli::Hint;
use model::{Projection, Recompute};

use crate::{
    args::{Args, Checkpointing, Quantization},
    data::{Plan, Rows},
};

/// Bytes a run takes, by what they are for.
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    /// Frozen base.
    pub base: u64,
    /// Adapter, gradients and two moments, f32.
    pub adapter: u64,
    /// Activations that one kept layer holds for its backward pass.
    pub layer: u64,
    /// One layer's input, held whether it is recomputed or not.
    pub layer_input: u64,
    /// Working space of the layer that is running, and of the head.
    pub working: u64,
}

impl Estimate {
    pub fn new(args: &Args, config: &ModelConfig, tokens: usize) -> Self {
        let shapes = Projection::ALL.map(|p| (p, p.shape(config)));
        let layers = config.num_hidden_layers as u64;
        let weights: u64 = shapes
            .iter()
            .map(|(_, [out, input])| (out * input) as u64)
            .sum();
        let heads = if config.tie_word_embeddings { 1 } else { 2 };
        let embeddings = (config.vocab_size * config.hidden_size * heads) as u64;
        let base = match args.engine.quantize {
            // 4 bits a value; one byte a block of 64 and 4 bytes a block of 256 blocks, or 4 a block
            Quantization::Nf4 if args.engine.no_double_quant => weights * layers * 9 / 16,
            Quantization::Nf4 => weights * layers * 33 / 64,
            Quantization::None => weights * layers * 2,
        } + embeddings * 2;
        let rank = args.lora.rank as u64;
        let targeted = shapes
            .iter()
            .filter(|(p, _)| args.lora.target_modules.iter().any(|t| t == p.name()));
        let adapter: u64 = targeted
            .map(|(_, [out, input])| rank * (out + input) as u64)
            .sum();
        let (hidden, ffn) = (config.hidden_size as u64, config.intermediate_size as u64);
        let q = (config.num_attention_heads * config.head_dim) as u64;
        let kv = (config.num_key_value_heads * config.head_dim) as u64;
        let tokens = tokens as u64;
        // f32 values a token, beside the input: two norms and the sum between, q and k rotated, v,
        // what was attended to with one logsumexp a head, gate, up, their product, x·Aᵀ of each.
        let sums = (config.num_attention_heads + 7 * args.lora.rank) as u64;
        let layer = 4 * tokens * (3 * hidden + 2 * q + 2 * kv + 3 * ffn + sums);
        Self {
            base,
            adapter: adapter * layers * 16,
            layer,
            layer_input: 4 * tokens * hidden,
            // the gradients of one layer's activations; the head's chunks, the program itself
            working: layer + (40 << 20),
        }
    }

    /// Bytes in all when every layer recomputes: one at a time holds its activations.
    fn fixed(&self, layers: u64) -> u64 {
        self.base + self.adapter + self.working + layers * self.layer_input + self.layer
    }

    /// Bytes in all when `kept` of `layers` keep their activations.
    pub fn total(&self, layers: u64, kept: u64) -> u64 {
        // The recomputed layer's come on top while the kept ones are already gone: never both.
        self.fixed(layers) + kept.saturating_sub(1) * self.layer
    }
}

/// Decides which layers recompute.
pub fn plan(args: &Args, config: &ModelConfig, tokens: usize) -> anyhow::Result<Recompute> {
    let estimate = Estimate::new(args, config, tokens);
    let layers = config.num_hidden_layers as u64;
    match args.engine.activation_checkpointing {
        Checkpointing::On => Ok(Recompute::Everything),
        Checkpointing::Off => Ok(Recompute::Nothing),
        Checkpointing::Auto => {
            let memory = match args.engine.max_memory {
                Some(size) => size.0,
                // A tenth stays free for the page cache and the neighbours.
                None => available_memory()? / 10 * 9,
            };
            let fixed = estimate.fixed(layers);
            if memory < fixed && args.engine.max_memory.is_some() {
                let error = anyhow::anyhow!(
                    "this run takes {} even when every layer recomputes its activations, --max-memory is {}",
                    mebibytes(fixed),
                    mebibytes(memory)
                );
                return Err(error)
                    .hint("lower --batch-size and raise --gradient-accumulation-steps by as much");
            }
            let more = memory.saturating_sub(fixed) / estimate.layer.max(1);
            let kept = if more == 0 { 0 } else { (more + 1).min(layers) };
            Ok(match layers - kept {
                0 => Recompute::Nothing,
                n if n == layers => Recompute::Everything,
                n => Recompute::Layers(n as usize),
            })
        }
    }
}

/// What `--dry-run` says.
pub fn print(
    args: &Args,
    config: &ModelConfig,
    plan: &Plan,
    train: &Rows,
    recompute: Recompute,
) -> anyhow::Result<()> {
    let layers = config.num_hidden_layers as u64;
    let recomputed = match recompute {
        Recompute::Nothing => 0,
        Recompute::Everything => layers,
        Recompute::Layers(n) => n as u64,
    };
    let tokens = train.largest_batch(plan.batch_size);
    let estimate = Estimate::new(args, config, tokens);
    let read: u64 = (0..train.len()).map(|row| train.tokens(row) as u64).sum();
    let weights: u64 = Projection::ALL
        .iter()
        .map(|p| p.shape(config).iter().product::<usize>() as u64)
        .sum::<u64>()
        * layers;
    let epochs = plan.total_steps.div_ceil(plan.steps_per_epoch());
    let flop = 4.0 * weights as f64 + 2.0 * weights as f64 * recomputed as f64 / layers as f64;
    let report = serde_json::json!({
        "rows": train.len(),
        "tokens_per_epoch": read,
        "optimizer_steps": plan.total_steps,
        "steps_per_epoch": plan.steps_per_epoch(),
        "largest_micro_batch_tokens": tokens,
        "layers_recomputed": recomputed,
        "memory_bytes": {
            "base": estimate.base,
            "adapter_and_optimizer": estimate.adapter,
            "activations": (layers - recomputed).max(1) * estimate.layer + layers * estimate.layer_input,
            "working": estimate.working,
            "total": estimate.total(layers, layers - recomputed),
        },
        "disk_bytes": estimate.adapter / 4 * 3 * (args.run.save_total_limit as u64 + 1) + estimate.adapter / 4,
        // 4N a token, 6N where the forward pass is done twice
        "flop": flop * read as f64 * epochs as f64,
    });
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

/// What the kernel says is available, bytes.
fn available_memory() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|l| l.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    let kib = kib
        .context("/proc/meminfo has no MemAvailable")
        .hint("give --max-memory")?;
    Ok(kib * 1024)
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
