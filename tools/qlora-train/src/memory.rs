//! How much memory a run takes, and so how many layers recompute their activations.

use checkpoint::{Base, Dtype, ModelConfig};
use cli::Hint;
use model::{ComputeDtype, Projection, Recompute};

use crate::{
    args::{Args, Checkpointing, Quantization},
    available,
};

/// What an adapter adds to all layers together.
#[derive(Clone, Copy, Debug)]
pub struct AdapterSize {
    parameters: u64,
    /// Values of x·Aᵀ a token.
    ranks: u64,
    /// Values a token that A reads.
    read: u64,
}

impl AdapterSize {
    /// Of the adapter that --init-adapter read, else of --rank and --target-modules.
    pub fn new(
        args: &Args,
        config: &ModelConfig,
        init: Option<&checkpoint::adapter::Adapter>,
    ) -> Self {
        match init {
            Some(init) => {
                let pairs = init.tensors.iter();
                let a = pairs.filter(|(name, _)| name.contains(".lora_A."));
                Self {
                    parameters: init.tensors.values().map(|t| t.values.len() as u64).sum(),
                    ranks: a.clone().map(|(_, a)| a.shape[0] as u64).sum(),
                    read: a.map(|(_, a)| a.shape[1] as u64).sum(),
                }
            }
            None => {
                let named =
                    |p: &&Projection| args.lora.target_modules.iter().any(|t| t == p.name());
                let targets = Projection::ALL.iter().filter(named);
                let shapes: Vec<[usize; 2]> = targets.map(|p| p.shape(config)).collect();
                let (rank, layers) = (args.lora.rank as u64, config.num_hidden_layers as u64);
                let sum = |of: fn(&[usize; 2]) -> usize| -> u64 {
                    layers * shapes.iter().map(|shape| of(shape) as u64).sum::<u64>()
                };
                Self {
                    parameters: rank * sum(|[out, input]| out + input),
                    ranks: rank * sum(|_| 1),
                    read: sum(|[_, input]| *input),
                }
            }
        }
    }
}

/// Bytes of the frozen weights that layers project with.
#[derive(Clone, Copy, Debug)]
pub struct FrozenSize(u64);

impl FrozenSize {
    /// As they are loaded from a base: one that holds some in 4 bits keeps the others as they are.
    pub fn new(args: &Args, base: &Base) -> Self {
        let config = base.config();
        if !base.has_4_bit_weights() {
            return Self::of_all(args, config);
        }
        let double_quant = base.has_8_bit_scales();
        let layers = 0..config.num_hidden_layers;
        let modules = layers.flat_map(|layer| Projection::ALL.map(|p| (p, p.module(layer))));
        let bytes = modules.map(|(projection, module)| {
            let [out, input] = projection.shape(config);
            match base.is_4_bit(&module) {
                true => in_4_bits((out * input) as u64, double_quant),
                false => (out * input) as u64 * stored(config),
            }
        });
        Self(bytes.sum())
    }

    /// Where --quantize has all of them as one.
    fn of_all(args: &Args, config: &ModelConfig) -> Self {
        let values = |p: Projection| p.shape(config).iter().product::<usize>();
        let a_layer: usize = Projection::ALL.map(values).iter().sum();
        let weights = (config.num_hidden_layers * a_layer) as u64;
        Self(match args.engine.quantize {
            Quantization::Nf4 => in_4_bits(weights, !args.engine.no_double_quant),
            Quantization::None => weights * stored(config),
        })
    }
}

/// 4 bits a value; one byte a block of 64 and 4 bytes a block of 256 blocks, or 4 a block.
fn in_4_bits(weights: u64, double_quant: bool) -> u64 {
    match double_quant {
        true => weights * 33 / 64,
        false => weights * 9 / 16,
    }
}

/// Bytes of a value as it is stored.
fn stored(config: &ModelConfig) -> u64 {
    match config.dtype {
        Dtype::F32 => 4,
        _ => 2,
    }
}

