//! chrF2: F-score over character n-grams, equal to sacrebleu's default (Popović 2015; order 6, β 2, no words).

use std::collections::HashMap;

const ORDER: usize = 6;
const BETA_SQUARED: f64 = 4.0;

/// Per order: n-grams in the prediction, in the reference, and shared.
type Counts = [[usize; 3]; ORDER];

/// chrF2 of one prediction, 0..=100.
pub fn sentence(reference: &str, prediction: &str) -> f64 {
    score(&counts(reference, prediction))
}

/// chrF2 of a corpus of (reference, prediction), 0..=100: counts are summed before the score is taken.
pub fn corpus<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> f64 {
    let mut total: Counts = [[0; 3]; ORDER];
    for (reference, prediction) in pairs {
        for (sum, one) in total
            .iter_mut()
            .flatten()
            .zip(counts(reference, prediction).iter().flatten())
        {
            *sum += one;
        }
    }
    score(&total)
}

fn counts(reference: &str, prediction: &str) -> Counts {
    let characters = |text: &str| {
        text.chars()
            .filter(|c| !c.is_whitespace())
            .collect::<Vec<char>>()
    };
    let (reference, prediction) = (characters(reference), characters(prediction));
    std::array::from_fn(|order| {
        let mut left: HashMap<&[char], usize> = HashMap::new();
        for gram in reference.windows(order + 1) {
            *left.entry(gram).or_default() += 1;
        }
        let in_reference = left.values().sum();
        // sacrebleu counts no prediction n-grams of an order that the reference lacks.
        let in_prediction = if in_reference == 0 {
            0
        } else {
            prediction.windows(order + 1).len()
        };
        let mut shared = 0;
        for gram in prediction.windows(order + 1) {
            if let Some(count) = left.get_mut(gram).filter(|count| **count > 0) {
                *count -= 1;
                shared += 1;
            }
        }
        [in_prediction, in_reference, shared]
    })
}

fn score(counts: &Counts) -> f64 {
    let (mut precision, mut recall, mut orders) = (0.0, 0.0, 0usize);
    for &[in_prediction, in_reference, shared] in counts {
        if in_prediction > 0 && in_reference > 0 {
            precision += shared as f64 / in_prediction as f64;
            recall += shared as f64 / in_reference as f64;
            orders += 1;
        }
    }
    if precision + recall == 0.0 {
        return 0.0;
    }
    precision /= orders as f64;
    recall /= orders as f64;
    100.0 * (1.0 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)
}
