//! Training steps and decoding of random models of real shapes, and what share of the device's own
//! matmul rate they reach.
//!
//! FLOP per trained token: 4N without recomputing (forward 2N, dx 2N, no dW), 6N with, N being the
//! weights of the linear layers and the head; attention 12·q a key and layer (forward 4, backward
//! 8), 16 recomputing, half of the row's keys on average.

use std::{io::Write, path::Path, process::ExitCode, time::Instant};

use burn::tensor::{DType, Tensor};
use checkpoint::ModelConfig;
use model::{
    AdamW, AdamWConfig, Adapter, Batch, ComputeChoice, ComputeDtype, DeviceChoice, GenerateOptions,
    Gradients, LoraConfig, Model, Projection, Recompute, device_memory_errors,
};
use ops::{AttentionOptions, DenseDtype, Segments, Weight};

use crate::Flags;

/// Names and config.json's numbers, as the models' authors publish them. The largest come first: where
/// time is short, they are what it is for.
const SHAPES: [(&str, &str); 5] = [
    (
        "tiny",
        r#"{"vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": true}"#,
    ),
    (
        "Llama-3.1-8B",
        r#"{"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": false}"#,
    ),
    (
        "Mistral-7B",
        r#"{"vocab_size": 32768, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": false}"#,
    ),
    (
        "Llama-3.2-1B",
        r#"{"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
            "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": true}"#,
    ),
    (
        "SmolLM2-135M",
        r#"{"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": true}"#,
    ),
];

/// A line as soon as it is known: a run may be ended from outside.
macro_rules! say {
    ($($text:tt)*) => {{
        println!($($text)*);
        let _ = std::io::stdout().flush();
    }};
}

/// Does `work`, and says how long it took, or that the device's memory did not suffice.
fn phase<T>(name: &str, what: &str, work: impl FnOnce() -> T) -> Option<T> {
    let started = Instant::now();
    match device_memory_errors(work) {
        Ok(done) => {
            say!(
                "{name}: {what} took {:.1} s",
                started.elapsed().as_secs_f64()
            );
            Some(done)
        }
        Err(_) => {
            say!("{name}: {what}: out of memory");
            None
        }
    }
}

/// What a step is asked to do.
#[derive(Clone, Copy)]
struct Setting {
    rows: usize,
    recompute: bool,
}

/// Settings of a shape: what was asked for. Of a 7B or 8B, where nothing was, three that need more
/// memory from one to the next, because what a device reserves only grows.
fn settings(config: &ModelConfig, flags: &Flags) -> Vec<Setting> {
    let of = |rows, recompute| Setting { rows, recompute };
    match flags.rows {
        None if !flags.recompute && config.hidden_size >= 4096 => {
            vec![of(2, true), of(4, true), of(4, false)]
        }
        rows => vec![of(rows.unwrap_or(4), flags.recompute)],
    }
}

/// Times each shape asked for; all but the smallest where none is.
pub fn run(device: DeviceChoice, flags: &Flags) -> ExitCode {
    let asked: Vec<&str> = match flags.shapes.is_empty() {
        true => SHAPES[1..].iter().map(|(name, _)| *name).collect(),
        false => flags.shapes.iter().map(String::as_str).collect(),
    };
    let on = device.to_string();
    let Some(rate) = rate(device, &on, flags) else {
        return ExitCode::FAILURE;
    };
    #[cfg(any(feature = "cuda", feature = "cube-cpu"))]
    phase(&on, "what is bound by memory", || {
        crate::memory::run(device, flags.rehearse)
    });
    for name in asked {
        let Some((_, json)) = SHAPES.iter().find(|(known, _)| *known == name) else {
            let known = SHAPES.map(|(name, _)| name).join(", ");
            eprintln!("gpu: {name} is none of {known}");
            return ExitCode::from(2);
        };
        shape(device, name, &config(json), rate, flags);
    }
    ExitCode::SUCCESS
}