/// Tokens of the largest micro-batches.
#[derive(Clone, Copy, Debug)]
pub struct Tokens {
    pub trained: usize,
    /// 0 where nothing is evaluated.
    pub evaluated: usize,
}

/// Bytes a run takes, by what they are for.
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    layers: u64,
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
    /// The same where the largest micro-batch is evaluated: one layer's activations, and nothing is kept.
    pub evaluation: u64,
}

impl Estimate {
    pub fn new(
        args: &Args,
        config: &ModelConfig,
        frozen: FrozenSize,
        adapter: AdapterSize,
        tokens: Tokens,
    ) -> Self {
        let layers = config.num_hidden_layers as u64;
        let heads = if config.tie_word_embeddings { 1 } else { 2 };
        let head = (config.vocab_size * config.hidden_size) as u64;
        let base = frozen.0 + heads * head * stored(config);
        let (hidden, ffn) = (config.hidden_size as u64, config.intermediate_size as u64);
        let q = (config.num_attention_heads * config.head_dim) as u64;
        let kv = (config.num_key_value_heads * config.head_dim) as u64;
        // On the CPU activations are f32 whatever they are multiplied in.
        let on_cpu = args.engine.device.is_cpu();
        let compute = args.engine.load_options().compute_dtype;
        let value = match compute {
            ComputeDtype::Bf16 if !on_cpu => 2,
            _ => 4,
        };
        // Values a token, beside the input: two norms and the sum between, q and k rotated, v,
        // what was attended to with one logsumexp a head, gate, up, their product, x·Aᵀ of each.
        let sums = config.num_attention_heads as u64 + adapter.ranks.div_ceil(layers);
        // And on the CPU a bit for each value that a LoRA read through dropout.
        let bits = match on_cpu && args.lora.dropout > 0.0 {
            true => adapter.read.div_ceil(8 * layers),
            false => 0,
        };
        let token = value * (3 * hidden + 2 * q + 2 * kv + 3 * ffn + sums);
        let layer = tokens.trained as u64 * (token + bits);
        // A GPU makes one weight at a time dense, the head too where it is stored in another type than
        // it is multiplied in, and cuts scores and logits to a workspace.
        let multiplied = match compute {
            ComputeDtype::F32 => Dtype::F32,
            ComputeDtype::Bf16 => Dtype::BF16,
        };
        let largest = Projection::ALL
            .iter()
            .map(|p| p.shape(config).iter().product::<usize>() as u64);
        let cast_head = Some(head).filter(|_| config.dtype != multiplied);
        let scratch = match on_cpu {
            true => 0,
            false => {
                value * largest.chain(cast_head).max().unwrap_or(0)
                    + model::GPU_WORKSPACE_BYTES as u64
            }
        };
        // the head's chunks, the program itself; of a GPU cuBLAS's workspace (32 MiB on a Hopper) and kernels
        let program = match on_cpu {
            true => 40 << 20,
            false => (256 << 20) + (96 << 20) + scratch,
        };
        Self {
            layers,
            base,
            adapter: adapter.parameters * 16,
            layer,
            layer_input: value * tokens.trained as u64 * hidden,
            // the gradients of one layer's activations
            working: layer + program,
            evaluation: match tokens.evaluated as u64 {
                0 => 0,
                // A product's operand in other words, and its result before it is added: half as much
                // again (4001 tokens of SmolLM2-135M on a CPU: 2 % more than this in all).
                tokens => tokens * (token / 2 * 3 + value * hidden) + program,
            },
        }
    }

    /// Bytes in training when `kept` layers keep their activations. Of those that recompute, one at a
    /// time holds its own, while the kept ones are already gone: never both.
    fn training(&self, kept: u64) -> u64 {
        let activations = self.layers * self.layer_input + kept.max(1) * self.layer;
        self.base + self.adapter + self.working + activations
    }

