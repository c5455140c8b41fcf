//! Do the README's pipelines and the experiment run as written, whole, and only as far as they must?

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use workspace_tests::{Scene, bin, root, shell, succeed, tool, tools};

#[test]
fn every_pipeline_in_the_readme_runs_as_it_stands_there() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let blocks: Vec<&str> = readme
        .split("\n```sh test\n")
        .skip(1)
        .filter_map(|rest| rest.split("\n```").next())
        .collect();
    assert!(blocks.len() >= 3, "the README has three pipelines");
    for block in blocks {
        let scene = Scene::new();
        let printed = succeed(scene.path(), block);
        assert!(!printed.is_empty(), "{block}\nprinted nothing");
    }
}

#[test]
fn every_flag_that_the_pages_name_is_one_of_the_tools() {
    let mut known = Vec::new();
    for tool in tools() {
        let help = succeed(root(), &format!("{tool} --help"));
        known.push((tool, help));
    }
    for page in ["README.md", "scripts/pipeline.mk"] {
        let text = fs::read_to_string(root().join(page)).unwrap();
        for flag in flags(&text) {
            assert!(
                OTHERS.contains(&flag.as_str())
                    || known.iter().any(|(_, help)| has_flag(help, &flag)),
                "{page}: no tool has {flag}"
            );
        }
        // In a command, the flag has to be that tool's.
        for command in commands(&text) {
            let Some((tool, help)) = known
                .iter()
                .find(|(tool, _)| command.starts_with(tool.as_str()))
            else {
                continue;
            };
            for flag in flags(&command) {
                assert!(has_flag(help, &flag), "{page}: {tool} has no {flag}");
            }
        }
    }
}

#[test]
fn what_print_config_prints_is_what_config_reads() {
    let folder = tempfile::tempdir().unwrap();
    for line in [
        "jsonl-import a.csv",
        "jsonl-validate s.jsonl",
        "jsonl-split s.jsonl --counts train=5,test=2 --out-dir q",
        "jsonl-split s.jsonl --ratios 80,10,10 --exact --near-duplicates --out-dir q",
        "tokenize-pack s.jsonl --base b",
        "prompt-cost --prompt-tokens 600 --requests-per-day 9",
        "prompt-cost s.txt --base b --tuned-prompt t.txt --requests-per-day 9",
        "model-import b --out-dir q",
        "qlora-train --base b --train s.safetensors --out-dir q",
        "adapter-eval --base b --data s.safetensors",
        "adapter-eval --base b --cases s.jsonl",
        "adapter-export --base b --adapter a --out-dir q",
    ] {
        let printed = succeed(folder.path(), &format!("{line} --print-config"));
        fs::write(folder.path().join("c.json"), &printed).unwrap();
        let tool = line.split(' ').next().unwrap();
        let again = format!("{tool} --config c.json --print-config");
        assert_eq!(succeed(folder.path(), &again), printed, "{line}");
    }
}

/// Flags of psql, llama.cpp, TensorBoard and scripts/gpu-bench, which the README mentions.
const OTHERS: [&str; 4] = ["--csv", "--lora", "--logdir", "--rehearse"];

/// Shell commands: code lines with their continuations, cut where a pipe begins another one.
fn commands(text: &str) -> Vec<String> {
    text.replace("\\\n", " ")
        .replace("$(BIN)/", "")
        .split(['|', '\n', ';', '`'])
        .map(|command| command.trim().trim_start_matches("do ").to_owned())
        .collect()
}

fn flags(text: &str) -> Vec<String> {
    let is_flag_char = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    text.split(|c: char| !is_flag_char(c))
        .filter(|word| word.starts_with("--") && word.trim_matches('-').len() > 1)
        .map(|word| word.trim_end_matches('-').to_owned())
        .collect()
}

fn has_flag(help: &str, flag: &str) -> bool {
    flags(help).iter().any(|known| known == flag)
}

#[test]
fn every_tool_has_help_with_examples_a_manual_and_completions() {
    for tool in tools() {
        let help = succeed(root(), &format!("{tool} --help"));
        let examples = help.split("Examples:").nth(1).unwrap_or_default();
        assert!(
            examples.matches(&tool).count() >= 2,
            "{tool} --help ends with two examples"
        );
        for what in ["man", "bash", "zsh", "fish"] {
            let page = succeed(root(), &format!("{tool} --generate {what}"));
            assert!(page.contains(&tool), "{tool} --generate {what}");
        }
        let wrong = shell(root(), &format!("{tool} --no-such-flag"));
        assert_eq!(wrong.status.code(), Some(2), "{tool} --no-such-flag");
        assert!(wrong.stdout.is_empty(), "{tool}: stdout is data");
        let said = String::from_utf8_lossy(&wrong.stderr);
        let who_and_what = format!("{tool}: unexpected argument '--no-such-flag' found\n");
        assert!(said.starts_with(&who_and_what), "{said}");
        assert!(said.ends_with("--help says more\n"), "{said}");
    }
}

