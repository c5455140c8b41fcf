//! When an answer states how sure it is, is it right that often?

use metrics::calibration::{self, Bin};
use metrics::json;
use serde::Serialize;

use crate::cases::Cases;
use crate::metric::Metric;
use crate::system::Run;

/// Bins of the reliability diagram: as many as Guo et al. (arXiv 1706.04599) draw.
const BINS: usize = 10;

/// How well a system's stated confidence fits its being right.
#[derive(Clone, Debug, Serialize)]
pub struct Confidence {
    /// Answers that state a number from 0 to 1; the others are left out here.
    pub stated: usize,
    pub brier: f64,
    pub expected_calibration_error: f64,
    pub bins: Vec<Bin>,
}

/// Reads the confidence from a JSON field of each answer; `metric` says which answers are right. None when no answer
/// states one, or when being right is a matter of degree.
pub fn confidence(run: &Run, cases: &Cases, metric: &Metric, field: &str) -> Option<Confidence> {
    let metric = match metric {
        Metric::Text(metric) if metric.is_binary() => metric,
        _ => return None,
    };
    let stated: Vec<(f64, bool)> = cases
        .references()
        .zip(&run.answers)
        .filter_map(|(reference, answer)| {
            let value = json::parse(&answer.output)?;
            let sure = json::field(&value, field)?
                .as_f64()
                .filter(|p| (0.0..=1.0).contains(p))?;
            Some((sure, metric.score(reference, &answer.output) == 1.0))
        })
        .collect();
    (!stated.is_empty()).then(|| Confidence {
        stated: stated.len(),
        brier: calibration::brier(&stated),
        expected_calibration_error: calibration::expected_calibration_error(&stated, BINS),
        bins: calibration::reliability(&stated, BINS),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::tests::cases;
    use crate::metric::TextMetric;
    use crate::system::{Answer, Kind, System};

    #[test]
    fn confidence_is_read_from_the_answers_that_state_one() {
        let cases = cases(&[
            ("q1", r#"{"code":"A"}"#),
            ("q2", r#"{"code":"B"}"#),
            ("q3", r#"{"code":"C"}"#),
        ]);
        let outputs = [
            r#"{"code":"A","confidence":0.9}"#,
            r#"{"code":"X","confidence":0.9}"#,
            r#"{"code":"C","confidence":"high"}"#,
        ];
        let answers = outputs
            .map(|output| Answer {
                output: output.into(),
                ..Answer::default()
            })
            .to_vec();
        let system = System {
            key: "k".into(),
            title: "t".into(),
            kind: Kind::Base,
            shots: None,
        };
        let run = Run { system, answers };
        let found = confidence(
            &run,
            &cases,
            &TextMetric::JsonField("code".into()).into(),
            "confidence",
        )
        .unwrap();
        assert_eq!(found.stated, 2);
        assert!((found.brier - (0.01 + 0.81) / 2.0).abs() < 1e-12);
        assert!((found.expected_calibration_error - 0.4).abs() < 1e-12);
        assert!(
            confidence(
                &run,
                &cases,
                &TextMetric::JsonField("code".into()).into(),
                "sure"
            )
            .is_none()
        );
        assert!(confidence(&run, &cases, &TextMetric::RougeL.into(), "confidence").is_none());
    }
}
