use super::{Random, close, same_bits_for_any_threads};
use crate::format::{ComputeDtype, DenseDtype, Encoding, WeightFormat};
use crate::kernels::cross_entropy;
use crate::kernels::panel::WeightView;
use crate::kernels::simd::Level;
use crate::reference::{self, widen};

fn format(vocabulary: usize, hidden: usize, compute: ComputeDtype) -> WeightFormat {
    WeightFormat {
        out_features: vocabulary,
        in_features: hidden,
        encoding: Encoding::Dense(DenseDtype::F32),
        compute,
    }
}

/// rows, vocabulary, hidden
const SHAPES: [[usize; 3]; 5] = [
    [1, 7, 5],
    [3, 193, 40],
    [300, 1000, 64],
    [20, 5000, 200],
    [17, 3100, 33],
];

#[test]
fn loss_and_gradient_equal_the_specification_on_ragged_vocabularies() {
    for level in Level::available() {
        for compute in [ComputeDtype::F32, ComputeDtype::Bf16] {
            for [rows, vocabulary, hidden] in SHAPES {
                check(level, compute, [rows, vocabulary, hidden]);
            }
        }
    }
}

/// Against the specification in f64 on the values that are multiplied.
fn check(level: Level, compute: ComputeDtype, [rows, vocabulary, hidden]: [usize; 3]) {
    let mut random = Random::new(vocabulary as u64);
    let h = random.values(rows * hidden);
    let mut w = random.values(vocabulary * hidden);
    let round = |values: &[f32]| -> Vec<f32> {
        let nearest = |v: &f32| half::bf16::from_f32(*v).to_f32();
        values.iter().map(nearest).collect()
    };
    let (multiplied, tolerance) = match compute {
        ComputeDtype::F32 => (h.clone(), 5e-6),
        ComputeDtype::Bf16 => {
            w = round(&w);
            // Each probability is off by up to 2⁻⁹ of itself, and W is of order 1.
            (round(&h), 2e-3)
        }
    };
    let targets: Vec<u32> = (0..rows).map(|i| (i * 7919 % vocabulary) as u32).collect();
    let words: Vec<u32> = w.iter().map(|v| v.to_bits()).collect();
    let view = WeightView::new(&words, format(vocabulary, hidden, compute));
    let (loss, dh) = cross_entropy::forward(level, &h, view, &targets, true);
    let (expected, expected_dh) =
        reference::cross_entropy::forward(&widen(&multiplied), &widen(&w), hidden, &targets);
    let what = format!("{compute} {rows}x{hidden}->{vocabulary} {level:?}");
    assert!(
        (loss - expected).abs() <= 2e-6 * expected,
        "{what}: {loss} instead of {expected}"
    );
    close(&dh, &expected_dh, tolerance, &what);
    let (without_gradient, _) = cross_entropy::forward(level, &h, view, &targets, false);
    assert_eq!(loss, without_gradient);
}

#[test]
fn logits_far_apart_neither_overflow_nor_vanish() {
    let (hidden, vocabulary) = (2, 400);
    let w: Vec<f32> = (0..vocabulary)
        .flat_map(|v| [v as f32, -(v as f32)])
        .collect();
    let words: Vec<u32> = w.iter().map(|v| v.to_bits()).collect();
    let view = WeightView::new(&words, format(vocabulary, hidden, ComputeDtype::F32));
    let (h, targets) = ([3.0, -3.0, -3.0, 3.0], [0, 5]);
    let (loss, dh) = cross_entropy::forward(Level::best(), &h, view, &targets, true);
    let (expected, expected_dh) =
        reference::cross_entropy::forward(&widen(&h), &widen(&w), hidden, &targets);
    assert!(
        (loss - expected).abs() <= 1e-6 * expected,
        "{loss} instead of {expected}"
    );
    close(&dh, &expected_dh, 1e-6, "dh");
}

#[test]
fn cross_entropy_gives_the_same_bits_for_any_number_of_threads() {
    let mut random = Random::new(2);
    let (h, w) = (random.values(300 * 32), random.values(4000 * 32));
    let words: Vec<u32> = w.iter().map(|v| v.to_bits()).collect();
    let targets: Vec<u32> = (0..300).map(|i| i * 13).collect();
    for compute in [ComputeDtype::F32, ComputeDtype::Bf16] {
        same_bits_for_any_threads(|| {
            let view = WeightView::new(&words, format(4000, 32, compute));
            let (loss, mut dh) = cross_entropy::forward(Level::best(), &h, view, &targets, true);
            dh.extend([
                f32::from_bits(loss.to_bits() as u32),
                f32::from_bits((loss.to_bits() >> 32) as u32),
            ]);
            dh
        });
    }
}

#[test]
fn one_weight_that_is_not_a_number_makes_the_loss_none_wherever_it_lies() {
    let [rows, vocabulary, hidden] = [3, 4000, 40];
    let mut random = Random::new(6);
    let h = random.values(rows * hidden);
    let w = random.values(vocabulary * hidden);
    for level in Level::available() {
        for compute in [ComputeDtype::F32, ComputeDtype::Bf16] {
            for entry in [0, 15, 191, 192, 1777, vocabulary - 1] {
                let mut words: Vec<u32> = w.iter().map(|v| v.to_bits()).collect();
                words[entry * hidden + 7] = f32::NAN.to_bits();
                let view = WeightView::new(&words, format(vocabulary, hidden, compute));
                let (loss, _) = cross_entropy::forward(level, &h, view, &[5, 600, 3999], false);
                assert!(loss.is_nan(), "{entry}, {compute}, {level:?}: {loss}");
            }
        }
    }
}
