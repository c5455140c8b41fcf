//! Where does an optimizer step spend its time, and how does it grow?
//!
//! `cargo bench -p model --bench step` trains random weights of SmolLM2-135M's shape (30 layers of
//! 576, 9/3 heads, ffn 1536, vocabulary 49152, tied), NF4 with double quantisation, rank 16 on all
//! seven projections, dropout 0.05: 4 micro-batches of one packed row of 512 tokens, sequences of
//! about 110, every token a target. It prints the step, a table by operation (each timed alone in
//! the step's shapes, times how often it occurs) with what is left over, and the step for longer
//! rows, and what it costs to recompute all layers beside what their arithmetic says. The limit is
//! the matmul tile of the type on operands in cache, all threads, measured in the same run; by CPU
//! time, which other programs disturb less, it is that of one thread. `-- f32` computes in f32 where
//! the default is bf16, `-- growth` prints the last table only,
//! `-- step` all but that, `-- growth 2048 8192` only rows of these lengths.

use std::path::Path;
use std::time::{Duration, Instant};

use checkpoint::ModelConfig;
use model::{
    AdamW, AdamWConfig, Adapter, Batch, ComputeDtype, DeviceChoice, Dropout, Gradients, LoraConfig,
    Model, Projection, Recompute,
};
use ops::{Level, multiply_in_cache};

#[path = "step/operations.rs"]
mod operations;

const RANK: usize = 16;
const MICRO_BATCHES: usize = 4;
/// Of SmolLM2-135M.
const CONFIG: &str = r#"{
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64,
    "vocab_size": 49152, "tie_word_embeddings": true, "rms_norm_eps": 1e-5,
    "rope_theta": 100000.0, "max_position_embeddings": 8192, "dtype": "bfloat16"
}"#;

#[global_allocator]
static ALLOCATOR: model::CacheLines = model::CacheLines;

fn main() {
    // As qlora-train does.
    model::tune_heap();
    model::use_threads(None).expect("the only pool");
    let told = |word: &str| std::env::args().any(|a| a == word);
    let compute_dtype = match told("f32") {
        true => ComputeDtype::F32,
        false => ComputeDtype::fastest(),
    };
    let machine = Machine {
        compute_dtype,
        limit_gflops: tile_gflops(compute_dtype),
    };
    println!(
        "{} threads, {:?}, {compute_dtype:?}, limit {:.1} GFLOP/s",
        rayon::current_num_threads(),
        Level::best(),
        machine.limit_gflops
    );
    let config = serde_json::from_str(CONFIG).expect("it is JSON");
    let config = ModelConfig::from_json(Path::new("config.json"), &config).expect("a known shape");
    let mut trainer = Trainer::new(Model::random(config, compute_dtype, DeviceChoice::Cpu));
    if !told("growth") {
        operations::print(&mut trainer, machine);
    }
    if !told("step") {
        growth(&mut trainer, machine);
    }
}

/// What it can multiply, in the type that the weights are multiplied in.
#[derive(Clone, Copy)]
struct Machine {
    compute_dtype: ComputeDtype,
    limit_gflops: f64,
}

impl Machine {
    /// Of the limit, 0..1.
    fn share(self, flop: f64, seconds: f64) -> f64 {
        flop / seconds / 1e9 / self.limit_gflops
    }
}

struct Trainer {
    model: Model,
    optimizer: AdamW,
    steps: u64,
}

impl Trainer {
    fn new(mut model: Model) -> Self {
        let config = LoraConfig {
            rank: RANK,
            alpha: 32.0,
            use_rslora: false,
            dropout: 0.05,
            target_modules: Projection::ALL.map(|p| p.name().to_owned()).to_vec(),
        };
        let adapter = Adapter::new(model.decoder(), &config, "base", 0).expect("known targets");
        let optimizer = AdamW::new(&adapter, AdamWConfig::default());
        model.set_adapter(adapter);
        Self {
            model,
            optimizer,
            steps: 0,
        }
    }

    fn step(&mut self, batches: &[Batch], recompute: Recompute) {
        self.steps += 1;
        let adapter = self.model.adapter().expect("there is one");
        let mut gradients = Gradients::new(adapter);
        let targets: usize = batches.iter().map(Batch::targets).sum();
        for (micro, batch) in batches.iter().enumerate() {
            let dropout = Dropout::new(0.05, 0, self.steps, micro as u64);
            let scale = 1.0 / targets as f64;
            self.model
                .accumulate_gradients(batch, scale, Some(dropout), recompute, &mut gradients)
                .expect("a finite loss");
        }
        let norm = gradients.norm();
        let adapter = self.model.adapter_mut().expect("there is one");
        self.optimizer
            .step(adapter, gradients, 1e-5, (1.0 / norm).min(1.0));
    }
}

/// Sequences of 97, 108, 125, 91 … tokens, cut to fill the row; every token after a sequence's first is a
/// target.
fn packed_row(tokens: usize, rows: usize) -> Batch {
    let mut offsets = vec![0];
    let mut lengths = [97, 108, 125, 91, 111].iter().cycle();
    for row in 1..=rows {
        let end = row * tokens;
        while offsets[offsets.len() - 1] < end {
            let last = offsets[offsets.len() - 1];
            offsets.push((last + lengths.next().expect("a cycle")).min(end));
        }
    }
    one_sequence_each(offsets)
}

