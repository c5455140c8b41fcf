//! What says the same, or contradicts it.

use super::{chat, odd, tool};
use workspace_tests::{run, text};

#[test]
fn a_duplicate_is_found_however_its_line_is_written() {
    let pairs = [
        (
            r#"{"prompt": "a café question", "completion": "b"}"#,
            r#"{"completion":"b","prompt":"a caf\u00e9 question"}"#,
        ),
        (
            r#"{"text": "a text of some words/"}"#,
            r#"{"text":"a text of some words\/", "id": 7}"#,
        ),
        (
            r#"{"input_ids": [1, 5, 2], "labels": [-100, 5, 2]}"#,
            r#"{"labels":[-100,5,2],"input_ids":[1,5,2]}"#,
        ),
    ];
    let others = [
        r#"{"prompt": "a café questionb", "completion": ""}"#,
        r#"{"input_ids": [1, 5, 2], "labels": [-100, -100, 2]}"#,
        r#"{"input_ids": [1, 5, 2]}"#,
    ];
    let lines: Vec<&str> = pairs
        .iter()
        .flat_map(|(a, b)| [*a, *b])
        .chain(others)
        .collect();
    let got = run(
        tool().arg("--severity=empty_content=off"),
        &lines.join("\n"),
    );
    let said = text(&got.stderr);
    assert!(said.contains("error exact_duplicate: 3 found"), "{said}");
    for line in [2, 4, 6] {
        let want = format!("<stdin>:{line}: says the same as line {}", line - 1);
        assert!(said.contains(&want), "{said}");
    }
}

#[test]
fn lines_that_teach_something_else_are_no_duplicates() {
    let turns = |weight: &str| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "a first question"}}, {{"role": "assistant", "content": "a"{weight}}}, {{"role": "user", "content": "a second question"}}, {{"role": "assistant", "content": "b"}}]}}"#
        )
    };
    let two_lists = r#"{"prompt": [{"role": "user", "content": "a first question"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "a second question"}], "completion": [{"role": "assistant", "content": "b"}]}"#;
    let different = [
        odd("", "", ""),
        odd("", r#", "reasoning_content": "so""#, ""),
        odd("", r#", "reasoning_content": "or so""#, ""),
        odd("", r#", "thinking": "so""#, ""),
        odd(r#", "name": "Ada""#, "", ""),
        odd(
            "",
            "",
            r#", "chat_template_kwargs": {"enable_thinking": false}"#,
        ),
        turns(""),
        turns(r#", "weight": 0"#),
    ];
    let got = run(&mut tool(), &different.join("\n"));
    let said = text(&got.stderr);
    assert_eq!(text(&got.stdout).lines().count(), 8, "{said}");
    let same = [
        odd("", r#", "weight": 1, "thinking": null"#, ""),
        odd("", "", r#", "chat_template_kwargs": {}, "tools": []"#),
        odd("", r#", "reasoning_content": "s\u006f""#, ""),
        two_lists.to_owned(), // of which the first answer is not learned
    ];
    let lines = [&different[..], &same].concat();
    let got = run(&mut tool(), &lines.join("\n"));
    let said = text(&got.stderr);
    assert!(said.contains("error exact_duplicate: 4 found"), "{said}");
    for (line, first) in [(9, 1), (10, 1), (11, 2)] {
        let want = format!("<stdin>:{line}: says the same as line {first}");
        assert!(said.contains(&want), "{said}");
    }
}

#[test]
fn an_answer_contradicts_another_under_one_system_prompt_and_by_its_calls() {
    let call = |id: &str, arguments: &str| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "what is the weather"}}, {{"role": "assistant", "tool_calls": [{{"id": "{id}", "type": "function", "function": {{"name": "f", "arguments": "{arguments}"}}}}]}}]}}"#
        )
    };
    let ambiguous = |lines: &[String]| {
        let said = run(&mut tool(), &lines.join("\n")).stderr;
        text(&said).contains("asks the same as line 1 and answers otherwise")
    };
    let first = call("1", r#"{\"a\": 1, \"b\": 2}"#);
    assert!(ambiguous(&[
        first.clone(),
        call("1", r#"{\"a\": 1, \"b\": 3}"#)
    ]));
    assert!(!ambiguous(&[first, call("2", r#"{\"b\":2,\"a\":1}"#)]));
    let under = |system: &str, answer: &str| {
        let system = format!(r#"[{{"role": "system", "content": "{system}"}}, "#);
        chat("what is the code of it", answer).replacen('[', &system, 1)
    };
    assert!(ambiguous(&[under("S", "a"), under("S", "b")]));
    assert!(!ambiguous(&[under("S", "a"), under("T", "b")]));
    assert!(!ambiguous(&[
        under("S", "a"),
        chat("what is the code of it", "b")
    ]));
}

#[test]
fn near_duplicates_are_found_when_asked_for() {
    let input = [
        "the patient reports pain in the left knee since Monday morning",
        "The patient reports pain in the left knee, since Monday morning!",
        "blood pressure was measured and is normal",
    ]
    .map(|question| chat(question, "x"))
    .join("\n");
    let got = run(tool().arg("--near-duplicates"), &input);
    assert!(
        text(&got.stderr).contains("<stdin>:2: asks nearly the same as line 1"),
        "{}",
        text(&got.stderr)
    );
    assert!(text(&got.stderr).contains("warning near_duplicate: 1 found"));
}
