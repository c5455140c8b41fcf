//! Where does an optimizer step spend its time, and how does it grow?
//!
//! `cargo bench -p model --bench step` trains random weights of SmolLM2-135M's shape (30 layers of
//! 576, 9/3 heads, ffn 1536, vocabulary 49152, tied), NF4 with double quantisation, rank 16 on all
//! seven projections, dropout 0.05: 4 micro-batches of one packed row of 512 tokens, sequences of
//! about 110, every token a target. It prints the step, a table by operation (each timed alone in
//! the step's shapes, times how often it occurs) with what is left over, and the step for longer
//! rows. The limit is the matmul tile on operands in cache, all threads, measured in the same run.
//! `-- f32` computes in f32 where the default is bf16, `-- growth` prints the last table only,
//! `-- step` all but that.

use std::hint::black_box;
use std::time::{Duration, Instant};

use burn::tensor::{Device, Distribution, Tensor};
use model::{
    AdamW, AdamWConfig, Adapter, Batch, ComputeDtype, Dropout, Gradients, LoadOptions, LoraConfig,
    Model, Projection, Quantize, Recompute,
};
use ops::kernels::{matmul::product, simd::Level};
use ops::{AttentionOptions, Lora, Segments, Weight};

#[path = "step/base.rs"]
mod base;

const RANK: usize = 16;
const MICRO_BATCHES: usize = 4;

