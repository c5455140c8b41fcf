//! BERTScore by tiny encoders with random weights, beside what bert_score said of the same texts.

mod common;

use common::{exits, read, report, run, stderr, write};
use serde_json::{Value, json};
use tempfile::TempDir;
use workspace_tests::{copy, data};

/// Texts that bert_score has scored by one layer of an encoder, as answers of the nearest neighbour: each training
/// question is a test question too.
fn scored_by(encoder: &str, layer: u64) -> (TempDir, Vec<Value>) {
    let dir = tempfile::tempdir().unwrap();
    copy(
        &data(&format!("encoders/{encoder}")),
        &dir.path().join("encoder"),
    );
    let scores: Vec<Value> = serde_json::from_str(&read(&dir, "encoder/scores.json")).unwrap();
    let scores: Vec<Value> = scores
        .into_iter()
        .filter(|score| score["layer"] == layer)
        .collect();
    let chat = |key: &str| -> String {
        let line = |(i, score): (usize, &Value)| {
            let messages = json!([
                {"role": "user", "content": format!("question{i}")},
                {"role": "assistant", "content": score[key]},
            ]);
            json!({ "messages": messages }).to_string() + "\n"
        };
        scores.iter().enumerate().map(line).collect()
    };
    write(&dir, "test.jsonl", &chat("reference"));
    write(&dir, "train.jsonl", &chat("candidate"));
    (dir, scores)
}

const NEAREST: &str = "--cases test.jsonl --train train.jsonl --systems nearest --out-dir eval";

#[test]
fn scores_are_those_of_bert_score() {
    are_bert_scores(|expected| expected, "", 2e-6);
}

#[test]
fn weighed_and_rescaled_scores_are_those_of_bert_score() {
    let (idf, baseline) = ("--bertscore-idf", "--bertscore-baseline baseline.tsv");
    are_bert_scores(|expected| &expected["idf"], idf, 1e-5);
    are_bert_scores(|expected| &expected["rescaled"], baseline, 1e-5);
    let both = format!("{idf} {baseline}");
    are_bert_scores(|expected| &expected["idf_rescaled"], &both, 1e-5);
}

/// Every score by both encoders and both layers, `flags` added, is what bert_score said.
fn are_bert_scores(said: impl Fn(&Value) -> &Value, flags: &str, tolerance: f64) {
    for encoder in ["bert", "roberta"] {
        for layer in [1, 3] {
            let (dir, expected) = scored_by(encoder, layer);
            write(
                &dir,
                "baseline.tsv",
                &std::fs::read_to_string(data("encoders/baseline.tsv")).unwrap(),
            );
            let by = format!("--bertscore-model encoder --bertscore-layer {layer} {flags}");
            exits(&dir, 0, &format!("{NEAREST} --metric bertscore {by}"));
            let predictions = read(&dir, "eval/predictions.jsonl");
            assert_eq!(predictions.lines().count(), expected.len());
            for (line, expected) in predictions.lines().zip(&expected) {
                let line: Value = serde_json::from_str(line).unwrap();
                for (ours, theirs) in [
                    ("bertscore", "f1"),
                    ("bertscore-precision", "precision"),
                    ("bertscore-recall", "recall"),
                ] {
                    let ours = line["scores"][ours].as_f64().unwrap();
                    let theirs = said(expected)[theirs].as_f64().unwrap();
                    assert!(
                        (ours - theirs).abs() < tolerance,
                        "{encoder}, {flags}, layer {layer}: {ours} and {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn it_stands_beside_the_metric_that_decides_and_says_by_what_it_was_measured() {
    let (dir, expected) = scored_by("bert", 3);
    let table = exits(&dir, 0, &format!("{NEAREST} --bertscore-model encoder"));
    assert!(table.contains("judged by exact") && table.contains("bertscore"));
    // One candidate is a text of twelve sentences.
    assert!(
        table.contains("BERTScore saw the first 48 tokens of 1 longer texts"),
        "{table}"
    );
    let report = report(&dir, "eval");
    let mean = expected.iter().map(|score| score["f1"].as_f64().unwrap());
    let mean = mean.sum::<f64>() / expected.len() as f64;
    let ours = report["systems"][0]["scores"]["bertscore"]["mean"].as_f64();
    assert!((ours.unwrap() - mean).abs() < 2e-6);
    assert_eq!(
        report["settings"]["bertscore"],
        json!({"model": "encoder", "model_type": "bert", "layer": 3, "layers": 3, "idf": false, "baseline": null})
    );
    assert!(read(&dir, "eval/report.html").contains("encoder (bert, layer 3 of 3)"));
}

#[test]
fn a_right_answer_is_not_shown_among_the_wrong_ones_whatever_its_cosines_round_to() {
    let (dir, _) = scored_by("roberta", 3);
    write(&dir, "train.jsonl", &read(&dir, "test.jsonl"));
    let by = "--bertscore-model encoder --metric bertscore";
    exits(&dir, 0, &format!("{NEAREST} {by}"));
    let page = read(&dir, "eval/report.html");
    let (_, wrong) = page.split_once("Wrong answers of nearest").unwrap();
    assert!(wrong.contains("None."), "{wrong}");
}

#[test]
fn without_the_means_it_is_refused_before_anybody_is_asked() {
    let (dir, _) = scored_by("roberta", 3);
    let refused = |words: &str, why: &str| {
        let output = run(&dir, &format!("{NEAREST} {words}"));
        assert_eq!(output.status.code(), Some(2), "{words}");
        assert!(stderr(&output).contains(why), "{}", stderr(&output));
        assert!(!dir.path().join("eval").exists());
    };
    refused("--metric bertscore", "--bertscore-model DIR");
    refused(
        "--bertscore-model encoder --bertscore-layer 4",
        "encoder has layers 1 to 3",
    );
    refused("--bertscore-model nowhere", "nowhere");
    let config = read(&dir, "encoder/config.json");
    write(
        &dir,
        "encoder/config.json",
        &config.replace("\"roberta\"", "\"llama\""),
    );
    refused(
        "--bertscore-model encoder",
        "an encoder here is bert, roberta or xlm-roberta",
    );
    write(
        &dir,
        "encoder/config.json",
        &config.replace("\"vocab_size\": 360", "\"vocab_size\": 300"),
    );
    refused("--bertscore-model encoder", "has 360 tokens");
    write(
        &dir,
        "encoder/config.json",
        &config.replace("\"hidden_size\": 24", "\"hidden_size\": 48"),
    );
    refused("--bertscore-model encoder", "embeddings");
}
