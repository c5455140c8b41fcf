//! Codes to values, values to codes, and what adapters add.

use super::{Buffer, KINDS, Kind, Launch, Program, as_words, floats, words};
use crate::backends::cube::linear::sections;
use crate::format::words_of;
use crate::kernels::cube::low_rank::ROWS;
use crate::kernels::dropout::Dropout;
use crate::reference::widen;
use crate::tests::Random;
use crate::tests::linear::weight;

fn dequantize(lanes: usize, nested: bool, kind: Kind) -> String {
    format!("dequantize {lanes} lanes, nested {nested}, in {kind:?}")
}

fn low_rank(by_rank: bool, biased: bool, masked: bool, lanes: usize, kind: Kind) -> String {
    format!("low rank A {by_rank}, bias {biased}, mask {masked} of {lanes} in {kind:?}")
}

const WIDTHS: [(Kind, usize); 3] = [(Kind::F32, 4), (Kind::BF16, 8), (Kind::BF16, 1)];
/// Whether q is A, there is a bias, there is a mask.
const ADDED: [[bool; 3]; 4] = [
    [false, true, false],
    [false, false, false],
    [true, false, true],
    [true, false, false],
];

fn codes() -> Vec<String> {
    let mut names = KINDS.map(|kind| format!("quantize in {kind:?}")).to_vec();
    for kind in KINDS {
        for lanes in [8, 4, 1] {
            names.extend([true, false].map(|nested| dequantize(lanes, nested, kind)));
        }
    }
    names
}

fn adapters() -> Vec<String> {
    let of = |(kind, lanes)| ADDED.map(|[a, b, m]| low_rank(a, b, m, lanes, kind));
    WIDTHS.into_iter().flat_map(of).collect()
}

pub(super) fn kernels() -> Vec<String> {
    [codes(), adapters()].concat()
}

#[test]
fn codes_are_those_of_the_cpu_both_ways() {
    let Some(program) = Program::of("codes", codes()) else {
        return;
    };
    for kind in KINDS {
        // A last block that is half full, and one cube that is.
        let (n, k) = (45, 72);
        for nested in [true, false] {
            let encoding = if nested {
                "nf4 double bf16"
            } else {
                "nf4 plain bf16"
            };
            let case = weight(encoding, n, k, &mut Random::new(9));
            let s = sections(case.format).expect("it is a 4-bit weight");
            for lanes in [8, 4, 1] {
                let vectors = n * k / lanes;
                let after = program.run(Launch {
                    kernel: &dequantize(lanes, nested, kind),
                    // Every unit comes back, for its last vector some do.
                    cubes: [vectors.div_ceil(3 * 128) as u32, 1, 1],
                    buffers: vec![words(&case.words), kind.unwritten(n * k)],
                    usizes: &[vectors, s.scales_at, s.nested_at, s.map_at],
                    words: &[],
                    floats: &[s.offset],
                });
                assert_eq!(
                    kind.values(&after[1]),
                    case.dense,
                    "{lanes} lanes in {kind:?}"
                );
            }
        }

        let blocks = 19;
        let values = kind.rounded(&Random::new(10).values(blocks * 64));
        let quantized = nf4::quantize(&values, [blocks, 64], nf4::Dtype::F32, false);
        let after = program.run(Launch {
            kernel: &format!("quantize in {kind:?}"),
            cubes: [(blocks as u32 * 8).div_ceil(128), 1, 1],
            buffers: vec![
                kind.buffer(&values),
                words(&vec![u32::MAX; blocks * 8]),
                Kind::F32.unwritten(blocks),
            ],
            usizes: &[blocks * 8],
            words: &[],
            floats: &[],
        });
        assert_eq!(as_words(&after[1]), words_of(&quantized.codes), "{kind:?}");
        assert_eq!(Kind::F32.values(&after[2]), quantized.scales(), "{kind:?}");
    }
}

#[test]
fn what_an_adapter_adds_is_its_specification() {
    let Some(program) = Program::of("low-rank", adapters()) else {
        return;
    };
    // More rows than one cube walks down, and no multiple of those it takes at a time.
    let (rows, rank, scaling) = (ROWS + 7, 13, 2.0);
    for (kind, lanes) in WIDTHS {
        // More vectors than a cube has units.
        let width = 131 * lanes;
        let mut random = Random::new(12);
        let mut draw = |count: usize| kind.rounded(&random.values(count));
        let (y, p) = (draw(rows * width), draw(rows * rank));
        let (q, bias) = (draw(width * rank), draw(width));
        for [by_rank, biased, masked] in ADDED {
            let dropout = Dropout { p: 0.25, seed: 77 };
            let keys = (0..rows as u32).map(|row| row.wrapping_mul(0x1357_9bdf));
            let keys: Vec<u32> = keys.collect();
            let buffers: Vec<Buffer> = vec![
                kind.buffer(&y),
                kind.buffer(&p),
                floats(&q),
                if biased {
                    floats(&bias)
                } else {
                    super::unread()
                },
                if masked {
                    words(&keys)
                } else {
                    super::unread()
                },
            ];
            let name = low_rank(by_rank, biased, masked, lanes, kind);
            let after = program.run(Launch {
                kernel: &name,
                cubes: [2, rows.div_ceil(ROWS) as u32, 1],
                buffers,
                usizes: &[rows, width, rank],
                words: &[dropout.threshold()],
                floats: &[scaling, dropout.scale()],
            });
            // q is rounded once it is scaled, exactly here: by a power of two.
            let (wide_p, wide_q) = (widen(&p), kind.wide(&q));
            let mut expected = widen(&y);
            for (i, sum) in expected.iter_mut().enumerate() {
                let (row, column) = (i / width, i % width);
                let at = |r: usize| match by_rank {
                    true => r * width + column,
                    false => column * rank + r,
                };
                let products = (0..rank).map(|r| wide_p[row * rank + r] * wide_q[at(r)]);
                let mut added = products.sum::<f64>() * f64::from(scaling);
                if masked {
                    added *= f64::from(factor(keys[row], column as u32, &dropout));
                }
                if biased {
                    added += f64::from(bias[column]);
                }
                *sum += added;
            }
            kind.holds(&after[0], &expected, &name);
        }
    }
}

/// What `kernels::cube::dropout` says, whose rows' keys `tests::emulated::plain` compares.
fn factor(key: u32, column: u32, dropout: &Dropout) -> f32 {
    let mut h = key ^ column.wrapping_mul(0x9e37_79b9);
    h = (h ^ (h >> 16)).wrapping_mul(0x7feb_352d);
    h = (h ^ (h >> 15)).wrapping_mul(0x846c_a68b);
    h ^= h >> 16;
    if h >= dropout.threshold() {
        dropout.scale()
    } else {
        0.0
    }
}