fn config(json: &str) -> ModelConfig {
    let mut object: serde_json::Map<_, _> = serde_json::from_str(json).expect("it is JSON");
    object.insert("model_type".into(), "llama".into());
    object.insert("architectures".into(), vec!["LlamaForCausalLM"].into());
    ModelConfig::from_json(Path::new("config.json"), &object).expect("a configuration")
}

/// FLOP/s of a square product by what multiplies in the models; of a GPU by both that can be had.
fn rate(device: DeviceChoice, on: &str, flags: &Flags) -> Option<f64> {
    let told = |who: &str| {
        let rate = phase(on, "matmul", || matmul_rate(device, flags.rehearse))?;
        say!("{device}: matmul {:.1} TFLOP/s{who}", rate / 1e12);
        Some(rate)
    };
    // Timing CubeCL's matmuls, which it does to choose one, is the longest part of a rehearsal.
    if device.is_gpu() && (flags.no_cublas || !flags.rehearse) {
        want_cublas(false);
        let rate = told(" (CubeCL's matmuls)")?;
        if flags.no_cublas {
            return Some(rate);
        }
        want_cublas(true);
    }
    told(
        &device
            .products()
            .map_or(String::new(), |who| format!(" ({who})")),
    )
}

#[cfg(feature = "cuda")]
fn want_cublas(wanted: bool) {
    ops::cuda::want_cublas(wanted);
}

#[cfg(not(feature = "cuda"))]
fn want_cublas(_: bool) {}

/// FLOP/s of a square product with a dense weight, in what the device multiplies weights in.
fn matmul_rate(device: DeviceChoice, rehearse: bool) -> f64 {
    let (n, repeats) = match (rehearse, device.is_gpu()) {
        (true, _) => (64, 1),
        (_, true) => (8192, 10),
        (_, false) => (1024, 3),
    };
    let on = device.device();
    // Activations of the host back end are f32, whatever it multiplies them in.
    let (dtype, compute) = if device.is_gpu() {
        (DType::BF16, ComputeDtype::Bf16)
    } else {
        (DType::F32, ComputeDtype::F32)
    };
    let value = |i: usize| (i * 7919 % 509) as f32 / 254.0 - 1.0;
    let bf16 = |value: f32| ((value.to_bits() >> 16) as u16).to_le_bytes();
    let bytes: Vec<u8> = (0..n * n).flat_map(|i| bf16(value(i))).collect();
    let weight = Weight::dense(&bytes, DenseDtype::BF16, [n, n], &on).with_compute(compute);
    let distribution = burn::tensor::Distribution::Uniform(-1.0, 1.0);
    let x = Tensor::<2>::random([n, n], distribution, &on).cast(dtype);
    let multiply = || {
        let product = ops::linear(x.clone(), &weight, None, None);
        product.slice([0..1, 0..1]).into_data();
    };
    (0..3).for_each(|_| multiply());
    let started = Instant::now();
    (0..repeats).for_each(|_| multiply());
    2.0 * (n as f64).powi(3) * repeats as f64 / started.elapsed().as_secs_f64()
}

