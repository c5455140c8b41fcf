//! Two optimizer steps on a CUDA driver that runs on the host (tests/emulation/driver), beside the CPU's.
//!
//! What is proven is the way of a run through CubeCL's CUDA runtime: enumeration, memory, pitched copies,
//! streams that work as late as they may, the text of every kernel of ours and of burn's as NVRTC gets
//! it, and that no kernel touches a byte outside of its arguments. It is not proven on a GPU by this.
#![cfg(feature = "cuda")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{examples, pack, succeed};
use serde_json::Value;
use workspace_tests::{data, root, tool};

/// The folder of the driver, built there; nothing, said aloud, where there is no compiler. Kernels that
/// were compiled once stay in it.
fn driver() -> Option<PathBuf> {
    if Command::new("g++").arg("--version").output().is_err() {
        workspace_tests::skip("there is no g++ to compile the driver and the kernels");
        return None;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("driver");
    let build = root().join("tests/emulation/driver/build");
    succeed(Command::new("sh").arg(build).arg(&folder));
    Some(folder)
}

/// Loss and norm of the gradients at each of two steps.
fn steps(device: &str, driver: &Path, work: &Path) -> Vec<[f64; 2]> {
    let run = work.join(device.replace(':', ""));
    let mut command = tool("qlora-train");
    command
        .env("LD_LIBRARY_PATH", driver)
        .env("CUDA_PATH", driver)
        .arg("--base")
        .arg(data("models/llama-tied"))
        .arg("--train")
        .arg(work.join("train.safetensors"))
        .arg("--out-dir")
        .arg(&run)
        .args(["--device", device, "--compute-dtype", "f32"])
        .args(["--max-steps", "2", "--rank", "4"])
        .args(["--batch-size", "2", "--gradient-accumulation-steps", "2"]);
    succeed(&mut command);
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).expect("the run has metrics");
    let rows = metrics.lines().map(|line| {
        let row: Value = serde_json::from_str(line).expect("a row");
        ["loss", "grad_norm"].map(|key| row[key].as_f64().expect("a number"))
    });
    rows.collect()
}

#[test]
fn two_steps_on_an_emulated_gpu_are_those_of_the_cpu() {
    let Some(driver) = driver() else { return };
    let work = tempfile::tempdir().expect("a temporary folder");
    let base = data("models/llama-tied");
    let shard = work.path().join("train.safetensors");
    pack(examples(24, 5), &base, &["--max-seq-length", "48"], &shard);
    let expected = steps("cpu", &driver, work.path());
    let got = steps("cuda:0", &driver, work.path());
    assert_eq!((got.len(), expected.len()), (2, 2));
    for (got, expected) in got.iter().flatten().zip(expected.iter().flatten()) {
        // f32 that is summed in another order: 5e-6 when this was written.
        let error = (got - expected).abs() / expected;
        assert!(error <= 1e-4, "{got}, and on the CPU {expected}");
    }
}
