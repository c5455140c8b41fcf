//! Kernels whose units know nothing of each other: a unit an element, and AdamW.

use super::{KINDS, Kind, Launch, Program, as_words, each, floats, words};
use crate::kernels::adamw::AdamW;
use crate::kernels::dropout::Dropout;
use crate::reference::{elementwise, widen};
use crate::tests::{Random, close};

const OF_VECTORS: [&str; 4] = ["swiglu", "swiglu backward", "rotary", "drop"];
const NAMES: [&str; 4] = ["scale", "add bias", "add parts", "write rows"];

pub(super) fn kernels() -> Vec<String> {
    let in_kinds = |name: &str| KINDS.map(|kind| format!("{name} in {kind:?}"));
    let mut kernels: Vec<String> = NAMES.into_iter().flat_map(in_kinds).collect();
    for kind in KINDS {
        for lanes in kind.vectors() {
            kernels.extend(OF_VECTORS.map(|name| format!("{name} of {lanes} in {kind:?}")));
        }
    }
    kernels.extend(["row keys", ADAMW].map(String::from));
    kernels
}

/// The text is the same for each of more tensors.
const ADAMW: &str = "adamw of 3 tensors";
const TENSORS: usize = 3;

#[test]
fn a_unit_an_element_is_its_specification() {
    let Some(program) = Program::of("plain", kernels().iter().filter(|name| *name != ADAMW)) else {
        return;
    };
    for kind in KINDS {
        let mut random = Random::new(3);
        let mut draw = |count: usize| kind.rounded(&random.values(count));
        let name = |what: &str| format!("{what} in {kind:?}");
        let run = |what: &str, buffers, cubes, usizes: &[usize], words: &[u32], floats: &[f32]| {
            program.run(Launch {
                kernel: &name(what),
                cubes,
                buffers,
                usizes,
                words,
                floats,
            })
        };
        let (rows, width) = (7, 240);
        let n = rows * width;
        let (a, b, c) = (draw(n), draw(n), draw(n));
        let [ab, bb, cb] = [&a, &b, &c].map(|values| kind.buffer(values));
        let out = || kind.unwritten(n);

        for lanes in kind.vectors() {
            let of = |what: &str| format!("{what} of {lanes}");
            let vectors = n / lanes;
            let after = run(
                &of("swiglu"),
                vec![ab.clone(), bb.clone(), out()],
                each(vectors),
                &[vectors],
                &[],
                &[],
            );
            let expected = elementwise::swiglu(&widen(&a), &widen(&b));
            kind.holds(&after[2], &expected, &name("swiglu"));

            let buffers = vec![cb.clone(), ab.clone(), bb.clone(), out(), out()];
            let what = of("swiglu backward");
            let after = run(&what, buffers, each(vectors), &[vectors], &[], &[]);
            let (gate, up) = elementwise::swiglu_backward(&widen(&c), &widen(&a), &widen(&b));
            kind.holds(&after[3], &gate, &name("dgate"));
            kind.holds(&after[4], &up, &name("dup"));

            let (heads, half) = (5, width / 10);
            let (cos, sin) = (draw(rows * half), draw(rows * half));
            let buffers = vec![ab.clone(), floats(&cos), floats(&sin), out()];
            let pairs = vectors / 2;
            let sizes = [pairs, heads, half / lanes];
            let what = of("rotary");
            let after = run(&what, buffers, each(pairs), &sizes, &[], &[-1.0]);
            let expected =
                elementwise::rotary(&widen(&a), &widen(&cos), &widen(&sin), heads, half, true);
            kind.holds(&after[3], &expected, &name("rotary"));
        }

        let dropout = Dropout {
            p: 0.3,
            seed: 0x1234_5678_9abc_def0,
        };
        let seed = [(dropout.seed >> 32) as u32, dropout.seed as u32];
        let keys = program.run(Launch {
            kernel: "row keys",
            cubes: each(rows),
            buffers: vec![words(&vec![0; rows])],
            usizes: &[rows],
            words: &seed,
            floats: &[],
        });
        let buffers = vec![ab.clone(), keys[0].clone(), out()];
        let [threshold, scale] = [[dropout.threshold()], [dropout.scale().to_bits()]];
        let scale = scale.map(f32::from_bits);
        let kept = |i: usize| f64::from(a[i] * dropout.factor(i / width, i % width));
        let expected: Vec<f64> = (0..n).map(kept).collect();
        for lanes in kind.vectors() {
            let (what, vectors) = (format!("drop of {lanes}"), n / lanes);
            let sizes = [vectors, width / lanes];
            let buffers = buffers.clone();
            let after = run(&what, buffers, each(vectors), &sizes, &threshold, &scale);
            kind.holds(&after[2], &expected, &name("drop"));
        }

        let buffers = vec![ab.clone(), floats(&[0.75])];
        let after = run("scale", buffers, each(n), &[n], &[], &[-1.5]);
        let expected: Vec<f64> = a.iter().map(|v| f64::from(*v) * 0.75 * -1.5).collect();
        kind.holds(&after[0], &expected, &name("scale"));

        let bias = draw(width);
        let buffers = vec![ab.clone(), floats(&bias)];
        let after = run("add bias", buffers, each(n), &[n, width], &[], &[]);
        let sum = |i: usize| f64::from(a[i]) + f64::from(bias[i % width]);
        let expected: Vec<f64> = (0..n).map(sum).collect();
        kind.holds(&after[0], &expected, &name("add bias"));

        // Two rows behind those that the eight parts were made of.
        let (height, wide, from, all) = (9, 31, 3, 5);
        let (p, q) = (draw(all * height), draw(all * wide));
        let count = height * wide;
        let parts = random.values(8 * count);
        let buffers = vec![
            floats(&parts),
            kind.buffer(&p),
            kind.buffer(&q),
            Kind::F32.unwritten(count),
        ];
        let sizes = [height, wide, from, all];
        let after = run("add parts", buffers, each(count), &sizes, &[], &[0.5]);
        let sum = |i: usize| {
            let parts = (0..8).map(|part| f64::from(parts[part * count + i]));
            let left = |row: usize| f64::from(p[row * height + i / wide]);
            let rest = (from..all).map(|row| left(row) * f64::from(q[row * wide + i % wide]));
            0.5 * (parts.sum::<f64>() + rest.sum::<f64>())
        };
        let expected: Vec<f64> = (0..count).map(sum).collect();
        Kind::F32.holds(&after[3], &expected, &name("add parts"));

        let slots = [6, 0, 11, 3, 9, 1, 2];
        let buffers = vec![ab, words(&slots), kind.buffer(&vec![2.0; 12 * width])];
        let after = run("write rows", buffers, each(n), &[n, width], &[], &[]);
        let mut expected = vec![2.0; 12 * width];
        for (row, slot) in slots.into_iter().enumerate() {
            let to = slot as usize * width..(slot as usize + 1) * width;
            expected[to].copy_from_slice(&a[row * width..(row + 1) * width]);
        }
        kind.holds(&after[2], &widen(&expected), &name("write rows"));
        assert_eq!(as_words(&after[1]), slots, "an argument that is only read");
    }
}

