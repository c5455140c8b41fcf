//! A place to work in, with what the README's pipelines begin with.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use crate::{copy, data, reference_rows, root, succeed, tiny_base};

/// A folder with what the README's pipelines begin with: `base/` (a tiny llama that can chat), `notes.csv`, and a
/// reference run's `reference.jsonl` and `adapter_init/`.
pub struct Scene(tempfile::TempDir);

impl Scene {
    pub fn new() -> Scene {
        let scene = Scene(tempfile::tempdir().expect("a temporary folder"));
        tiny_base("llama-tied", &scene.path().join("base"));
        copy(
            &data("train20-f32/adapter_init"),
            &scene.path().join("adapter_init"),
        );
        scene.write("notes.csv", &notes());
        scene.write("reference.jsonl", &reference());
        scene
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        let path = self.path().join(name);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Makes train.safetensors and valid.safetensors of the reference run's tokens.
    pub fn pack(&self) {
        succeed(
            self.path(),
            "head -n 64 reference.jsonl | tokenize-pack - --base base --max-seq-length 48 -o train.safetensors --quiet
             tail -n 16 reference.jsonl | tokenize-pack - --base base --max-seq-length 48 -o valid.safetensors --quiet",
        );
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).expect("a temporary folder can be written to");
    }
}

impl Default for Scene {
    fn default() -> Scene {
        Scene::new()
    }
}

/// The demo's table with the first eight phrases of each category.
fn notes() -> String {
    let table =
        fs::read_to_string(root().join("data/icd10-categories.csv")).expect("the demo's data");
    let mut lines = table.lines();
    let mut kept = vec![lines.next().expect("a header")];
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for line in lines {
        // phrases and titles may hold commas, in quotes; a code never does
        let code = line
            .split(',')
            .find(|cell| is_category(cell))
            .expect("a code");
        let count = seen.entry(code).or_default();
        *count += 1;
        if *count <= 8 {
            kept.push(line);
        }
    }
    kept.join("\n") + "\n"
}

fn is_category(cell: &str) -> bool {
    let letters = cell
        .chars()
        .map(|c| (c.is_ascii_uppercase(), c.is_ascii_digit()));
    letters.eq([(true, false), (false, true), (false, true)])
}

/// The batches of a run of transformers, one pre-tokenised example a line.
fn reference() -> String {
    let lines = reference_rows("train20-f32")
        .map(|(ids, labels)| serde_json::json!({ "input_ids": ids, "labels": labels }).to_string());
    lines.map(|line| line + "\n").collect()
}
