//! What do all tests of the workspace need? Its folder, its tools, a tiny base, a place to work in.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The workspace's folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the workspace")
}

/// The names of all tools.
pub fn tools() -> Vec<String> {
    let folders = fs::read_dir(root().join("tools")).expect("the workspace has tools");
    let names = folders.map(|entry| entry.expect("a folder can be read").file_name());
    names
        .map(|name| name.into_string().expect("tools have plain names"))
        .collect()
}

/// Reference data that lies in tests/data.
pub fn data(name: &str) -> PathBuf {
    root().join("tests/data").join(name)
}

/// The folder of the tools: that of the running test's profile.
pub fn bin() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let profile = test
        .ancestors()
        .nth(2)
        .expect("target/PROFILE/deps/test")
        .to_owned();
    for tool in tools() {
        assert!(
            profile.join(&tool).exists(),
            "{}: no {tool}; `make test` builds the tools before it runs the tests",
            profile.display()
        );
    }
    profile
}

/// A shell in `folder` that finds the tools by name; the first failure of a pipe is the pipe's.
pub fn shell(folder: &Path, script: &str) -> Output {
    let path = format!(
        "{}:{}",
        bin().display(),
        std::env::var("PATH").unwrap_or_default()
    );
    Command::new("bash")
        .args(["-e", "-u", "-o", "pipefail", "-c", script])
        .current_dir(folder)
        .env("PATH", path)
        .env("ROOT", root())
        .output()
        .expect("bash runs")
}

/// The same, and it has to succeed; returns standard output.
pub fn succeed(folder: &Path, script: &str) -> String {
    let output = shell(folder, script);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{script}\n{:?}\n{}{}",
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// A folder with what the README's pipelines begin with: `base/` (a tiny llama that can chat), `notes.csv`, and a
/// reference run's `reference.jsonl` and `adapter_init/`.
pub struct Scene(tempfile::TempDir);

impl Scene {
    pub fn new() -> Scene {
        let scene = Scene(tempfile::tempdir().expect("a temporary folder"));
        copy(&data("models/llama-tied"), &scene.path().join("base"));
        copy(&data("tiny-chat"), &scene.path().join("base"));
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

    fn write(&self, name: &str, text: &str) {
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
    let bytes = fs::read(data("train20-f32/data.safetensors")).expect("the reference run");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("it is safetensors");
    let rows = |key: &str| -> Vec<Vec<i64>> {
        let view = file.tensor(key).expect("the key is there");
        let width = *view.shape().last().expect("a shape");
        let values = view.data().chunks_exact(8);
        let values: Vec<i64> = values
            .map(|b| i64::from_le_bytes(b.try_into().expect("8")))
            .collect();
        values.chunks_exact(width).map(<[i64]>::to_vec).collect()
    };
    let lines = rows("input_ids").into_iter().zip(rows("labels"));
    let lines = lines
        .map(|(ids, labels)| serde_json::json!({ "input_ids": ids, "labels": labels }).to_string());
    lines.map(|line| line + "\n").collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a temporary folder can be written to");
    for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())) {
        let entry = entry.expect("a folder can be read");
        if entry.path().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("it can be copied");
        }
    }
}
