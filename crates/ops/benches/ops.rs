//! How near is each operation to what this machine can multiply?
//!
//! `cargo bench -p ops --bench ops` measures SmolLM2-135M's shapes (hidden 576, 9/3 heads, ffn 1536,
//! rank 16; 64, 512 and 2048 tokens) and two of a 7B model, weights in 4 bits multiplied in f32 and
//! in bf16, and prints a table: time, GFLOP/s, and the share of what the matmul tile reaches on
//! operands in cache, all threads, measured in the same run; burn's own f32 matmul
//! ([512, 576] x [576, 1536]) for scale. Best of many repetitions, so that a busy machine disturbs
//! little.

use burn::tensor::{Device, Distribution, Tensor};
use ops::{AttentionOptions, ComputeDtype, Dropout, Lora, Segments, Weight};
use ops::{Level, multiply_in_cache};
use std::hint::black_box;
use std::sync::Mutex;
use std::time::{Duration, Instant};

const TOKENS: usize = 512;
const HIDDEN: usize = 576;
const FFN: usize = 1536;
const RANK: usize = 16;
const VOCABULARY: usize = 49_152;

/// Best time of one call in seconds.
fn best(mut f: impl FnMut()) -> f64 {
    f();
    let (start, mut best, mut calls) = (Instant::now(), f64::INFINITY, 0);
    while start.elapsed() < Duration::from_millis(400) || calls < 5 {
        let call = Instant::now();
        f();
        best = best.min(call.elapsed().as_secs_f64());
        calls += 1;
    }
    best
}

struct Table {
    limit: f64,
}

impl Table {
    fn row(&self, name: &str, seconds: f64, flop: f64) {
        let rate = flop / seconds / 1e9;
        let share = 100.0 * rate / self.limit;
        println!(
            "{name:<44} {:>9.3} ms {rate:>8.1} GFLOP/s {share:>5.0} %",
            seconds * 1e3
        );
    }

    fn bandwidth(&self, name: &str, seconds: f64, bytes: f64) {
        println!(
            "{name:<44} {:>9.3} ms {:>8.1} GB/s",
            seconds * 1e3,
            bytes / seconds / 1e9
        );
    }
}

fn random(shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), device)
}

fn quantized(n: usize, k: usize, device: &Device) -> Weight {
    let values: Vec<f32> = (0..n * k)
        .map(|i| ((i * 7919) % 1009) as f32 / 1009.0 - 0.5)
        .collect();
    Weight::nf4(
        &nf4::quantize(&values, [n, k], nf4::Dtype::BF16, true),
        device,
    )
}

/// The tile on operands that stay in cache, every thread its own, in GFLOP/s.
fn tile_limit(compute: ComputeDtype) -> f64 {
    let flop = Mutex::new(0.0);
    let seconds = best(|| {
        *flop.lock().expect("no thread panics") =
            rayon::broadcast(|_| multiply_in_cache(Level::best(), compute, 1000))
                .iter()
                .sum();
    });
    flop.into_inner().expect("no thread panics") / seconds / 1e9
}

#[global_allocator]
static ALLOCATOR: ops::CacheLines = ops::CacheLines;

fn main() {
    let plain = Device::flex();
    let device = plain.clone().autodiff();
    let (a, b) = (random([512, HIDDEN], &plain), random([HIDDEN, FFN], &plain));
    let matmul = 2.0 * (512 * HIDDEN * FFN) as f64
        / best(|| drop(black_box(a.clone().matmul(b.clone()))))
        / 1e9;
    println!(
        "{} threads, {:?}; burn's f32 matmul {matmul:.1} GFLOP/s",
        rayon::current_num_threads(),
        Level::best()
    );
    let limits = [ComputeDtype::F32, ComputeDtype::Bf16].map(tile_limit);
    for (compute, limit) in [ComputeDtype::F32, ComputeDtype::Bf16]
        .into_iter()
        .zip(limits)
    {
        println!("\nweights multiplied in {compute}; shares are of the tile's {limit:.1} GFLOP/s");
        let table = Table { limit };
        for tokens in [64, 512, 2048] {
            layer(&table, compute, tokens, &plain, &device);
        }
        large(&table, compute, &plain);
        attention(&table, compute, &device);
        cross_entropy(&table, compute, &device);
    }
    println!("\nin f32 whatever weights are multiplied in");
    let table = Table { limit: limits[0] };
    elementwise(&table, &plain, &device);
    decoding(&table, &plain);
}

/// The seven projections of a layer with their adapters.
fn layer(table: &Table, compute: ComputeDtype, tokens: usize, plain: &Device, device: &Device) {
    let (mut seconds, mut flop) = (0.0, 0.0);
    for (count, n, k, name) in [
        (2, HIDDEN, HIDDEN, "q, o"),
        (2, 192, HIDDEN, "k, v"),
        (2, FFN, HIDDEN, "gate, up"),
        (1, HIDDEN, FFN, "down"),
    ] {
        let weight = quantized(n, k, plain).with_compute(compute);
        let (a, b) = (
            random([RANK, k], device).require_grad(),
            random([n, RANK], device).require_grad(),
        );
        let x = random([tokens, k], device).require_grad();
        let lora = Lora {
            a: &a,
            b: &b,
            scaling: 2.0,
            dropout: Some(Dropout { p: 0.05, seed: 1 }),
        };
        let dense = 2.0 * (tokens * n * k) as f64;
        let low_rank = 2.0 * (tokens * RANK * (n + k)) as f64;
        let run = || ops::linear(x.clone(), &weight, None, Some(lora));
        let name = format!("{tokens} x {k} -> {n} ({name}), LoRA");
        let forward = best(|| drop(black_box(run())));
        table.row(&name, forward, dense + low_rank);
        let both = best(|| drop(black_box(run().sum().backward())));
        let work = 2.0 * dense + 3.0 * low_rank;
        table.row(&format!("{name}, and backward"), both, work);
        seconds += count as f64 * both;
        flop += count as f64 * work;
    }
    let name = format!("{tokens} tokens, all linears of a layer");
    table.row(&name, seconds, flop);
}

