//! tokenize-pack from outside: lines in, a packed file and a fate for every line out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use tempfile::TempDir;
use tokens::{Shard, TrainOn};

fn base() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tokens/base")
}

/// A base that is fed token ids: config.json and nothing else.
fn base_without_tokenizer(dir: &Path) -> PathBuf {
    let base = dir.join("ids-base");
    fs::create_dir(&base).unwrap();
    fs::write(
        base.join("config.json"),
        r#"{"model_type": "llama", "vocab_size": 512}"#,
    )
    .unwrap();
    base
}

fn tool(dir: &Path, arguments: &[&str]) -> Output {
    tool_reading(dir, arguments, "")
}

fn tool_reading(dir: &Path, arguments: &[&str], stdin: &str) -> Output {
    let mut command = Command::cargo_bin("tokenize-pack").unwrap();
    command
        .current_dir(dir)
        .args(arguments)
        .write_stdin(stdin)
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn line(user: &str, assistant: &str) -> String {
    let messages = serde_json::json!([
        {"role": "user", "content": user}, {"role": "assistant", "content": assistant}
    ]);
    format!("{}\n", serde_json::json!({ "messages": messages }))
}

/// `count` chats, some longer than others.
fn chats(count: usize) -> String {
    (0..count)
        .map(|i| line(&"what is the code? ".repeat(1 + i % 7), &format!("E{i}")))
        .collect()
}

fn folder(train: &str) -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("train.jsonl"), train).unwrap();
    (dir, base().display().to_string())
}

#[test]
fn chats_are_packed_with_the_bases_own_template() {
    let (dir, base) = folder(&chats(40));
    let output = tool(
        dir.path(),
        &[
            "train.jsonl",
            "--base",
            &base,
            "--max-seq-length",
            "128",
            "-o",
            "train.safetensors",
        ],
    );
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(output.stdout.is_empty());
    assert!(
        stderr(&output).contains("40 examples"),
        "{}",
        stderr(&output)
    );
    let shard = Shard::open(&dir.path().join("train.safetensors")).unwrap();
    let chat = tokens::Chat::open(Path::new(&base)).unwrap();
    shard
        .check_base(chat.fingerprint(), chat.vocab_size())
        .unwrap();
    assert_eq!(shard.meta().counts.examples, 40);
    assert_eq!(shard.meta().train_on, Some(TrainOn::All));
    let rows: usize = (0..shard.rows()).map(|row| shard.row_length(row)).sum();
    assert_eq!(rows, shard.meta().counts.tokens);
    let first = shard.row(0);
    let text = chat
        .decode(&first.input_ids[..first.offsets[1]], false)
        .unwrap();
    assert!(
        text.starts_with("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"),
        "{text}"
    );
}

#[test]
fn the_output_is_the_same_whatever_the_number_of_threads() {
    let (dir, base) = folder(&chats(500));
    let packed = |threads: &str| {
        let arguments = [
            "train.jsonl",
            "--base",
            &base,
            "--max-seq-length",
            "256",
            "--threads",
            threads,
        ];
        let output = tool(dir.path(), &arguments);
        assert_eq!(code(&output), 0);
        output.stdout
    };
    let one = packed("1");
    assert!(!one.is_empty());
    assert_eq!(one, packed("2"));
    assert_eq!(one, packed("5"));
}

#[test]
fn token_ids_need_no_tokenizer_and_without_packing_keep_their_order() {
    let lines = r#"{"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]}
{"input_ids": [9, 10, 11, 0], "labels": [-100, 10, 11, -100], "attention_mask": [1, 1, 1, 0]}
{"input_ids": [12, 13, 0, 0], "labels": [12, 13, -100, -100]}
"#;
    let (dir, _) = folder(lines);
    let base = base_without_tokenizer(dir.path()).display().to_string();
    let output = tool(
        dir.path(),
        &[
            "train.jsonl",
            "--base",
            &base,
            "--packing",
            "none",
            "-o",
            "t.safetensors",
        ],
    );
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let shard = Shard::open(&dir.path().join("t.safetensors")).unwrap();
    assert_eq!(shard.rows(), 3);
    assert_eq!(shard.row(0).input_ids, [5, 6, 7, 8]);
    assert_eq!(shard.row(0).loss_mask, [0, 0, 1, 1]);
    assert_eq!(shard.row(1).input_ids, [9, 10, 11]); // attention_mask 0 is padding
    assert_eq!(shard.row(2).input_ids, [12, 13, 0, 0]); // padding without a mask stays as given
    assert_eq!(shard.row(2).loss_mask, [0, 1, 0, 0]); // a first token is never a target
    assert_eq!(shard.meta().train_on, None);
}

