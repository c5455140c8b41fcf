//! Kernels of a cube a row, whose units meet in block sums: norms, losses, softmax, attention of a few
//! rows, sums of squares.

use super::nvrtc::{attend_name, attends};
use super::{Buffer, KINDS, Kind, Launch, Program, floats, words};
use crate::kernels::cube::attention::Few;
use crate::reference::{elementwise, widen};
use crate::tests::{Random, close};

/// Longer than a cube has units, and no multiple of them.
const WIDTH: usize = 333;
/// The same of vectors.
const VECTORS: usize = 131;
const SOFTCAP: f64 = 2.0;

fn names(kind: Kind) -> Vec<String> {
    let mut names = vec![
        format!("delta in {kind:?}"),
        format!("merge attended in {kind:?}"),
    ];
    for lanes in kind.vectors() {
        names.extend([
            format!("rms norm of {lanes} in {kind:?}"),
            format!("rms norm backward, added true, of {lanes} in {kind:?}"),
            format!("rms norm backward, added false, of {lanes} in {kind:?}"),
        ]);
    }
    let attends = attends(kind.bytes());
    names.extend(attends.iter().map(|few| attend_name(few, kind)));
    for yes in [true, false] {
        names.extend([
            format!("cross entropy, differentiate {yes}, in {kind:?}"),
            format!("softmax, capped {yes}, in {kind:?}"),
            format!("softmax backward, capped {yes}, in {kind:?}"),
        ]);
    }
    names
}

/// The text is the same for each of more tensors.
const SQUARES: &str = "squares of 3 tensors";
const TENSORS: usize = 3;

pub(super) fn kernels() -> Vec<String> {
    let mut kernels: Vec<String> = KINDS.into_iter().flat_map(names).collect();
    kernels.push(SQUARES.into());
    kernels
}

fn check(kind: Kind) {
    let Some(program) = Program::of(&format!("rows-{kind:?}"), names(kind)) else {
        return;
    };
    for lanes in kind.vectors() {
        norms(&program, kind, lanes);
    }
    losses(&program, kind);
    for capped in [true, false] {
        softmax(&program, kind, capped);
    }
    for few in attends(kind.bytes()) {
        attend(&program, kind, &few);
    }
}

#[test]
fn a_cube_a_row_is_its_specification_in_f32() {
    check(Kind::F32);
}

#[test]
fn a_cube_a_row_is_its_specification_in_bf16() {
    check(Kind::BF16);
}

fn norms(program: &Program, kind: Kind, lanes: usize) {
    let (rows, width) = (5, VECTORS * lanes);
    let mut random = Random::new(1);
    let mut draw = |count: usize| kind.rounded(&random.values(count));
    let [x, dy, left] = [(); 3].map(|()| draw(rows * width));
    let weight = draw(width);
    let run = |name: &str, inputs: Vec<Buffer>| {
        let mut buffers = inputs;
        buffers.push(kind.unwritten(rows * width));
        let after = program.run(Launch {
            kernel: &format!("{name} of {lanes} in {kind:?}"),
            cubes: [rows as u32, 1, 1],
            buffers,
            usizes: &[VECTORS],
            words: &[],
            floats: &[1e-5],
        });
        after.last().expect("the output").clone()
    };
    let (wide_x, wide_weight) = (widen(&x), widen(&weight));
    let (given, weights) = (kind.buffer(&x), floats(&weight));
    let y = elementwise::rms_norm(&wide_x, &wide_weight, 1e-5);
    let got = run("rms norm", vec![given.clone(), weights.clone()]);
    kind.holds(&got, &y, "norm");
    let dx = elementwise::rms_norm_backward(&widen(&dy), &wide_x, &wide_weight, 1e-5);
    for added in [true, false] {
        let expected: Vec<f64> = match added {
            true => dx.iter().zip(widen(&left)).map(|(d, l)| d + l).collect(),
            false => dx.clone(),
        };
        let inputs = vec![
            kind.buffer(&dy),
            given.clone(),
            weights.clone(),
            kind.buffer(&left),
        ];
        let got = run(&format!("rms norm backward, added {added},"), inputs);
        kind.holds(&got, &expected, "dx of norm");
    }
}

