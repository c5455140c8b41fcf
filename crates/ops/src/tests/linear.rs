use super::{Random, close, same_bits_for_any_threads};
use crate::format::{ComputeDtype, DenseDtype, Encoding, WeightFormat, nf4_words, words_of};
use crate::kernels::dropout::Dropout;
use crate::kernels::linear::{self, Dx, LoraView};
use crate::kernels::panel::WeightView;
#[cfg(target_arch = "x86_64")]
use crate::kernels::simd::Bf16;
use crate::kernels::simd::Level;
use crate::kernels::words::Words;
use crate::reference::{self, widen};

/// m, n, k: whole panels, ragged everything, blocks that straddle rows, one row, odd sizes, depths
/// of more than one panel in each direction, more rows than are packed at once.
const SHAPES: [[usize; 3]; 14] = [
    [40, 128, 192],
    [45, 48, 2500],
    [35, 2211, 64],
    [16, 96, 192],
    [24, 96, 192],
    [33, 100, 192],
    [7, 50, 200],
    [1, 33, 65],
    [40, 49, 47],
    [3, 1, 1],
    [9, 5, 320],
    [130, 17, 576],
    [2, 200, 33],
    [1041, 19, 66],
];

pub(super) struct Case {
    pub words: Vec<u32>,
    pub format: WeightFormat,
    pub dense: Vec<f32>,
}

pub(super) fn weight(encoding: &str, n: usize, k: usize, random: &mut Random) -> Case {
    let values = random.values(n * k);
    let (words, dense, encoding) = match encoding {
        "f32" => (
            values.iter().map(|v| v.to_bits()).collect(),
            values,
            Encoding::Dense(DenseDtype::F32),
        ),
        "bf16" => {
            let half: Vec<_> = values.iter().map(|v| half::bf16::from_f32(*v)).collect();
            let bytes: Vec<u8> = half.iter().flat_map(|v| v.to_le_bytes()).collect();
            (
                words_of(&bytes),
                half.iter().map(|v| v.to_f32()).collect(),
                Encoding::Dense(DenseDtype::BF16),
            )
        }
        "f16" => {
            let half: Vec<_> = values.iter().map(|v| half::f16::from_f32(*v)).collect();
            let bytes: Vec<u8> = half.iter().flat_map(|v| v.to_le_bytes()).collect();
            (
                words_of(&bytes),
                half.iter().map(|v| v.to_f32()).collect(),
                Encoding::Dense(DenseDtype::F16),
            )
        }
        name => {
            let dtype = match name {
                name if name.ends_with("bf16") => nf4::Dtype::BF16,
                name if name.ends_with("f16") => nf4::Dtype::F16,
                _ => nf4::Dtype::F32,
            };
            let quantized = nf4::quantize(&values, [n, k], dtype, name.contains("double"));
            let (words, nested_offset) = nf4_words(&quantized);
            (
                words,
                quantized.dequantize(),
                Encoding::Nf4 {
                    dtype,
                    nested_offset,
                },
            )
        }
    };
    Case {
        words,
        format: WeightFormat {
            out_features: n,
            in_features: k,
            encoding,
            compute: ComputeDtype::F32,
        },
        dense,
    }
}