#[test]
fn one_ledger_tells_every_lines_fate_through_files_and_through_a_pipe() {
    let scene = Scene::new();
    // A row without a code, one twice, one that says nothing, one that is too long for a row.
    let script = "{ cat notes.csv; echo 'no code,,d'; echo 'twice is once too often,A00,d'; echo 'twice is once too often,A00,d'
           echo ' ,A00,d'; printf 'long %.0s' $(seq 300); echo ',A00,d'; } >more.csv
         import() { jsonl-import more.csv --user '{{ clinical_note }}' --assistant '{{ code }}' --on-empty skip \"$@\"; }
         pack() { tokenize-pack --base base --max-seq-length 128 \"$@\"; }
         import -o raw.jsonl --ledger 1.csv
         jsonl-validate raw.jsonl --drop-invalid --severity exact_duplicate=error -o clean.jsonl --ledger 2.csv --ledger-from 1.csv
         jsonl-split clean.jsonl --ratios 80,10,10 --out-dir split --ledger 3.csv --ledger-from 2.csv
         pack split/train.jsonl -o train.safetensors --ledger 4.csv --ledger-from 3.csv
         pack split/valid.jsonl split/test.jsonl -o rest.safetensors --ledger files.csv --ledger-from 4.csv
         import --ledger p1.csv |
             jsonl-validate --drop-invalid --severity exact_duplicate=error --ledger p2.csv --ledger-from p1.csv |
             pack -o all.safetensors --ledger pipe.csv --ledger-from p2.csv
         { echo file,line,fate,rule; cut -d, -f1-4 files.csv | tail -n +2; } >a; { echo file,line,fate,rule; cut -d, -f1-4 pipe.csv | tail -n +2; } >b
         cmp a b; cat more.csv";
    let rows = succeed(scene.path(), script).lines().count() - 1;
    let ledger = scene.read("files.csv");
    let ledger = String::from_utf8_lossy(&ledger);
    let count = |what: &str| ledger.matches(what).count();
    assert_eq!(ledger.lines().count() - 1, rows, "every row has a fate");
    assert_eq!(
        (
            count(",dropped,empty_cell,"),
            count(",dropped,exact_duplicate,"),
            count(",dropped,too_long,")
        ),
        (2, 1, 1),
        "{ledger}"
    );
    let packed = count(",kept,,train.safetensors,") + count(",kept,,rest.safetensors,");
    assert_eq!(packed + 4, rows, "kept and dropped are all");
    assert!(
        ledger
            .lines()
            .skip(1)
            .all(|row| row.starts_with("more.csv,"))
    );
}

#[test]
fn a_reader_that_leaves_early_ends_the_pipeline_quietly() {
    let scene = Scene::new();
    let output = shell(
        scene.path(),
        "for i in $(seq 400); do tail -n +2 notes.csv; done | cat <(head -n 1 notes.csv) - >big.csv
         jsonl-import big.csv --user '{{ clinical_note }}' --assistant '{{ code }}' --quiet | head -n 1",
    );
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        output.stdout.iter().filter(|byte| **byte == b'\n').count(),
        1
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("jsonl-import: "), "{said}");
}

#[test]
fn a_broken_input_stops_the_pipeline_and_leaves_the_old_output_whole() {
    let scene = Scene::new();
    let import = "jsonl-import notes.csv --user '{{ clinical_note }}' --assistant '{{ code }}' -o chat.jsonl";
    succeed(scene.path(), import);
    let whole = scene.read("chat.jsonl");
    fs::write(
        scene.path().join("notes.csv"),
        b"clinical_note,code\ngood,A00\n\xff\xfe,B00\n",
    )
    .unwrap();
    let output = shell(scene.path(), import);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("notes.csv"),
        "the message names the file: {said}"
    );
    assert_eq!(scene.read("chat.jsonl"), whole);
}

