//! Lines that are token ids already.

use super::*;

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
fn what_a_line_says_of_itself_is_passed_over() {
    let line = |more: &str| format!(r#"{{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]{more}}}"#);
    let packed = |line: &str| {
        let (dir, base) = folder(&format!("\u{feff}{line}\n"));
        let output = tool(
            dir.path(),
            &["train.jsonl", "--base", &base, "--format", "jsonl"],
        );
        (code(&output), stderr(&output).to_owned(), output.stdout)
    };
    let (status, said, plain) = packed(&line(""));
    assert_eq!(status, 0, "{said}");
    for more in [
        r#", "id": 3, "source": null, "metadata": {"patient": "a"}"#,
        r#", "token_type_ids": [0, 0, 0], "position_ids": [0, 1, 2]"#,
    ] {
        let (status, said, output) = packed(&line(more));
        assert_eq!((status, output), (0, plain.clone()), "{said}");
    }
}

#[test]
fn a_line_is_packed_if_one_of_its_segments_is_learned() {
    let row = |labels: &str| {
        format!(r#"{{"input_ids": [5, 6, 7, 8], "labels": {labels}, "seq_lengths": [2, 2]}}"#)
    };
    let packed = |labels: &str| {
        let (dir, base) = folder(&row(labels));
        let flags = ["train.jsonl", "--base", &base, "--format", "jsonl"];
        let output = tool(dir.path(), &flags);
        (code(&output), stderr(&output).to_owned())
    };
    let (status, said) = packed("[-100, -100, -100, 8]");
    assert_eq!(status, 0, "{said}");
    let (status, said) = packed("[-100, -100, 7, -100]"); // the first of a segment is no target
    assert_eq!(status, 2);
    assert!(
        said.contains("no token of this line would be learned"),
        "{said}"
    );
}

#[test]
fn a_chat_that_speaks_of_token_ids_is_a_chat() {
    let chat = chats(1);
    let plain = chat.trim_end().strip_prefix('{').unwrap();
    let packed = |line: &str| {
        let (dir, base) = folder(line);
        let flags = ["train.jsonl", "--base", &base, "--format", "jsonl"];
        let output = tool(dir.path(), &flags);
        assert_eq!(code(&output), 0, "{line}\n{}", stderr(&output));
        output.stdout
    };
    for more in [
        r#""metadata": {"input_ids": [1]}"#,
        r#""input_ids": null, "labels": null"#,
    ] {
        assert_eq!(packed(&format!("{{{more}, {plain}\n")), packed(&chat));
    }
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
            r#"{"input_ids": [5, 6], "labels": [-100, 6], "assistant_masks": [0, 1]}"#,
            "unknown field `assistant_masks`",
        ),
        (
            r#"{"input_ids": [5, 6], "labels": [-100, 6], "position_ids": [0, 0]}"#,
            "position_ids[1] does not count on to 1",
        ),
        (
            r#"{"input_ids": [5, 6], "labels": [-100, 6], "position_ids": [0]}"#,
            "position_ids has 1 entries, input_ids 2",
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