/// Forward and gradients against the specification in f64, on the values that are multiplied: in
/// bf16 those are rounded, on both sides of the product with the weight and nowhere else.
fn check(
    encoding: &str,
    compute: ComputeDtype,
    [m, n, k]: [usize; 3],
    rank: usize,
    dropout: Option<Dropout>,
    bias: bool,
    level: Level,
) {
    let what = format!("{encoding} {compute} {m}x{k}->{n} rank {rank} {dropout:?} {level:?}");
    let mut random = Random::new((m * 31 + n * 7 + k) as u64);
    let case = weight(encoding, n, k, &mut random);
    let format = WeightFormat {
        compute,
        ..case.format
    };
    let view = WeightView::new(&case.words, format);
    let words = Words::for_weight(level, &format);
    let (x, dy, b) = (random.values(m * k), random.values(m * n), random.values(n));
    let (la, lb) = (random.values(rank * k), random.values(n * rank));
    let lora = (rank > 0).then_some(LoraView {
        a: &la,
        b: &lb,
        rank,
        scaling: 2.0,
        dropout,
    });
    let bias = bias.then_some(b.as_slice());

    let mask: Vec<f64> = (0..m * k)
        .map(|i| dropout.map_or(1.0, |d| d.factor(i / k, i % k) as f64))
        .collect();
    let (wa, wb) = (widen(&la), widen(&lb));
    let plain = (rank > 0).then_some(reference::linear::Lora {
        a: &wa,
        b: &wb,
        rank,
        scaling: 2.0,
        mask: &mask,
    });
    let round = |values: &[f32], words| -> Vec<f64> {
        values.iter().map(|v| rounded(*v, words) as f64).collect()
    };
    let bias64 = bias.map(widen);
    let add = |y: &mut Vec<f64>, low_rank: Vec<f64>| {
        y.iter_mut().zip(low_rank).for_each(|(y, l)| *y += l);
    };
    let zeros = vec![0.0; n * k];
    let mut expected = reference::linear::forward(
        &round(&x, words),
        &round(&case.dense, words),
        [n, k],
        bias64.as_deref(),
        None,
    );
    add(
        &mut expected,
        reference::linear::forward(&widen(&x), &zeros, [n, k], None, plain),
    );
    let (mut dx, ..) = reference::linear::backward(
        &round(&dy, words),
        &widen(&x),
        &round(&case.dense, words),
        [n, k],
        None,
    );
    let (low_rank_dx, da, db) =
        reference::linear::backward(&widen(&dy), &widen(&x), &zeros, [n, k], plain);
    add(&mut dx, low_rank_dx);

    let linear::Forward { y, u, kept } = linear::forward(level, &x, view, bias, lora);
    // Rounding errors of a sum grow as the root of its length; 2e-6 holds 320 terms of order 1.
    let tolerance = |terms: usize| 2e-6 * (terms as f64 / 320.0).sqrt().max(1.0);
    close(&y, &expected, tolerance(k), &format!("y of {what}"));
    let gradients = linear::backward(level, &dy, &x, &u, &kept, view, lora, Dx::New);
    let actual_dx = gradients.dx.unwrap();
    close(&actual_dx, &dx, tolerance(n), &format!("dx of {what}"));
    if let Some((actual_da, actual_db)) = &gradients.da_db {
        close(actual_da, &da, 2e-6, &format!("dA of {what}"));
        close(actual_db, &db, 2e-6, &format!("dB of {what}"));
    }
    let left = random.values(m * k);
    add(&mut dx, widen(&left));
    let mut sum = left;
    let added_to = Dx::AddedTo(&mut sum);
    let again = linear::backward(level, &dy, &x, &u, &kept, view, lora, added_to);
    assert!(again.dx.is_none() && again.da_db == gradients.da_db);
    close(&sum, &dx, tolerance(n), &format!("added dx of {what}"));
}

#[test]
fn linear_and_its_gradients_equal_the_specification_on_every_shape_and_level() {
    let dropout = Some(Dropout { p: 0.3, seed: 7 });
    for level in Level::available() {
        for shape in SHAPES {
            for compute in [ComputeDtype::F32, ComputeDtype::Bf16] {
                for encoding in ["nf4 double bf16", "nf4 plain f32"] {
                    check(encoding, compute, shape, 0, None, false, level);
                    check(encoding, compute, shape, 4, None, true, level);
                    check(encoding, compute, shape, 16, dropout, false, level);
                }
            }
        }
    }
}

#[test]
fn dense_weights_of_every_dtype_go_through_the_same_kernels() {
    for encoding in ["f32", "bf16", "f16"] {
        for shape in SHAPES {
            for compute in [ComputeDtype::F32, ComputeDtype::Bf16] {
                check(encoding, compute, shape, 5, None, true, Level::best());
            }
        }
    }
}

