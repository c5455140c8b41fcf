use super::{Random, close, same_bits_for_any_threads};
use crate::format::ComputeDtype;
use crate::kernels::attention::{self, Saved};
use crate::kernels::simd::Level;
use crate::reference::{self, widen};
use crate::segments::{AttentionOptions, Segment, Segments};

fn options(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionOptions {
    AttentionOptions {
        heads,
        kv_heads,
        head_dim,
        scale: 1.5 / (head_dim as f32).sqrt(),
        window: None,
        softcap: None,
        compute: ComputeDtype::F32,
        kernel: Default::default(),
    }
}

/// In f32, and in bf16 on values that bf16 holds, so that what is rounded is P and dS.
fn check(level: Level, segments: &Segments, rows: [usize; 2], o: &AttentionOptions) {
    check_in(level, segments, rows, o);
    let compute = ComputeDtype::Bf16;
    check_in(level, segments, rows, &AttentionOptions { compute, ..*o });
}

fn check_in(level: Level, segments: &Segments, [q_rows, k_rows]: [usize; 2], o: &AttentionOptions) {
    // bf16 has 8 bits of mantissa: a probability or dS is off by up to 2⁻⁹ of itself.
    let (forward, backward) = match o.compute {
        ComputeDtype::F32 => (2e-6, 1e-5),
        ComputeDtype::Bf16 => (3e-3, 6e-3),
    };
    let what = format!("{segments:?} {o:?} {level:?}");
    let mut random = Random::new((q_rows + 10 * k_rows + o.heads) as u64);
    let mut draw = |n: usize| -> Vec<f32> {
        let values = random.values(n).into_iter();
        match o.compute {
            ComputeDtype::F32 => values.collect(),
            ComputeDtype::Bf16 => values.map(|v| half::bf16::from_f32(v).to_f32()).collect(),
        }
    };
    let q = draw(q_rows * o.heads * o.head_dim);
    let (k, v) = (
        draw(k_rows * o.kv_heads * o.head_dim),
        draw(k_rows * o.kv_heads * o.head_dim),
    );
    let d_o = draw(q.len());
    let (out, lse) = attention::forward(level, &q, &k, &v, segments, o);
    let expected = reference::attention::forward(&widen(&q), &widen(&k), &widen(&v), segments, o);
    close(&out, &expected, forward, &format!("o of {what}"));
    let saved = Saved {
        q: &q,
        k: &k,
        v: &v,
        o: &out,
        lse: &lse,
    };
    let (dq, dk, dv) = attention::backward(level, &d_o, &saved, segments, o);
    let expected = reference::attention::backward(
        &widen(&d_o),
        &widen(&q),
        &widen(&k),
        &widen(&v),
        segments,
        o,
    );
    close(&dq, &expected.0, backward, &format!("dq of {what}"));
    close(&dk, &expected.1, backward, &format!("dk of {what}"));
    close(&dv, &expected.2, backward, &format!("dv of {what}"));
}

#[test]
fn ragged_segments_attend_as_the_specification_says() {
    for level in Level::available() {
        for offsets in [vec![0, 1], vec![0, 5, 6, 40], vec![0, 33, 33, 230, 300]] {
            let rows = *offsets.last().unwrap();
            check(
                level,
                &Segments::from_offsets(&offsets),
                [rows, rows],
                &options(4, 2, 16),
            );
        }
    }
}

#[test]
fn grouped_queries_windows_softcaps_and_odd_head_sizes_attend_as_the_specification_says() {
    let segments = Segments::from_offsets(&[0, 7, 260]);
    for base in [options(6, 2, 8), options(3, 3, 20), options(3, 1, 64)] {
        for window in [None, Some(1), Some(50), Some(230)] {
            for softcap in [None, Some(0.7)] {
                check(
                    Level::best(),
                    &segments,
                    [260, 260],
                    &AttentionOptions {
                        window,
                        softcap,
                        ..base
                    },
                );
            }
        }
    }
}

#[test]
fn groups_wider_than_a_panel_and_segments_of_several_ranges_attend_as_the_specification_says() {
    let long = Segments::from_offsets(&[0, 3, 1100, 1101, 1300]);
    check(Level::best(), &long, [1300, 1300], &options(2, 1, 4));
    let windowed = AttentionOptions {
        window: Some(90),
        ..options(2, 2, 4)
    };
    check(Level::best(), &long, [1300, 1300], &windowed);
    for level in Level::available() {
        let segments = Segments::from_offsets(&[0, 9, 150]);
        check(level, &segments, [150, 150], &options(100, 2, 4));
        check(level, &segments, [150, 150], &options(14, 2, 8));
    }
}

#[test]
fn queries_that_continue_a_longer_sequence_see_all_of_it() {
    let segments = Segments::new(vec![
        Segment { q: 0..3, k: 2..250 },
        Segment {
            q: 3..4,
            k: 250..251,
        },
        Segment {
            q: 70..71,
            k: 500..937,
        },
        Segment {
            q: 4..70,
            k: 260..500,
        },
    ]);
    for level in Level::available() {
        for head_dim in [1, 9, 20, 32, 256] {
            check(level, &segments, [71, 937], &options(4, 2, head_dim));
        }
    }
}

#[test]
fn attention_gives_the_same_bits_for_any_number_of_threads() {
    let segments = Segments::from_offsets(&[0, 50, 400]);
    for compute in [ComputeDtype::F32, ComputeDtype::Bf16] {
        let options = options(6, 2, 16);
        same_bits(&segments, &AttentionOptions { compute, ..options });
    }
}

fn same_bits(segments: &Segments, o: &AttentionOptions) {
    let mut random = Random::new(4);
    let (q, d_o) = (random.values(400 * 96), random.values(400 * 96));
    let (k, v) = (random.values(400 * 32), random.values(400 * 32));
    same_bits_for_any_threads(|| {
        let (mut out, lse) = attention::forward(Level::best(), &q, &k, &v, segments, o);
        let saved = Saved {
            q: &q,
            k: &k,
            v: &v,
            o: &out,
            lse: &lse,
        };
        let (dq, dk, dv) = attention::backward(Level::best(), &d_o, &saved, segments, o);
        for part in [dq, dk, dv] {
            out.extend(part);
        }
        out
    });
}
