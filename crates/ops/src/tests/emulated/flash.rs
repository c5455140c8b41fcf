//! Flash attention with tensor cores, forward and backward, against the specification.

use super::{Buffer, Kind, Launch, Program, words};
use crate::backends::cube::flash::visible;
use crate::reference::attention::{backward, forward};
use crate::tests::{Random, close};
use crate::{AttentionOptions, Segment, Segments};

const VARIANTS: [(usize, bool); 5] = [
    (32, false),
    (64, false),
    (64, true),
    (96, false),
    (128, false),
];

fn names(head_dim: usize, capped: bool) -> [String; 3] {
    ["flash forward", "flash dq", "flash dk and dv"]
        .map(|name| format!("{name} of heads of {head_dim}, capped {capped}"))
}

pub(super) fn kernels() -> Vec<String> {
    VARIANTS
        .into_iter()
        .flat_map(|(d, c)| names(d, c))
        .collect()
}

fn run(
    program: &Program,
    segments: &Segments,
    [tokens, key_rows]: [usize; 2],
    o: &AttentionOptions,
) {
    let bf16 = Kind::BF16;
    let mut random = Random::new(11);
    let mut draw =
        |rows: usize, heads: usize| bf16.rounded(&random.values(rows * heads * o.head_dim));
    let (q, k) = (draw(tokens, o.heads), draw(key_rows, o.kv_heads));
    let (v, d_o) = (draw(key_rows, o.kv_heads), draw(tokens, o.heads));
    let seen = words(&visible(segments, [tokens, key_rows], o.window));
    let [forward_name, dq_name, dkdv_name] = names(o.head_dim, o.softcap.is_some());
    let tiles = tokens.div_ceil(64);
    let by_query = [(tiles * o.heads) as u32, 1, 1];
    let scalars = |third| [tokens, key_rows, third, o.heads, o.kv_heads];
    let floats_of = [o.scale, o.softcap.unwrap_or(0.0)];
    let launch = |kernel, cubes, buffers: Vec<Buffer>, third| {
        program.run(Launch {
            kernel,
            cubes,
            buffers,
            usizes: &scalars(third),
            words: &[],
            floats: &floats_of,
        })
    };
    let [qb, kb, vb, d_ob] = [&q, &k, &v, &d_o].map(|values| bf16.buffer(values));
    let row_numbers = Kind::F32.unwritten(tokens * o.heads);

    let buffers = vec![
        qb.clone(),
        kb.clone(),
        vb.clone(),
        seen.clone(),
        bf16.unwritten(q.len()),
        row_numbers.clone(),
    ];
    let after = launch(&forward_name, by_query, buffers, tiles);
    let (out, lse) = (after[4].clone(), after[5].clone());

    let buffers = vec![
        qb.clone(),
        kb.clone(),
        vb.clone(),
        out.clone(),
        d_ob.clone(),
        seen.clone(),
        lse.clone(),
        row_numbers,
        bf16.unwritten(q.len()),
    ];
    let after = launch(&dq_name, by_query, buffers, tiles);
    let (delta, dq) = (after[7].clone(), after[8].clone());

    let buffers = vec![
        qb,
        kb,
        vb,
        d_ob,
        seen,
        lse,
        delta,
        bf16.unwritten(k.len()),
        bf16.unwritten(v.len()),
    ];
    let cubes = [(key_rows.div_ceil(64) * o.kv_heads) as u32, 1, 1];
    let after = launch(&dkdv_name, cubes, buffers, 2 * (tokens + tiles));

    let [q, k, v, d_o] = [&q, &k, &v, &d_o].map(|values| bf16.wide(values));
    let (want_dq, want_dk, want_dv) = backward(&d_o, &q, &k, &v, segments, o);
    for (name, got, expected) in [
        ("o", &out, forward(&q, &k, &v, segments, o)),
        ("dq", &dq, want_dq),
        ("dk", &after[7], want_dk),
        ("dv", &after[8], want_dv),
    ] {
        // Weights and results are rounded to 8 bits of mantissa once each.
        close(
            &bf16.values(got),
            &expected,
            1e-2,
            &format!("{name} of {o:?}"),
        );
    }
}

fn check(head_dim: usize, capped: bool) {
    let topic = format!("flash-{head_dim}-{capped}");
    let Some(program) = Program::of(&topic, names(head_dim, capped)) else {
        return;
    };
    let options = |heads, kv_heads| AttentionOptions {
        heads,
        kv_heads,
        head_dim,
        scale: 1.5 / (head_dim as f32).sqrt(),
        window: None,
        softcap: capped.then_some(2.0),
        compute: crate::ComputeDtype::Bf16,
        kernel: crate::AttentionKernel::Flash,
    };
    let many = Segments::from_offsets(&[0, 5, 6, 40, 41, 100, 103, 180]);
    let two = Segments::from_offsets(&[0, 7, 150]);
    let continued = Segments::new(vec![
        Segment {
            q: 0..40,
            k: 2..130,
        },
        Segment {
            q: 40..70,
            k: 130..200,
        },
    ]);
    run(&program, &many, [180, 180], &options(4, 2));
    run(&program, &continued, [70, 201], &options(2, 2));
    let o = options(3, 1);
    let windowed = AttentionOptions {
        window: Some(70),
        ..o
    };
    run(&program, &two, [150, 150], &windowed);
    // Scores that outgrow their reference: fragments are shrunk.
    let scale = 20.0 * o.scale;
    run(&program, &two, [150, 150], &AttentionOptions { scale, ..o });
}

#[test]
fn flash_of_heads_of_32_is_its_specification() {
    check(32, false);
}

#[test]
fn flash_of_heads_of_64_is_its_specification() {
    check(64, false);
}

#[test]
fn flash_with_a_softcap_is_its_specification() {
    check(64, true);
}

#[test]
fn flash_of_heads_of_96_is_its_specification() {
    check(96, false);
}

#[test]
fn flash_of_heads_of_128_is_its_specification() {
    check(128, false);
}