#[test]
fn rows_hold_exactly_the_values_that_nf4_dequantises() {
    for level in Level::available() {
        for [n, k] in [[50, 192], [31, 100], [64, 64], [3, 33]] {
            for encoding in ["nf4 double bf16", "nf4 plain f32"] {
                let case = weight(encoding, n, k, &mut Random::new(3));
                let view = WeightView::new(&case.words, case.format);
                let mut all = vec![f32::NAN; n * k];
                view.rows(level, 0..n, 0..k, &mut all, k);
                assert_eq!(all, case.dense);
            }
        }
    }
}

/// The bf16 values of a word, or its one f32.
fn values_of(word: f32, words: Words) -> Vec<f32> {
    let bits = word.to_bits();
    match words.values() {
        1 => vec![word],
        _ => vec![
            f32::from_bits(bits << 16),
            f32::from_bits(bits & 0xffff_0000),
        ],
    }
}

/// The values of word `step` of a lane of a panel, the sum of its parts.
fn values_in_panel(
    panel: &[f32],
    width: usize,
    step: usize,
    lane: usize,
    words: Words,
) -> Vec<f32> {
    let part = |row: usize| values_of(panel[row * width + lane], words);
    match words {
        #[cfg(target_arch = "x86_64")]
        Words::ThirdsOfBoth => {
            let first = step / 16 * 48 + step % 16;
            let parts = [part(first), part(first + 16), part(first + 32)];
            (0..2).map(|v| parts.iter().map(|p| p[v]).sum()).collect()
        }
        _ => part(step),
    }
}

/// To the nearest bf16, where that is what these words hold.
pub(super) fn rounded(value: f32, words: Words) -> f32 {
    match words {
        Words::F32 => value,
        #[cfg(target_arch = "x86_64")]
        Words::Thirds | Words::ThirdsOfBoth => value,
        _ => half::bf16::from_f32(value).to_f32(),
    }
}

#[test]
fn panels_hold_the_weights_values_in_both_directions_and_every_kind_of_word() {
    let encodings = [
        "nf4 double bf16",
        "nf4 plain f32",
        "nf4 double f16",
        "f32",
        "bf16",
        "f16",
    ];
    for level in Level::available() {
        for compute in [ComputeDtype::F32, ComputeDtype::Bf16] {
            for ([n, k], encoding) in [[50, 192], [31, 100], [64, 64], [3, 33], [18, 320]]
                .into_iter()
                .flat_map(|shape| encodings.map(|encoding| (shape, encoding)))
            {
                let case = weight(encoding, n, k, &mut Random::new(3));
                let format = WeightFormat {
                    compute,
                    ..case.format
                };
                let words = Words::for_weight(level, &format);
                let view = WeightView::new(&case.words, format);
                let value = |row: usize, col: usize| rounded(case.dense[row * k + col], words);
                let what = format!("{encoding} {n}x{k} {words:?} {level:?}");
                for width in [56, 32] {
                    // Two panels, where one is too narrow.
                    let size = |depth: usize| width * words.panel_steps(depth);
                    // What is wanted of a lane at a depth, if anything.
                    type Wanted<'a> = &'a dyn Fn(usize, usize) -> Option<f32>;
                    let check = |panels: &[f32], lanes: usize, depth: usize, wanted: Wanted| {
                        for (lane, p) in
                            (0..lanes).flat_map(|i| (0..words.steps(depth)).map(move |p| (i, p)))
                        {
                            let panel = &panels[lane / width * size(depth)..];
                            let word = values_in_panel(panel, width, p, lane % width, words);
                            for (v, got) in word.into_iter().enumerate() {
                                let at = p * words.values() + v;
                                if let Some(want) = wanted(lane, at) {
                                    assert_eq!(got, want, "{what}: lane {lane}, {at} of {depth}");
                                }
                            }
                        }
                    };

                    let (rows, cols) = (n / 4..n.min(n / 4 + 48), k / 3 / 64 * 64..k);
                    let mut panels = vec![f32::NAN; 2 * size(cols.len())];
                    let (r, c) = (rows.clone(), cols.clone());
                    view.panels_of_rows(level, words, r, c, &mut panels, width);
                    check(&panels, rows.len(), cols.len(), &|i, at| {
                        (at < cols.len()).then(|| value(rows.start + i, cols.start + at))
                    });

                    let first = k / 4 / 16 * 16;
                    let (rows, cols) = (n / 3 / 2 * 2..n, first..k.min(first + 48));
                    let mut panels = vec![f32::NAN; 2 * size(rows.len())];
                    let (r, c) = (rows.clone(), cols.clone());
                    view.panels_of_columns(level, words, r, c, &mut panels, width);
                    check(&panels, cols.len(), rows.len(), &|j, at| {
                        let beyond = at >= rows.len();
                        Some(if beyond {
                            0.0
                        } else {
                            value(rows.start + at, cols.start + j)
                        })
                    });
                }
            }
        }
    }
}