#[test]
fn adamw_of_tensors_of_ragged_sizes_is_its_specification() {
    let Some(program) = Program::of("adamw", [ADAMW]) else {
        return;
    };
    let o = AdamW {
        lr: 1e-2,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.1,
        step: 3,
        grad_scale: 0.5,
    };
    let hyper = [
        1.0 - o.lr * o.weight_decay,
        1.0 - o.beta1,
        o.beta2,
        1.0 - o.beta2,
        o.lr / (1.0 - o.beta1.powi(3)),
        (1.0 - o.beta2.powi(3)).sqrt(),
        o.eps,
        o.grad_scale,
    ];
    let mut random = Random::new(5);
    let mut all = |scale: f32| -> Vec<Vec<f32>> {
        let sizes = (0..TENSORS).map(|tensor| [600, 1, 37][tensor]);
        let values = sizes.map(|size| random.values(size));
        values
            .map(|v| v.iter().map(|v| v * scale).collect())
            .collect()
    };
    let (params, grads, averages) = (all(1.0), all(1.0), all(0.1));
    let squares: Vec<Vec<f32>> = all(0.1)
        .iter()
        .map(|values| values.iter().map(|v| v.abs()).collect())
        .collect();
    let tensors = [&params, &grads, &averages, &squares];
    let buffers = tensors.into_iter().flatten().map(|t| floats(t)).collect();
    let after = program.run(Launch {
        kernel: ADAMW,
        cubes: [2, TENSORS as u32, 1],
        buffers,
        usizes: &[],
        words: &[],
        floats: &hyper.map(|v| v as f32),
    });
    for tensor in 0..TENSORS {
        let mut of = tensors.map(|tensors| widen(&tensors[tensor]));
        let [param, grad, average, square] = &mut of;
        elementwise::adamw(param, grad, average, square, &o);
        for (which, expected) in of.iter().enumerate() {
            let got = Kind::F32.values(&after[which * TENSORS + tensor]);
            close(&got, expected, 1e-6, &format!("array {which} of {tensor}"));
        }
    }
}
