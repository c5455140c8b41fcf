//! How good are predicted labels, over all and label by label? Each label's figures and the weighted average are those of
//! scikit-learn's `classification_report`. The macro average is over the labels that are true somewhere, scikit-learn's
//! with `labels=sorted(set(y_true))`: over all that were answered, one stray answer would count as a class of its own,
//! and systems on the same cases would be averaged over different classes.

use std::collections::BTreeMap;

use serde::Serialize;

/// Precision, recall and F1, each in 0..=1; 0 where the denominator is 0 (`zero_division=0`).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Scores {
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
}

/// One label's scores; `support` is how often it is the true label, `predicted` how often it was answered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Label {
    pub label: String,
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
    pub support: usize,
    pub predicted: usize,
}

/// Labels are those that occur, true or predicted, sorted; `confusion[t][p]` counts true `t` answered as `p`. Averages are
/// over labels with support.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub accuracy: f64,
    #[serde(rename = "macro")]
    pub macro_average: Scores,
    #[serde(rename = "micro")]
    pub micro_average: Scores,
    #[serde(rename = "weighted")]
    pub weighted_average: Scores,
    pub labels: Vec<Label>,
    pub confusion: Vec<Vec<usize>>,
}

/// Scores predicted labels against true ones, pair by pair. No pairs: all scores 0.
pub fn report<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Report {
    let pairs: Vec<(&str, &str)> = pairs.into_iter().collect();
    let mut index: BTreeMap<&str, usize> = BTreeMap::new();
    for (truth, predicted) in &pairs {
        index.insert(truth, 0);
        index.insert(predicted, 0);
    }
    for (position, slot) in index.values_mut().enumerate() {
        *slot = position;
    }
    let mut confusion = vec![vec![0usize; index.len()]; index.len()];
    for (truth, predicted) in &pairs {
        confusion[index[truth]][index[predicted]] += 1;
    }

    let labels: Vec<Label> = index
        .iter()
        .map(|(label, &i)| {
            let right = confusion[i][i];
            let support: usize = confusion[i].iter().sum();
            let predicted: usize = confusion.iter().map(|row| row[i]).sum();
            Label {
                label: label.to_string(),
                precision: ratio(right, predicted),
                recall: ratio(right, support),
                f1: ratio(2 * right, support + predicted),
                support,
                predicted,
            }
        })
        .collect();

    let right: usize = (0..labels.len()).map(|i| confusion[i][i]).sum();
    let accuracy = ratio(right, pairs.len());
    Report {
        accuracy,
        macro_average: average(&labels, |label| f64::from(label.support > 0)),
        // One label an example: every wrong answer is one false positive and one false negative.
        micro_average: Scores {
            precision: accuracy,
            recall: accuracy,
            f1: accuracy,
        },
        weighted_average: average(&labels, |label| label.support as f64),
        labels,
        confusion,
    }
}

fn average(labels: &[Label], weight: impl Fn(&Label) -> f64) -> Scores {
    let total: f64 = labels.iter().map(&weight).sum();
    let mean = |score: fn(&Label) -> f64| {
        if total == 0.0 {
            return 0.0;
        }
        labels
            .iter()
            .map(|label| weight(label) * score(label))
            .sum::<f64>()
            / total
    };
    Scores {
        precision: mean(|l| l.precision),
        recall: mean(|l| l.recall),
        f1: mean(|l| l.f1),
    }
}

fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_that_is_never_true_has_its_row_and_is_no_class_of_the_macro_average() {
        let report = report([("a", "a"), ("a", "a"), ("b", "b"), ("b", "other")]);
        assert_eq!(report.accuracy, 0.75);
        assert_eq!(report.labels.len(), 3);
        assert_eq!(report.confusion[1], [0, 1, 1]);
        // f1_score(y_true, y_pred, labels=["a", "b"], average="macro"): a has 1, b has 2·1/(2 + 1)
        assert!((report.macro_average.f1 - (1.0 + 2.0 / 3.0) / 2.0).abs() < 1e-12);
    }

    #[test]
    fn nothing_to_score_is_zero_and_not_nan() {
        let report = report([]);
        assert_eq!((report.accuracy, report.macro_average.f1), (0.0, 0.0));
    }
}