fn shape(device: DeviceChoice, name: &str, config: &ModelConfig, rate: f64, flags: &Flags) {
    let compute = ComputeChoice::Auto.on(device);
    let loaded = phase(name, "loading", || {
        let model = Model::random(config.clone(), compute, device);
        model.sync();
        model
    });
    let Some(mut model) = loaded else { return };
    match model.choose_attention(flags.attention) {
        Ok(Some(chosen)) => say!("{name}: attention {chosen}"),
        Ok(None) => {}
        Err(error) => return say!("{name}: {error}"),
    }
    let settings = settings(config, flags);
    let rows = settings[0].rows;
    phase(name, "attention", || {
        let options = model.decoder().attention_options();
        attention(device, name, &options, [rows, flags.length], flags.steps);
    });
    let lora = LoraConfig {
        rank: 16,
        alpha: 32.0,
        use_rslora: false,
        dropout: 0.0,
        target_modules: Projection::ALL.map(|p| p.name().to_string()).to_vec(),
    };
    let adapter = Adapter::new(model.decoder(), &lora, name, 0).expect("all targets are known");
    model.set_adapter(adapter);
    for setting in settings {
        let what = format!("{}x{}{}", setting.rows, flags.length, told(setting));
        phase(name, &what, || {
            train(&mut model, name, setting, rate, flags)
        });
        match model.reserved_bytes() {
            Some(bytes) => say!(
                "{name}: {what}: {:.2} GiB reserved on the device",
                bytes as f64 / (1u64 << 30) as f64
            ),
            None => say!("{name}: the device does not say what it holds"),
        }
    }
    let decodings = match flags.rehearse {
        true => [(1, 16), (1, 128), (8, 16), (32, 16)],
        false => [(1, 128), (1, 2048), (8, 128), (32, 128)],
    };
    for (batch_size, prompt) in decodings {
        let what = format!("decoding at batch {batch_size} after {prompt} tokens");
        phase(name, &what, || {
            let decoding = Decode {
                model: &model,
                batch_size,
                prompt,
                new_tokens: if flags.rehearse { 4 } else { 64 },
            };
            say!("{name}: {what}: {:.1} tokens/s", decoding.rate());
            let of = |tokens| {
                launches(&mut || {
                    decoding.once(tokens);
                })
            };
            if batch_size == 1
                && let (Some(few), Some(many)) = (of(2), of(12))
            {
                say!("{name}: {what}: {} launches a token", (many - few) / 10);
            }
        });
    }
}

fn told(setting: Setting) -> &'static str {
    match setting.recompute {
        true => " recomputing",
        false => "",
    }
}

/// Steps of LoRA on all projections.
fn train(model: &mut Model, name: &str, setting: Setting, rate: f64, flags: &Flags) {
    let config = model.decoder().config().clone();
    let mut optimizer = AdamW::new(model.adapter().expect("it was set"), AdamWConfig::default());
    let batch = packed(config.vocab_size, setting.rows, flags.length);
    let recompute = match setting.recompute {
        true => Recompute::Everything,
        false => Recompute::Nothing,
    };
    let mut step = || {
        let adapter = model.adapter().expect("it was set");
        let mut gradients = Gradients::new(adapter);
        let scale = 1.0 / batch.targets() as f64;
        model
            .accumulate_gradients(&batch, scale, None, recompute, &mut gradients)
            .expect("a finite loss");
        let adapter = model.adapter_mut().expect("it was set");
        optimizer.step(adapter, gradients, 1e-4, 1.0);
        model.sync();
    };
    let started = Instant::now();
    (0..2).for_each(|_| step());
    let warm_up = started.elapsed().as_secs_f64();
    let step_launches = launches(&mut step);
    let started = Instant::now();
    (0..flags.steps).for_each(|_| step());
    let seconds = started.elapsed().as_secs_f64();
    let tokens_per_second = (batch.len() * flags.steps) as f64 / seconds;
    let flop = flop_per_token(&config, setting.recompute, flags.length);
    say!(
        "{name}: {}x{}{} {tokens_per_second:.0} tokens/s, {:.0}% of the matmul rate ({:.2} GFLOP a token, warm-up {warm_up:.1} s)",
        setting.rows,
        flags.length,
        told(setting),
        100.0 * tokens_per_second * flop / rate,
        flop / 1e9,
    );
    if let Some(step_launches) = step_launches {
        say!("{name}: {step_launches} launches a step");
    }
}

