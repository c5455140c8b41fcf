//! When the answer says "90 % sure", is it right nine times of ten?

use serde::Serialize;

/// Mean squared distance between the stated probability of being right and being right (Brier 1950). 0 is perfect,
/// 0.25 is what always saying one half earns.
pub fn brier(stated: &[(f64, bool)]) -> f64 {
    mean(
        stated
            .iter()
            .map(|&(p, right)| (p - f64::from(right)).powi(2)),
    )
}

/// One bin of a reliability diagram.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bin {
    pub count: usize,
    /// Mean probability stated in this bin.
    pub confidence: f64,
    /// Share that was right in this bin.
    pub accuracy: f64,
}

/// `bins` bins of equal width over 0..=1, the last one closed at 1 (Guo et al., arXiv 1706.04599).
pub fn reliability(stated: &[(f64, bool)], bins: usize) -> Vec<Bin> {
    (0..bins)
        .map(|bin| {
            let inside: Vec<_> = stated
                .iter()
                .filter(|(p, _)| ((p * bins as f64) as usize).min(bins - 1) == bin)
                .collect();
            Bin {
                count: inside.len(),
                confidence: mean(inside.iter().map(|(p, _)| *p)),
                accuracy: mean(inside.iter().map(|(_, right)| f64::from(*right))),
            }
        })
        .collect()
}

/// Expected calibration error: the gap between confidence and accuracy, averaged over the bins by their counts.
pub fn expected_calibration_error(stated: &[(f64, bool)], bins: usize) -> f64 {
    let total = stated.len().max(1) as f64;
    reliability(stated, bins)
        .iter()
        .map(|bin| bin.count as f64 / total * (bin.confidence - bin.accuracy).abs())
        .sum()
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0usize);
    for value in values {
        sum += value;
        count += 1;
    }
    if count == 0 { 0.0 } else { sum / count as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calibrated_forecaster_has_no_error_and_an_overconfident_one_has() {
        let calibrated: Vec<_> = (0..10).map(|i| (0.9, i != 0)).collect();
        assert!(expected_calibration_error(&calibrated, 10) < 1e-12);
        assert!((brier(&calibrated) - 0.09).abs() < 1e-12);
        let boastful: Vec<_> = (0..10).map(|i| (1.0, i < 5)).collect();
        assert_eq!(expected_calibration_error(&boastful, 10), 0.5);
        assert_eq!(brier(&boastful), 0.5);
        assert_eq!(reliability(&boastful, 10)[9].count, 10);
    }
}
