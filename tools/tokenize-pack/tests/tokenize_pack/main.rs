//! tokenize-pack from outside: lines in, a packed file and a fate for every line out.

mod fates;
mod files;
mod mask;
mod token_ids;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use tempfile::TempDir;
use tokens::{Shard, TrainOn};
use workspace_tests::{copy, data, run, text};

fn base() -> PathBuf {
    data("tokens/base")
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
    let mut tool = workspace_tests::tool("tokenize-pack");
    run(tool.current_dir(dir).args(arguments), stdin)
}

fn stderr(output: &Output) -> &str {
    text(&output.stderr)
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
fn the_environment_does_not_say_how_many_threads() {
    let (dir, base) = folder("");
    let fifo = dir.path().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.unwrap().success());
    let cores = std::thread::available_parallelism().unwrap().get();
    let mut child = workspace_tests::tool("tokenize-pack")
        .env("RAYON_NUM_THREADS", (cores + 100).to_string())
        .args(["--base", &base, "--quiet"])
        .arg(&fifo)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let writer = fs::File::options().write(true).open(&fifo); // when it is opened to be read
    let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    let threads = tasks.count();
    drop(writer);
    child.wait().unwrap();
    assert!(threads < cores + 50, "{threads}");
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

/// A copy of the tests' base whose template prints the date.
fn base_with_a_date(dir: &Path) -> PathBuf {
    let dated = dir.join("dated-base");
    copy(&base(), &dated);
    let template = "{%- set today = strftime_now('%d %b %Y') if strftime_now is defined else '1 Jan 2020' -%}\
        {%- for message in messages -%}<|im_start|>{{ message.role }} {{ today }}\n\
        {{ message.reasoning_content }}{{ message.content }}<|im_end|>\n{% endfor -%}\
        {%- if add_generation_prompt -%}<|im_start|>assistant {{ today }}\n{% endif -%}";
    fs::write(dated.join("chat_template.jinja"), template).unwrap();
    dated
}

#[test]
fn a_packed_file_says_which_date_its_template_printed() {
    let (dir, plain) = folder(&chats(2));
    let dated = base_with_a_date(dir.path()).display().to_string();
    for (base, date, said) in [
        (&dated, Some("2026-11-24"), Some("2026-11-24")),
        (&dated, None, None),
        (&plain, Some("2026-11-24"), None), // this one prints no date
    ] {
        let mut arguments = vec!["train.jsonl", "--base", base, "-o", "t.safetensors"];
        arguments.extend(date.iter().flat_map(|date| ["--date", date]));
        let output = tool(dir.path(), &arguments);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let shard = Shard::open(&dir.path().join("t.safetensors")).unwrap();
        let date = shard.meta().date.map(|date| date.to_string());
        assert_eq!(date.as_deref(), said);
    }
}

#[test]
fn keys_of_a_message_that_only_the_template_knows_reach_it() {
    let thought = r#"{"messages": [{"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "reasoning_content": "because "}]}"#;
    let (dir, _) = folder(&thought.replace('\n', ""));
    let dated = base_with_a_date(dir.path()).display().to_string();
    let output = tool(
        dir.path(),
        &["train.jsonl", "--base", &dated, "--show-mask", "1"],
    );
    let shown = String::from_utf8(output.stdout).unwrap().replace('·', "");
    assert!(shown.contains("⟦because a<|im_end|>⟧"), "{shown}");
}

#[test]
fn a_flag_given_twice_counts_as_it_was_given_last() {
    let (dir, base) = folder(&chats(4));
    let flags = ["train.jsonl", "--base", "nowhere", "--base", &base];
    let more = [
        "--packing",
        "bfd",
        "--packing",
        "none",
        "-o",
        "t.safetensors",
    ];
    let output = tool(dir.path(), &[&flags[..], &more].concat());
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let shard = Shard::open(&dir.path().join("t.safetensors")).unwrap();
    assert_eq!(shard.rows(), 4);
}

#[test]
fn nothing_is_more_than_full_where_examples_are_cut() {
    let (dir, base) = folder(&chats(14));
    let flags = ["train.jsonl", "--base", &base, "--max-seq-length", "32"];
    let more = ["--packing", "wrapped", "-o", "t.safetensors"];
    let output = tool(dir.path(), &[&flags[..], &more].concat());
    let said = stderr(&output);
    let shares: Vec<f64> = said
        .split(" % full")
        .filter_map(|before| before.rsplit(' ').next()?.parse().ok())
        .collect();
    assert!(
        shares.len() == 2 && shares.iter().all(|share| *share <= 100.0),
        "{said}"
    );
}