/// Two projections of a 7B model, without an adapter.
fn large(table: &Table, compute: ComputeDtype, plain: &Device) {
    for (n, k) in [(4096, 4096), (14_336, 4096)] {
        let weight = quantized(n, k, plain).with_compute(compute);
        for tokens in [64, 512] {
            let x = random([tokens, k], plain);
            let seconds = best(|| drop(black_box(ops::linear(x.clone(), &weight, None, None))));
            let flop = 2.0 * (tokens * n * k) as f64;
            table.row(&format!("{tokens} x {k} -> {n}"), seconds, flop);
        }
    }
}

fn attention(table: &Table, compute: ComputeDtype, device: &Device) {
    let options = AttentionOptions {
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        scale: 0.125,
        window: None,
        softcap: None,
        compute,
        kernel: Default::default(),
    };
    for offsets in [
        vec![0, TOKENS],
        (0..=8).map(|i| i * TOKENS / 8).collect(),
        (0..=16).map(|i| i * TOKENS / 16).collect(),
        vec![0, 4096],
    ] {
        let segments = Segments::from_offsets(&offsets);
        let tokens = *offsets.last().expect("not empty");
        let draw = |width| random([tokens, width], device).require_grad();
        let (q, k, v) = (draw(576), draw(192), draw(192));
        let pairs: usize = offsets
            .windows(2)
            .map(|w| (w[1] - w[0]) * (w[1] - w[0] + 1) / 2)
            .sum();
        let flop = 4.0 * (pairs * 9 * 64) as f64;
        let run = || ops::attention(q.clone(), k.clone(), v.clone(), &segments, &options);
        let name = format!(
            "attention, {} x {} tokens",
            segments.iter().len(),
            tokens / segments.iter().len()
        );
        table.row(&name, best(|| drop(black_box(run()))), flop);
        table.row(
            &format!("{name}, and backward"),
            best(|| drop(black_box(run().sum().backward()))),
            3.5 * flop,
        );
    }
}

fn cross_entropy(table: &Table, compute: ComputeDtype, device: &Device) {
    let values: Vec<u8> = (0..VOCABULARY * HIDDEN)
        .flat_map(|i| half::bf16::from_f32(((i * 7919) % 1009) as f32 / 1e4).to_le_bytes())
        .collect();
    let head = Weight::dense(
        &values,
        ops::DenseDtype::BF16,
        [VOCABULARY, HIDDEN],
        &device.clone().inner(),
    )
    .with_compute(compute);
    for rows in [64, 512] {
        let h = random([rows, HIDDEN], device).require_grad();
        let targets: Vec<u32> = (0..rows as u32).collect();
        let flop = 2.0 * (rows * VOCABULARY * HIDDEN) as f64;
        let plain = h.clone().inner();
        table.row(
            &format!("cross-entropy, {rows} rows"),
            best(|| {
                drop(black_box(ops::linear_cross_entropy(
                    plain.clone(),
                    &head,
                    &targets,
                )))
            }),
            flop,
        );
        let both = best(|| {
            drop(black_box(
                ops::linear_cross_entropy(h.clone(), &head, &targets).backward(),
            ))
        });
        table.row(
            &format!("cross-entropy, {rows} rows, with gradient"),
            both,
            2.0 * flop,
        );
    }
}

fn elementwise(table: &Table, plain: &Device, device: &Device) {
    let bytes = |columns: usize, arrays: usize| (TOKENS * columns * arrays * 4) as f64;
    let draw = |columns| random([TOKENS, columns], device).require_grad();
    let (x, gate, up) = (draw(HIDDEN), draw(FFN), draw(FFN));
    let weight = Tensor::<1>::ones([HIDDEN], plain);
    table.bandwidth(
        "rms_norm",
        best(|| drop(black_box(ops::rms_norm(x.clone(), &weight, 1e-5)))),
        bytes(HIDDEN, 2),
    );
    table.bandwidth(
        "swiglu",
        best(|| drop(black_box(ops::swiglu(gate.clone(), up.clone())))),
        bytes(FFN, 3),
    );
    let both = best(|| {
        drop(black_box(
            ops::swiglu(gate.clone(), up.clone()).sum().backward(),
        ))
    });
    table.bandwidth("swiglu, and backward", both, bytes(FFN, 8));
    let (cos, sin) = (random([TOKENS, 32], plain), random([TOKENS, 32], plain));
    table.bandwidth(
        "rotary",
        best(|| drop(black_box(ops::rotary(x.clone(), &cos, &sin, 9)))),
        bytes(HIDDEN, 2),
    );
}

fn decoding(table: &Table, plain: &Device) {
    for (n, k) in [(FFN, HIDDEN), (4096, 4096)] {
        let weight = quantized(n, k, plain);
        for tokens in [1, 8, 16] {
            let x = random([tokens, k], plain);
            let seconds = best(|| drop(black_box(ops::linear(x.clone(), &weight, None, None))));
            table.bandwidth(
                &format!("decode {tokens} tokens, {k} -> {n} (4-bit)"),
                seconds,
                weight.bytes() as f64,
            );
        }
    }
}
