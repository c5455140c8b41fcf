//! Running the tools as a user does, on the tiny models in tests/data.

// Each test file uses its part of this.
#![allow(dead_code)]

use std::{
    path::Path,
    process::{Command, Output},
};

use safetensors::SafeTensors;
use workspace_tests::{exits, reference_rows, tool};

/// Runs to the end; anything but exit status 0 fails the test with what was said.
pub fn succeed(command: &mut Command) -> Output {
    exits(command, 0)
}

/// Packs the rows of a reference trajectory in their order, one example a row.
pub fn pack_trajectory(name: &str, base: &Path, out: &Path) {
    pack(
        reference_rows(name),
        base,
        &["--packing", "none", "--max-seq-length", "24"],
        out,
    );
}

/// Packs pre-tokenised examples: ids and labels.
pub fn pack(
    examples: impl Iterator<Item = (Vec<i64>, Vec<i64>)>,
    base: &Path,
    flags: &[&str],
    out: &Path,
) {
    let lines: Vec<String> = examples
        .map(|(ids, labels)| serde_json::json!({ "input_ids": ids, "labels": labels }).to_string())
        .collect();
    let jsonl = out.with_extension("jsonl");
    std::fs::write(&jsonl, lines.join("\n") + "\n").expect("it is written");
    let mut command = tool("tokenize-pack");
    command.arg(&jsonl).arg("--base").arg(base).args(flags);
    succeed(command.arg("-o").arg(out));
}

/// Examples of 5 to 22 tokens from a small linear congruential generator; the last half of each is
/// supervised.
pub fn examples(count: usize, seed: u64) -> impl Iterator<Item = (Vec<i64>, Vec<i64>)> {
    let mut state = seed;
    let mut draw = move |below: u64| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) % below
    };
    (0..count).map(move |_| {
        let length = 5 + draw(18) as usize;
        let ids: Vec<i64> = (0..length).map(|_| 3 + draw(500) as i64).collect();
        let labels = ids
            .iter()
            .enumerate()
            .map(|(i, &id)| if i < length / 2 { -100 } else { id });
        (ids.clone(), labels.collect())
    })
}

/// The values of an adapter's tensors, by key.
pub fn adapter_values(dir: &Path) -> Vec<(String, Vec<f32>)> {
    let bytes = std::fs::read(dir.join("adapter_model.safetensors")).expect("the adapter is there");
    let file = SafeTensors::deserialize(&bytes).expect("it is safetensors");
    let mut tensors: Vec<(String, Vec<f32>)> = file
        .tensors()
        .into_iter()
        .map(|(key, view)| {
            let values = view.data().chunks_exact(4);
            (
                key,
                values
                    .map(|b| f32::from_le_bytes(b.try_into().expect("4")))
                    .collect(),
            )
        })
        .collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors
}
