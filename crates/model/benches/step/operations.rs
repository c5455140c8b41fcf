//! The step by operation: each timed alone, in the shapes of one micro-batch.

use std::hint::black_box;
use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use model::{Batch, Gradients, Projection, Recompute};
use ops::{AttentionOptions, Lora, Segments, Weight};

use super::{
    MICRO_BATCHES, Machine, RANK, Trainer, attention_flop, best, minor_faults, one_sequence_each,
    packed_row, step_flop, step_times,
};

/// The step, and what of it each operation takes.
pub fn print(trainer: &mut Trainer, machine: Machine) {
    let batches = vec![packed_row(512, 1); MICRO_BATCHES];
    trainer.step(&batches, Recompute::Nothing);
    let faults = minor_faults();
    let calls = trainer.steps;
    let (step, cpu) = best_step(trainer, &batches, Recompute::Nothing);
    let faults = (minor_faults() - faults) as f64 / (trainer.steps - calls) as f64;
    let flop = step_flop(&trainer.model, &batches, false);
    let tokens: usize = batches.iter().map(Batch::len).sum();
    println!(
        "step of {tokens} tokens: {:.3} s, {:.0} tokens/s, {:.0} GFLOP, {:.0} % of the limit, {:.0} page faults",
        step,
        tokens as f64 / step,
        flop / 1e9,
        100.0 * machine.share(flop, step),
        faults
    );
    let threads = rayon::current_num_threads() as f64;
    println!(
        "by CPU time: {:.3} s, {:.0} % of the limit",
        cpu,
        100.0 * machine.share(flop, cpu / threads)
    );
    recomputing(trainer, &batches);
    let mut table = Table {
        machine,
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

/// What recomputing every layer adds to a step, beside what its arithmetic adds.
fn recomputing(trainer: &mut Trainer, batches: &[Batch]) {
    let (mut kept, mut again) = ([f64::INFINITY; 2], [f64::INFINITY; 2]);
    for _ in 0..2 {
        // In turns, so that what else the machine does disturbs both.
        for (times, recompute) in [
            (&mut kept, Recompute::Nothing),
            (&mut again, Recompute::Everything),
        ] {
            let (wall, cpu) = step_times(trainer, batches, recompute);
            *times = [times[0].min(wall), times[1].min(cpu)];
        }
    }
    let more = |now: f64, before: f64| 100.0 * (now / before - 1.0);
    let flop = |recompute| step_flop(&trainer.model, batches, recompute);
    println!(
        "recomputing every layer: {:.3} s, {:+.0} %, by CPU time {:+.0} %; its arithmetic is {:+.0} %",
        again[0],
        more(again[0], kept[0]),
        more(again[1], kept[1]),
        more(flop(true), flop(false))
    );
}

/// Least wall and CPU seconds of three steps.
fn best_step(trainer: &mut Trainer, batches: &[Batch], recompute: Recompute) -> (f64, f64) {
    let times = (0..3).map(|_| step_times(trainer, batches, recompute));
    times.fold((f64::INFINITY, f64::INFINITY), |best, now| {
        (best.0.min(now.0), best.1.min(now.1))
    })
}

struct Table {
    machine: Machine,
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
        let share = 100.0 * self.machine.share(flop, seconds);
        let text = format!("{rate:.0} GFLOP/s {share:>3.0} %");
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
            "unnamed (tape, allocation, caches)",
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
        let codes = nf4::quantize(&values, [n, k], nf4::Dtype::BF16, true); // as the model's
        let weight = Weight::nf4(&codes, &plain).with_compute(table.machine.compute_dtype);
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
        compute: table.machine.compute_dtype,
        kernel: Default::default(),
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
    let x = draw(tokens, width);
    let dy = draw(tokens, width).detach();
    let turn = || ops::rotary(x.clone(), &cos, &sin, config.num_attention_heads);
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
    let head = Weight::dense(&head, ops::DenseDtype::BF16, shape, &plain)
        .with_compute(table.machine.compute_dtype);
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
    let mut sum = Some(draw(tokens, hidden).inner());
    let seconds = best(50, || {
        sum = sum.take().map(|sum| ops::add(x.clone(), sum));
    });
    table.bytes("residual sums", 2 * layers, seconds, 3 * float * hidden);

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
