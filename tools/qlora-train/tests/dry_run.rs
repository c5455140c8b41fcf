//! Does --dry-run say what a run takes, and write nothing?

mod common;
mod work;

use std::{fs, path::Path};

use common::{examples, pack, succeed};
use work::{Work, refused};
use workspace_tests::data;

#[test]
fn a_dry_run_says_the_steps_and_writes_nothing() {
    let work = Work::new();
    let output = succeed(&mut work.train_with("run", &["--dry-run"]));
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert!(plan["optimizer_steps"].as_u64() > Some(0), "{plan}");
    assert!(plan["memory_bytes"]["total"].as_u64() > Some(0), "{plan}");
    assert!(!work.path("run").exists());
}

#[test]
fn a_dry_run_counts_the_steps_to_come_and_refuses_what_a_run_refuses() {
    let work = Work::new();
    let plan = |flags: &[&str]| -> (String, f64) {
        let output = succeed(work.train_with("run", flags).arg("--dry-run"));
        let plan: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
        let run = plan["run"].as_str().expect("a sentence").to_owned();
        (run, plan["flop"].as_f64().expect("a number"))
    };
    let (run, four) = plan(&["--max-steps", "4"]);
    assert_eq!(run, "begins");
    let (_, two) = plan(&["--max-steps", "2"]);
    assert_eq!(four, 2.0 * two);
    let train = ["--max-steps", "4"];
    succeed(&mut work.train_with("run", &train));
    assert_eq!(plan(&train), ("is finished".into(), 0.0));
    for step in [3, 4] {
        let path = format!("run/checkpoints/checkpoint-{step}");
        fs::remove_dir_all(work.path(&path)).expect("it goes");
    }
    assert_eq!(plan(&train), ("resumes after step 2".into(), two));
    fs::create_dir(work.path("foreign")).expect("a folder");
    fs::write(work.path("foreign/metrics.jsonl"), "").expect("a file");
    let before = work.read("run/config.json");
    for (run, flags, message) in [
        (
            "run",
            &["--seed", "1"][..],
            "holds another run: seed was 0, is 1",
        ),
        ("new", &["--resume", "require"], "there is no run to resume"),
        (
            "foreign",
            &[],
            "it holds metrics.jsonl and is no run's folder",
        ),
        (
            "new",
            &["--attention", "flash"],
            "the CPU has one of its own",
        ),
    ] {
        refused(
            work.train_with(run, &[&train[..], flags].concat())
                .arg("--dry-run"),
            2,
            message,
        );
    }
    assert!(before == work.read("run/config.json") && !work.path("new").exists());
}

#[test]
fn the_planner_recomputes_more_layers_the_less_memory_it_is_given() {
    let work = Work::new();
    let recomputed = |memory: &str| {
        let flags = ["--dry-run", "--max-memory", memory];
        let output = succeed(&mut work.train_with("run", &flags));
        let plan: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
        plan["layers_recomputed"].as_u64().expect("a number")
    };
    assert_eq!(recomputed("8GiB"), 0);
    let output =
        succeed(&mut work.train_with("run", &["--dry-run", "--activation-checkpointing", "on"]));
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(all["layers_recomputed"], 2);
    let least = all["memory_bytes"]["total"].as_u64().expect("a number");
    assert_eq!(recomputed(&least.to_string()), 2);
    refused(
        &mut work.train_with("run", &["--dry-run", "--max-memory", "1MiB"]),
        2,
        "--batch-size",
    );
    let all = all["memory_bytes"]["total"].as_u64().expect("a number") + (1 << 20);
    for (setting, memory, hint) in [
        ("on", 1 << 20, "--batch-size"),
        ("off", all, "hint: --activation-checkpointing auto"),
    ] {
        let memory = memory.to_string();
        let flags = [
            "--activation-checkpointing",
            setting,
            "--max-memory",
            &memory,
        ];
        refused(
            &mut work.train_with("run", &[&flags[..], &["--batch-size", "16"]].concat()),
            2,
            hint,
        );
    }
    let one_row = ["--batch-size", "1", "--rank", "1000000"];
    refused(
        work.train_with("run", &one_row)
            .args(["--max-memory", "1GiB"]),
        2,
        "hint: a lower --rank takes less",
    );
}

#[test]
fn a_dry_run_counts_the_rows_that_are_evaluated_and_a_checkpoint_that_is_being_written() {
    let work = Work::new();
    let plan = |flags: &[&str]| -> serde_json::Value {
        let output = succeed(work.train_with("run", flags).arg("--dry-run"));
        serde_json::from_slice(&output.stdout).expect("it is JSON")
    };
    let flags = [
        "--rank",
        "64",
        "--save-steps",
        "1",
        "--save-total-limit",
        "1",
    ];
    let short = plan(&flags);
    succeed(&mut work.train_with("run", &flags));
    let checkpoint = work.path("run/checkpoints/checkpoint-1");
    assert!(!checkpoint.exists(), "older ones go");
    let last = work.path(&format!("run/checkpoints/checkpoint-{}", work.steps("run")));
    let most = bytes(&work.path("run")) + bytes(&last);
    let said = short["disk_bytes"].as_u64().expect("a number");
    assert!(
        (most..most + most / 2).contains(&said),
        "{said}, and it takes {most}"
    );

    let long = |(ids, _): (Vec<i64>, Vec<i64>)| -> (Vec<i64>, Vec<i64>) {
        let ids: Vec<i64> = ids.iter().cycle().take(16000).copied().collect();
        (ids.clone(), ids)
    };
    let rows = examples(2, 2).map(long);
    let flags = ["--max-seq-length", "16000"];
    let valid = work.path("valid.safetensors");
    pack(rows, &data("models/llama-tied"), &flags, &valid);
    let total = |plan: &serde_json::Value| plan["memory_bytes"]["total"].as_u64();
    let with_long = plan(&["--overwrite"]);
    assert!(total(&with_long) > total(&short), "{with_long}");
}

/// Bytes of all files in a folder.
fn bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).expect("it is there").flatten();
    let sizes = entries.map(|entry| match entry.path().is_dir() {
        true => bytes(&entry.path()),
        false => entry.metadata().expect("a size").len(),
    });
    sizes.sum()
}
