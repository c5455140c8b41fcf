//! Between which bounds does the true rate lie, when so many of so many were right?

/// The normal quantile of a two-sided 95 % interval.
const Z95: f64 = 1.959_963_984_540_054;

/// Wilson's 95 % score interval for the share of successes in so many trials, in 0..=1; also for the mean of scores in
/// 0..=1, none of which varies more about its mean than right and wrong do. Without trials: everything is possible.
pub fn wilson(mean: f64, trials: usize) -> (f64, f64) {
    if trials == 0 {
        return (0.0, 1.0);
    }
    let (n, p) = (trials as f64, mean);
    let z2 = Z95 * Z95;
    let centre = p + z2 / (2.0 * n);
    let spread = Z95 * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    let denominator = 1.0 + z2 / n;
    // At 0 and n successes the bound is exactly 0 or 1; rounding would leave it a hair off.
    let low = if mean <= 0.0 {
        0.0
    } else {
        (centre - spread) / denominator
    };
    let high = if mean >= 1.0 {
        1.0
    } else {
        (centre + spread) / denominator
    };
    (low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bounds_solve_the_score_equation_and_stay_inside_the_unit_interval() {
        for (successes, trials) in [(8.0, 10), (1.0, 3), (95.0, 96), (500.0, 1000)] {
            let rate = successes / trials as f64;
            let (low, high) = wilson(rate, trials);
            for bound in [low, high] {
                let deviation = Z95 * (bound * (1.0 - bound) / trials as f64).sqrt();
                assert!(
                    ((rate - bound).abs() - deviation).abs() < 1e-12,
                    "{successes}/{trials}: {bound}"
                );
            }
            assert!(0.0 <= low && low < rate && rate < high && high <= 1.0);
        }
        assert_eq!(wilson(0.0, 5).0, 0.0);
        assert_eq!(wilson(1.0, 5).1, 1.0);
        assert_eq!(wilson(f64::NAN, 0), (0.0, 1.0));
    }
}