fn losses(program: &Program, kind: Kind) {
    let rows = 3;
    let logits: Vec<f32> = Random::new(2).values(rows * WIDTH);
    let logits: Vec<f32> = logits.iter().map(|v| v * 8.0).collect();
    let targets = [0, 332, 17];
    let (mut losses, mut slopes) = (Vec::new(), Vec::new());
    for (row, target) in widen(&logits).chunks(WIDTH).zip(targets) {
        let sum: f64 = row.iter().map(|l| l.exp()).sum();
        losses.push(sum.ln() - row[target as usize]);
        slopes.extend(row.iter().enumerate().map(|(j, l)| {
            let p = l.exp() / sum;
            if j == target as usize { p - 1.0 } else { p }
        }));
    }
    for differentiate in [true, false] {
        let dlogits = if differentiate { rows * WIDTH } else { 1 };
        let after = program.run(Launch {
            kernel: &format!("cross entropy, differentiate {differentiate}, in {kind:?}"),
            cubes: [rows as u32, 1, 1],
            buffers: vec![
                floats(&logits),
                words(&targets),
                Kind::F32.unwritten(rows),
                kind.unwritten(dlogits),
            ],
            usizes: &[WIDTH],
            words: &[],
            floats: &[],
        });
        Kind::F32.holds(&after[2], &losses, "loss");
        if differentiate {
            kind.holds(&after[3], &slopes, "dlogits");
        }
    }
}

/// A chunk of rows from `start` on, each of which sees some keys of a span.
fn softmax(program: &Program, kind: Kind, capped: bool) {
    let (start, rows, span_start, span, group, heads) = (2, 4, 3, 150, 2, 4);
    let (first, end): ([u32; 6], [u32; 6]) = ([9, 9, 3, 3, 100, 152], [9, 9, 4, 140, 153, 153]);
    let count = rows * heads * span;
    let mut random = Random::new(4);
    let mut draw = |scale: f32| -> Vec<f32> {
        let values = random.values(count);
        values.iter().map(|v| v * scale).collect()
    };
    let (scores, dp) = (draw(6.0), draw(1.0));
    let delta: Vec<f32> = random.values((start + rows) * heads);
    let scale = 0.5;
    let (mut p, mut ds) = (vec![0.0; count], vec![0.0; count]);
    let mut lse = vec![f64::NAN; (start + rows) * heads];
    for index in 0..rows * heads {
        let within = index % (rows * group);
        let head = index / (rows * group) * group + within % group;
        let row = start + within / group;
        let seen = first[row] as usize - span_start..end[row] as usize - span_start;
        let score = |j: usize| {
            let raw = f64::from(scores[index * span + j]) * scale;
            if capped {
                SOFTCAP * (raw / SOFTCAP).tanh()
            } else {
                raw
            }
        };
        let sum: f64 = seen.clone().map(|j| score(j).exp()).sum();
        lse[row * heads + head] = sum.ln();
        for j in seen {
            let at = index * span + j;
            p[at] = score(j).exp() / sum;
            let bend = if capped {
                1.0 - (score(j) / SOFTCAP).powi(2)
            } else {
                1.0
            };
            let slope = f64::from(dp[at]) - f64::from(delta[row * heads + head]);
            ds[at] = scale * p[at] * slope * bend;
        }
    }
    let sizes = [start, rows, span_start, span, group, heads];
    let numbers = [scale as f32, SOFTCAP as f32];
    let after = program.run(Launch {
        kernel: &format!("softmax, capped {capped}, in {kind:?}"),
        cubes: [(rows * heads) as u32, 1, 1],
        buffers: vec![
            floats(&scores),
            words(&first),
            words(&end),
            kind.unwritten(count),
            Kind::F32.unwritten(lse.len()),
        ],
        usizes: &sizes,
        words: &[],
        floats: &numbers,
    });
    kind.holds(&after[3], &p, "p");
    let (written, unwritten) = (start * heads.., ..start * heads);
    let got = Kind::F32.values(&after[4]);
    close(&got[written.clone()], &lse[written], 1e-5, "lse");
    assert!(got[unwritten].iter().all(|v| v.is_nan()), "rows of others");

    let after = program.run(Launch {
        kernel: &format!("softmax backward, capped {capped}, in {kind:?}"),
        cubes: super::each(count),
        buffers: vec![
            floats(&scores),
            floats(&dp),
            words(&first),
            words(&end),
            after[4].clone(),
            floats(&delta),
            kind.unwritten(count),
            kind.unwritten(count),
        ],
        usizes: &[&sizes[..], &[count]].concat(),
        words: &[],
        floats: &numbers,
    });
    kind.holds(&after[6], &p, "p again");
    kind.holds(&after[7], &ds, "ds");
}