#[test]
fn an_f32_row_passes_through_weights_of_one_unchanged_on_every_level() {
    let (m, n) = (19, 70);
    let identity: Vec<f32> = (0..n * n)
        .map(|i| if i / n == i % n { 1.0 } else { 0.0 })
        .collect();
    let halves: Vec<u16> = identity
        .iter()
        .map(|v| half::bf16::from_f32(*v).to_bits())
        .collect();
    // Every exponent from 2⁻⁹⁰ to 2⁹⁰, all 24 bits of the mantissa in use.
    let mut random = Random::new(13);
    let x: Vec<f32> = (0..m * n)
        .map(|i| random.values(1)[0] * 2f32.powi(i as i32 % 181 - 90))
        .collect();
    for (dtype, words) in [
        (DenseDtype::BF16, bytemuck::cast_slice(&halves)),
        (DenseDtype::F32, bytemuck::cast_slice(&identity)),
    ] {
        let format = WeightFormat {
            out_features: n,
            in_features: n,
            encoding: Encoding::Dense(dtype),
            compute: ComputeDtype::F32,
        };
        let view = WeightView::new(words, format);
        for level in Level::available() {
            let y = linear::forward(level, &x, view, None, None).y;
            assert_eq!(y, x, "{dtype:?}, {level:?}");
            let dx = linear::backward(level, &x, &x, &[], &[], view, None, Dx::New).dx;
            assert_eq!(dx.unwrap(), x, "gradient, {dtype:?}, {level:?}");
        }
    }
}

#[test]
fn f32_on_every_level_errs_as_little_as_a_chain_of_f32_multiply_adds() {
    let (m, n, k) = (40, 96, 576);
    for encoding in ["nf4 plain f32", "f32", "f16", "bf16"] {
        let mut random = Random::new(23);
        let case = weight(encoding, n, k, &mut random);
        let x = random.values(m * k);
        let exact = reference::linear::forward(&widen(&x), &widen(&case.dense), [n, k], None, None);
        let rms = |y: &[f32]| {
            let squares = y.iter().zip(&exact).map(|(y, e)| (*y as f64 - e).powi(2));
            (squares.sum::<f64>() / exact.len() as f64).sqrt()
        };
        let chain: Vec<f32> = (0..m * n)
            .map(|i| {
                let (x, w) = (&x[i / n * k..], &case.dense[i % n * k..]);
                (0..k).fold(0.0f32, |sum, p| x[p].mul_add(w[p], sum))
            })
            .collect();
        let view = WeightView::new(&case.words, case.format);
        for level in Level::available() {
            let y = linear::forward(level, &x, view, None, None).y;
            let (ours, chained) = (rms(&y), rms(&chain));
            // Portable code rounds each product too, AMX sums pairs of products by sixteens.
            let bound = match level.bf16() {
                #[cfg(target_arch = "x86_64")]
                Bf16::Tiles => 0.5,
                _ => 1.05,
            };
            assert!(
                ours <= bound * chained,
                "{encoding}, {level:?}: {ours:e} and {chained:e}"
            );
        }
    }
}

/// Weights that f32 meets in one part and in three, in each type that they are multiplied in.
const KINDS: [(&str, ComputeDtype); 3] = [
    ("nf4 double bf16", ComputeDtype::F32),
    ("nf4 plain f32", ComputeDtype::F32),
    ("nf4 double bf16", ComputeDtype::Bf16),
];