#[test]
fn a_run_that_is_told_to_stop_saves_and_goes_on_to_the_same_bytes() {
    let scene = Scene::new();
    scene.pack();
    let train = "--base base --train train.safetensors --eval valid.safetensors --epochs 30 --batch-size 4 \
                 --gradient-accumulation-steps 1 --learning-rate 1e-3";
    succeed(
        scene.path(),
        &format!("qlora-train {train} --out-dir whole"),
    );

    let metrics = scene.path().join("stopped/metrics.jsonl");
    let mut child = tool("qlora-train")
        .args(train.split_whitespace())
        .args(["--out-dir", "stopped"])
        .current_dir(scene.path())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) < 5 {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "it begins to train"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    succeed(scene.path(), &format!("kill -TERM {}", child.id()));
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    assert!(
        !scene.path().join("stopped/adapter").exists(),
        "it was stopped before its end"
    );

    succeed(
        scene.path(),
        &format!("qlora-train {train} --out-dir stopped --resume require"),
    );
    succeed(
        scene.path(),
        "qlora-train --config whole/config.json --out-dir again",
    );
    for run in ["stopped", "again"] {
        for file in [
            "metrics.jsonl",
            "adapter/adapter_model.safetensors",
            "adapter/adapter_config.json",
        ] {
            let same = scene.read(&format!("whole/{file}")) == scene.read(&format!("{run}/{file}"));
            assert!(same, "{run}/{file} differs from the uninterrupted run's");
        }
    }
}

/// The experiment on the scene's data and base, from the workspace's folder.
fn make_in(scene: &Scene, goal: &str) -> String {
    format!(
        "cd \"$ROOT\" && make --no-print-directory -f scripts/pipeline.mk {goal} BIN='{}' WORK='{1}/work' \
         MODELS='{1}' BASE='{1}/base' DATA='{1}/notes.csv' SYSTEM='Answer with {{\"code\"}}, don'\\''t talk.' \
         MAX_SEQ_LENGTH=256 EPOCHS=1 SHOTS=1 MAX_NEW_TOKENS=4 EVAL_FLAGS=--quiet TRAIN_FLAGS=--quiet",
        bin().display(),
        scene.path().display(),
    )
}

#[test]
fn the_experiment_runs_once_and_then_only_what_a_change_asks_for() {
    let scene = Scene::new();
    // Settings are none of the environment's.
    let make = |settings: &str| {
        let script = format!(
            "export RANK=0 SEED=x; {} {settings}",
            make_in(&scene, "report")
        );
        succeed(scene.path(), &script)
    };
    let split = "SPLIT='--stratify code --counts train=3,valid=1,test=1'";
    let ran = |printed: &str, tool: &str| {
        printed
            .lines()
            .filter(|line| line.contains(&format!("/{tool} ")))
            .count()
    };

    let first = make(split);
    let counts = [
        "jsonl-import",
        "jsonl-validate",
        "jsonl-split",
        "tokenize-pack",
        "qlora-train",
        "adapter-eval",
    ]
    .map(|tool| ran(&first, tool));
    assert_eq!(counts, [1, 1, 1, 2, 1, 6], "{first}");
    assert!(
        first.contains("nearest neighbour") && first.contains("report.html"),
        "{first}"
    );

    let second = make(split);
    assert!(
        !second.contains(&bin().display().to_string()),
        "the second time nothing runs:\n{second}"
    );
    assert!(
        second.contains("report.html"),
        "and the report is told again"
    );

    // What is only looked at, or asks for other data alone, changes nothing for the others.
    let script =
        |goal: &str, settings: &str| format!("{} {split} {settings}", make_in(&scene, goal));
    let looked = succeed(scene.path(), &script("report -n", "RATE=9e-3"));
    assert_eq!(
        (ran(&looked, "tokenize-pack"), ran(&looked, "qlora-train")),
        (0, 1),
        "{looked}"
    );
    succeed(scene.path(), &script("data", "RATE=9e-3 EPOCHS=7"));
    let third = make(split);
    assert!(!third.contains(&bin().display().to_string()), "{third}");

    let rate = make(&format!("{split} RATE=2e-3"));
    assert_eq!(
        (
            ran(&rate, "tokenize-pack"),
            ran(&rate, "qlora-train"),
            ran(&rate, "adapter-eval")
        ),
        (0, 1, 1),
        "{rate}"
    );

    let more = make("SPLIT='--stratify code --counts train=4,valid=1,test=1' RATE=2e-3");
    assert_eq!(
        (
            ran(&more, "jsonl-validate"),
            ran(&more, "jsonl-split"),
            ran(&more, "qlora-train")
        ),
        (0, 1, 1),
        "{more}"
    );
    assert!(
        !more.contains("--systems zero-shot"),
        "the test set is the same, and so are those answers:\n{more}"
    );
    assert!(
        more.contains("--systems few-shot"),
        "the prompt has other examples:\n{more}"
    );
}

