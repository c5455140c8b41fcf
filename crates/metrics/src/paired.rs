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

/// A difference of means with its interval and the two-sided bootstrap p-value.
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

/// Paired bootstrap (Koehn 2004): cases are drawn, each with both systems' scores, so that hard cases stay hard for
/// both. `first` and `second` are per-case scores in the same order.
///
/// # Panics
/// When the two slices differ in length.
pub fn bootstrap_difference(
    first: &[f64],
    second: &[f64],
    resamples: usize,
    seed: u64,
) -> Difference {
    assert_eq!(
        first.len(),
        second.len(),
        "paired scores belong to the same cases"
    );
    let differences: Vec<f64> = first.iter().zip(second).map(|(a, b)| a - b).collect();
    let means = resampled_means(&differences, resamples, seed);
    let (low, high) = percentile_interval(&means);
    let below = means.iter().filter(|mean| **mean <= 0.0).count();
    let above = means.iter().filter(|mean| **mean >= 0.0).count();
    // One is added on both sides: a finite number of draws never proves a probability of zero.
    let p_value = (2.0 * (below.min(above) + 1) as f64 / (means.len() + 1) as f64).min(1.0);
    Difference {
        mean: mean(&differences),
        low,
        high,
        p_value,
    }
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
        let same = bootstrap_difference(&good, &good, 1000, 0);
        assert_eq!((same.mean, same.p_value), (0.0, 1.0));
        let better = bootstrap_difference(&good, &bad, 1000, 0);
        assert!(better.low > 0.3 && better.p_value < 0.01, "{better:?}");
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
