//! What a run promises, seen from outside: same bytes, resumed or not; whole outputs; clear refusals.

mod common;
mod work;

use std::{
    fs,
    path::{Path, PathBuf},
};

use common::{adapter_values, examples, pack, succeed};
use work::{Work, refused};
use workspace_tests::{data, exits, text, tool};

#[test]
fn a_run_taken_up_at_any_checkpoint_ends_in_the_same_bytes_as_one_that_was_never_stopped() {
    let work = Work::new();
    let flags = ["--eval-steps", "2", "--logging-steps", "4"];
    succeed(&mut work.train_with("whole", &flags));
    let metrics = work.read("whole/metrics.jsonl");
    let rows = text(&metrics);
    let rows = rows.lines().filter(|row| row.contains("eval_loss"));
    let evaluated: Vec<&str> = rows.filter_map(|row| row.rsplit(':').next()).collect();
    assert!(
        evaluated.starts_with(&["0}", "2}", "3}", "4}"]),
        "{evaluated:?}"
    );
    succeed(&mut work.train_with("resumed", &flags));
    let checkpoints = work.path("resumed/checkpoints");
    let mut steps: Vec<u64> = fs::read_dir(&checkpoints)
        .expect("there are checkpoints")
        .map(|e| {
            e.expect("an entry")
                .file_name()
                .into_string()
                .expect("a name")
        })
        .map(|name| name["checkpoint-".len()..].parse().expect("a step"))
        .collect();
    steps.sort_unstable();
    assert!(steps.len() >= 3, "{steps:?}");
    while steps.pop().is_some_and(|_| steps.len() > 1) {
        for entry in fs::read_dir(&checkpoints).expect("there are checkpoints") {
            let path = entry.expect("an entry").path();
            let kept = steps
                .iter()
                .any(|step| path.ends_with(format!("checkpoint-{step}")));
            if !kept {
                fs::remove_dir_all(path).expect("it goes");
            }
        }
        fs::remove_dir_all(work.path("resumed/adapter")).expect("it goes");
        succeed(&mut work.train_with("resumed", &[&flags[..], &["--resume", "require"]].concat()));
        work.assert_same_result("whole", "resumed");
    }
}

#[test]
fn the_number_of_threads_and_recomputation_change_no_bit() {
    let work = Work::new();
    succeed(&mut work.train_with(
        "one",
        &["--threads", "1", "--activation-checkpointing", "off"],
    ));
    succeed(&mut work.train_with(
        "three",
        &["--threads", "3", "--activation-checkpointing", "on"],
    ));
    work.assert_same_result("one", "three");
}

#[test]
fn config_json_does_the_run_again() {
    let work = Work::new();
    succeed(&mut work.train_with(
        "first",
        &["--seed", "7", "--dropout", "0.1", "--warmup-steps", "1"],
    ));
    let mut again = tool("qlora-train");
    again
        .arg("--config")
        .arg(work.path("first/config.json"))
        .arg("--out-dir")
        .arg(work.path("again"));
    succeed(&mut again);
    work.assert_same_result("first", "again");
}

#[test]
fn a_part_of_an_epoch_and_a_scheduler_with_parameters_are_in_the_config_too() {
    let work = Work::new();
    let flags = [
        "--lr-scheduler",
        "cosine_with_min_lr",
        "--lr-scheduler-kwargs",
        "min_lr_rate=0.1",
    ];
    let plan = succeed(
        work.train_with("run", &["--epochs", "1.5"])
            .arg("--dry-run"),
    );
    let plan: serde_json::Value = serde_json::from_slice(&plan.stdout).expect("it is JSON");
    let [all, one] = ["optimizer_steps", "steps_per_epoch"].map(|key| plan[key].as_u64().unwrap());
    assert_eq!(all, (3 * one).div_ceil(2));
    succeed(&mut work.train_with("run", &[&flags[..], &["--epochs", "1.5"]].concat()));
    assert_eq!(work.steps("run") as u64, all);
    let mut again = tool("qlora-train");
    again.arg("--config").arg(work.path("run/config.json"));
    succeed(again.arg("--out-dir").arg(work.path("again")));
    work.assert_same_result("run", "again");
}