fn one_sequence_each(offsets: Vec<usize>) -> Batch {
    let tokens = offsets[offsets.len() - 1];
    Batch {
        input_ids: (0..tokens as u32).map(|i| 3 + i * 7919 % 49_000).collect(),
        loss_mask: vec![1; tokens],
        offsets,
    }
}

/// Multiply-adds of a step count twice: two matmuls forward and back through each frozen weight,
/// three through each adapter, two of the head, those of attention (3.5 times its forward). A layer
/// that is recomputed is multiplied forward again, but for down_proj and its LoRA's B.
fn step_flop(model: &Model, batches: &[Batch], recompute: bool) -> f64 {
    let config = model.decoder().config();
    let shapes = Projection::ALL.map(|p| p.shape(config));
    let layers = config.num_hidden_layers as f64;
    let frozen: usize = shapes.iter().map(|[n, k]| n * k).sum();
    let adapter: usize = shapes.iter().map(|[n, k]| RANK * (n + k)).sum();
    let [down_out, down_in] = Projection::Down.shape(config);
    let again = if recompute { 1.0 } else { 0.0 };
    let frozen_again = again * (frozen - down_out * down_in) as f64;
    let adapter_again = again * (adapter - RANK * down_out) as f64;
    let head = (config.vocab_size * config.hidden_size) as f64;
    let mut flop = 0.0;
    for batch in batches {
        let layer = 2.0 * (2.0 * frozen as f64 + frozen_again)
            + 2.0 * (3.0 * adapter as f64 + adapter_again);
        let attention =
            attention_flop(&batch.offsets, config.num_attention_heads * config.head_dim);
        flop += layers * (batch.len() as f64 * layer + attention * (3.5 + again))
            + batch.targets() as f64 * 4.0 * head;
    }
    flop
}

/// Q·Kᵀ and P·V over the pairs that see each other.
fn attention_flop(offsets: &[usize], width: usize) -> f64 {
    let pairs: usize = offsets
        .windows(2)
        .map(|w| (w[1] - w[0]) * (w[1] - w[0] + 1) / 2)
        .sum();
    4.0 * (pairs * width) as f64
}

/// The tile on operands that stay in cache, every thread its own.
fn tile_gflops(compute: ComputeDtype) -> f64 {
    let multiply = || rayon::broadcast(|_| multiply_in_cache(Level::best(), compute, 1000));
    let flop: f64 = multiply().iter().sum();
    flop / best(5, || drop(multiply())) / 1e9
}

/// Best time of one call in seconds, of at least `calls` and for a third of a second.
fn best(calls: usize, mut f: impl FnMut()) -> f64 {
    f();
    let (start, mut best, mut done) = (Instant::now(), f64::INFINITY, 0);
    while start.elapsed() < Duration::from_millis(300) || done < calls {
        let call = Instant::now();
        f();
        best = best.min(call.elapsed().as_secs_f64());
        done += 1;
    }
    best
}

fn growth(trainer: &mut Trainer, machine: Machine) {
    println!(
        "a micro-batch, by row length and batch size; one sequence a row, or packed ones of about 110"
    );
    println!(
        "{:<34} {:>9} {:>9} {:>8} {:>11}",
        "", "seconds", "tokens/s", "of limit", "by CPU time"
    );
    let wanted: Vec<usize> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let threads = rayon::current_num_threads() as f64;
    for (tokens, rows, packed) in [
        (512, 1, true),
        (512, 4, true),
        (512, 16, true),
        (512, 1, false),
        (1024, 1, false),
        (2048, 1, false),
        (4096, 1, false),
        (8192, 1, false),
    ]
    .into_iter()
    .filter(|(tokens, ..)| wanted.is_empty() || wanted.contains(tokens))
    {
        let batch = if packed {
            packed_row(tokens, rows)
        } else {
            one_sequence_each(vec![0, tokens])
        };
        let batches = [batch];
        trainer.step(&batches, Recompute::Nothing);
        let (seconds, cpu) = step_times(trainer, &batches, Recompute::Nothing);
        let flop = step_flop(&trainer.model, &batches, false);
        println!(
            "{:<34} {:>9.3} {:>9.0} {:>6.0} % {:>9.0} %",
            format!("{rows} x {tokens}{}", if packed { ", packed" } else { "" }),
            seconds,
            (tokens * rows) as f64 / seconds,
            100.0 * machine.share(flop, seconds),
            100.0 * machine.share(flop, cpu / threads)
        );
    }
}

/// Wall and CPU seconds of a step.
fn step_times(trainer: &mut Trainer, batches: &[Batch], recompute: Recompute) -> (f64, f64) {
    let (start, cpu) = (Instant::now(), cpu_seconds());
    trainer.step(batches, recompute);
    (start.elapsed().as_secs_f64(), cpu_seconds() - cpu)
}

/// Pages this process was given so far.
fn minor_faults() -> u64 {
    of_this_process(7)
}

/// Seconds of CPU time that all threads took so far, in hundredths.
fn cpu_seconds() -> f64 {
    (of_this_process(11) + of_this_process(12)) as f64 / 100.0
}

/// A number of /proc/self/stat, counted from the state.
fn of_this_process(field: usize) -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let field = after_name.split_whitespace().nth(field);
    field.and_then(|f| f.parse().ok()).unwrap_or(0)
}
