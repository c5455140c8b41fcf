//! Does jsonl-split meet the numbers, keep groups together, and leave held-out examples in peace?

mod against;
mod together;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use workspace_tests::{run, text};

fn tool() -> Command {
    workspace_tests::tool("jsonl-split")
}

fn chat(user: &str, code: &str) -> String {
    let answer = serde_json::json!({"code": code}).to_string();
    let line = serde_json::json!({"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": answer}], "metadata": {"patient": user.len()}});
    format!("{line}\n")
}

fn notes(count: usize) -> String {
    (0..count)
        .map(|n| chat(&format!("note number {n}"), ["A", "B", "C"][n % 3]))
        .collect()
}

fn set(folder: &Path, name: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(folder.join(format!("{name}.jsonl"))).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Splits and gives train, valid and test.
fn split(input: &str, flags: &[&str]) -> [BTreeSet<String>; 3] {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let got = run(tool().args(flags).arg("--out-dir").arg(&out), input);
    assert_eq!(got.status.code(), Some(0), "{}", text(&got.stderr));
    ["train", "valid", "test"].map(|name| set(&out, name))
}

/// Conversation `n`, as far as its `turns`-th answer.
fn conversation(n: usize, turns: usize) -> String {
    let messages = (0..turns).flat_map(|turn| {
        [
            serde_json::json!({"role": "user", "content": format!("question {turn} of talk {n}")}),
            serde_json::json!({"role": "assistant", "content": format!("answer {turn} of talk {n}")}),
        ]
    });
    let messages: Vec<serde_json::Value> = messages.collect();
    format!("{}\n", serde_json::json!({"messages": messages}))
}

#[test]
fn the_sets_partition_the_input() {
    let input = notes(1000);
    for flags in [
        &["--ratios=80,10,10"][..],
        &["--exact", "--ratios=80,10,10"],
        &["--stratify=code", "--ratios=80,10,10"],
        &["--near-duplicates=0.95", "--ratios=80,10,10"],
    ] {
        let sets = split(&input, flags);
        assert_eq!(
            sets.iter().map(BTreeSet::len).sum::<usize>(),
            1000,
            "{flags:?}"
        );
        assert_eq!(sets.concat_len(), 1000);
    }
}

trait ConcatLen {
    fn concat_len(&self) -> usize;
}

impl ConcatLen for [BTreeSet<String>; 3] {
    fn concat_len(&self) -> usize {
        self.iter().flatten().collect::<BTreeSet<_>>().len()
    }
}

#[test]
fn appending_lines_moves_no_example_between_splits() {
    let before = split(&notes(500), &["--ratios=70,15,15"]);
    let after = split(&notes(2000), &["--ratios=70,15,15"]);
    for (before, after) in before.iter().zip(&after) {
        assert!(before.is_subset(after));
    }
}

#[test]
fn another_seed_is_another_split_and_the_same_seed_the_same() {
    let (a, b, c) = (
        split(&notes(300), &["--seed=1"]),
        split(&notes(300), &["--seed=1"]),
        split(&notes(300), &["--seed=2"]),
    );
    assert!(a == b && a != c);
}

#[test]
fn counts_are_met_in_every_stratum() {
    let [train, valid, test] = split(
        &notes(300),
        &["--stratify=code", "--counts=train=12,valid=2,test=3"],
    );
    for code in ["A", "B", "C"] {
        let count = |set: &BTreeSet<String>| {
            set.iter()
                .filter(|line| line.contains(&format!(r#"\"code\":\"{code}\""#)))
                .count()
        };
        assert_eq!((count(&train), count(&valid), count(&test)), (12, 2, 3));
    }
    let more = split(
        &notes(300),
        &["--stratify=code", "--counts=train=rest,valid=2,test=3"],
    );
    assert_eq!(
        more[2], test,
        "asking for more training data moves nothing that is held out"
    );
    let got = run(
        tool().args([
            "--stratify=code",
            "--counts=train=200",
            "--out-dir",
            "/dev/null/x",
        ]),
        &notes(300),
    );
    assert!(
        got.status.code() == Some(2) && text(&got.stderr).contains("train lacks 100 of \"A\""),
        "{}",
        text(&got.stderr)
    );
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_first_line() {
    let folder = tempfile::tempdir().unwrap();
    let gold = folder.path().join("gold.jsonl");
    fs::write(&gold, format!("\u{feff}{}", notes(1))).unwrap();
    let against = format!("--against={}", gold.display());
    for flags in [&[][..], &["--exact"], &[&against]] {
        let with = split(&format!("\u{feff}{}", notes(50)), flags);
        assert_eq!(with, split(&notes(50), flags), "{flags:?}");
        let lines: usize = with.iter().map(BTreeSet::len).sum();
        assert_eq!(
            lines,
            50 - usize::from(flags.len() == 1 && flags[0] == against)
        );
    }
}

#[test]
fn every_line_is_in_the_ledger_and_the_manifest_counts_them() {
    let folder = tempfile::tempdir().unwrap();
    let (out, ledger) = (folder.path().join("out"), folder.path().join("ledger.csv"));
    let flags = ["--stratify=code", "--counts=train=10,test=5"];
    run(
        tool()
            .args(flags)
            .arg("--out-dir")
            .arg(&out)
            .arg("--ledger")
            .arg(&ledger),
        &notes(90),
    );
    let ledger = fs::read_to_string(ledger).unwrap();
    let fates = |fate: &str| ledger.lines().filter(|line| line.contains(fate)).count();
    assert_eq!(
        (fates(",kept,"), fates(",dropped,not_asked_for,")),
        (45, 45)
    );
    let manifest: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(out.join("split.json")).unwrap()).unwrap();
    assert_eq!(
        manifest["lines"],
        serde_json::json!({"train": 30, "test": 15})
    );
    assert_eq!(
        manifest["strata"]["B"],
        serde_json::json!({"train": 10, "test": 5})
    );
}

#[test]
fn a_folder_with_other_files_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.tex"), "x").unwrap();
    let got = run(tool().arg("--out-dir").arg(folder.path()), &notes(20));
    assert!(
        got.status.code() == Some(2) && text(&got.stderr).contains("thesis.tex"),
        "{}",
        text(&got.stderr)
    );
}

#[test]
fn sets_that_no_split_wrote_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("sets");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("train.jsonl"), notes(20)).unwrap();
    let got = run(tool().arg("--out-dir").arg(&out), &notes(20));
    let said = text(&got.stderr);
    assert_eq!(got.status.code(), Some(2), "{said}");
    assert!(
        said.contains("holds train.jsonl and no split.json"),
        "{said}"
    );
    assert!(said.contains("hint: choose a folder of its own"), "{said}");
    let left = fs::read_to_string(out.join("train.jsonl")).unwrap();
    assert_eq!(left, notes(20));
    fs::remove_file(out.join("train.jsonl")).unwrap();
    for _ in 0..2 {
        let got = run(tool().arg("--out-dir").arg(&out), &notes(20)); // an empty folder, then a split
        assert_eq!(got.status.code(), Some(0), "{}", text(&got.stderr));
    }
}

#[test]
fn a_blank_line_has_its_fate_in_the_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger.csv");
    let input = format!("\n{}\n", notes(3));
    run(
        tool()
            .arg("--out-dir")
            .arg(folder.path().join("out"))
            .arg("--ledger")
            .arg(&ledger),
        &input,
    );
    let ledger = fs::read_to_string(ledger).unwrap();
    assert_eq!(ledger.lines().count() - 1, input.lines().count());
    assert!(
        ledger.contains("<stdin>,1,dropped,blank_line,,\n"),
        "{ledger}"
    );
}

