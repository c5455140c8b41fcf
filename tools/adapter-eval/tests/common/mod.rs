//! What the tests share: the tool as a process, a folder to work in, cases and a tiny base.
#![allow(dead_code)] // each test binary uses its part

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokens::{Encoded, Meta, Packing, Vocabulary, pack, shard};
use workspace_tests::{data, text, tool};

/// A folder with train.jsonl, valid.jsonl and test.jsonl: four labels, questions that share words with their kind.
pub fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "train.jsonl", &lines(0..24));
    write(&dir, "valid.jsonl", &lines(24..32));
    write(&dir, "test.jsonl", &lines(32..48));
    dir
}

pub fn write(dir: &TempDir, name: &str, text: &str) {
    fs::write(dir.path().join(name), text).unwrap();
}

/// Every fifth question is worded as if it were of another kind: a lookup gets it wrong.
pub fn lines(numbers: std::ops::Range<usize>) -> String {
    const KINDS: [(&str, &str); 4] = [
        ("I10", "blood pressure"),
        ("E11", "sugar diabetes"),
        ("J45", "asthma wheeze"),
        ("B35", "ringworm skin"),
    ];
    let line = |n: usize| {
        let (code, _) = KINDS[n * 7 % 4];
        let (_, words) = KINDS[if n.is_multiple_of(5) {
            (n * 7 + 1) % 4
        } else {
            n * 7 % 4
        }];
        json!({"messages": [
            {"role": "system", "content": "Answer with JSON."},
            {"role": "user", "content": format!("{words} number {n}")},
            {"role": "assistant", "content": json!({"code": code}).to_string()},
        ]})
    };
    numbers.map(|n| line(n).to_string() + "\n").collect()
}

/// Runs the tool in `dir`.
pub fn run(dir: &TempDir, words: &str) -> Output {
    run_reading(dir, words, "")
}

pub fn run_reading(dir: &TempDir, words: &str, stdin: &str) -> Output {
    let mut tool = tool("adapter-eval");
    let words = words.split_whitespace();
    workspace_tests::run(tool.current_dir(dir.path()).args(words), stdin)
}

/// Runs the tool, which must exit with `status`; its standard output.
pub fn exits(dir: &TempDir, status: i32, words: &str) -> String {
    let output = run(dir, words);
    assert_eq!(
        output.status.code(),
        Some(status),
        "{words}\n{}",
        stderr(&output)
    );
    text(&output.stdout).to_owned()
}

pub fn stderr(output: &Output) -> &str {
    text(&output.stderr)
}

pub fn read(dir: &TempDir, name: &str) -> String {
    fs::read_to_string(dir.path().join(name)).unwrap()
}

pub fn report(dir: &TempDir, folder: &str) -> Value {
    serde_json::from_str(&read(dir, &format!("{folder}/report.json"))).unwrap()
}

/// Compares with a file in tests/golden.
pub fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{} is not what came out", path.display());
}

/// `base/` in `dir`: a tiny model with random weights, a tokenizer and a chat template.
pub fn tiny_base(dir: &TempDir, model: &str) {
    workspace_tests::tiny_base(model, &dir.path().join("base"));
}

/// The reference's two rows as a packed file.
pub fn pack_reference(model: &str, base: &Path, to: &Path) {
    let bytes = fs::read(data(&format!("models/{model}/expected.safetensors"))).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let values = |name: &str| -> Vec<i64> {
        let (values, _) = tensors.tensor(name).unwrap().data().as_chunks::<8>();
        values
            .iter()
            .map(|value| i64::from_le_bytes(*value))
            .collect()
    };
    let (ids, attended, labels) = (
        values("input_ids"),
        values("attention_mask"),
        values("labels"),
    );
    let width = tensors.tensor("input_ids").unwrap().shape()[1];
    let mut examples = Vec::new();
    for start in (0..ids.len()).step_by(width) {
        let mut example = Encoded::default();
        for i in (start..start + width).filter(|i| attended[*i] == 1) {
            example.input_ids.push(ids[i] as u32);
            example
                .loss_mask
                .push(u8::from(labels[i] != -100 && i > start));
        }
        examples.push(example);
    }
    let lengths: Vec<u32> = examples
        .iter()
        .map(|example| example.input_ids.len() as u32)
        .collect();
    let rows = pack(&lengths, 64, Packing::Bfd).unwrap();
    let counts = shard::count(&rows, &examples[..]).unwrap();
    let vocabulary = Vocabulary::open(base).unwrap();
    let meta = Meta::new(
        vocabulary.fingerprint,
        vocabulary.size,
        64,
        Packing::Bfd,
        None,
        counts,
    );
    let mut file = Vec::new();
    shard::write(&mut file, &meta, &rows, &examples[..]).unwrap();
    fs::write(to, file).unwrap();
}