#[test]
fn linear_gives_the_same_bits_for_any_number_of_threads() {
    let (m, n, k, rank) = (150, 100, 200, 8);
    for (encoding, compute) in KINDS {
        let mut random = Random::new(5);
        let case = weight(encoding, n, k, &mut random);
        let (x, dy) = (random.values(m * k), random.values(m * n));
        let (a, b) = (random.values(rank * k), random.values(n * rank));
        let lora = LoraView {
            a: &a,
            b: &b,
            rank,
            scaling: 0.5,
            dropout: Some(Dropout { p: 0.1, seed: 1 }),
        };
        let format = WeightFormat {
            compute,
            ..case.format
        };
        let view = WeightView::new(&case.words, format);
        same_bits_for_any_threads(|| {
            let linear::Forward { mut y, u, kept } =
                linear::forward(Level::best(), &x, view, None, Some(lora));
            let backward =
                |dx| linear::backward(Level::best(), &dy, &x, &u, &kept, view, Some(lora), dx);
            let gradients = backward(Dx::New);
            let mut dx = gradients.dx.unwrap();
            y.extend(&dx);
            backward(Dx::AddedTo(&mut dx));
            y.extend(dx);
            let (da, db) = gradients.da_db.unwrap();
            y.extend(da);
            y.extend(db);
            y
        });
    }
}

#[test]
fn dropout_keeps_the_share_it_promises_and_never_the_same_mask_twice() {
    let draw = |seed| -> Vec<bool> {
        let dropout = Dropout { p: 0.2, seed };
        (0..40_000)
            .map(|i| dropout.factor(i / 200, i % 200) != 0.0)
            .collect()
    };
    let (one, other) = (draw(1), draw(2));
    let kept = one.iter().filter(|k| **k).count() as f64 / one.len() as f64;
    assert!((kept - 0.8).abs() < 0.01, "{kept} kept"); // 5 standard deviations
    let agree = one.iter().zip(&other).filter(|(a, b)| a == b).count() as f64 / one.len() as f64;
    assert!((agree - 0.68).abs() < 0.02, "{agree} agree"); // independent: 0.8² + 0.2²
    let factors = (0..40).map(|col| Dropout { p: 0.2, seed: 1 }.factor(0, col));
    let of_the_kept: Vec<f32> = factors.filter(|factor| *factor != 0.0).collect();
    assert!(of_the_kept.iter().all(|factor| *factor == 1.25));
}

#[test]
fn the_bits_that_are_drawn_are_what_factor_says() {
    let dropout = Dropout { p: 0.4, seed: 9 };
    for level in Level::available() {
        for columns in [1usize, 7, 8, 16, 31, 48, 200] {
            for row in [0, 5] {
                let mut bits = vec![0xff; columns.div_ceil(8)];
                dropout.draw(level, row, columns, &mut bits);
                for col in 0..8 * bits.len() {
                    let kept = col < columns && dropout.factor(row, col) != 0.0;
                    assert_eq!(
                        bits[col / 8] >> (col % 8) & 1 == 1,
                        kept,
                        "{level:?} {columns}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_bits_of_a_row_do_not_depend_on_the_rows_beside_it() {
    let (m, n, k, rank) = (50, 70, 200, 4);
    for (encoding, compute) in KINDS {
        let mut random = Random::new(11);
        let case = weight(encoding, n, k, &mut random);
        let x = random.values(m * k);
        let (a, b) = (random.values(rank * k), random.values(n * rank));
        let lora = LoraView {
            a: &a,
            b: &b,
            rank,
            scaling: 0.5,
            dropout: None,
        };
        let format = WeightFormat {
            compute,
            ..case.format
        };
        let view = WeightView::new(&case.words, format);
        let some = |rows: std::ops::Range<usize>| {
            let x = &x[rows.start * k..rows.end * k];
            linear::forward(Level::best(), x, view, None, Some(lora)).y
        };
        let together = some(0..m);
        for i in 0..m {
            assert_eq!(some(i..i + 1), together[i * n..(i + 1) * n]);
        }
        for count in [2, 16, 31, 33] {
            assert_eq!(some(7..7 + count), together[7 * n..(7 + count) * n]);
        }
    }
}
