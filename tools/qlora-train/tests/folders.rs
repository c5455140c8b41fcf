//! What a run does to folders: it harms none that is not its own, leaves nothing half-written, and says the
//! way out of what is damaged.

mod common;
mod work;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{adapter_values, succeed};
use work::{Work, refused};
use workspace_tests::{data, exits, text, tiny_base, tool};

/// A copy of the base that a test may damage.
fn own_base(work: &Work) -> PathBuf {
    let base = work.path("base");
    fs::create_dir(&base).unwrap();
    for file in fs::read_dir(data("models/llama-tied")).unwrap().flatten() {
        if file.path().is_file() {
            fs::copy(file.path(), base.join(file.file_name())).unwrap();
        }
    }
    base
}

/// A short run over that copy.
fn train_over(base: &Path, work: &Work) -> Command {
    let mut command = tool("qlora-train");
    command.arg("--base").arg(base);
    command.arg("--train").arg(work.path("train.safetensors"));
    command.arg("--out-dir").arg(work.path("run"));
    command.args(["--batch-size", "2", "--max-steps", "2"]);
    command
}

#[test]
fn a_folder_that_is_no_runs_is_left_as_it_is_whatever_the_flags() {
    let work = Work::new();
    let base = own_base(&work);
    let config = fs::read(base.join("config.json")).unwrap();
    let foreign = work.path("foreign");
    fs::create_dir_all(foreign.join("checkpoints")).unwrap();
    fs::write(foreign.join("checkpoints/precious"), "mine").unwrap();
    for flags in [&[][..], &["--overwrite"], &["--resume", "never"]] {
        refused(
            &mut work.train_with("base", flags),
            2,
            "base: it holds config.json and is no run's folder",
        );
        let mut over_the_base = tool("qlora-train");
        for flag in ["--base", "--out-dir"] {
            over_the_base.arg(flag).arg(&base);
        }
        let train = work.path("train.safetensors");
        over_the_base.arg("--train").arg(train).args(flags);
        refused(&mut over_the_base, 2, "base: it is the base");
        refused(
            &mut work.train_with("foreign", flags),
            2,
            "foreign: it holds checkpoints and is no run's folder\nhint: choose another --out-dir",
        );
    }
    assert_eq!(fs::read(base.join("config.json")).unwrap(), config);
    assert_eq!(
        fs::read(foreign.join("checkpoints/precious")).unwrap(),
        b"mine"
    );
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1, "no lock either");
    fs::create_dir(work.path("empty")).unwrap();
    succeed(&mut work.train_with("empty", &["--max-steps", "2"]));
}

#[test]
fn a_run_of_one_step_is_refused_with_warm_up_and_learns_without() {
    let work = Work::new();
    refused(
        &mut work.train_with("run", &["--max-steps", "1"]),
        2,
        "nothing would be learned: warm-up from a rate of 0 takes all of the run's 1 steps",
    );
    assert!(!work.path("run").exists());
    succeed(&mut work.train_with("run", &["--max-steps", "1", "--warmup-ratio", "0"]));
    let adapter = adapter_values(&work.path("run/adapter"));
    let mut bs = adapter.iter().filter(|(key, _)| key.contains("lora_B"));
    assert!(bs.all(|(_, b)| b.iter().any(|v| *v != 0.0)));
}

#[test]
fn a_flag_that_would_change_nothing_is_refused() {
    let work = Work::new();
    for flags in [&["--no-double-quant"][..], &["--dtype", "bf16"]] {
        let flags = [&["--quantize", "none"], flags].concat();
        let said = format!("{}: nothing is quantised", flags[2]);
        refused(&mut work.train_with("run", &flags), 2, &said);
    }
    for (flags, said) in [
        (
            ["constant", "--warmup-steps", "1"],
            "constant has no warm-up\nhint: constant_with_warmup",
        ),
        (
            ["linear", "--lr-scheduler-kwargs", "power=2"],
            "kwargs: linear has no parameter power",
        ),
        (
            ["polynomial", "--lr-scheduler-kwargs", "lr_end=1"],
            "lr_end, 1, is not below the peak",
        ),
    ] {
        let mut command = work.train_with("run", &["--lr-scheduler"]);
        refused(command.args(flags), 2, said);
    }
    let in_4_bits = data("models/llama-tied-prequant");
    for (flags, lost) in [
        (&["--quantize", "none"][..], "its full-precision weights"),
        (&["--no-double-quant"], "the 32 bits of its scales"),
    ] {
        let mut command = tool("qlora-train");
        command.arg("--base").arg(&in_4_bits).arg("--dry-run");
        command.arg("--train").arg(work.path("train.safetensors"));
        command.arg("--out-dir").arg(work.path("run")).args(flags);
        refused(&mut command, 2, lost);
    }
    assert!(!work.path("run").exists());
}

