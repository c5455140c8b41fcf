//! Two systems answered the same cases: is the difference real, or luck?

use serde::Serialize;

/// McNemar's exact test, two-sided: the chance, if both systems were equally good, of a split at least as uneven as
/// this among the cases that only one of them got right (`only_first`, `only_second`).
pub fn mcnemar_exact(only_first: usize, only_second: usize) -> f64 {
    let n = only_first + only_second;
    // Terms C(n, k) / 2^n by recurrence in logarithms: exact enough and safe for thousands of cases.
    let mut ln_term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for k in 0..=only_first.min(only_second) {
        tail += ln_term.exp();
        ln_term += ((n - k) as f64).ln() - ((k + 1) as f64).ln();
    }
    (2.0 * tail).min(1.0)
}

/// A mean and its 95 % percentile interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

/// A difference of means with its 95 % percentile interval, and the two-sided p-value of [`sign_flip`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Difference {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
    pub p_value: f64,
}

/// Bootstrap of the mean of per-case scores (Efron's percentile interval), `resamples` draws keyed by `seed`.
pub fn bootstrap_mean(scores: &[f64], resamples: usize, seed: u64) -> Estimate {
    let means = resampled_means(scores, resamples, seed);
    let (low, high) = percentile_interval(&means);
    Estimate {
        mean: mean(scores),
        low,
        high,
    }
}

/// What two systems differ by: the interval by the paired bootstrap (cases are drawn, each with both systems' scores, so
/// that hard cases stay hard for both), the p-value by [`sign_flip`]. `first` and `second` are per-case scores in the
/// same order.
///
/// # Panics
/// When the two slices differ in length.
pub fn difference(first: &[f64], second: &[f64], resamples: usize, seed: u64) -> Difference {
    assert_eq!(
        first.len(),
        second.len(),
        "paired scores belong to the same cases"
    );
    let differences: Vec<f64> = first.iter().zip(second).map(|(a, b)| a - b).collect();
    let means = resampled_means(&differences, resamples, seed);
    let (low, high) = percentile_interval(&means);
    Difference {
        mean: mean(&differences),
        low,
        high,
        p_value: sign_flip(&differences, resamples, seed),
    }
}

/// Cases that differ, up to which all signs are tried.
const EXACT: usize = 14;

/// The paired randomisation test (Fisher 1935; Noreen 1989), two-sided: were both systems equally good, each case's
/// difference could as well have had the other sign. The share of signs by which the sum is as far from zero as it is:
/// of all signs where few cases differ, else of `draws`. On scores of 0 and 1 that is McNemar's exact test.
pub fn sign_flip(differences: &[f64], draws: usize, seed: u64) -> f64 {
    let differences = Vec::from_iter(differences.iter().copied().filter(|d| *d != 0.0));
    let n = differences.len();
    // Sums in another order are off by their rounding; a tie is a tie.
    let scale: f64 = differences.iter().map(|d| d.abs()).sum();
    let observed = differences.iter().sum::<f64>().abs() - 1e-12 * scale;
    let is_as_far = |signs: &dyn Fn(usize) -> u64| {
        let flipped = differences.iter().enumerate().map(|(i, d)| {
            let negative = signs(i / 64) >> (i % 64) & 1 == 1;
            if negative { -d } else { *d }
        });
        flipped.sum::<f64>().abs() >= observed
    };
    if n <= EXACT {
        let all = 1u64 << n;
        let far = (0..all).filter(|signs| is_as_far(&|_| *signs)).count();
        return far as f64 / all as f64;
    }
    let far = (0..draws as u64)
        .filter(|draw| {
            let start = mix(mix(seed) ^ draw);
            is_as_far(&|word| mix(start ^ word as u64))
        })
        .count();
    // The signs that were seen are one draw: a finite number of draws never proves a probability of zero.
    (far + 1) as f64 / (draws + 1) as f64
}

fn resampled_means(scores: &[f64], resamples: usize, seed: u64) -> Vec<f64> {
    let n = scores.len();
    if n == 0 {
        return Vec::new();
    }
    let mut means: Vec<f64> = (0..resamples as u64)
        .map(|draw| {
            let sum: f64 = (0..n as u64).map(|i| scores[index(seed, draw, i, n)]).sum();
            sum / n as f64
        })
        .collect();
    means.sort_by(f64::total_cmp);
    means
}

fn percentile_interval(sorted: &[f64]) -> (f64, f64) {
    let at = |quantile: f64| match sorted.len() {
        0 => 0.0,
        n => sorted[((n - 1) as f64 * quantile).round() as usize],
    };
    (at(0.025), at(0.975))
}

