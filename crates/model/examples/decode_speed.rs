//! How fast does a real base speak, against what the memory allows?
//!
//! `cargo run --release -p model --example decode_speed -- work/models/smollm2-135m-instruct`
//! quantises the base to NF4 with double quantisation and continues prompts of 64 tokens greedily by
//! 64 tokens, for several batch sizes. Decoding reads every weight once a step, whatever the batch:
//! the limit is the bytes of a step over the bandwidth that all threads reach in the same run, and
//! at larger batches the arithmetic. The head counts in 8 bits, as a shortlist of tokens reads it.
//! `--rank 16` puts an adapter on all seven projections; `--compute-dtype f32` or `bf16` instead of
//! `auto`, the fastest that the processor has.

use std::path::PathBuf;
use std::time::Instant;

use checkpoint::{Base, ModelConfig};
use model::{
    Adapter, ComputeChoice, DeviceChoice, GenerateOptions, LoadOptions, LoraConfig, Model,
    Projection, Quantize,
};

const PROMPT: usize = 64;

#[global_allocator]
static ALLOCATOR: model::CacheLines = model::CacheLines;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // As adapter-eval does.
    model::tune_heap();
    model::use_threads(None)?;
    let mut dir = None;
    let (mut rank, mut new) = (0, 64);
    let mut batches = vec![1, 8, 32];
    let mut compute = ComputeChoice::Auto;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--rank" => rank = args.next().ok_or("--rank takes a number")?.parse()?,
            "--batch" => {
                batches = vec![args.next().ok_or("--batch takes a number")?.parse()?];
            }
            "--new" => new = args.next().ok_or("--new takes a number")?.parse()?,
            "--compute-dtype" => {
                compute = args.next().ok_or("--compute-dtype takes a type")?.parse()?;
            }
            _ => dir = Some(PathBuf::from(arg)),
        }
    }
    let Some(dir) = dir.filter(|dir| dir.exists()) else {
        eprintln!("decode_speed: skipped: no base here (make -f scripts/pipeline.mk base)");
        return Ok(());
    };
    let base = Base::open(&dir)?;
    let options = LoadOptions {
        quantize: Quantize::Nf4 { double_quant: true },
        compute_dtype: compute.on(DeviceChoice::Cpu),
        ..LoadOptions::default()
    };
    let mut model = Model::load(&base, &options, &mut |_, _| {})?;
    if rank > 0 {
        let config = LoraConfig {
            rank,
            alpha: 2.0 * rank as f64,
            use_rslora: false,
            dropout: 0.0,
            target_modules: Projection::ALL.map(|p| p.name().to_owned()).to_vec(),
        };
        model.set_adapter(Adapter::new(model.decoder(), &config, "base", 0)?);
    }
    let bandwidth = bandwidth();
    let bytes = bytes_of_a_step(base.config(), rank);
    println!(
        "{}: {}, rank {rank}, {:.1} MB a step; {} threads read {:.1} GB/s: at most {:.0} steps a second",
        dir.display(),
        options.compute_dtype,
        bytes / 1e6,
        std::thread::available_parallelism()?,
        bandwidth / 1e9,
        bandwidth / bytes
    );
    for batch in batches {
        let prompts: Vec<Vec<u32>> = (0..batch).map(|i| prompt(base.config(), i)).collect();
        let time = |max_new_tokens| {
            let options = GenerateOptions {
                max_new_tokens,
                temperature: 0.0,
                top_p: 1.0,
                seed: 0,
                stop_token_ids: vec![],
                batch_size: batch,
            };
            let start = Instant::now();
            model
                .generate(&prompts, &options, &mut |_, _| {})
                .map(|_| start.elapsed().as_secs_f64())
        };
        time(2)?;
        // The best of several, of each: a busy machine only ever adds time.
        let (mut prefill, mut whole) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..4 {
            prefill = prefill.min(time(1)?);
            whole = whole.min(time(1 + new)?);
        }
        let step = (whole - prefill) / new as f64;
        println!(
            "batch {batch:>3}: {:>7.1} tokens/s decoding ({:.2} ms a step, {:.0} % of the bandwidth), \
             {:>7.1} tokens/s reading prompts",
            batch as f64 / step,
            step * 1e3,
            100.0 * bytes / step / bandwidth,
            (batch * PROMPT) as f64 / prefill
        );
    }
    Ok(())
}

/// Prompts that share nothing.
fn prompt(config: &ModelConfig, seed: usize) -> Vec<u32> {
    (0..PROMPT)
        .map(|i| (100 + (i * 7919 + seed * 104_729) % (config.vocab_size - 100)) as u32)
        .collect()
}

/// Codes and scales of all layers, the adapter in f32, the head in 8 bits and three floats a token (a shortlist).
fn bytes_of_a_step(config: &ModelConfig, rank: usize) -> f64 {
    let layer: f64 = Projection::ALL
        .iter()
        .map(|projection| {
            let [out, input] = projection.shape(config);
            let scales = 1.0 / 64.0 + 4.0 / (64.0 * 256.0);
            (out * input) as f64 * (0.5 + scales) + (rank * (out + input) * 4) as f64
        })
        .sum();
    let head = (config.vocab_size * (config.hidden_size + 12)) as f64;
    config.num_hidden_layers as f64 * layer + head
}

/// Bytes a second that all threads together read from memory, each in four streams at once: one alone
/// does not keep a core waiting for as many lines as it can.
fn bandwidth() -> f64 {
    const STREAMS: usize = 4;
    const RUN: usize = 32;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let words = 256 * 1024 * 1024 / 8 / threads / (STREAMS * RUN) * (STREAMS * RUN);
    let buffers: Vec<Vec<u64>> = (0..threads)
        .map(|t| (0..words).map(|i| (i ^ t) as u64).collect())
        .collect();
    let sum = |buffer: &[u64]| {
        let mut sums = [0u64; RUN];
        let length = words / STREAMS;
        for first in (0..length).step_by(RUN) {
            for stream in buffer.chunks_exact(length) {
                for (sum, word) in sums.iter_mut().zip(&stream[first..first + RUN]) {
                    *sum = sum.wrapping_add(*word);
                }
            }
        }
        sums.iter().fold(0u64, |a, b| a.wrapping_add(*b))
    };
    let mut best = f64::INFINITY;
    for _ in 0..8 {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for buffer in &buffers {
                scope.spawn(|| std::hint::black_box(sum(buffer)));
            }
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    (threads * words * 8) as f64 / best
}