#[test]
fn what_is_wrong_with_token_ids_is_said_with_its_line() {
    let good = r#"{"input_ids": [5, 6], "labels": [-100, 6]}"#;
    for (bad, reason) in [
        (
            r#"{"input_ids": [5, 6], "labels": [-100, 7]}"#,
            "labels[1] is 7, neither -100 nor input_ids[1], which is 6",
        ),
        (
            r#"{"input_ids": [5, 6], "labels": [-100]}"#,
            "labels has 1 entries, input_ids 2",
        ),
        (
            r#"{"input_ids": [5, 512], "labels": [-100, 512]}"#,
            "input_ids[1] is 512, outside the base's vocabulary of 512",
        ),
        (
            r#"{"input_ids": [5, -1], "labels": [-100, -1]}"#,
            "input_ids[1] is -1, outside the base's vocabulary of 512",
        ),
        (r#"{"input_ids": [5, 6]}"#, "labels is missing"),
        (
            r#"{"input_ids": [5, 6], "labels": [-100, -100]}"#,
            "its labels are all -100",
        ),
        (
            r#"{"input_ids": [5, 6], "labels": [-100, 6], "attention_mask": [1, 0]}"#,
            "labels[1] is a target where attention_mask is 0",
        ),
        (
            r#"{"input_ids": [5, 6], "labels": [-100, 6], "position_ids": [0, 1]}"#,
            "unknown field `position_ids`",
        ),
        (
            r#"{"input_ids": [5, 6], "labels": [-100, 6], "seq_lengths": [1]}"#,
            "seq_lengths do not add up to the 2 input_ids",
        ),
    ] {
        let (dir, _) = folder(&format!("{good}\n{bad}\n"));
        let base = base_without_tokenizer(dir.path()).display().to_string();
        let output = tool(
            dir.path(),
            &["train.jsonl", "--base", &base, "-o", "t.safetensors"],
        );
        assert_eq!(code(&output), 2);
        let message = stderr(&output);
        assert!(
            message.starts_with("tokenize-pack: train.jsonl:2: "),
            "{message}"
        );
        assert!(message.contains(reason), "{message}");
        assert!(!dir.path().join("t.safetensors").exists());
    }
}

#[test]
fn a_broken_line_stops_the_run_and_leaves_the_old_output_as_it_was() {
    let (dir, base) = folder(&format!("{}{{\"messages\": [}}\n", chats(3)));
    fs::write(dir.path().join("t.safetensors"), "old").unwrap();
    let output = tool(
        dir.path(),
        &["train.jsonl", "--base", &base, "-o", "t.safetensors"],
    );
    assert_eq!(code(&output), 2);
    assert!(
        stderr(&output).starts_with("tokenize-pack: train.jsonl:4: "),
        "{}",
        stderr(&output)
    );
    assert!(
        stderr(&output).contains("hint: jsonl-validate"),
        "{}",
        stderr(&output)
    );
    assert_eq!(
        fs::read_to_string(dir.path().join("t.safetensors")).unwrap(),
        "old"
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2); // nothing left lying about
}

#[test]
fn it_stops_if_nothing_is_supervised() {
    let user_only = r#"{"messages": [{"role": "user", "content": "hello"}]}"#;
    for (train, reason) in [
        ("", "no examples, so nothing is supervised"),
        (
            user_only,
            "train.jsonl:1: no token of this example would be learned: it has no assistant message",
        ),
    ] {
        let (dir, base) = folder(train);
        let output = tool(
            dir.path(),
            &["train.jsonl", "--base", &base, "-o", "t.safetensors"],
        );
        assert_eq!(code(&output), 2);
        assert!(stderr(&output).contains(reason), "{}", stderr(&output));
    }
}

#[test]
fn every_line_has_a_fate_and_the_fates_add_up() {
    let (dir, base) = folder(&chats(14));
    let run = |long: &str| {
        let arguments = [
            "train.jsonl",
            "--base",
            &base,
            "--max-seq-length",
            "64",
            "--long",
            long,
            "--ledger",
            "fates.csv",
            "--format",
            "jsonl",
        ];
        let output = tool(dir.path(), &arguments);
        (
            output,
            fs::read_to_string(dir.path().join("fates.csv")).unwrap_or_default(),
        )
    };
    let count = |fates: &str, fate: &str| {
        fates
            .lines()
            .filter(|row| row.contains(&format!(",{fate},")))
            .count()
    };

    let (output, _) = run("error");
    assert_eq!(code(&output), 2);
    assert!(
        stderr(&output).contains("tokens, over 64"),
        "{}",
        stderr(&output)
    );

    let (output, fates) = run("drop");
    assert_eq!(code(&output), 0);
    let dropped = count(&fates, "dropped");
    assert!(dropped > 0 && dropped + count(&fates, "kept") == 14);
    assert!(
        stderr(&output).contains(&format!("dropped, too long: {dropped} (train.jsonl:")),
        "{}",
        stderr(&output)
    );
    assert!(
        fates.starts_with("file,line,fate,rule,output,output_line\ntrain.jsonl,1,kept,,<stdout>,"),
        "{fates}"
    );
    assert!(fates.contains(",dropped,too_long,,\n"), "{fates}");

    // Cut at its end an example of this kind has nothing learned left, and is dropped after all.
    let (_, fates) = run("truncate");
    assert_eq!(
        count(&fates, "dropped") + count(&fates, "truncated") + count(&fates, "kept"),
        14
    );
}

#[test]
fn rows_as_lines_come_back_as_the_same_segments() {
    let (dir, base) = folder(&chats(30));
    let packed = tool(
        dir.path(),
        &[
            "train.jsonl",
            "--base",
            &base,
            "--max-seq-length",
            "96",
            "--long",
            "drop",
            "--format",
            "jsonl",
        ],
    );
    let lines = String::from_utf8(packed.stdout).unwrap();
    let again = tool_reading(
        dir.path(),
        &[
            "-",
            "--base",
            &base,
            "--max-seq-length",
            "96",
            "--format",
            "jsonl",
        ],
        &lines,
    );
    assert_eq!(code(&again), 0, "{}", stderr(&again));
    let segments = |lines: &str| {
        let mut segments = Vec::new();
        for line in lines.lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let array = |name: &str| serde_json::from_value::<Vec<i64>>(row[name].clone()).unwrap();
            let (ids, labels, mut at) = (array("input_ids"), array("labels"), 0);
            for length in array("seq_lengths") {
                let end = at + length as usize;
                segments.push((ids[at..end].to_vec(), labels[at..end].to_vec()));
                at = end;
            }
        }
        segments.sort();
        segments
    };
    assert_eq!(
        segments(&String::from_utf8(again.stdout).unwrap()),
        segments(&lines)
    );
}