fn main() {
    model::keep_freed_memory();
    let told = |word: &str| std::env::args().any(|a| a == word);
    let compute_dtype = match told("f32") {
        true => ComputeDtype::F32,
        false => ComputeDtype::fastest(),
    };
    let dir = tempfile::tempdir().expect("a temporary folder");
    base::write(dir.path());
    let tile = tile_gflops();
    println!(
        "{} threads, {:?}, matmul tile {tile:.1} GFLOP/s",
        rayon::current_num_threads(),
        Level::best()
    );
    let options = LoadOptions {
        quantize: Quantize::Nf4 { double_quant: true },
        compute_dtype,
        ..LoadOptions::default()
    };
    let base = checkpoint::Base::open(dir.path()).expect("the base just written");
    let mut trainer = Trainer::new(Model::load(&base, &options, &mut |_, _| {}).expect("it loads"));
    if !told("growth") {
        by_operation(&mut trainer, tile);
    }
    if !told("step") {
        growth(&mut trainer, tile);
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
/// three through each adapter, two of the head, those of attention (3.5 times its forward).
fn step_flop(model: &Model, batches: &[Batch], recompute: bool) -> f64 {
    let config = model.decoder().config();
    let shapes = Projection::ALL.map(|p| p.shape(config));
    let layers = config.num_hidden_layers as f64;
    let frozen: usize = shapes.iter().map(|[n, k]| n * k).sum();
    let adapter: usize = shapes.iter().map(|[n, k]| RANK * (n + k)).sum();
    let again = if recompute { 1.0 } else { 0.0 };
    let head = (config.vocab_size * config.hidden_size) as f64;
    let mut flop = 0.0;
    for batch in batches {
        let layer = 2.0 * frozen as f64 * (2.0 + again) + 2.0 * adapter as f64 * (3.0 + again);
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

/// The tile kernel on operands that stay in cache, every thread its own.
fn tile_gflops() -> f64 {
    let level = Level::best();
    let flop = 2.0 * (64 * 48 * 192 * 50 * rayon::current_num_threads()) as f64;
    let seconds = best(5, || {
        rayon::broadcast(|_| {
            let (a, b) = (vec![1.0f32; 64 * 192], vec![1.0f32; 192 * 48]);
            let mut c = vec![0.0f32; 64 * 48];
            for _ in 0..50 {
                product(level, [64, 48, 192], &a, &b, &mut c);
                black_box(&mut c);
            }
        });
    });
    flop / seconds / 1e9
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

fn by_operation(trainer: &mut Trainer, tile: f64) {
    let batches = vec![packed_row(512, 1); MICRO_BATCHES];
    trainer.step(&batches, Recompute::Nothing);
    let faults = minor_faults();
    let calls = trainer.steps;
    let step = best(3, || trainer.step(&batches, Recompute::Nothing));
    let faults = (minor_faults() - faults) as f64 / (trainer.steps - calls) as f64;
    let flop = step_flop(&trainer.model, &batches, false);
    let tokens: usize = batches.iter().map(Batch::len).sum();
    println!(
        "step of {tokens} tokens: {:.3} s, {:.0} tokens/s, {:.0} GFLOP, {:.0} % of the limit, {:.0} page faults",
        step,
        tokens as f64 / step,
        flop / 1e9,
        100.0 * flop / step / 1e9 / tile,
        faults
    );
    let mut table = Table {
        tile,
        step,
        named: 0.0,
    };
    println!(
        "{:<44} {:>6} {:>9} {:>7} {:>8}",
        "operation, forward and backward", "times", "ms each", "of step", "rate"
    );
    operations(trainer, &batches[0], &mut table);
    table.rest();
}

struct Table {
    tile: f64,
    step: f64,
    named: f64,
}

impl Table {
    fn row(&mut self, name: &str, times: usize, seconds: f64, rate: String) {
        let share = times as f64 * seconds / self.step;
        self.named += share;
        println!(
            "{name:<44} {times:>6} {:>9.3} {:>5.1} % {rate:>22}",
            seconds * 1e3,
            share * 100.0
        );
    }

    fn flop(&mut self, name: &str, times: usize, seconds: f64, flop: f64) {
        let rate = flop / seconds / 1e9;
        let text = format!("{rate:.0} GFLOP/s {:>3.0} %", 100.0 * rate / self.tile);
        self.row(name, times, seconds, text);
    }

    fn bytes(&mut self, name: &str, times: usize, seconds: f64, bytes: usize) {
        let text = format!("{:.1} GB/s", bytes as f64 / seconds / 1e9);
        self.row(name, times, seconds, text);
    }

    fn rest(&self) {
        let rest = 1.0 - self.named;
        println!(
            "{:<44} {:>6} {:>9.3} {:>5.1} %",
            "unnamed (tape, sums, allocation, caches)",
            1,
            rest * self.step * 1e3,
            100.0 * rest
        );
    }
}

/// Each operation of a step in the shapes of one micro-batch.
fn operations(trainer: &mut Trainer, batch: &Batch, table: &mut Table) {
    let config = trainer.model.decoder().config().clone();
    let (layers, tokens) = (config.num_hidden_layers * MICRO_BATCHES, batch.len());
    let plain = Device::flex();
    let device = plain.clone().autodiff();
    let draw = |rows: usize, columns: usize| -> Tensor<2> {
        Tensor::random([rows, columns], Distribution::Uniform(-1.0, 1.0), &device).require_grad()
    };
    let taped = |f: &dyn Fn() -> Tensor<2>, dy: &Tensor<2>| {
        best(20, || drop(black_box((f() * dy.clone()).sum().backward())))
    };
    let overhead = |columns: usize, dy: &Tensor<2>| {
        let x = draw(tokens, columns);
        taped(&|| x.clone(), dy)
    };

    for (count, name, [n, k]) in [
        (2, "q, o", Projection::Query.shape(&config)),
        (2, "k, v", Projection::Key.shape(&config)),
        (2, "gate, up", Projection::Gate.shape(&config)),
        (1, "down", Projection::Down.shape(&config)),
    ] {
        let values: Vec<f32> = (0..n * k)
            .map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5)
            .collect();
        let weight = Weight::nf4(
            &nf4::quantize(&values, [n, k], nf4::Dtype::F32, true),
            &plain,
        );
        let (a, b, x) = (draw(RANK, k), draw(n, RANK), draw(tokens, k));
        let dropout = Some(ops::Dropout { p: 0.05, seed: 1 });
        let lora = Lora {
            a: &a,
            b: &b,
            scaling: 2.0,
            dropout,
        };
        let dy = draw(tokens, n).detach();
        let seconds =
            taped(&|| ops::linear(x.clone(), &weight, None, Some(lora)), &dy) - overhead(n, &dy);
        let flop = (4 * tokens * n * k + 6 * tokens * RANK * (n + k)) as f64;
        table.flop(
            &format!("linear {name}: {k} -> {n}"),
            count * layers,
            seconds,
            flop,
        );
    }

    let options = AttentionOptions {
        heads: config.num_attention_heads,
        kv_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
        scale: 0.125,
        window: None,
        softcap: None,
    };
    let (width, kv) = (
        config.num_attention_heads * 64,
        config.num_key_value_heads * 64,
    );
    let segments = Segments::from_offsets(&batch.offsets);
    let (q, k, v) = (draw(tokens, width), draw(tokens, kv), draw(tokens, kv));
    let dy = draw(tokens, width).detach();
    let attend = || ops::attention(q.clone(), k.clone(), v.clone(), &segments, &options);
    let seconds = taped(&attend, &dy) - overhead(width, &dy);
    table.flop(
        "attention",
        layers,
        seconds,
        3.5 * attention_flop(&batch.offsets, width),
    );

    let float = 4 * tokens;
    let hidden = config.hidden_size;
    let (x, weight) = (draw(tokens, hidden), Tensor::<1>::ones([hidden], &plain));
    let dy = draw(tokens, hidden).detach();
    let seconds = taped(&|| ops::rms_norm(x.clone(), &weight, 1e-5), &dy) - overhead(hidden, &dy);
    table.bytes("rms_norm", 2 * layers, seconds, 5 * float * hidden);

    let (cos, sin) = (draw(tokens, 32).inner(), draw(tokens, 32).inner());
    let rows: Vec<u32> = (0..tokens as u32).collect();
    let x = draw(tokens, width);
    let dy = draw(tokens, width).detach();
    let turn = || ops::rotary(x.clone(), &cos, &sin, &rows, config.num_attention_heads);
    let seconds = taped(&turn, &dy) - overhead(width, &dy);
    table.bytes(
        "rotary of q (k: a third of it)",
        layers * 4 / 3,
        seconds,
        4 * float * width,
    );

    let ffn = config.intermediate_size;
    let (gate, up, dy) = (
        draw(tokens, ffn),
        draw(tokens, ffn),
        draw(tokens, ffn).detach(),
    );
    let seconds = taped(&|| ops::swiglu(gate.clone(), up.clone()), &dy) - overhead(ffn, &dy);
    table.bytes("swiglu", layers, seconds, 8 * float * ffn);

    let head: Vec<u8> = (0..config.vocab_size * hidden)
        .flat_map(|i| {
            ((((i * 7919) % 1009) as f32 / 1e4).to_bits() >> 16).to_le_bytes()[..2].to_vec()
        })
        .collect();
    let shape = [config.vocab_size, hidden];
    let head = Weight::dense(&head, ops::DenseDtype::BF16, shape, &plain);
    let targets: Vec<u32> = (0..batch.targets() as u32).collect();
    let h = draw(targets.len(), hidden);
    let seconds = best(3, || {
        drop(black_box(
            ops::linear_cross_entropy(h.clone(), &head, &targets).backward(),
        ))
    });
    let flop = 4.0 * (targets.len() * config.vocab_size * hidden) as f64;
    table.flop("linear_cross_entropy", MICRO_BATCHES, seconds, flop);

    let x = draw(tokens, hidden).inner();
    let y = draw(tokens, hidden).inner();
    let seconds = best(50, || drop(black_box(x.clone() + y.clone())));
    table.bytes(
        "sums of residuals and of gradients",
        7 * layers,
        seconds,
        3 * float * hidden,
    );

    let adapter = trainer.model.adapter().expect("there is one");
    let parameters = adapter.parameters();
    let mut gradients = Gradients::new(adapter);
    let accumulated = trainer.model.accumulate_gradients(
        &one_sequence_each(vec![0, 8]),
        1.0,
        None,
        Recompute::Nothing,
        &mut gradients,
    );
    accumulated.expect("a finite loss");
    let seconds = best(3, || {
        black_box(gradients.norm());
    });
    table.bytes("gradient norm", 1, seconds, 4 * parameters);
    let copies = (0..4).map(|_| gradients.clone()).collect::<Vec<_>>();
    let mut seconds = f64::INFINITY;
    for gradients in copies {
        let adapter = trainer.model.adapter_mut().expect("there is one");
        let start = Instant::now();
        trainer.optimizer.step(adapter, gradients, 1e-5, 1.0);
        seconds = seconds.min(start.elapsed().as_secs_f64());
    }
    table.bytes("AdamW", 1, seconds, 4 * 7 * parameters);
}

fn growth(trainer: &mut Trainer, tile: f64) {
    println!(
        "a micro-batch, by row length and batch size; one sequence a row, or packed ones of about 110"
    );
    println!(
        "{:<34} {:>9} {:>9} {:>8}",
        "", "seconds", "tokens/s", "of limit"
    );
    for (tokens, rows, packed) in [
        (512, 1, true),
        (512, 4, true),
        (512, 16, true),
        (512, 1, false),
        (1024, 1, false),
        (2048, 1, false),
        (4096, 1, false),
        (8192, 1, false),
    ] {
        let batch = if packed {
            packed_row(tokens, rows)
        } else {
            one_sequence_each(vec![0, tokens])
        };
        let batches = [batch];
        let seconds = best(1, || trainer.step(&batches, Recompute::Nothing));
        let flop = step_flop(&trainer.model, &batches, false);
        println!(
            "{:<34} {:>9.3} {:>9.0} {:>6.0} %",
            format!("{rows} x {tokens}{}", if packed { ", packed" } else { "" }),
            seconds,
            (tokens * rows) as f64 / seconds,
            100.0 * flop / seconds / 1e9 / tile
        );
    }
}

/// Pages this process was given so far, from /proc/self/stat.
fn minor_faults() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let field = after_name.split_whitespace().nth(7);
    field.and_then(|f| f.parse().ok()).unwrap_or(0)
}
