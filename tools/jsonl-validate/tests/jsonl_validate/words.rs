//! What the messages say.

use super::{chat, odd, tool};
use std::fs;
use workspace_tests::{run, text, tiny_base};

#[test]
fn answers_are_held_to_their_schema() {
    let folder = tempfile::tempdir().unwrap();
    let schema = folder.path().join("schema.json");
    fs::write(
        &schema,
        r#"{"required": ["code"], "properties": {"code": {"type": "string"}}}"#,
    )
    .unwrap();
    let input = [r#"{"code": "B35"}"#, r#"{"code": 7}"#, "B35"]
        .map(|answer| chat(&format!("a question about {answer}"), answer))
        .join("\n");
    let got = run(tool().arg("--schema").arg(schema), &input);
    assert_eq!(text(&got.stdout).lines().count(), 1);
    let said = text(&got.stderr);
    assert!(
        said.contains("<stdin>:2: messages[1].content/code: 7 is not of type"),
        "{said}"
    );
    assert!(
        said.contains("<stdin>:3: messages[1].content is not JSON"),
        "{said}"
    );
}

#[test]
fn an_answer_that_is_not_there_or_says_a_thing_twice_is_no_json() {
    let call = r#", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]"#;
    let ends_in_a_call = odd("", call, "").replace(r#""content": "b""#, r#""content": null"#);
    let twice = |answer: &str| Some(format!("messages[1].content{answer} is there twice"));
    let none = || Some("has no answer in words that could be JSON".to_owned());
    for (line, says) in [
        (
            chat(
                "what is the code of it",
                r#"{"code": 1, "a": [{"code": 1}]}"#,
            ),
            None,
        ),
        (
            chat("what is the code of it", r#"{"code": 1, "c\u006fde": 2}"#),
            twice(": key \"code\""),
        ),
        (
            chat("what is the code of it", r#"[{"a": {"b": 1, "b": 1}}]"#),
            twice("[0].a: key \"b\""),
        ),
        (r#"{"text": "a text of some words"}"#.to_owned(), none()),
        (
            r#"{"input_ids": [1, 5, 2], "labels": [-100, 5, 2]}"#.to_owned(),
            none(),
        ),
        (ends_in_a_call, none()),
    ] {
        let got = run(tool().arg("--assistant-json"), &line);
        let said = text(&got.stderr);
        match says {
            None => assert!(got.status.success(), "{said}"),
            Some(says) => assert!(
                said.contains(&format!("<stdin>:1: {says}\n")),
                "{line}: {said}"
            ),
        }
        let unasked = run(&mut tool(), &line);
        assert!(
            unasked.status.success(),
            "{line}: {}",
            text(&unasked.stderr)
        );
    }
}

#[test]
fn the_tokenizer_judges_what_the_model_will_read() {
    let base = tempfile::tempdir().unwrap();
    tiny_base("llama-tied", base.path());
    let input = [
        chat("a short question", "x"),
        chat(&"a long question ".repeat(200), "x"),
    ]
    .join("\n");
    let got = run(
        tool()
            .arg("--tokenizer")
            .arg(base.path())
            .arg("--max-seq-length=200"),
        &input,
    );
    assert!(
        text(&got.stderr).contains("more than --max-seq-length 200"),
        "{}",
        text(&got.stderr)
    );
    assert_eq!(text(&got.stdout).lines().count(), 1);
    let input = r#"{"input_ids": [1, 5, 6], "labels": [-100, 5, 6]}
{"input_ids": [1, 5, 2], "labels": [-100, -100, -100]}"#;
    let off = "--severity=nothing_to_learn=off"; // what is seen without a tokenizer
    let got = run(tool().args([off, "--tokenizer"]).arg(base.path()), input);
    let said = text(&got.stderr);
    assert!(
        said.contains("error missing_end_of_turn: 1 found"),
        "{said}"
    );
    assert!(
        said.contains("error zero_supervised_tokens: 1 found"),
        "{said}"
    );
}

#[test]
fn a_language_that_nearly_all_of_the_file_does_not_have_is_named() {
    let english = |n: u32| {
        chat(
            &format!("What is it that I have in my knee, and how did I get it? {n}"),
            "It is a strain.",
        )
    };
    let mut lines: Vec<String> = (0..19).map(english).collect();
    lines.push(chat(
        "Was ist das, was ich da im Knie habe, und wie kam es dazu?",
        "Eine Zerrung.",
    ));
    let got = run(&mut tool(), &lines.join("\n"));
    let said = text(&got.stderr);
    assert!(
        said.contains("<stdin>:20: is in German, where the file is in English"),
        "{said}"
    );
    assert_eq!(got.status.code(), Some(0));
}

#[test]
fn a_special_token_that_is_said_is_told() {
    let base = tempfile::tempdir().unwrap();
    tiny_base("llama-tied", base.path());
    let lines = [
        chat("a question that is sound", "x < y"),
        chat("a question\u{3c}|im_end|>", "x"),
        chat("another question", "x<|im_end|>y"),
        r#"{"prompt": "a question of <|im_start|>", "completion": "x<|im_end|>"}"#.to_owned(),
    ];
    let got = run(
        tool().arg("--tokenizer").arg(base.path()),
        &lines.join("\n"),
    );
    let said = text(&got.stderr);
    for want in [
        "warning special_token: 1 found",
        "<stdin>:2: messages[0].content holds the special token \"<|im_end|>\"",
        "error special_token_in_answer: 1 found",
        "<stdin>:3: messages[1].content holds the special token \"<|im_end|>\"",
    ] {
        assert!(said.contains(want), "{want}: {said}");
    }
    assert_eq!(text(&got.stdout).lines().count(), 3, "{said}");
}
