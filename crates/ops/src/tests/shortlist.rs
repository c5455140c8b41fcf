use super::Random;
use super::linear::weight;
use crate::decoding::shortlist::Shortlist;
use crate::format::{ComputeDtype, WeightFormat};
use crate::kernels::aligned::Aligned;
use crate::kernels::few_rows::{Int8, Linear, Order};
use crate::kernels::panel::WeightView;
use crate::kernels::simd::Level;
use crate::kernels::team::Team;
use crate::kernels::unwritten;

fn length(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

/// Rows of very different lengths, one of them zero, one whose largest value dwarfs the others.
fn matrix(random: &mut Random, rows: usize, columns: usize) -> Vec<f32> {
    let mut values = random.values(rows * columns);
    for (i, row) in values.chunks_exact_mut(columns).enumerate() {
        let size = [1.0, 0.0, 1e-20, 1e12, 1e-41, 3.0][i % 6];
        row.iter_mut().for_each(|v| *v *= size);
        if i % 6 == 5 {
            row[columns / 2] = -4e4;
        }
    }
    values
}

#[test]
fn products_of_codes_are_exact_and_rounding_errors_known() {
    for level in Level::available() {
        for [n, k] in [[70, 192], [8, 64], [33, 100], [6, 65], [1, 1], [5, 5000]] {
            for rows in [1, 2, 3, 8] {
                let what = format!("{rows} rows, {k}->{n}, {level:?}");
                let mut random = Random::new((rows * 31 + n * 7 + k) as u64);
                let (w, x) = (matrix(&mut random, n, k), matrix(&mut random, rows, k));
                let (codes, of_w) = Int8::round(level, [n, k], |row, out| {
                    out.copy_from_slice(&w[row * k..(row + 1) * k]);
                });
                let packed = codes.round_x(level, &x, k);
                let whole = n.next_multiple_of(Int8::TOGETHER);
                let mut sums = vec![i32::MIN; rows * whole];
                for first in (0..whole).step_by(8) {
                    let range = first..(first + 8).min(whole);
                    let mut of_range = vec![i32::MIN; rows * range.len()];
                    codes.multiply(level, range.clone(), &packed, &mut of_range);
                    for (i, of_row) in of_range.chunks_exact(range.len()).enumerate() {
                        sums[i * whole..][range.clone()].copy_from_slice(of_row);
                    }
                }
                // Codes again, from the scales: what a sum ought to be.
                let code = |v: f32, scale: f32, largest: f64| match scale {
                    0.0 => 0.0,
                    _ => (v as f64 / scale as f64).round().clamp(-largest, largest),
                };
                for (i, (x, of_x)) in x.chunks_exact(k).zip(&packed.rounded).enumerate() {
                    for (j, (w, of_w)) in w.chunks_exact(k).zip(&of_w).enumerate() {
                        let (norm, known) =
                            (length(w.iter().map(|v| *v as f64)), of_w.error as f64);
                        assert!(
                            of_w.norm as f64 >= norm * (1.0 - 1e-4),
                            "{what}: |w| of {j}"
                        );
                        let errors = w
                            .iter()
                            .map(|v| *v as f64 - of_w.scale as f64 * code(*v, of_w.scale, 127.0));
                        let error = length(errors);
                        // Without a fused multiply-add an error is known to one rounding of the value.
                        assert!(
                            known >= error * (1.0 - 1e-3) - norm * 1e-7,
                            "{what}: {known} not {error}"
                        );
                        assert!(known <= norm / 2.0 + 1e-16, "{what}: {known} of {norm}");
                        let sum = sums[i * whole + j] as f64;
                        let product: f64 =
                            (w.iter().zip(x)).map(|(w, x)| *w as f64 * *x as f64).sum();
                        let scale = of_w.scale as f64 * of_x.scale as f64;
                        let radius = known * of_x.norm as f64
                            + (of_w.norm + of_w.error) as f64 * of_x.error as f64;
                        let off = (sum * scale - product).abs();
                        let rounding = 1e-6 * norm * of_x.norm as f64;
                        assert!(
                            off <= radius * 1.01 + rounding,
                            "{what}: {off} above {radius}"
                        );
                    }
                    let beyond = &sums[i * whole + n..(i + 1) * whole];
                    assert!(beyond.iter().all(|sum| *sum == 0), "{what}: zeros");
                }
            }
        }
    }
}

/// All logits of x, as decoding computes them.
fn logits(level: Level, view: WeightView<'_>, x: &[f32]) -> Vec<Vec<f32>> {
    let format = view.format;
    let layout = Order::of(level, format).layout(1, format.in_features);
    let (mut packed, mut buffer) = (Aligned::default(), Aligned::default());
    let linear = Linear {
        weight: view,
        bias: None,
        low_rank: None,
    };
    let of_row = |x: &[f32]| {
        layout.pack(level, x, &mut packed);
        // SAFETY: poisoned here, and written below.
        let mut y = unsafe { unwritten(format.out_features) };
        let (range, to) = (0..format.out_features, y.as_mut_ptr());
        // SAFETY: y is ours and has a column for each row of W.
        unsafe { linear.multiply(level, range, &packed, layout, to, 1, &mut buffer) };
        y
    };
    x.chunks_exact(format.in_features).map(of_row).collect()
}

#[test]
fn a_shortlist_has_every_token_that_is_the_likeliest_and_few_others() {
    const ROWS: usize = 5;
    for level in Level::available() {
        for encoding in ["bf16", "f32", "f16"] {
            for compute in [ComputeDtype::F32, ComputeDtype::Bf16] {
                for [n, k] in [[1000, 192], [515, 65], [2050, 576]] {
                    let what = format!("{encoding} {compute} {k}->{n} {level:?}");
                    let mut random = Random::new((n * 7 + k) as u64);
                    let mut case = weight(encoding, n, k, &mut random);
                    // Tokens with the same logit to the last bit, in one task and in two, and others whose
                    // order 8 bits do not know.
                    let words = case.words.len() / n;
                    let repeated = k % 2 == 0; // whole words
                    for to in [n / 2, n - 1, 1, 2, 3, 4, 5, 6, n - 2, n - 3] {
                        if repeated {
                            case.words.copy_within(words * 7..words * 8, words * to);
                        }
                        if repeated && to != n / 2 && to != n - 1 {
                            for word in &mut case.words[words * to..words * (to + 1)] {
                                *word ^= (random.next() > 0.0) as u32;
                            }
                        }
                    }
                    let format = WeightFormat {
                        compute,
                        ..case.format
                    };
                    let view = WeightView::new(&case.words, format);
                    let mut x = random.values(ROWS * k);
                    // The second row is likeliest at one of these.
                    let mut row = vec![0.0; k];
                    view.rows(level, 7..8, 0..k, &mut row, k);
                    x[k..2 * k].copy_from_slice(&row);
                    let shortlist = Shortlist::new(level, view).expect("finite");
                    let lists = Team::of(2, |team| shortlist.tokens(level, team, &x)).expect("few");
                    for (i, (list, logits)) in lists.iter().zip(logits(level, view, &x)).enumerate()
                    {
                        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                        let likeliest: Vec<u32> = (0..n as u32)
                            .filter(|j| logits[*j as usize] == largest)
                            .collect();
                        assert!(list.is_sorted(), "{what}: {list:?}");
                        assert!(
                            likeliest.iter().all(|token| list.contains(token)),
                            "{what}: {likeliest:?} of row {i} not in {list:?}"
                        );
                        assert!(list.len() <= 20, "{what}: {} for row {i}", list.len());
                        if i == 1 && repeated {
                            assert!(list.len() >= 11, "{what}: {list:?}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn where_there_is_no_short_list_there_is_none() {
    let level = Level::best();
    let (n, k) = (1024, 64);
    let case = weight("f32", n, k, &mut Random::new(5));
    let x = Random::new(6).values(k);
    let list = |words: &[u32], x: &[f32]| {
        let shortlist = Shortlist::new(level, WeightView::new(words, case.format))?;
        Team::of(1, |team| shortlist.tokens(level, team, x))
    };
    assert!(list(&case.words, &x).is_some());
    for bad in [f32::NAN, f32::INFINITY, 3e38] {
        let mut words = case.words.clone();
        words[k * 3 + 1] = bad.to_bits();
        assert!(list(&words, &x).is_none(), "a weight of {bad}");
        let mut x = x.clone();
        x[2] = bad;
        assert!(list(&case.words, &x).is_none(), "a state with {bad}");
    }
    let same = case.words[..k].repeat(n);
    assert!(list(&same, &x).is_none(), "all tokens alike");
    assert!(list(&case.words, &vec![0.0; k]).is_none(), "no state");
}