#[test]
fn a_damaged_file_of_a_checkpoint_is_told_with_the_way_out() {
    let work = Work::new();
    for file in [
        "optimizer.safetensors",
        "adapter_model.safetensors",
        "adapter_config.json",
        "trainer_state.json",
    ] {
        succeed(&mut work.train_with("run", &["--overwrite"]));
        fs::remove_dir_all(work.path("run/adapter")).unwrap();
        let newest = fs::read_dir(work.path("run/checkpoints"))
            .unwrap()
            .flatten();
        let step = |name: &str| name.rsplit('-').next().unwrap().parse::<u64>().unwrap();
        let newest = newest
            .max_by_key(|e| step(e.file_name().to_str().unwrap()))
            .unwrap();
        let path = newest.path().join(file);
        let half = fs::read(&path).unwrap();
        fs::write(&path, &half[..half.len() / 2]).unwrap();
        refused(
            &mut work.train("run"),
            2,
            "hint: remove that checkpoint folder to go on from the one before it",
        );
        fs::remove_dir_all(newest.path()).unwrap();
        succeed(&mut work.train("run"));
    }
}

#[test]
fn what_a_killed_run_was_writing_is_removed_by_the_next() {
    let work = Work::new();
    succeed(&mut work.train_with("run", &["--max-steps", "2"]));
    for left in [
        "run/checkpoints/.checkpoint-9.x1Yz.tmp",
        "run/.adapter.x1Yz.tmp",
    ] {
        fs::create_dir(work.path(left)).unwrap();
        fs::write(work.path(left).join("adapter_model.safetensors"), "half").unwrap();
    }
    for left in ["config.json", "inputs.json", "metrics.jsonl"] {
        fs::write(work.path(&format!("run/.{left}.x1Yz.tmp")), "half").unwrap();
    }
    succeed(&mut work.train_with("run", &["--max-steps", "2"]));
    for folder in ["run", "run/checkpoints"] {
        let names = fs::read_dir(work.path(folder)).unwrap().flatten();
        let names: Vec<String> = names
            .map(|e| e.file_name().into_string().unwrap())
            .collect();
        assert!(
            !names.iter().any(|name| name.ends_with(".tmp")),
            "{names:?}"
        );
    }
}

#[test]
fn an_adapter_that_is_gone_on_with_is_an_input_with_its_configuration() {
    let work = Work::new();
    succeed(&mut work.train_with("first", &["--max-steps", "2"]));
    let first = work.path("first/adapter");
    let flags = [
        "--max-steps",
        "2",
        "--init-adapter",
        first.to_str().unwrap(),
    ];
    succeed(&mut work.train_with("second", &flags));
    let path = first.join("adapter_config.json");
    let config = fs::read_to_string(&path).unwrap();
    let elsewhere = config.replacen("models/llama-tied", "models/qwen2", 1);
    assert_ne!(config, elsewhere);
    fs::write(&path, elsewhere).unwrap();
    let other_template = r#"{"fingerprint": {"tokenizer": null, "template": "another"}}"#;
    fs::write(first.join("prompt.json"), other_template).unwrap();
    let chat = work.path("chat");
    tiny_base("llama-tied", &chat);
    let mut over_chat = tool("qlora-train");
    over_chat.arg("--base").arg(&chat).args(flags);
    over_chat.arg("--train").arg(work.path("train.safetensors"));
    let output = succeed(over_chat.arg("--out-dir").arg(work.path("third")));
    let said = text(&output.stderr);
    for warning in [
        "warning: the adapter was trained on /",
        "first/adapter: was trained with another chat template than the base's",
    ] {
        assert!(said.contains(warning), "{said}");
    }
    let third = fs::read_to_string(work.path("third/adapter/adapter_config.json")).unwrap();
    let third: serde_json::Value = serde_json::from_str(&third).unwrap();
    assert_eq!(third["base_model_name_or_path"], chat.to_str().unwrap());
    let louder = config.replacen("\"lora_alpha\": 32", "\"lora_alpha\": 64", 1);
    assert_ne!(config, louder);
    fs::write(&path, louder).unwrap();
    refused(
        &mut work.train_with("second", &flags),
        2,
        "init-adapter-config was",
    );
}