#[test]
fn other_data_is_imported_however_old_its_file_and_an_empty_setting_is_one() {
    let scene = Scene::new();
    succeed(
        scene.path(),
        "head -n 41 notes.csv >less.csv; touch -d 2001-01-01 less.csv",
    );
    let lines = |settings: &str| {
        let script = format!(
            "{} {settings} VALIDATE= SPLIT='--ratios 80,10,10'",
            make_in(&scene, "data")
        );
        succeed(scene.path(), &script);
        scene
            .read("work/clean.jsonl")
            .split(|b| *b == b'\n')
            .count()
            - 1
    };
    let all = lines("");
    let less = lines(&format!("DATA='{}/less.csv'", scene.path().display()));
    assert_eq!((less, all > 40), (40, true), "{all}");
}

#[test]
fn a_step_that_fails_leaves_no_target() {
    let scene = Scene::new();
    let script = format!(
        "cd \"$ROOT\" && make -f scripts/pipeline.mk data BIN='{}' WORK='{1}/work' DATA='{1}/notes.csv' \
         USER_TEMPLATE='{{{{ no_such_column }}}}'",
        bin().display(),
        scene.path().display(),
    );
    let output = shell(scene.path(), &script);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no_such_column"), "{said}");
    assert!(!Path::new(&scene.path().join("work/raw.jsonl")).exists());
}

/// The nightly run on the scene's data and base, in a copy of the scripts.
fn nightly(settings: &str) -> String {
    format!(
        "scripts/nightly notes BIN='{}' BASE=base DATA=notes.csv MAX_SEQ_LENGTH=256 EPOCHS=1 SHOTS=1 \
         MAX_NEW_TOKENS=4 SPLIT='--stratify code --counts train=2,valid=1,test=1' {settings}",
        bin().display()
    )
}

#[test]
fn a_nightly_run_that_fails_says_why_in_one_line() {
    let scene = Scene::new();
    for folder in ["scripts", "data"] {
        succeed(scene.path(), &format!("cp -R \"$ROOT/{folder}\" ."));
    }
    let silent = "mkdir silent; printf '#!/bin/sh\\nexit 2\\n' >silent/make; chmod +x silent/make";
    succeed(scene.path(), silent);
    for (before, settings, why) in [
        ("", "DATA=missing.csv", "missing.csv"),
        ("", "USER_TEMPLATE='{{ no_such }}'", "no column \"no_such\""),
        (
            "MAKELEVEL=1 ",
            "USER_TEMPLATE='{{ no_such }}'",
            "no column \"no_such\"",
        ),
        ("PATH=\"$PWD/silent:$PATH\" ", "", "it said nothing"),
    ] {
        let output = shell(scene.path(), &format!("{before}{}", nightly(settings)));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(why) && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn a_nightly_run_that_is_told_to_stop_has_training_save_and_leaves_nothing_at_work() {
    let scene = Scene::new();
    for folder in ["scripts", "data"] {
        succeed(scene.path(), &format!("cp -R \"$ROOT/{folder}\" ."));
    }
    let run = |then: &str| {
        let settings = "EPOCHS=200 BATCH=1 TRAIN_FLAGS='--save-steps 1000000'";
        shell(scene.path(), &format!("{}{then}", nightly(settings)))
    };
    // Stopped once it trains, from outside as a machine that goes down stops it.
    let stopped = run(" & nightly=$!
        until grep -qs grad_norm work/notes/run/metrics.jsonl; do sleep 0.02; kill -0 $nightly || exit 99; done
        kill -TERM $nightly; wait $nightly; status=$?
        flock -n work/notes/run/.lock true || exit 98
        exit $status");
    let said = String::from_utf8_lossy(&stopped.stderr);
    assert_eq!(stopped.status.code(), Some(128 + 15), "{said}");
    let log = scene.read("work/notes/nightly.log");
    let log = String::from_utf8_lossy(&log);
    assert!(log.contains("the same command goes on"), "{log}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(!scene.path().join("work/notes/current").exists());
}

#[test]
fn a_nightly_run_promotes_an_adapter_only_through_the_gate() {
    let scene = Scene::new();
    for folder in ["scripts", "data"] {
        succeed(scene.path(), &format!("cp -R \"$ROOT/{folder}\" ."));
    }
    let nightly = |gate: &str| shell(scene.path(), &nightly(&format!("GATE='{gate}'")));
    let current = scene.path().join("work/notes/current");

    let refused = nightly("--min-accuracy 1");
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(said.lines().count(), 1, "one line on failure: {said}");
    assert!(!current.exists());

    let passed = nightly("--min-accuracy 0");
    let said = String::from_utf8_lossy(&passed.stderr);
    assert_eq!(
        (passed.status.code(), &*said),
        (Some(0), ""),
        "silent on success"
    );
    for file in ["adapter_model.safetensors", "report.json"] {
        assert!(current.join(file).exists(), "{file}");
    }
    assert!(fs::symlink_metadata(&current).unwrap().is_symlink());
}