/// Draw number `i` of resample `draw`: a hash of its place, so that no order of computing changes it.
fn index(seed: u64, draw: u64, i: u64, n: usize) -> usize {
    let bits = mix(mix(mix(seed) ^ draw) ^ i);
    ((u128::from(bits) * n as u128) >> 64) as usize
}

/// SplitMix64's step and finaliser (Steele, Lea and Flood, 2014).
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn mean(values: &[f64]) -> f64 {
    if values.is_empty() {
        0.0
    } else {
        values.iter().sum::<f64>() / values.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mcnemar_matches_the_binomial_test() {
        // scipy.stats.binomtest(3, 18).pvalue, binomtest(0, 5), binomtest(4, 8)
        assert!((mcnemar_exact(3, 15) - 0.007_537_841_796_875).abs() < 1e-14);
        assert!((mcnemar_exact(5, 0) - 0.0625).abs() < 1e-14);
        assert_eq!(mcnemar_exact(4, 4), 1.0);
        assert_eq!(mcnemar_exact(0, 0), 1.0);
        assert!(mcnemar_exact(3000, 2000) < 1e-40);
    }

    #[test]
    fn the_bootstrap_is_the_same_for_the_same_seed_and_close_for_another() {
        let scores: Vec<f64> = (0..200).map(|i| f64::from(i % 4 != 0)).collect();
        let first = bootstrap_mean(&scores, 2000, 1);
        assert_eq!(first, bootstrap_mean(&scores, 2000, 1));
        let other = bootstrap_mean(&scores, 2000, 2);
        assert!((first.low - other.low).abs() < 0.02);
        // The normal approximation of the same interval: 0.75 ± 1.96·√(0.1875/200)
        assert!(
            (first.low - 0.69).abs() < 0.02 && (first.high - 0.81).abs() < 0.02,
            "{first:?}"
        );
    }

    #[test]
    fn equal_systems_differ_by_nothing_and_better_ones_by_something() {
        let good = vec![1.0; 50];
        let bad: Vec<f64> = (0..50).map(|i| f64::from(i % 2)).collect();
        let same = difference(&good, &good, 1000, 0);
        assert_eq!((same.mean, same.p_value), (0.0, 1.0));
        let better = difference(&good, &bad, 1000, 0);
        assert!(better.low > 0.3 && better.p_value < 0.01, "{better:?}");
    }

    #[test]
    fn flipped_signs_of_right_and_wrong_are_mcnemars_test() {
        for (first, second) in [(4, 0), (5, 3), (7, 7), (0, 1), (0, 0), (30, 12)] {
            let only = |n: usize, d: f64| vec![d; n];
            let differences = [only(first, 1.0), only(second, -1.0), only(40, 0.0)].concat();
            let p = sign_flip(&differences, 100_000, 3);
            let exact = mcnemar_exact(first, second);
            // Standard error of 100,000 draws at most 0.0016
            let tolerance = if first + second <= EXACT {
                1e-12
            } else {
                0.006
            };
            assert!(
                (p - exact).abs() <= tolerance,
                "{first}, {second}: {p} and {exact}"
            );
        }
    }

    #[test]
    fn few_graded_cases_prove_little() {
        assert_eq!(sign_flip(&[0.8], 1000, 0), 1.0);
        assert_eq!(sign_flip(&[0.8, 0.1, 0.3], 1000, 0), 0.25);
        // Of 2⁴ signs those of the sums 1.0 and 0.8, and their opposites: by hand
        assert_eq!(sign_flip(&[0.4, 0.3, 0.2, -0.1], 1000, 0), 4.0 / 16.0);
    }

    #[test]
    fn equal_systems_are_told_apart_as_seldom_as_the_p_value_says() {
        // Differences symmetric about zero, 25 of them, in 400 worlds: p below 0.05 in some 20, at most 20 + 3.5·4.4.
        let mut found = 0;
        for world in 0..400u64 {
            let draw = |i: u64| mix(mix(world) ^ i) as f64 / u64::MAX as f64 - 0.5;
            let differences = Vec::from_iter((0..25).map(draw));
            found += usize::from(sign_flip(&differences, 999, world) < 0.05);
        }
        assert!((4..=36).contains(&found), "{found}");
    }

    #[test]
    fn no_cases_give_no_nan() {
        assert_eq!(
            bootstrap_mean(&[], 100, 0),
            Estimate {
                mean: 0.0,
                low: 0.0,
                high: 0.0
            }
        );
    }
}
