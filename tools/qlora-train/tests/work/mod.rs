//! A run of a tiny llama, and what is asked of it.
#![allow(dead_code)] // each test binary uses some

use std::{fs, path::PathBuf, process::Command};

use workspace_tests::{data, tool};

use crate::common::{examples, pack};

/// A folder with packed training and evaluation rows for the tiny llama.
pub struct Work {
    pub dir: tempfile::TempDir,
}

impl Work {
    pub fn new() -> Self {
        let work = Self {
            dir: tempfile::tempdir().expect("a temporary folder"),
        };
        let base = data("models/llama-tied");
        pack(
            examples(40, 1),
            &base,
            &["--max-seq-length", "64"],
            &work.path("train.safetensors"),
        );
        pack(
            examples(8, 1),
            &base,
            &["--max-seq-length", "64"],
            &work.path("valid.safetensors"),
        );
        work
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A short run with dropout and evaluation into `run`.
    pub fn train(&self, run: &str) -> Command {
        self.train_with(run, &[])
    }

    /// The same with some flags given other values, or more flags.
    pub fn train_with(&self, run: &str, flags: &[&str]) -> Command {
        let defaults = [
            ("--epochs", "2"),
            ("--batch-size", "2"),
            ("--gradient-accumulation-steps", "2"),
            ("--rank", "4"),
            ("--learning-rate", "1e-2"),
            ("--save-steps", "2"),
            ("--save-total-limit", "9"),
        ];
        let mut command = tool("qlora-train");
        command
            .arg("--base")
            .arg(data("models/llama-tied"))
            .arg("--train")
            .arg(self.path("train.safetensors"))
            .arg("--eval")
            .arg(self.path("valid.safetensors"))
            .arg("--out-dir")
            .arg(self.path(run));
        for (flag, value) in defaults {
            let brought = flag == "--rank" && flags.contains(&"--init-adapter");
            if !flags.contains(&flag) && !brought {
                command.args([flag, value]);
            }
        }
        command.args(flags);
        command
    }

    /// Steps that a run's metrics tell of.
    pub fn steps(&self, run: &str) -> usize {
        let metrics = String::from_utf8(self.read(&format!("{run}/metrics.jsonl"))).unwrap();
        metrics.matches("\"grad_norm\"").count()
    }

    pub fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub fn assert_same_result(&self, one: &str, other: &str) {
        for file in [
            "metrics.jsonl",
            "events.out.tfevents",
            "adapter/adapter_model.safetensors",
            "adapter/adapter_config.json",
        ] {
            let [a, b] = [one, other].map(|run| self.read(&format!("{run}/{file}")));
            assert!(a == b, "{file} of {one} and {other} differ");
        }
    }
}

pub fn refused(command: &mut Command, status: i32, message: &str) {
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert!(said.contains(message), "{said}");
    assert!(said.lines().count() <= 3, "{said}");
}