/// Rows of one key, of tiles and splits that end where they do, and of several; and delta of what they
/// gave.
fn attend(program: &Program, kind: Kind, few: &Few) {
    let (head_dim, span) = (few.head_dim, if few.split { 150 } else { 380 });
    // Where the keys are split, two cubes share a key-value head.
    let kv_heads = 2;
    let heads = kv_heads * few.heads * if few.split { 2 } else { 1 };
    let first = [7, 100, 20, 3, 0, 31];
    let lengths = [1, few.tile, 380, 150, 151, few.tile + 1];
    let (rows, keys) = (first.len(), 400);
    let end: Vec<u32> = first
        .iter()
        .zip(lengths)
        .map(|(first, length)| first + length as u32)
        .collect();
    let mut random = Random::new(6);
    let mut draw = |rows: usize| kind.rounded(&random.values(rows * head_dim));
    let (q, k, v) = (
        draw(rows * heads),
        draw(keys * kv_heads),
        draw(keys * kv_heads),
    );
    let scale = 1.5 / (head_dim as f32).sqrt();
    let (mut out, mut lse) = (vec![0.0; q.len()], Vec::new());
    for index in 0..rows * heads {
        let (row, kv) = (index / heads, index % heads / (heads / kv_heads));
        let at = |key: usize, c: usize| (key * kv_heads + kv) * head_dim + c;
        let score = |key: usize| {
            let product = |c| f64::from(q[index * head_dim + c]) * f64::from(k[at(key, c)]);
            let raw = f64::from(scale) * (0..head_dim).map(product).sum::<f64>();
            if few.capped {
                SOFTCAP * (raw / SOFTCAP).tanh()
            } else {
                raw
            }
        };
        let seen = first[row] as usize..end[row] as usize;
        let sum: f64 = seen.clone().map(|key| score(key).exp()).sum();
        lse.push(sum.ln());
        for key in seen {
            let p = score(key).exp() / sum;
            for c in 0..head_dim {
                out[index * head_dim + c] += p * f64::from(v[at(key, c)]);
            }
        }
    }
    let splits = 380usize.div_ceil(span);
    let partial = match few.split {
        true => rows * heads * splits * (head_dim + 2),
        false => 1,
    };
    let mut after = program.run(Launch {
        kernel: &attend_name(few, kind),
        cubes: [splits, heads / few.heads, rows].map(|n| n as u32),
        buffers: vec![
            kind.buffer(&q),
            kind.buffer(&k),
            kind.buffer(&v),
            words(&first),
            words(&end),
            kind.unwritten(q.len()),
            Kind::F32.unwritten(rows * heads),
            Kind::F32.unwritten(partial),
        ],
        usizes: &[heads, kv_heads, span],
        words: &[],
        floats: &[scale, SOFTCAP as f32],
    });
    if few.split {
        let merged = program.run(Launch {
            kernel: &format!("merge attended in {kind:?}"),
            cubes: [(rows * heads) as u32, 1, 1],
            buffers: vec![after[7].clone(), after[5].clone(), after[6].clone()],
            usizes: &[splits, head_dim],
            words: &[],
            floats: &[],
        });
        after[5..7].clone_from_slice(&merged[1..]);
    }
    kind.holds(&after[5], &out, "attended");
    Kind::F32.holds(&after[6], &lse, "lse of attended");

    let delta: Vec<f64> = q
        .chunks(head_dim)
        .zip(kind.values(&after[5]).chunks(head_dim))
        .map(|(q, o)| {
            q.iter()
                .zip(o)
                .map(|(q, o)| f64::from(*q) * f64::from(*o))
                .sum()
        })
        .collect();
    let after = program.run(Launch {
        kernel: &format!("delta in {kind:?}"),
        cubes: [(rows * heads) as u32, 1, 1],
        buffers: vec![
            kind.buffer(&q),
            after[5].clone(),
            Kind::F32.unwritten(rows * heads),
        ],
        usizes: &[head_dim],
        words: &[],
        floats: &[],
    });
    Kind::F32.holds(&after[2], &delta, "delta");
}

#[test]
fn squares_of_tensors_of_ragged_sizes_are_their_specification() {
    let Some(program) = Program::of("squares", [SQUARES]) else {
        return;
    };
    let (mut random, cubes, first) = (Random::new(8), 3, 2);
    let sizes = (0..TENSORS).map(|tensor| [900, 1, 41][tensor]);
    let tensors: Vec<Vec<f32>> = sizes.map(|size| random.values(size)).collect();
    let mut buffers: Vec<_> = tensors.iter().map(|t| floats(t)).collect();
    buffers.push(Kind::F32.unwritten((first + TENSORS) * cubes));
    let after = program.run(Launch {
        kernel: SQUARES,
        cubes: [cubes as u32, TENSORS as u32, 1],
        buffers,
        usizes: &[first],
        words: &[],
        floats: &[],
    });
    let parts = Kind::F32.values(after.last().expect("the parts"));
    let sums: Vec<f32> = parts[first * cubes..]
        .chunks(cubes)
        .map(|c| c.iter().sum())
        .collect();
    let square = |t: &Vec<f32>| t.iter().map(|v| f64::from(*v).powi(2)).sum();
    let expected: Vec<f64> = tensors.iter().map(square).collect();
    close(&sums, &expected, 1e-5, "squares");
    assert!(
        parts[..first * cubes].iter().all(|v| v.is_nan()),
        "parts of others"
    );
}