#[test]
fn an_rslora_is_scaled_by_the_root_of_its_rank() {
    let work = Work::new();
    succeed(&mut work.train_with("plain", &["--rank", "4", "--alpha", "32"]));
    let rslora = ["--rank", "4", "--alpha", "16", "--use-rslora"];
    succeed(&mut work.train_with("rslora", &rslora));
    let weights = |run: &str| work.read(&format!("{run}/adapter/adapter_model.safetensors"));
    assert!(weights("plain") == weights("rslora"), "32 / 4 is 16 / 2");
    let config = work.read("rslora/adapter/adapter_config.json");
    let config: serde_json::Value = serde_json::from_slice(&config).expect("it is JSON");
    assert_eq!(config["use_rslora"], true);
}

#[test]
fn eight_rows_at_once_and_one_row_eight_times_are_the_same_step() {
    let work = Work::new();
    for (run, batch, accumulation) in [("wide", "8", "1"), ("long", "1", "8")] {
        let flags = [
            "--batch-size",
            batch,
            "--gradient-accumulation-steps",
            accumulation,
            "--dropout",
            "0",
            "--compute-dtype", // bf16 is for batches: one short row is multiplied in f32
            "f32",
        ];
        succeed(&mut work.train_with(run, &flags));
    }
    let (wide, long) = (work.path("wide/adapter"), work.path("long/adapter"));
    for ((key, wide), (_, long)) in adapter_values(&wide).iter().zip(adapter_values(&long)) {
        let worst = wide
            .iter()
            .zip(&long)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(wide.iter().chain(&long).all(|v| v.is_finite()), "{key}");
        let largest = wide.iter().fold(0f32, |m, v| m.max(v.abs()));
        // Sums of f32 in another order; Adam divides by small second moments in the first steps.
        assert!(worst <= 1e-3 * largest, "{key}: {worst} of {largest}");
    }
}

#[test]
fn a_finished_run_asked_for_again_is_left_as_it_is() {
    let work = Work::new();
    succeed(&mut work.train("run"));
    let before = work.read("run/adapter/adapter_model.safetensors");
    let written = |path: &Path| {
        fs::metadata(path)
            .and_then(|m| m.modified())
            .expect("it is there")
    };
    let names = [
        "adapter/adapter_model.safetensors",
        "metrics.jsonl",
        "events.out.tfevents",
    ];
    let files = names.map(|name| work.path("run").join(name));
    let times = files.each_ref().map(|file| written(file));
    succeed(&mut work.train("run"));
    assert!(before == work.read("run/adapter/adapter_model.safetensors"));
    let now = files.each_ref().map(|file| written(file));
    assert_eq!(times, now, "a finished run writes nothing");
}

#[test]
fn a_folder_with_another_run_is_refused_unless_it_may_be_overwritten() {
    let work = Work::new();
    succeed(&mut work.train("run"));
    let before = work.read("run/adapter/adapter_model.safetensors");
    refused(
        &mut work.train_with("run", &["--seed", "1"]),
        2,
        "seed was 0, is 1",
    );
    refused(
        &mut work.train_with("run", &["--resume", "never"]),
        2,
        "holds a run already",
    );
    assert!(before == work.read("run/adapter/adapter_model.safetensors"));
    succeed(&mut work.train_with("run", &["--seed", "1", "--overwrite"]));
    assert!(before != work.read("run/adapter/adapter_model.safetensors"));
}

#[test]
fn other_data_under_the_same_name_is_another_run() {
    let work = Work::new();
    succeed(&mut work.train("run"));
    let base = data("models/llama-tied");
    pack(
        examples(40, 3),
        &base,
        &["--max-seq-length", "64"],
        &work.path("train.safetensors"),
    );
    refused(&mut work.train("run"), 2, "train-shards was");
}

#[test]
fn rows_without_a_supervised_token_are_left_out_and_told() {
    let work = Work::new();
    let base = data("models/llama-tied");
    // Cut at 16 tokens, every other row is a part of a prompt.
    let long_prompts = examples(12, 4).map(|(ids, _)| {
        let ids: Vec<i64> = ids.iter().cycle().take(32).copied().collect();
        let labels = ids.iter().enumerate();
        let labels = labels.map(|(i, &id)| if i < 20 { -100 } else { id });
        (ids.clone(), labels.collect())
    });
    let flags = ["--packing", "wrapped", "--max-seq-length", "16"];
    pack(long_prompts, &base, &flags, &work.path("train.safetensors"));
    let one_row = ["--batch-size", "1", "--gradient-accumulation-steps", "1"];
    let output = succeed(work.train_with("run", &one_row).arg("--dry-run"));
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(plan["rows"], 12, "{plan}");
    let output = work
        .train_with("run", &one_row)
        .output()
        .expect("it starts");
    let said = text(&output.stderr);
    let told = "train.safetensors: 12 of 24 rows have no supervised token and are left out";
    assert_eq!(said.matches(told).count(), 1, "{said}");
    assert!(output.status.code() < Some(2), "{said}");
    assert_eq!(work.steps("run"), 24);
}