/// Runs `script` in bash, in `folder`, with the tool as `$split`.
fn bash(folder: &Path, script: &str) -> std::process::Output {
    let mut bash = Command::new("bash");
    bash.args(["-u", "-c", script]).current_dir(folder);
    run(bash.env("split", tool().get_program()), "")
}

#[test]
fn examples_come_through_a_pipe_with_a_name_in_every_mode() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("all"), notes(100)).unwrap();
    for flags in [
        "",
        "--exact",
        "--stratify code",
        "--group-by code",
        "--near-duplicates",
    ] {
        let script = |from: &str| format!("rm -rf out; \"$split\" {from} {flags} --out-dir out");
        let split = |script: &str| {
            let got = bash(folder.path(), script);
            assert_eq!(got.status.code(), Some(0), "{flags}\n{}", text(&got.stderr));
            ["train", "valid"].map(|name| set(&folder.path().join("out"), name))
        };
        let wanted = split(&script("all"));
        assert_eq!(split(&script("<(cat all)")), wanted);
        // Of a name that stays: opened twice, it would wait for ever.
        let fifo = format!("mkfifo fifo; (cat all > fifo) & {}", script("fifo"));
        assert_eq!(split(&fifo), wanted);
        fs::remove_file(folder.path().join("fifo")).unwrap();
    }
}