#[test]
fn what_is_learned_can_be_seen() {
    let (dir, base) = folder(&chats(3));
    let text = tool(
        dir.path(),
        &["train.jsonl", "--base", &base, "--show-mask", "1"],
    );
    let shown = String::from_utf8(text.stdout).unwrap();
    assert!(shown.starts_with("── train.jsonl:1: "), "{shown}");
    assert!(
        shown.contains("<|im_start|>assistant\n⟦E·0·<|im_end|>⟧\n"),
        "{shown}"
    );
    let page = tool(
        dir.path(),
        &[
            "train.jsonl",
            "--base",
            &base,
            "--show-mask",
            "2",
            "-o",
            "mask.html",
        ],
    );
    assert_eq!(code(&page), 0, "{}", stderr(&page));
    let html = fs::read_to_string(dir.path().join("mask.html")).unwrap();
    assert!(
        html.contains(r#"<span class="learned">&lt;|im_end|&gt;</span>"#),
        "{html}"
    );
    assert_eq!(html.matches("<h2>").count(), 2);
}

#[test]
fn a_printed_configuration_runs_the_same_again() {
    let (dir, base) = folder(&chats(10));
    let flags = [
        "train.jsonl",
        "--base",
        &base,
        "--max-seq-length",
        "200",
        "--packing",
        "wrapped",
        "--train-on",
        "last",
        "-o",
        "a.safetensors",
    ];
    assert_eq!(code(&tool(dir.path(), &flags)), 0);
    let printed = tool(dir.path(), &[&flags[..], &["--print-config"]].concat());
    fs::write(dir.path().join("config.json"), &printed.stdout).unwrap();
    let again = tool(
        dir.path(),
        &["--config", "config.json", "-o", "b.safetensors"],
    );
    assert_eq!(code(&again), 0, "{}", stderr(&again));
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    assert_eq!(read("a.safetensors"), read("b.safetensors"));
}

#[test]
fn conflicting_and_missing_things_are_named() {
    let (dir, base) = folder(&chats(2));
    let conflict = tool(
        dir.path(),
        &[
            "train.jsonl",
            "--base",
            &base,
            "--packing",
            "wrapped",
            "--long",
            "drop",
        ],
    );
    assert_eq!(code(&conflict), 2);
    assert!(stderr(&conflict).contains("--packing wrapped cuts long examples"));
    let no_base = tool(dir.path(), &["train.jsonl", "--base", "nowhere"]);
    assert_eq!(code(&no_base), 2);
    assert!(
        stderr(&no_base).contains("nowhere: no such folder\nhint: "),
        "{}",
        stderr(&no_base)
    );
    let no_file = tool(dir.path(), &["missing.jsonl", "--base", &base]);
    assert_eq!(code(&no_file), 2);
    assert!(
        stderr(&no_file).contains("missing.jsonl: "),
        "{}",
        stderr(&no_file)
    );
}

#[test]
fn the_shares_of_several_machines_are_the_whole() {
    let (dir, base) = folder(&chats(50));
    let examples = |shard: &str| {
        let arguments = [
            "train.jsonl",
            "--base",
            &base,
            "--packing",
            "none",
            "--shard",
            shard,
            "-o",
            "s.safetensors",
        ];
        let output = tool(dir.path(), &arguments);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let shard = Shard::open(&dir.path().join("s.safetensors")).unwrap();
        (0..shard.rows())
            .map(|row| shard.row(row).input_ids)
            .collect::<Vec<_>>()
    };
    let whole = examples("1/1");
    let shares = [examples("1/3"), examples("2/3"), examples("3/3")];
    let together: Vec<Vec<u32>> = (0..50)
        .map(|line| shares[line % 3][line / 3].clone())
        .collect();
    assert_eq!(together, whole);
}

#[test]
fn rows_can_go_to_several_files_of_equal_size() {
    let (dir, base) = folder(&chats(50));
    let arguments = [
        "train.jsonl",
        "--base",
        &base,
        "--max-seq-length",
        "256",
        "-o",
        "t.safetensors",
    ];
    assert_eq!(code(&tool(dir.path(), &arguments)), 0);
    let output = tool(
        dir.path(),
        &[&arguments[..], &["--output-shards", "3"]].concat(),
    );
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let rows = |name: &str| {
        let shard = Shard::open(&dir.path().join(name)).unwrap();
        (0..shard.rows())
            .map(|row| shard.row(row).input_ids)
            .collect::<Vec<_>>()
    };
    let parts = [1, 2, 3].map(|part| rows(&format!("t-0000{part}-of-00003.safetensors")));
    assert!(
        parts
            .iter()
            .all(|part| part.len().abs_diff(parts[0].len()) <= 1)
    );
    assert_eq!(parts.concat(), rows("t.safetensors"));
    let second = Shard::open(&dir.path().join("t-00002-of-00003.safetensors")).unwrap();
    assert_eq!((second.meta().part.index, second.meta().part.of), (2, 3));
}

#[test]
fn a_character_of_several_tokens_is_shown_whole() {
    let (dir, base) = folder(&line("what?", "é 東"));
    let output = tool(
        dir.path(),
        &["train.jsonl", "--base", &base, "--show-mask", "1"],
    );
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(
        shown.contains('é') && shown.contains('東') && !shown.contains('\u{FFFD}'),
        "{shown}"
    );
}