#[test]
fn the_config_of_a_run_names_the_type_that_auto_came_to() {
    let work = Work::new();
    succeed(&mut work.train("run"));
    let config: serde_json::Value =
        serde_json::from_slice(&work.read("run/config.json")).expect("it is JSON");
    let chosen = config["compute-dtype"].as_str().expect("a name");
    assert!(["f32", "bf16"].contains(&chosen), "{chosen}");
    let other = if chosen == "f32" { "bf16" } else { "f32" };
    let mut again = work.train_with("run", &["--compute-dtype", other]);
    refused(&mut again, 2, "compute-dtype was");
}

#[test]
fn a_run_that_made_nothing_better_says_so_with_quiet_too_and_again_when_asked_again() {
    let work = Work::new();
    // From weights that know the evaluation rows, with steps that forget everything, on other rows.
    succeed(&mut work.train_with("good", &["--epochs", "10"]));
    pack(
        examples(8, 2),
        &data("models/llama-tied"),
        &["--max-seq-length", "64"],
        &work.path("train.safetensors"),
    );
    let good = work.path("good/adapter").display().to_string();
    let steps = ["--learning-rate", "1", "--warmup-ratio", "0", "--quiet"];
    let flags = [&["--init-adapter", &good][..], &steps[..]].concat();
    for _ in 0..2 {
        let output = exits(&mut work.train_with("run", &flags), 1);
        let said = text(&output.stderr);
        let why = "qlora-train: no evaluation was better than the start on the evaluation rows: eval loss ";
        assert!(said.starts_with(why), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let better = succeed(&mut Work::new().train_with("better", &["--quiet"]));
    assert!(better.stderr.is_empty(), "{better:?}");
}

#[test]
fn no_better_than_before_is_said_of_weights_that_have_moved_and_the_same_rows_twice_are_told() {
    let work = Work::new();
    let said = |run: &str, flags: &[&str]| {
        // A run of six epochs of one step, the first of which has a rate of 0.
        let one_step = [
            "--batch-size",
            "40",
            "--epochs",
            "6",
            "--learning-rate",
            "1e-9",
        ];
        let output = work
            .train_with(run, &[&one_step[..], flags].concat())
            .output();
        text(&output.expect("it starts").stderr).to_owned()
    };
    let warmed_up = said("run", &["--early-stopping-patience", "1"]);
    let first = warmed_up.lines().find(|line| line.contains("epoch 1.00"));
    assert!(
        !first.expect("an epoch").contains("overfitting"),
        "{warmed_up}"
    );
    assert!(warmed_up.contains("epoch 2.00"), "{warmed_up}");
    assert!(!warmed_up.contains("warning"), "{warmed_up}");
    let train = work.path("train.safetensors");
    let twice = said("twice", &["--eval", train.to_str().expect("a path")]);
    assert!(
        twice.contains("train.safetensors: is trained on and evaluated on"),
        "{twice}"
    );
}

#[test]
fn a_missing_run_is_not_resumed() {
    let work = Work::new();
    refused(
        &mut work.train_with("run", &["--resume", "require"]),
        2,
        "no run to resume",
    );
    assert!(!work.path("run").exists());
}

#[test]
fn bad_inputs_are_refused_before_anything_is_written() {
    let work = Work::new();
    let cases: [(&[&str], &str); 15] = [
        (&["--base", "nowhere"], "nowhere"),
        (&["--train", "nowhere.safetensors"], "nowhere.safetensors"),
        (&["--target-modules", "q_proj,router"], "\"router\""),
        (&["--learning-rate", "fast"], "must be a number"),
        (&["--init-adapter", "nowhere"], "nowhere"),
        (&["--device", "cuda:0"], "cuda:0"),
        (&["--attention", "flash"], "the CPU has one of its own"),
        (&["--attention", "fast"], "one of auto, flash, chunked"),
        (&["--learning-rate", "0"], "with 0 nothing is learned"),
        (&["--alpha", "0"], "with 0 nothing is learned"),
        (&["--threads", "1025"], "1025 is not in 1..=1024"),
        (&["--rank", "100000000000"], "is not in 1..=1048576"),
        (&["--train", "."], ".: a folder, not a packed file"),
        (
            &["--early-stopping-patience", "2"],
            "hint: --eval FILE takes packed rows",
        ),
        (
            &["--eval-steps", "2"],
            "hint: --eval FILE takes packed rows",
        ),
    ];
    for (flags, message) in cases {
        let mut command = tool("qlora-train");
        let mut given: Vec<(String, PathBuf)> = vec![
            ("--base".into(), data("models/llama-tied")),
            ("--train".into(), work.path("train.safetensors")),
            ("--out-dir".into(), work.path("run")),
        ];
        match given.iter_mut().find(|(name, _)| name == flags[0]) {
            Some(slot) => slot.1 = flags[1].into(),
            None => given.push((flags[0].into(), flags[1].into())),
        }
        for (name, value) in given {
            command.arg(name).arg(value);
        }
        let output = command.output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {said}");
        assert!(said.contains(message), "{flags:?}: {said}");
        assert!(
            !work.path("run/config.json").exists(),
            "{flags:?} left a run"
        );
    }
}

#[test]
fn a_damaged_shard_is_told_by_name() {
    let work = Work::new();
    let shard = work.path("train.safetensors");
    let bytes = fs::read(&shard).expect("it is there");
    for length in [0, 7, 100, bytes.len() - 1] {
        fs::write(&shard, &bytes[..length]).expect("it is written");
        refused(&mut work.train("run"), 2, "train.safetensors");
    }
}

#[test]
fn a_run_goes_on_with_other_checkpoints_or_patience_and_not_with_more_epochs() {
    let work = Work::new();
    succeed(&mut work.train("whole"));
    succeed(&mut work.train("run"));
    fs::remove_dir_all(work.path("run/adapter")).expect("it goes");
    for step in 4..=work.steps("run") {
        let _ = fs::remove_dir_all(work.path(&format!("run/checkpoints/checkpoint-{step}")));
    }
    for epochs in [
        &["--epochs", "3"][..],
        &["--epochs", "3", "--resume", "require"],
    ] {
        refused(
            &mut work.train_with("run", epochs),
            2,
            ": epochs was 2, is 3\nhint: ",
        );
        refused(
            &mut work.train_with("run", epochs),
            2,
            "--init-adapter RUN/adapter begins",
        );
    }
    let flags = [
        "--save-steps",
        "3",
        "--early-stopping-patience",
        "9",
        "--save-total-limit",
        "8",
    ];
    let output = succeed(&mut work.train_with("run", &flags));
    let said = text(&output.stderr);
    assert!(
        said.contains("going on, and early-stopping-patience was 0, is 9, save-steps was 2, is 3, save-total-limit was 9, is 8\n"),
        "{said}"
    );
    work.assert_same_result("whole", "run");
    let config: serde_json::Value =
        serde_json::from_slice(&work.read("run/config.json")).expect("it is JSON");
    assert_eq!(config["save-steps"], 3);
}

#[test]
fn precision_scheduler_targets_and_clipping_each_change_what_is_learned() {
    let work = Work::new();
    // In bf16 every weight is rounded, whatever --dtype says.
    let f32 = ["--compute-dtype", "f32"];
    succeed(&mut work.train_with("plain", &f32));
    let plain = work.read("plain/adapter/adapter_model.safetensors");
    let variants: [&[&str]; 11] = [
        &["--no-double-quant"],
        &["--dtype", "bf16"],
        &["--quantize", "none"],
        &["--lr-scheduler", "linear"],
        &[
            "--lr-scheduler",
            "polynomial",
            "--lr-scheduler-kwargs",
            "power=2",
        ],
        &["--warmup-ratio", "0.5"],
        &["--warmup-steps", "2"],
        &["--weight-decay", "0.5"],
        &["--max-grad-norm", "0.1"],
        &["--target-modules", "q_proj,v_proj"],
        &["--no-shuffle"],
    ];
    for flags in variants {
        succeed(
            work.train_with("other", &[flags, &f32].concat())
                .arg("--overwrite"),
        );
        let other = work.read("other/adapter/adapter_model.safetensors");
        assert!(plain != other, "{flags:?} changed nothing");
    }
}