#[test]
fn a_dry_run_writes_no_ledger() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("all"), notes(100)).unwrap();
    fs::write(folder.path().join("old.csv"), "mine").unwrap();
    let got = bash(
        folder.path(),
        "\"$split\" all --dry-run --ledger new.csv && \"$split\" all --dry-run --ledger old.csv",
    );
    assert_eq!(got.status.code(), Some(0), "{}", text(&got.stderr));
    assert!(!folder.path().join("new.csv").exists());
    assert_eq!(
        fs::read_to_string(folder.path().join("old.csv")).unwrap(),
        "mine"
    );
}

#[test]
fn an_empty_set_is_told_with_a_way_out_that_has_not_been_taken() {
    for (flags, way_out) in [
        (&["--ratios=80,10,10"][..], "--exact meets them"),
        (
            &["--ratios=80,10,10", "--exact"],
            "--counts asks for numbers",
        ),
        (
            &["--counts=train=rest,test=3"],
            "the others take all there is",
        ),
    ] {
        let got = run(tool().args(flags).arg("--dry-run"), &notes(3));
        let said = text(&got.stderr);
        assert_eq!(got.status.code(), Some(0), "{said}");
        assert!(
            said.contains("is empty: ") && said.contains(way_out),
            "{said}"
        );
    }
}

#[test]
fn ratios_are_met_over_many_small_classes_and_who_is_left_out_is_told() {
    let input: String = (0..400)
        .map(|n| chat(&format!("note number {n}"), &format!("C{}", n % 100)))
        .collect();
    let flags = ["--stratify=code", "--ratios=80,10,10"];
    let sets = split(&input, &flags).map(|set| set.len());
    assert_eq!(sets, [320, 40, 40]);
    let got = run(tool().args(flags).arg("--dry-run"), &input);
    let said = text(&got.stderr);
    assert!(
        said.contains("test has no example of 60 of the 100 values of code"),
        "{said}"
    );
    assert!(!said.contains("where its share is"), "{said}");
    let twins: String = (0..400)
        .map(|n| chat(&format!("note number {}", n / 40), "C"))
        .collect();
    let got = run(
        tool().args(["--exact", "--ratios=85,0,15", "--dry-run"]),
        &twins,
    );
    let said = text(&got.stderr);
    let told = "test holds 40 examples, where its share is 60: groups stay together";
    assert!(said.contains(told), "{said}");
}

#[test]
fn a_set_that_is_named_twice_is_an_error() {
    for flag in [
        "--counts=train=5,train=6",
        "--ratios=train=0.8,train=0.2",
        "--ratios=90,train=10",
    ] {
        let got = run(tool().args([flag, "--dry-run"]), &notes(20));
        let said = text(&got.stderr);
        assert_eq!(got.status.code(), Some(2), "{said}");
        assert!(said.contains("train is named twice"), "{said}");
    }
}

#[test]
fn a_field_is_found_in_a_completion_that_is_a_list_of_messages() {
    let line = |n: usize| {
        let answer = serde_json::json!({"code": n % 2}).to_string();
        let prompt = serde_json::json!([{"role": "user", "content": format!("note {n}")}]);
        let completion = serde_json::json!([{"role": "assistant", "content": answer}]);
        format!(
            "{}\n",
            serde_json::json!({"prompt": prompt, "completion": completion})
        )
    };
    let input: String = (0..20).map(line).collect();
    let [train, _, test] = split(&input, &["--stratify=code", "--counts=train=rest,test=2"]);
    assert_eq!((train.len(), test.len()), (16, 4));
}
