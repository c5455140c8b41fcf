//! Twenty optimizer steps as transformers, PEFT, bitsandbytes and torch's AdamW make them.
//!
//! Plain and `-hot` (larger steps: clipping fires every time, weight decay matters), over an f32
//! base and over the same base in NF4 with double quantisation, as bitsandbytes stored it.

mod common;

use std::path::Path;

use common::{adapter_values, pack_trajectory, succeed};
use serde_json::Value;
use workspace_tests::{data, tool};

/// Of loss, gradient norm and rate at every step, relative.
const STEP_TOLERANCE: f64 = 1e-4;
/// Of the final adapter, in norm: twenty steps let rounding differences grow.
const ADAPTER_TOLERANCE: f64 = 1e-3;

fn follow(name: &str, base: &str, flags: &[&str]) {
    let work = tempfile::tempdir().expect("a temporary folder");
    let (shard, run) = (
        work.path().join("train.safetensors"),
        work.path().join("run"),
    );
    let base = data("models").join(base);
    pack_trajectory(name, &base, &shard);
    succeed(
        tool("qlora-train")
            .arg("--base")
            .arg(&base)
            .arg("--train")
            .arg(&shard)
            .arg("--init-adapter")
            .arg(data(name).join("adapter_init"))
            .arg("--out-dir")
            .arg(&run)
            .args(["--no-shuffle", "--dropout", "0", "--epochs", "1"])
            .args(["--batch-size", "2", "--gradient-accumulation-steps", "2"])
            .args(["--compute-dtype", "f32"])
            .args(flags),
    );
    check_steps(name, &run);
    let (got, expected) = (
        adapter_values(&run.join("adapter")),
        adapter_values(&data(name).join("adapter_final")),
    );
    assert_eq!(got.len(), expected.len());
    for ((key, got), (expected_key, expected)) in got.iter().zip(&expected) {
        assert_eq!(key, expected_key);
        let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
        let difference: Vec<f64> = got
            .iter()
            .zip(expected)
            .map(|(a, b)| f64::from(a - b))
            .collect();
        let expected: Vec<f64> = expected.iter().map(|&v| f64::from(v)).collect();
        let error = norm(&difference) / norm(&expected);
        assert!(error <= ADAPTER_TOLERANCE, "{name} {key}: off by {error:e}");
    }
}

fn check_steps(name: &str, run: &Path) {
    let log = std::fs::read_to_string(data(name).join("log.json")).expect("the fixture is there");
    let log: Value = serde_json::from_str(&log).expect("it is JSON");
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).expect("the run has metrics");
    let rows: Vec<Value> = metrics
        .lines()
        .map(|l| serde_json::from_str(l).expect("a row"))
        .collect();
    let expected = log["log"].as_array().expect("rows");
    assert_eq!(rows.len(), expected.len());
    for (row, expected) in rows.iter().zip(expected) {
        for (key, theirs) in [
            ("loss", "loss"),
            ("grad_norm", "grad_norm"),
            ("learning_rate", "lr"),
        ] {
            let got = row[key].as_f64().expect("a number");
            let expected = expected[theirs].as_f64().expect("a number");
            let error = (got - expected).abs() / expected.abs().max(1e-12);
            assert!(
                error <= STEP_TOLERANCE || got == expected,
                "{name} step {}: {key} {got}, not {expected}",
                row["step"]
            );
        }
    }
}

const HOT: [&str; 8] = [
    "--learning-rate",
    "1e-2",
    "--warmup-ratio",
    "0.15",
    "--weight-decay",
    "0.1",
    "--max-grad-norm",
    "0.5",
];

#[test]
fn twenty_steps_over_an_f32_base() {
    follow("train20-f32", "llama-tied", &["--quantize", "none"]);
}

#[test]
fn twenty_clipped_steps_over_an_f32_base() {
    follow(
        "train20-f32-hot",
        "llama-tied",
        &[&HOT[..], &["--quantize", "none"]].concat(),
    );
}

#[test]
fn twenty_steps_over_an_nf4_base() {
    follow(
        "train20-nf4dq",
        "llama-tied-prequant",
        &["--quantize", "nf4"],
    );
}

#[test]
fn twenty_clipped_steps_over_an_nf4_base_with_every_layer_recomputed() {
    let flags = ["--quantize", "nf4", "--activation-checkpointing", "on"];
    follow(
        "train20-nf4dq-hot",
        "llama-tied-prequant",
        &[&HOT[..], &flags].concat(),
    );
}

/// The kernels of a GPU, through the command line, to the same tolerance.
#[cfg(feature = "cube-cpu")]
#[test]
fn twenty_clipped_steps_over_an_nf4_base_on_a_device() {
    let flags = ["--quantize", "nf4", "--device", "cube-cpu"];
    follow(
        "train20-nf4dq-hot",
        "llama-tied-prequant",
        &[&HOT[..], &flags].concat(),
    );
}
