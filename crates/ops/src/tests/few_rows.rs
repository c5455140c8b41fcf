use super::linear::{rounded, weight};
use super::{Random, close};
use crate::format::{ComputeDtype, WeightFormat};
use crate::kernels::aligned::Aligned;
use crate::kernels::few_rows::{Linear, LowRank, Order};
use crate::kernels::panel::WeightView;
use crate::kernels::simd::Level;
use crate::kernels::unwritten;
use crate::kernels::words::Words;
use crate::reference::{self, widen};

/// out and in: whole blocks, several fours of rows; blocks that straddle rows, odd sizes, one weight.
const SHAPES: [[usize; 2]; 6] = [[70, 192], [8, 64], [33, 100], [6, 65], [5, 320], [1, 1]];
const ENCODINGS: [&str; 6] = [
    "nf4 double bf16",
    "nf4 plain f32",
    "nf4 double f16",
    "f32",
    "bf16",
    "f16",
];
const RANK: usize = 5;

/// y `[rows, out]` of x `[rows, in]`, the rows of W in ranges of `step`.
fn product(level: Level, linear: &Linear<'_>, x: &[f32], rows: usize, step: usize) -> Vec<f32> {
    let format = linear.weight.format;
    let (n, layout) = (
        format.out_features,
        Order::of(level, format).layout(rows, format.in_features),
    );
    let (mut packed, mut buffer) = (Aligned::default(), Aligned::default());
    layout.pack(level, x, &mut packed);
    // SAFETY: poisoned here, and written below.
    let mut y = unsafe { unwritten(rows * n) };
    for first in (0..n).step_by(step) {
        let (range, y) = (first..(first + step).min(n), y.as_mut_ptr());
        // SAFETY: y is ours and has a column for each row of W.
        unsafe { linear.multiply(level, range, &packed, layout, y, n, &mut buffer) };
    }
    y
}

/// Against the specification in f64 on the values that are multiplied: in bf16 those are rounded, on
/// both sides of the product with the weight and nowhere else.
fn check(level: Level, encoding: &str, compute: ComputeDtype, [n, k]: [usize; 2], rows: usize) {
    let what = format!("{rows} rows, {encoding} {compute} {k}->{n} {level:?}");
    let mut random = Random::new((rows * 31 + n * 7 + k) as u64);
    let case = weight(encoding, n, k, &mut random);
    let format = WeightFormat {
        compute,
        ..case.format
    };
    let (x, bias) = (random.values(rows * k), random.values(n));
    let (b, u) = (random.values(n * RANK), random.values(rows * RANK));
    let words = Words::new(level, compute);
    let round =
        |values: &[f32]| -> Vec<f64> { values.iter().map(|v| rounded(*v, words) as f64).collect() };
    let mut expected = reference::linear::forward(
        &round(&x),
        &round(&case.dense),
        [n, k],
        Some(&widen(&bias)),
        None,
    );
    let low_rank = reference::linear::forward(&widen(&u), &widen(&b), [n, RANK], None, None);
    expected.iter_mut().zip(low_rank).for_each(|(y, l)| *y += l);
    let linear = Linear {
        weight: WeightView::new(&case.words, format),
        bias: Some(&bias),
        low_rank: Some(LowRank {
            b: &b,
            u: &u,
            rank: RANK,
        }),
    };
    let y = product(level, &linear, &x, rows, 64);
    close(&y, &expected, 2e-6, &what); // f32 sums of 320 terms of order 1
    assert!(
        y == product(level, &linear, &x, rows, 7),
        "pieces of {what}"
    );
}

#[test]
fn any_number_of_rows_equals_the_specification() {
    for compute in [ComputeDtype::F32, ComputeDtype::Bf16] {
        for encoding in ENCODINGS {
            for rows in (1..=33).chain([48, 64, 65]) {
                check(Level::best(), encoding, compute, [13, 192], rows);
            }
        }
    }
}

#[test]
fn every_shape_equals_the_specification_on_every_level() {
    for level in Level::available() {
        for compute in [ComputeDtype::F32, ComputeDtype::Bf16] {
            for encoding in ENCODINGS {
                for shape in SHAPES {
                    for rows in [1, 2, 3, 4, 6, 9] {
                        check(level, encoding, compute, shape, rows);
                    }
                }
            }
        }
    }
}

#[test]
fn the_bits_of_a_row_do_not_depend_on_the_rows_beside_it() {
    let (n, k) = (13, 192);
    for level in Level::available() {
        for compute in [ComputeDtype::F32, ComputeDtype::Bf16] {
            for encoding in ENCODINGS {
                let mut random = Random::new(11);
                let case = weight(encoding, n, k, &mut random);
                let format = WeightFormat {
                    compute,
                    ..case.format
                };
                let (x, u) = (random.values(65 * k), random.values(65 * RANK));
                let b = random.values(n * RANK);
                let some = |rows: std::ops::Range<usize>| {
                    let linear = Linear {
                        weight: WeightView::new(&case.words, format),
                        bias: None,
                        low_rank: Some(LowRank {
                            b: &b,
                            u: &u[rows.start * RANK..rows.end * RANK],
                            rank: RANK,
                        }),
                    };
                    let x = &x[rows.start * k..rows.end * k];
                    product(level, &linear, x, rows.len(), 64)
                };
                let all = some(0..65);
                for rows in 1..=64 {
                    let what = format!("{rows} rows, {encoding} {compute} {level:?}");
                    let last = 65 - rows;
                    assert!(some(0..rows) == all[..rows * n], "the first {what}");
                    assert!(some(last..65) == all[last * n..], "the last {what}");
                }
            }
        }
    }
}