/// One layer's attention, forward and backward.
fn attention(
    device: DeviceChoice,
    name: &str,
    options: &AttentionOptions,
    [rows, length]: [usize; 2],
    repeats: usize,
) {
    let on = device.device().autodiff();
    let dtype = match (device.is_cpu(), options.compute) {
        (false, ComputeDtype::Bf16) => DType::BF16,
        _ => DType::F32,
    };
    let tokens = rows * length;
    let draw = |heads: usize| {
        let distribution = burn::tensor::Distribution::Uniform(-1.0, 1.0);
        let columns = heads * options.head_dim;
        let values = Tensor::<2>::random([tokens, columns], distribution, &on);
        values.cast(dtype).detach().require_grad()
    };
    let (q, k, v) = (
        draw(options.heads),
        draw(options.kv_heads),
        draw(options.kv_heads),
    );
    let offsets: Vec<usize> = (0..=rows).map(|row| row * length).collect();
    let segments = Segments::from_offsets(&offsets);
    let flop = 12.0 * (tokens * options.heads * options.head_dim) as f64 * length as f64 / 2.0;
    let pass = || {
        let o = ops::attention(q.clone(), k.clone(), v.clone(), &segments, options);
        let gradients = o.backward();
        let dk = k.grad(&gradients).expect("k is tracked");
        dk.slice([0..1, 0..1]).into_data();
    };
    (0..3).for_each(|_| pass());
    let started = Instant::now();
    (0..repeats).for_each(|_| pass());
    let seconds = started.elapsed().as_secs_f64() / repeats as f64;
    say!(
        "{name}: {:?} attention of {rows}x{length} {:.3} ms a layer, forward and backward, {:.1} TFLOP/s",
        options.kernel,
        1e3 * seconds,
        flop / seconds / 1e12
    );
}

/// Kernels that `work` launches on a GPU.
#[cfg(any(feature = "cuda", feature = "cube-cpu"))]
fn launches(work: &mut dyn FnMut()) -> Option<usize> {
    let ((), counts) = ops::count_launches(work);
    Some(counts.values().sum()).filter(|launches| *launches > 0)
}

#[cfg(not(any(feature = "cuda", feature = "cube-cpu")))]
fn launches(_: &mut dyn FnMut()) -> Option<usize> {
    None
}

/// Rows of `length` tokens that are all targets, one sequence a row: attention's worst case.
fn packed(vocab_size: usize, rows: usize, length: usize) -> Batch {
    let ids = (0..rows * length).map(|i| (i * 7919 % vocab_size) as u32);
    Batch {
        input_ids: ids.collect(),
        offsets: (0..=rows).map(|row| row * length).collect(),
        loss_mask: vec![1; rows * length],
    }
}

fn flop_per_token(config: &ModelConfig, recompute: bool, length: usize) -> f64 {
    let layers = config.num_hidden_layers as f64;
    let linear: usize = Projection::ALL
        .map(|p| p.shape(config).iter().product::<usize>())
        .iter()
        .sum();
    let head = (config.vocab_size * config.hidden_size) as f64;
    let q = (config.num_attention_heads * config.head_dim) as f64;
    let keys = length as f64 / 2.0;
    // The head and its gradient are never recomputed.
    let (passes, attention) = if recompute { (6.0, 16.0) } else { (4.0, 12.0) };
    passes * layers * linear as f64 + 4.0 * head + attention * layers * q * keys
}

/// Completions of `batch_size` prompts of `prompt` tokens.
struct Decode<'a> {
    model: &'a Model,
    batch_size: usize,
    prompt: usize,
    new_tokens: usize,
}

impl Decode<'_> {
    /// New tokens a second, the prompts read before.
    fn rate(&self) -> f64 {
        let (few, many) = (2, 2 + self.new_tokens);
        self.once(few);
        let seconds = self.once(many) - self.once(few);
        (self.batch_size * (many - few)) as f64 / seconds
    }

    /// Seconds to read the prompts and continue each by `max_new_tokens`.
    fn once(&self, max_new_tokens: usize) -> f64 {
        let vocab_size = self.model.decoder().config().vocab_size;
        let token = |row: usize, i: usize| ((i * 7919 + row * 31 + 3) % vocab_size) as u32;
        let prompts: Vec<Vec<u32>> = (0..self.batch_size)
            .map(|row| (0..self.prompt).map(|i| token(row, i)).collect())
            .collect();
        let options = GenerateOptions {
            max_new_tokens,
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
            stop_token_ids: Vec::new(),
            batch_size: self.batch_size,
        };
        let started = Instant::now();
        self.model
            .generate(&prompts, &options, &mut |_, _| {})
            .expect("completions");
        started.elapsed().as_secs_f64()
    }
}
