use super::{Random, close, same_bits_for_any_threads};
use crate::format::{ComputeDtype, DenseDtype, Encoding, WeightFormat, nf4_words, words_of};
use crate::kernels::dropout::Dropout;
use crate::kernels::linear::{self, LoraView};
use crate::kernels::panel::WeightView;
use crate::kernels::simd::Level;
use crate::reference::{self, widen};

/// m, n, k: whole panels, ragged everything, blocks that straddle rows, one row, odd sizes.
const SHAPES: [[usize; 3]; 10] = [
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
];

struct Case {
    words: Vec<u32>,
    format: WeightFormat,
    dense: Vec<f32>,
}

fn weight(encoding: &str, n: usize, k: usize, random: &mut Random) -> Case {
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
            let dtype = if name.contains("bf16") {
                nf4::Dtype::BF16
            } else {
                nf4::Dtype::F32
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

fn check(
    encoding: &str,
    [m, n, k]: [usize; 3],
    rank: usize,
    dropout: Option<Dropout>,
    bias: bool,
    level: Level,
) {
    let what = format!("{encoding} {m}x{k}->{n} rank {rank} {dropout:?} {level:?}");
    let mut random = Random::new((m * 31 + n * 7 + k) as u64);
    let case = weight(encoding, n, k, &mut random);
    let view = WeightView::new(&case.words, case.format);
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
    let (wx, ww) = (widen(&x), widen(&case.dense));
    let expected = reference::linear::forward(&wx, &ww, [n, k], bias.map(widen).as_deref(), plain);
    let (dx, da, db) = reference::linear::backward(&widen(&dy), &wx, &ww, [n, k], plain);

    let (y, u) = linear::forward(level, &x, view, bias, lora);
    close(&y, &expected, 2e-6, &format!("y of {what}"));
    let gradients = linear::backward(level, &dy, &x, &u, view, lora, true);
    close(&gradients.dx.unwrap(), &dx, 2e-6, &format!("dx of {what}"));
    if let Some((actual_da, actual_db)) = gradients.da_db {
        close(&actual_da, &da, 2e-6, &format!("dA of {what}"));
        close(&actual_db, &db, 2e-6, &format!("dB of {what}"));
    }
}

#[test]
fn linear_and_its_gradients_equal_the_specification_on_every_shape_and_level() {
    for level in Level::available() {
        for shape in SHAPES {
            for encoding in ["nf4 double bf16", "nf4 plain f32"] {
                check(encoding, shape, 0, None, false, level);
                check(encoding, shape, 4, None, true, level);
                check(
                    encoding,
                    shape,
                    16,
                    Some(Dropout { p: 0.3, seed: 7 }),
                    false,
                    level,
                );
            }
        }
    }
}

#[test]
fn dense_weights_of_every_dtype_go_through_the_same_kernels() {
    for encoding in ["f32", "bf16", "f16"] {
        for shape in SHAPES {
            check(encoding, shape, 5, None, true, Level::best());
        }
    }
}

#[test]
fn a_panel_holds_exactly_the_values_that_nf4_dequantises() {
    for level in Level::available() {
        for [n, k] in [[50, 192], [31, 100], [64, 64], [3, 33]] {
            for encoding in ["nf4 double bf16", "nf4 plain f32"] {
                let case = weight(encoding, n, k, &mut Random::new(3));
                let view = WeightView::new(&case.words, case.format);
                let mut all = vec![f32::NAN; n * k];
                view.rows(level, 0..n, 0..k, &mut all, k);
                assert_eq!(all, case.dense);
                let (cols, width) = (k / 3..k, 56);
                let (mut panel, mut scratch) =
                    (vec![f32::NAN; width * k], vec![f32::NAN; width * k]);
                let rows = n / 4..n.min(n / 4 + 48);
                view.panel(
                    level,
                    rows.clone(),
                    cols.clone(),
                    &mut panel,
                    width,
                    &mut scratch,
                );
                for p in cols.clone() {
                    for lane in 0..width {
                        let row = rows.start + lane;
                        let expected = if row < rows.end {
                            case.dense[row * k + p]
                        } else {
                            0.0
                        };
                        assert_eq!(panel[(p - cols.start) * width + lane], expected);
                    }
                }
            }
        }
    }
}

#[test]
fn linear_gives_the_same_bits_for_any_number_of_threads() {
    let (m, n, k, rank) = (150, 100, 200, 8);
    let mut random = Random::new(5);
    let case = weight("nf4 double bf16", n, k, &mut random);
    let view = WeightView::new(&case.words, case.format);
    let (x, dy) = (random.values(m * k), random.values(m * n));
    let (a, b) = (random.values(rank * k), random.values(n * rank));
    let lora = LoraView {
        a: &a,
        b: &b,
        rank,
        scaling: 0.5,
        dropout: Some(Dropout { p: 0.1, seed: 1 }),
    };
    same_bits_for_any_threads(|| {
        let (mut y, u) = linear::forward(Level::best(), &x, view, None, Some(lora));
        let gradients = linear::backward(Level::best(), &dy, &x, &u, view, Some(lora), true);
        y.extend(gradients.dx.unwrap());
        let (da, db) = gradients.da_db.unwrap();
        y.extend(da);
        y.extend(db);
        y
    });
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
    assert_eq!(
        Dropout { p: 0.2, seed: 1 }
            .factor(0, 0)
            .max(Dropout { p: 0.2, seed: 1 }.factor(1, 0)),
        1.25
    );
}

#[test]
fn a_token_decodes_to_the_same_bits_alone_and_in_company() {
    let (n, k, rank) = (70, 200, 4);
    let mut random = Random::new(11);
    let case = weight("nf4 double bf16", n, k, &mut random);
    let view = WeightView::new(&case.words, case.format);
    let x = random.values(16 * k);
    let (a, b) = (random.values(rank * k), random.values(n * rank));
    let lora = LoraView {
        a: &a,
        b: &b,
        rank,
        scaling: 0.5,
        dropout: None,
    };
    let (together, _) = linear::forward(Level::best(), &x, view, None, Some(lora));
    for i in 0..16 {
        let (alone, _) = linear::forward(
            Level::best(),
            &x[i * k..(i + 1) * k],
            view,
            None,
            Some(lora),
        );
        assert_eq!(alone, together[i * n..(i + 1) * n]);
    }
}
