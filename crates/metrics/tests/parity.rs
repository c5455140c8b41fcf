//! Are our scores those of rouge-score, sacrebleu and scikit-learn, on the same texts and labels?

use metrics::rouge::{Rouge, Stemming, rouge_l, rouge_l_sum, rouge_n};
use metrics::{bleu, chrf, classification};
use serde_json::Value;

fn reference() -> Value {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/data/metrics/reference.json"
    );
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn pairs(reference: &Value) -> Vec<(&str, &str, &Value)> {
    let pairs = reference["pairs"].as_array().unwrap();
    pairs
        .iter()
        .map(|pair| {
            (
                pair["reference"].as_str().unwrap(),
                pair["prediction"].as_str().unwrap(),
                pair,
            )
        })
        .collect()
}

/// The peers compute in double precision with another order of operations: a few last bits may differ.
fn close(ours: f64, theirs: &Value) -> bool {
    (ours - theirs.as_f64().unwrap()).abs() < 1e-9
}

#[test]
fn rouge_with_and_without_stemmer_is_rouge_score() {
    let all = reference();
    for (reference, prediction, expected) in pairs(&all) {
        for (key, stemming) in [("rouge", Stemming::None), ("rouge_stem", Stemming::Porter)] {
            let check = |name: &str, ours: Rouge| {
                let theirs = &expected[key][name];
                assert!(
                    close(ours.precision, &theirs[0])
                        && close(ours.recall, &theirs[1])
                        && close(ours.f1, &theirs[2]),
                    "{key} {name} of {reference:?} and {prediction:?}: {ours:?} is not {theirs}"
                );
            };
            check("rouge1", rouge_n(reference, prediction, 1, stemming));
            check("rouge2", rouge_n(reference, prediction, 2, stemming));
            check("rougeL", rouge_l(reference, prediction, stemming));
            check("rougeLsum", rouge_l_sum(reference, prediction, stemming));
        }
    }
}

#[test]
fn sentence_bleu_and_chrf_are_sacrebleu() {
    let all = reference();
    for (reference, prediction, expected) in pairs(&all) {
        let bleu = bleu::sentence(reference, prediction);
        assert!(
            close(bleu.score, &expected["sentence_bleu"]),
            "{reference:?} {prediction:?}: {bleu:?}"
        );
        for (ours, theirs) in bleu
            .precisions
            .iter()
            .zip(expected["sentence_bleu_precisions"].as_array().unwrap())
        {
            assert!(
                close(*ours, theirs),
                "{reference:?} {prediction:?}: {bleu:?}"
            );
        }
        let chrf = chrf::sentence(reference, prediction);
        assert!(
            close(chrf, &expected["sentence_chrf"]),
            "{reference:?} {prediction:?}: {chrf}"
        );
    }
}

#[test]
fn corpus_bleu_and_chrf_are_sacrebleu() {
    let all = reference();
    let texts: Vec<(&str, &str)> = pairs(&all).into_iter().map(|(r, p, _)| (r, p)).collect();
    let expected = &all["corpus_bleu"];
    let bleu = bleu::corpus(texts.iter().copied());
    assert!(
        close(bleu.score, &expected["default_13a_exp"]["score"]),
        "{bleu:?}"
    );
    assert!(
        close(bleu.brevity_penalty, &expected["default_13a_exp"]["bp"]),
        "{bleu:?}"
    );
    assert!(close(chrf::corpus(texts), &expected["chrf"]));
}

/// scikit-learn's with `labels=sorted(set(y_true))`: the mean over these of what it gives each.
fn macro_average(truth: &[&str], report: &Value) -> Value {
    let labels = std::collections::BTreeSet::from_iter(truth);
    let mean = |key: &str| {
        let each = labels
            .iter()
            .map(|label| report[label][key].as_f64().unwrap());
        (
            key.to_owned(),
            (each.sum::<f64>() / labels.len() as f64).into(),
        )
    };
    Value::Object(
        ["precision", "recall", "f1-score"]
            .map(mean)
            .into_iter()
            .collect(),
    )
}

#[test]
fn classification_reports_are_scikit_learn() {
    let all = reference();
    for expected in all["classification"].as_array().unwrap() {
        let labels = |key: &str| -> Vec<&str> {
            expected[key]
                .as_array()
                .unwrap()
                .iter()
                .map(|label| label.as_str().unwrap())
                .collect()
        };
        let (truth, predicted) = (labels("y_true"), labels("y_pred"));
        let ours = classification::report(truth.iter().copied().zip(predicted));
        assert!(close(ours.accuracy, &expected["accuracy"]));
        for (name, scores) in [
            ("micro", ours.micro_average),
            ("macro avg", ours.macro_average),
            ("weighted avg", ours.weighted_average),
        ] {
            let theirs = match name {
                "micro" => expected["micro"].clone(),
                "macro avg" => macro_average(&truth, &expected["report"]),
                _ => expected["report"][name].clone(),
            };
            let at = |position: usize, key: &str| theirs.get(position).unwrap_or(&theirs[key]);
            assert!(close(scores.precision, at(0, "precision")), "{name}");
            assert!(close(scores.recall, at(1, "recall")), "{name}");
            assert!(close(scores.f1, at(2, "f1-score")), "{name}");
        }
        for label in &ours.labels {
            let theirs = &expected["report"][&label.label];
            assert!(
                close(label.precision, &theirs["precision"]),
                "{}",
                label.label
            );
            assert!(close(label.recall, &theirs["recall"]), "{}", label.label);
            assert!(close(label.f1, &theirs["f1-score"]), "{}", label.label);
            assert_eq!(
                label.support as f64,
                theirs["support"].as_f64().unwrap(),
                "{}",
                label.label
            );
        }
        assert_eq!(serde_json::json!(ours.confusion), expected["confusion"]);
    }
}