    /// Bytes in all when `kept` layers keep their activations.
    pub fn total(&self, kept: u64) -> u64 {
        let evaluating = self.base + self.adapter + self.evaluation;
        self.training(kept).max(evaluating)
    }

    /// Decides which layers recompute, and refuses a run that there is no memory for.
    pub fn plan(&self, args: &Args) -> anyhow::Result<Recompute> {
        let (device, layers) = (args.engine.device, self.layers);
        let memory = match args.engine.max_memory {
            Some(size) => size.0,
            // A tenth stays free: on the CPU for the page cache and the neighbours, on a GPU
            // for what its allocator loses between pages.
            None => device.free_memory().map_or_else(available::memory, Ok)? / 10 * 9,
        };
        // A host swaps where it was guessed wrong, up to what it has in all; a GPU ends the run.
        let most = match args.engine.max_memory {
            None if device.is_cpu() => memory.max(available::in_all()?),
            _ => memory,
        };
        let setting = args.engine.activation_checkpointing;
        let (least_kept, even) = match setting {
            Checkpointing::Off => (layers, "where every layer keeps its activations"),
            _ => (0, "even when every layer recomputes its activations"),
        };
        let needed = self.total(least_kept);
        if most < needed {
            let error = anyhow::anyhow!(
                "this run takes {} {even}, and there is {}",
                mebibytes(needed),
                mebibytes(most)
            );
            return Err(error).hint(match (setting, args.schedule.batch_size) {
                (Checkpointing::Off, _) => {
                    "--activation-checkpointing auto lets as many layers recompute as do not fit"
                }
                (_, 1) => "a lower --rank takes less, and so do shorter rows of tokenize-pack",
                _ => "lower --batch-size and raise --gradient-accumulation-steps by as much; a lower \
                      --rank takes less too",
            });
        }
        let more = memory.saturating_sub(self.training(0)) / self.layer.max(1);
        let kept = match setting {
            Checkpointing::On => 0,
            Checkpointing::Off => layers,
            Checkpointing::Auto if more == 0 => 0,
            Checkpointing::Auto => (more + 1).min(layers),
        };
        Ok(match layers - kept {
            0 => Recompute::Nothing,
            n if n == layers => Recompute::Everything,
            n => Recompute::Layers(n as usize),
        })
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use model::{ComputeChoice, DeviceChoice};
    use workspace_tests::data;

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
            "torch_dtype": "float16",
        }))
    }

    fn llama_3_8b() -> ModelConfig {
        config(serde_json::json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 128256,
            "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": false,
            "torch_dtype": "bfloat16",
        }))
    }

    fn llama_3_70b() -> ModelConfig {
        config(serde_json::json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 128256,
            "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
            "num_attention_heads": 64, "num_key_value_heads": 8, "tie_word_embeddings": false,
            "torch_dtype": "bfloat16",
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

    fn estimate(args: &Args, config: &ModelConfig, trained: usize) -> Estimate {
        let adapter = AdapterSize::new(args, config, None);
        let frozen = FrozenSize::of_all(args, config);
        let tokens = Tokens {
            trained,
            evaluated: 0,
        };
        Estimate::new(args, config, frozen, adapter, tokens)
    }

    fn planned(config: &ModelConfig, tokens: usize, max_memory: u64) -> (u64, f64) {
        let args = on_a_gpu(max_memory);
        let layers = config.num_hidden_layers as u64;
        let estimate = estimate(&args, config, tokens);
        let kept = match estimate.plan(&args).expect("it fits") {
            Recompute::Nothing => layers,
            Recompute::Everything => 0,
            Recompute::Layers(n) => layers - n as u64,
        };
        let bytes = estimate.total(kept);
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
        let config = llama_3_8b();
        let bytes = estimate(&args, &config, 2 * 2048).total(0);
        assert!(bytes as f64 <= 9.0 * GIB, "{:.2} GiB", bytes as f64 / GIB);
    }

    #[test]
    fn a_70b_trains_on_4_rows_of_2048_in_80_gb() {
        planned(&llama_3_70b(), 4 * 2048, 80_000_000_000);
    }

    #[test]
    fn a_gpu_that_is_too_small_is_an_error_before_anything_is_loaded() {
        let (args, config) = (on_a_gpu(4 << 30), llama_2_7b());
        let error = estimate(&args, &config, 2048)
            .plan(&args)
            .expect_err("it cannot fit");
        assert!(
            error.to_string().contains("even when every layer"),
            "{error}"
        );
    }

    #[test]
    fn an_adapter_that_is_gone_on_with_counts_by_its_own_rank() {
        let (args, config) = (on_a_gpu(0), llama_3_8b());
        let tensor = |shape: [usize; 2]| checkpoint::adapter::AdapterTensor {
            shape,
            values: vec![0.0; shape[0] * shape[1]],
        };
        let name = |part| format!("base_model.model.model.layers.0.self_attn.q_proj.{part}.weight");
        let targets = vec!["q_proj".to_owned()];
        let init = checkpoint::adapter::Adapter {
            config: checkpoint::adapter::AdapterConfig::new(256, 512.0, 0.0, targets),
            tensors: [
                (name("lora_A"), tensor([256, 4096])),
                (name("lora_B"), tensor([4096, 256])),
            ]
            .into(),
        };
        let size = AdapterSize::new(&args, &config, Some(&init));
        let [a, b] = [256 * 4096, 4096 * 256];
        assert_eq!((size.parameters, size.ranks, size.read), (a + b, 256, 4096));
        let tokens = Tokens {
            trained: 64,
            evaluated: 0,
        };
        let frozen = FrozenSize::of_all(&args, &config);
        assert_eq!(
            Estimate::new(&args, &config, frozen, size, tokens).adapter,
            16 * (a + b)
        );
    }

    #[test]
    fn a_base_in_4_bits_counts_what_was_left_out_of_them_in_full() {
        let args = on_a_gpu(0);
        let mixed = Base::open(&data("models/llama-tied-mixed")).expect("it opens");
        let (in_4_bits, in_f32) = (53_248, 8_192 + 12_288); // up_proj of layer 0, attention of layer 1
        let bytes = FrozenSize::new(&args, &mixed).0;
        assert_eq!(bytes, in_4_bits * 33 / 64 + 4 * in_f32);
        assert!(bytes > 2 * FrozenSize::of_all(&args, mixed.config()).0);
    }

    #[test]
    fn a_base_stored_in_f32_takes_twice_what_one_in_bf16_takes() {
        let mut args = on_a_gpu(0);
        args.engine.quantize = Quantization::None;
        let config = llama_3_8b();
        let wide = ModelConfig {
            dtype: Dtype::F32,
            ..config.clone()
        };
        let of = |config: &ModelConfig| estimate(&args, config, 64);
        assert_eq!(of(&wide).base, 2 * of(&config).base);
        // And its head is cast to be multiplied in bf16.
        let head = 2 * (config.vocab_size * config.hidden_size) as u64;
        let largest = 2 * (config.intermediate_size * config.hidden_size) as u64;
        assert_eq!(of(&wide).working - of(&config).working, head - largest);
    }

    #[test]
    fn long_rows_of_an_evaluation_count_and_make_no_layer_recompute() {
        let (args, config) = (on_a_gpu(80_000_000_000), llama_3_8b());
        let adapter = AdapterSize::new(&args, &config, None);
        let frozen = FrozenSize::of_all(&args, &config);
        let of = |evaluated| {
            let tokens = Tokens {
                trained: 64,
                evaluated,
            };
            Estimate::new(&args, &config, frozen, adapter, tokens)
        };
        assert_eq!(
            of(64).total(32),
            of(0).total(32),
            "less than training takes"
        );
        assert!(of(100_000).total(32) > 2 * of(0).total(32));
        let plan = of(100_000).plan(&args).expect("it fits");
        assert_eq!(plan, Recompute::Nothing);
    }
}
