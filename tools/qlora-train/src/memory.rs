//! How much memory a run takes, and so how many layers recompute their activations.

use anyhow::Context;
use checkpoint::ModelConfig;
use cli::Hint;
use model::{ComputeDtype, Projection, Recompute};

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
            .clone()
            .map(|(_, [out, input])| rank * (out + input) as u64)
            .sum();
        let (hidden, ffn) = (config.hidden_size as u64, config.intermediate_size as u64);
        let q = (config.num_attention_heads * config.head_dim) as u64;
        let kv = (config.num_key_value_heads * config.head_dim) as u64;
        let tokens = tokens as u64;
        // On the CPU activations are f32 whatever they are multiplied in.
        let on_cpu = args.engine.device.is_cpu();
        let compute = args.engine.load_options().compute_dtype;
        let value = match compute {
            ComputeDtype::Bf16 if !on_cpu => 2,
            _ => 4,
        };
        // Values a token, beside the input: two norms and the sum between, q and k rotated, v,
        // what was attended to with one logsumexp a head, gate, up, their product, x·Aᵀ of each.
        let sums = (config.num_attention_heads + 7 * args.lora.rank) as u64;
        // And on the CPU a bit for each value that a LoRA read through dropout.
        let read: u64 = targeted.map(|(_, [_, input])| *input as u64).sum();
        let bits = match on_cpu && args.lora.dropout > 0.0 {
            true => tokens * read / 8,
            false => 0,
        };
        let layer = value * tokens * (3 * hidden + 2 * q + 2 * kv + 3 * ffn + sums) + bits;
        // A GPU dequantises one weight at a time, and cuts scores and logits to a workspace.
        let largest = shapes.iter().map(|(_, [out, input])| out * input).max();
        let scratch = match on_cpu {
            true => 0,
            false => value * largest.unwrap_or(0) as u64 + model::GPU_WORKSPACE_BYTES as u64,
        };
        Self {
            base,
            adapter: adapter * layers * 16,
            layer,
            layer_input: value * tokens * hidden,
            // the gradients of one layer's activations; the head's chunks, the program itself
            working: match on_cpu {
                true => layer + (40 << 20),
                false => layer + (256 << 20) + scratch,
            },
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
            let device = args.engine.device;
            let memory = match args.engine.max_memory {
                Some(size) => size.0,
                // A tenth stays free: on the CPU for the page cache and the neighbours, on a GPU
                // for what its allocator loses between pages.
                None => device.free_memory().map_or_else(available_memory, Ok)? / 10 * 9,
            };
            let fixed = estimate.fixed(layers);
            // A host swaps where it was guessed wrong, a GPU ends the run.
            if memory < fixed && (args.engine.max_memory.is_some() || !device.is_cpu()) {
                let error = anyhow::anyhow!(
                    "this run takes {} even when every layer recomputes its activations, and there is {}",
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use model::{ComputeChoice, DeviceChoice};

    const GIB: f64 = (1u64 << 30) as f64;

    fn config(json: serde_json::Value) -> ModelConfig {
        let object = json.as_object().expect("an object");
        ModelConfig::from_json("config.json".as_ref(), object).expect("a configuration")
    }

    fn llama_2_7b() -> ModelConfig {
        config(serde_json::json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 32000,
            "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "tie_word_embeddings": false,
        }))
    }

    fn llama_3_8b() -> ModelConfig {
        config(serde_json::json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 128256,
            "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": false,
        }))
    }

    fn llama_3_70b() -> ModelConfig {
        config(serde_json::json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 128256,
            "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
            "num_attention_heads": 64, "num_key_value_heads": 8, "tie_word_embeddings": false,
        }))
    }

    /// The defaults (NF4, double quantisation, rank 16 on all seven), on a GPU in bf16.
    fn on_a_gpu(max_memory: u64) -> Args {
        let words = "qlora-train --base b --train t --out-dir o --device cpu";
        let mut args = Args::parse_from(words.split(' '));
        args.engine.device = DeviceChoice::Cuda(0);
        args.engine.compute_dtype = ComputeChoice::Dtype(ComputeDtype::Bf16);
        args.engine.max_memory = Some(crate::args::ByteSize(max_memory));
        args
    }

    fn planned(config: &ModelConfig, tokens: usize, max_memory: u64) -> (u64, f64) {
        let args = on_a_gpu(max_memory);
        let layers = config.num_hidden_layers as u64;
        let kept = match plan(&args, config, tokens).expect("it fits") {
            Recompute::Nothing => layers,
            Recompute::Everything => 0,
            Recompute::Layers(n) => layers - n as u64,
        };
        let bytes = Estimate::new(&args, config, tokens).total(layers, kept);
        assert!(bytes <= max_memory, "{bytes} of {max_memory}");
        (kept, bytes as f64 / GIB)
    }

    #[test]
    fn a_7b_trains_on_4_rows_of_2048_in_24_gb_and_recomputing_in_12() {
        let (kept, _) = planned(&llama_2_7b(), 4 * 2048, 24_000_000_000);
        assert!(kept >= 10, "{kept} layers keep their activations");
        planned(&llama_2_7b(), 4 * 2048, 12_000_000_000);
    }

    #[test]
    fn an_8b_trains_on_2_rows_of_2048_in_9_gibibytes_recomputing() {
        let args = on_a_gpu(0);
        let bytes = Estimate::new(&args, &llama_3_8b(), 2 * 2048).total(32, 0);
        assert!(bytes as f64 <= 9.0 * GIB, "{:.2} GiB", bytes as f64 / GIB);
    }

    #[test]
    fn a_70b_trains_on_4_rows_of_2048_in_80_gb() {
        planned(&llama_3_70b(), 4 * 2048, 80_000_000_000);
    }

    #[test]
    fn a_gpu_that_is_too_small_is_an_error_before_anything_is_loaded() {
        let error = plan(&on_a_gpu(4 << 30), &llama_2_7b(), 2048).expect_err("it cannot fit");
        assert!(
            error.to_string().contains("even when every layer"),
            "{error}"
        );
    }
}
