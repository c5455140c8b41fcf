//! What do all tests of the workspace need? Its folder, its tools, a tiny base, a place to work in.

mod driver;
mod process;
mod scene;

pub use driver::Driver;
pub use process::{bin, exits, gpu_program, hostile, run, shell, succeed, text, tool};
pub use scene::Scene;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

/// The workspace's folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the workspace")
}

/// Says that the running test is skipped for want of something that can be had; where FORBID_SKIPPED_TESTS is set that
/// is a failure.
#[track_caller]
pub fn skip(want: &str) {
    let forbidden = std::env::var_os("FORBID_SKIPPED_TESTS").is_some();
    assert!(!forbidden, "FORBID_SKIPPED_TESTS is set, and {want}");
    skip_here(want);
}

/// The same where this machine is not one on which the test means anything. Not by `eprintln!`, which the harness keeps
/// to itself as long as a test passes.
pub fn skip_here(why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
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

/// The files of a folder, not its folders; what is there already stays.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a temporary folder can be written to");
    for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())) {
        let entry = entry.expect("a folder can be read");
        if entry.path().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("it can be copied");
        }
    }
}

/// A tiny llama or the like with random weights, which can chat.
pub fn tiny_base(model: &str, to: &Path) {
    copy(&data("models").join(model), to);
    copy(&data("tiny-chat"), to);
}

/// The batches of a reference run, row by row: its token ids and its labels.
pub fn reference_rows(run: &str) -> impl Iterator<Item = (Vec<i64>, Vec<i64>)> {
    let bytes = fs::read(data(run).join("data.safetensors")).expect("the reference run");
    let file = SafeTensors::deserialize(&bytes).expect("it is safetensors");
    let rows = |key: &str| -> Vec<Vec<i64>> {
        let view = file.tensor(key).expect("the key is there");
        let width = *view.shape().last().expect("a shape");
        let values = view.data().chunks_exact(8);
        let values: Vec<i64> = values
            .map(|b| i64::from_le_bytes(b.try_into().expect("8")))
            .collect();
        values.chunks_exact(width).map(<[i64]>::to_vec).collect()
    };
    rows("input_ids").into_iter().zip(rows("labels"))
}
