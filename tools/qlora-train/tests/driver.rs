//! Two optimizer steps on a CUDA driver that runs on the host (tests/emulation/driver), beside the CPU's.
//!
//! What is proven is the way of a run through CubeCL's CUDA runtime: enumeration, memory, pitched copies,
//! streams that work as late as they may, the text of every kernel of ours and of burn's as NVRTC gets
//! it, and that no kernel touches a byte outside of its arguments. It is not proven on a GPU by this.
#![cfg(feature = "cuda")]

mod common;

use std::collections::BTreeMap;

use common::{examples, pack, succeed};
use serde_json::Value;
use workspace_tests::{Driver, data, tool};

/// What a run on some device said: loss and norm of the gradients at each of two steps, its standard error, and
/// the kernels that were launched, with how often.
struct Run {
    steps: Vec<[f64; 2]>,
    said: String,
    launches: BTreeMap<String, u64>,
}

/// A folder with what is trained on, and the driver.
struct Scene {
    work: tempfile::TempDir,
    driver: Driver,
}

impl Scene {
    fn new() -> Option<Scene> {
        let driver = Driver::built()?;
        let work = tempfile::tempdir().expect("a temporary folder");
        let base = data("models/llama-tied");
        let shard = work.path().join("train.safetensors");
        pack(examples(24, 5), &base, &["--max-seq-length", "48"], &shard);
        Some(Scene { work, driver })
    }

    /// Two steps, `settings` being the emulated machine's.
    fn run(&self, device: &str, compute: &str, settings: &[(&str, &str)]) -> Run {
        let work = self.work.path();
        let out = tempfile::tempdir_in(work).expect("a folder for the run");
        let (run, log) = (out.path().join("run"), out.path().join("launches"));
        let mut command = tool("qlora-train");
        self.driver
            .lend(&mut command, settings)
            .env("EMULATED_LOG", &log)
            .arg("--base")
            .arg(data("models/llama-tied"))
            .arg("--train")
            .arg(work.join("train.safetensors"))
            .arg("--out-dir")
            .arg(&run)
            .args(["--device", device, "--compute-dtype", compute])
            .args(["--max-steps", "2", "--rank", "4"])
            .args(["--batch-size", "2", "--gradient-accumulation-steps", "2"]);
        let output = succeed(&mut command);
        let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).expect("it has metrics");
        let rows = metrics.lines().map(|line| {
            let row: Value = serde_json::from_str(line).expect("a row");
            ["loss", "grad_norm"].map(|key| row[key].as_f64().expect("a number"))
        });
        let launches = std::fs::read_to_string(log).unwrap_or_default();
        let counted = launches.lines().map(|line| {
            let (count, name) = line.split_once(' ').expect("a count and a name");
            (name.to_string(), count.parse().expect("a count"))
        });
        Run {
            steps: rows.collect(),
            said: String::from_utf8_lossy(&output.stderr).into_owned(),
            launches: counted.collect(),
        }
    }
}

impl Run {
    fn is_near(&self, expected: &Run, tolerance: f64) {
        assert_eq!((self.steps.len(), expected.steps.len()), (2, 2));
        let pairs = self
            .steps
            .iter()
            .flatten()
            .zip(expected.steps.iter().flatten());
        for (got, expected) in pairs {
            let error = (got - expected).abs() / expected;
            assert!(error <= tolerance, "{got}, and {expected} was expected");
        }
    }

    /// Launches of kernels whose names hold `part`.
    fn launched(&self, part: &str) -> u64 {
        let named = self.launches.iter().filter(|(name, _)| name.contains(part));
        named.map(|(_, count)| count).sum()
    }
}

/// f32 that is summed in another order: 5e-6 when this was written.
const SUMMED_OTHERWISE: f64 = 1e-4;
/// bf16 keeps 8 bits of each activation.
const ROUNDED: f64 = 2e-2;

#[test]
fn two_steps_on_an_emulated_gpu_are_those_of_the_cpu_without_a_cublas_that_multiplies_right() {
    let Some(scene) = Scene::new() else { return };
    let expected = scene.run("cpu", "f32", &[]);
    for (cublas, why) in [
        ("absent", "cublasCreate says"),
        ("wrong", "it multiplies wrongly"),
    ] {
        let got = scene.run("cuda:0", "f32", &[("EMULATED_CUBLAS", cublas)]);
        got.is_near(&expected, SUMMED_OTHERWISE);
        assert!(got.launched("matmul") > 0, "{:?}", got.launches);
        let said = format!("products: CubeCL's matmuls, not cuBLAS: {why}");
        assert!(got.said.contains(&said), "{}", got.said);
    }
}

#[test]
fn products_are_cublass_where_there_is_one_and_in_order_with_all_other_work() {
    let Some(scene) = Scene::new() else { return };
    let expected = scene.run("cpu", "f32", &[]);
    // The older driver has no events of a context, so that the host waits. A product that is early needs what
    // was asked for before it, one that is late what comes after must wait for.
    for (driver, when) in [("12040", "late"), ("12060", "late"), ("12060", "early")] {
        let machine = [("EMULATED_DRIVER", driver), ("EMULATED_CUBLAS", when)];
        let got = scene.run("cuda:0", "f32", &machine);
        got.is_near(&expected, SUMMED_OTHERWISE);
        assert!(got.said.contains("products: cuBLAS 12.4"), "{}", got.said);
        assert!(got.launched("cublasGemmEx") > 100, "{:?}", got.launches);
        assert_eq!(got.launched("matmul"), 0, "{:?}", got.launches);
    }
    let rounded = scene.run("cuda:0", "bf16", &[("EMULATED_DRIVER", "12060")]);
    assert!(
        rounded.launched("cublasGemmEx") > 100,
        "{:?}",
        rounded.launches
    );
    rounded.is_near(&expected, ROUNDED);
    assert_ne!(rounded.steps, expected.steps);
}
