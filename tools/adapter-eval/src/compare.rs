//! Is one system better than another on the same cases, and what does that mean in words?

use metrics::interval::wilson;
use metrics::paired::{self, Difference, Estimate};
use serde::Serialize;

/// Bootstrap draws; the interval's ends then move by less than a tenth of a point between seeds.
const RESAMPLES: usize = 10_000;
/// Below this a difference is called real.
const SIGNIFICANCE: f64 = 0.05;

/// The judged system against another one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    pub system: String,
    pub against: String,
    /// Mean score of `system` less that of `against`: interval by the paired bootstrap, p by flipped signs.
    pub difference: Difference,
    /// Cases where only `system` is right; for a right-or-wrong metric.
    pub only_system: Option<usize>,
    /// Cases where only `against` is right.
    pub only_against: Option<usize>,
    /// McNemar's exact test, for a right-or-wrong metric.
    pub mcnemar_p: Option<f64>,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Better,
    Worse,
    /// The cases do not tell.
    WithinChance,
}

impl Comparison {
    /// The p-value that decided: McNemar's where answers are right or wrong, else that of flipped signs.
    pub fn p_value(&self) -> f64 {
        self.mcnemar_p.unwrap_or(self.difference.p_value)
    }
}

/// Compares per-case scores in the same order; `binary` when each is 0 or 1.
pub fn compare(
    system: (&str, &[f64]),
    against: (&str, &[f64]),
    binary: bool,
    seed: u64,
) -> Comparison {
    let difference = paired::difference(system.1, against.1, RESAMPLES, seed);
    let only = |a: &[f64], b: &[f64]| {
        a.iter()
            .zip(b)
            .filter(|(a, b)| **a == 1.0 && **b == 0.0)
            .count()
    };
    let (only_system, only_against) = (only(system.1, against.1), only(against.1, system.1));
    let mcnemar_p = binary.then(|| paired::mcnemar_exact(only_system, only_against));
    let p_value = mcnemar_p.unwrap_or(difference.p_value);
    let verdict = match difference.mean {
        _ if p_value >= SIGNIFICANCE => Verdict::WithinChance,
        mean if mean > 0.0 => Verdict::Better,
        _ => Verdict::Worse,
    };
    Comparison {
        system: system.0.into(),
        against: against.0.into(),
        difference,
        only_system: binary.then_some(only_system),
        only_against: binary.then_some(only_against),
        mcnemar_p,
        verdict,
    }
}

/// Mean and 95 % interval: Wilson's for right-or-wrong scores, and for others that are all the same, of which drawing
/// says nothing; the bootstrap's else.
pub fn estimate(scores: &[f64], binary: bool, seed: u64) -> Estimate {
    if !binary && scores.iter().any(|score| *score != scores[0]) {
        return paired::bootstrap_mean(scores, RESAMPLES, seed);
    }
    let mean = scores.iter().sum::<f64>() / scores.len().max(1) as f64;
    let (low, high) = wilson(mean, scores.len());
    Estimate { mean, low, high }
}

/// A p-value as one writes it.
pub fn p_text(p: f64) -> String {
    if p < 0.001 {
        "p < 0.001".into()
    } else {
        format!("p = {p:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clear_difference_is_better_and_a_small_one_is_within_chance() {
        let good = vec![1.0; 40];
        let mut bad = vec![0.0; 40];
        let clear = compare(("a", &good), ("b", &bad), true, 0);
        assert_eq!(
            (clear.verdict, clear.only_system, clear.only_against),
            (Verdict::Better, Some(40), Some(0))
        );
        assert_eq!(
            compare(("b", &bad), ("a", &good), true, 0).verdict,
            Verdict::Worse
        );
        bad[3..].fill(1.0);
        let small = compare(("a", &good), ("b", &bad), true, 0);
        assert_eq!(small.verdict, Verdict::WithinChance);
        assert!((small.p_value() - 0.25).abs() < 1e-12);
    }

    #[test]
    fn the_same_scores_everywhere_are_no_proof_of_themselves() {
        let alike = estimate(&[1.0; 100], false, 0);
        assert_eq!(alike, estimate(&[1.0; 100], true, 0));
        let single = estimate(&[0.8], false, 0);
        assert!(single.low < 0.3 && single.high > 0.95, "{single:?}");
    }

    #[test]
    fn graded_scores_are_compared_by_flipped_signs() {
        let good: Vec<f64> = (0..40).map(|i| 0.5 + f64::from(i % 5) / 50.0).collect();
        let bad: Vec<f64> = good.iter().map(|score| score - 0.1).collect();
        let comparison = compare(("a", &good), ("b", &bad), false, 0);
        assert_eq!(
            (comparison.verdict, comparison.mcnemar_p),
            (Verdict::Better, None)
        );
        assert!(comparison.p_value() < 0.001);
    }
}