#[test]
fn the_rank_and_the_targets_of_an_adapter_that_is_gone_on_with_are_its_own() {
    let work = Work::new();
    succeed(&mut work.train_with("first", &["--max-steps", "2"]));
    let first = work.path("first/adapter");
    let flags = [
        "--max-steps",
        "2",
        "--init-adapter",
        first.to_str().unwrap(),
    ];
    for other in [
        &["--rank", "64"][..],
        &["--alpha", "1"],
        &["--use-rslora"],
        &["--target-modules", "q_proj"],
    ] {
        let output = exits(work.train_with("second", &flags).args(other), 2);
        let said = text(&output.stderr);
        assert!(said.contains("cannot be used with"), "{said}");
        assert!(said.contains(other[0]), "{said}");
    }
    succeed(&mut work.train_with("second", &flags));
    let config: serde_json::Value =
        serde_json::from_slice(&work.read("second/config.json")).unwrap();
    for brought in ["rank", "alpha", "use-rslora", "target-modules"] {
        assert!(config.get(brought).is_none(), "{config}");
    }
    let mut again = tool("qlora-train");
    again.arg("--config").arg(work.path("second/config.json"));
    succeed(again.arg("--out-dir").arg(work.path("again")));
    work.assert_same_result("second", "again");
}

#[test]
fn base_and_packed_files_by_another_path_are_the_same_run_and_others_by_the_same_path_are_not() {
    let work = Work::new();
    let base = own_base(&work);
    let train = |run: &str, base: &str, train: &str| {
        let mut command = tool("qlora-train");
        command.current_dir(work.path(""));
        command.args(["--base", base, "--train", train, "--out-dir", run]);
        command.args(["--batch-size", "2", "--save-steps", "2"]);
        command.args([
            "--gradient-accumulation-steps",
            "2",
            "--save-total-limit",
            "9",
        ]);
        command
    };
    let there = base.to_str().unwrap();
    std::os::unix::fs::symlink(&base, work.path("link")).unwrap();
    fs::copy(
        work.path("train.safetensors"),
        work.path("copy.safetensors"),
    )
    .unwrap();
    succeed(&mut train("whole", there, "train.safetensors"));
    for (base, rows) in [
        ("base", "./train.safetensors"),
        ("base/", "copy.safetensors"),
        ("./link/", "train.safetensors"),
    ] {
        succeed(&mut train("resumed", there, "train.safetensors"));
        fs::remove_dir_all(work.path("resumed/adapter")).unwrap();
        let mut steps: Vec<u64> = fs::read_dir(work.path("resumed/checkpoints"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .map(|name| name["checkpoint-".len()..].parse().unwrap())
            .collect();
        steps.sort_unstable();
        for step in &steps[1..] {
            fs::remove_dir_all(work.path(&format!("resumed/checkpoints/checkpoint-{step}")))
                .unwrap();
        }
        succeed(train("resumed", base, rows).args(["--resume", "require"]));
        work.assert_same_result("whole", "resumed");
    }
    let config = fs::read_to_string(base.join("config.json")).unwrap();
    fs::write(base.join("config.json"), config + "\n").unwrap();
    refused(
        &mut train("resumed", there, "train.safetensors"),
        2,
        "holds another run: base was",
    );
}

#[test]
fn a_disk_that_is_full_in_a_checkpoint_is_told_once_and_the_run_goes_on_to_the_same_bytes() {
    use std::os::unix::fs::PermissionsExt;
    let work = Work::new();
    let flags = ["--rank", "16"];
    succeed(&mut work.train_with("whole", &flags));
    let mut sizes = fs::read_dir(work.path("whole/checkpoints/checkpoint-2")).unwrap();
    assert!(sizes.any(|file| file.unwrap().metadata().unwrap().len() > 200 << 10));
    let limited = |command: &Command| {
        let mut shell = Command::new("sh");
        // No file above 200 KiB (of 512 bytes a block): the moments do not fit.
        shell.args(["-c", "trap '' XFSZ; ulimit -f 400; exec \"$@\"", "sh"]);
        shell.arg(command.get_program()).args(command.get_args());
        shell
    };
    let output = limited(&work.train_with("run", &flags)).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.matches("File too large").count(), 1, "{said}");
    assert!(said.contains("optimizer.safetensors"), "{said}");
    assert!(
        said.contains("\nhint: the same command goes on from"),
        "{said}"
    );
    assert_eq!(
        fs::read_dir(work.path("run/checkpoints")).unwrap().count(),
        0
    );
    succeed(&mut work.train_with("run", &flags));
    work.assert_same_result("whole", "run");
    for file in fs::read_dir(work.path("run/checkpoints/checkpoint-2")).unwrap() {
        let mode = file.unwrap().metadata().unwrap().permissions().mode();
        let config = fs::metadata(work.path("run/config.json")).unwrap();
        assert_eq!(mode, config.permissions().mode(), "as the umask says");
    }
}

#[test]
fn a_file_in_the_place_of_the_runs_folder_is_told() {
    let work = Work::new();
    refused(
        &mut work.train("train.safetensors"),
        2,
        "train.safetensors: is a file, not a folder\nhint: choose another",
    );
}

#[test]
fn a_dry_run_into_a_closed_pipe_is_quiet_and_into_a_full_disk_an_error() {
    let work = Work::new();
    let mut closed = work.train_with("run", &["--dry-run"]);
    let mut child = closed
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    if let Ok(full) = File::options().write(true).open("/dev/full") {
        refused(
            work.train_with("run", &["--dry-run"]).stdout(full),
            2,
            "No space left on device",
        );
    }
}

#[test]
fn four_bits_do_not_hide_a_weight_that_is_not_a_number() {
    let work = Work::new();
    let base = own_base(&work);
    let path = base.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors: serde_json::Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    let name = "model.layers.1.self_attn.q_proj";
    let begin = &tensors[format!("{name}.weight")]["data_offsets"][0];
    let at = header + begin.as_u64().unwrap() as usize + 12;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    refused(
        &mut train_over(&base, &work),
        2,
        &format!("{name}.weight holds values that are not finite"),
    );
}

#[test]
fn weights_and_losses_that_are_not_finite_end_the_run_with_the_way_out_and_no_adapter() {
    let work = Work::new();
    let base = data("models/llama-tied");
    let way_out = "hint: lower --learning-rate or raise --warmup-steps";
    let at_once = ["--warmup-ratio", "0", "--lr-scheduler", "linear"];
    for (flags, told) in [
        (
            [
                "--learning-rate",
                "1e30",
                "--weight-decay",
                "1e30",
                "--max-steps",
                "1",
            ],
            "are not finite",
        ),
        (
            [
                "--learning-rate",
                "1e30",
                "--weight-decay",
                "0",
                "--max-steps",
                "3",
            ],
            "not a finite number",
        ),
    ] {
        for hint in [told, way_out] {
            let mut command = train_over(&base, &work);
            refused(command.args(at_once).args(flags), 2, hint);
        }
        assert!(!work.path("run/adapter").exists());
        assert!(!work.path("run/checkpoints/checkpoint-1").exists());
    }
    let mut command = train_over(&base, &work);
    refused(
        command.args(["--learning-rate", "1e300"]),
        2,
        "32 bits hold",
    );
}

#[test]
fn sequences_longer_than_the_bases_positions_are_told() {
    let work = Work::new();
    let base = own_base(&work);
    let config = fs::read_to_string(base.join("config.json")).unwrap();
    let old = config
        .lines()
        .find(|line| line.contains("max_position_embeddings"))
        .unwrap();
    let short = config.replace(old, "\"max_position_embeddings\": 16,");
    fs::write(base.join("config.json"), short).unwrap();
    let said = succeed(&mut train_over(&base, &work));
    let said = String::from_utf8_lossy(&said.stderr);
    assert!(said.contains("and the base knows 16 positions"), "{said}");
}
