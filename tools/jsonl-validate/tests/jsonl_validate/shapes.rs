//! What a line may look like.

use super::{chat, odd, tool};
use std::fs;
use workspace_tests::{run, text};

#[test]
fn calls_without_ids_are_answered_in_their_order_or_by_name() {
    let line = |calls: &str, results: &str| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "what is the weather of {n}"}}, {{"role": "assistant", "tool_calls": [{calls}]}}, {results}, {{"role": "assistant", "content": "b"}}]}}"#,
            n = calls.len() + results.len()
        )
    };
    let call = |id: &str, name: &str| {
        format!(
            r#"{{{id}"type": "function", "function": {{"name": "{name}", "arguments": {{}}}}}}"#
        )
    };
    let result = |more: &str| format!(r#"{{"role": "tool", "content": "7"{more}}}"#);
    let two = call("", "f") + ", " + &call("", "g");
    let both = result(r#", "name": "g""#) + ", " + &result(r#", "name": "f""#);
    let mixed = call("", "f") + ", " + &call(r#""id": "1", "#, "g");
    let by_id = result(r#", "tool_call_id": "1""#);
    for (line, says) in [
        (line(&call("", "f"), &result("")), None),
        (line(&two, &both), None),
        (
            line(&two, &(result("") + ", " + &result(r#", "name": "g""#))),
            None,
        ),
        (line(&call(r#""id": "1", "#, "f"), &by_id), None),
        (
            line(&call("", "f"), &(result("") + ", " + &result(""))),
            Some("messages[3] answers no call that is open"),
        ),
        (
            line(&call("", "f"), &result(r#", "name": "g""#)),
            Some(r#"messages[2] answers "g", of which no call is open"#),
        ),
        (
            line(&mixed, &by_id),
            Some("messages[1].tool_calls[0] has no id"),
        ),
        (
            line(&call("", "f"), &by_id),
            Some("messages[1].tool_calls[0] has no id"),
        ),
        (
            line(&call(r#""id": "1", "#, "f"), &result("")),
            Some("messages[2] has no tool_call_id"),
        ),
    ] {
        let got = run(&mut tool(), &line);
        let said = text(&got.stderr);
        match says {
            None => assert!(got.status.success(), "{line}: {said}"),
            Some(says) => assert!(
                said.contains(&format!("<stdin>:1: {says}\n")),
                "{line}: {said}"
            ),
        }
    }
}

#[test]
fn openais_way_before_tools_is_not_passed_over() {
    let call = r#", "function_call": {"name": "f", "arguments": "{}"}"#;
    for (line, says) in [
        (
            odd("", "", r#", "functions": [{"name": "f"}]"#),
            "functions is not read, tools is; jsonl-import converts it",
        ),
        (
            odd("", call, ""),
            "messages[1].function_call is not read, tool_calls is; jsonl-import converts it",
        ),
    ] {
        let got = run(&mut tool(), &line);
        let said = text(&got.stderr);
        assert_eq!(got.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("<stdin>:1: {says}\n")), "{said}");
    }
    let called = r#", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]"#;
    let got = run(&mut tool(), &odd("", called, r#", "tools": null"#));
    assert!(got.status.success(), "{}", text(&got.stderr)); // nothing is declared
    for empty in ["null", "[]"] {
        let got = run(
            &mut tool(),
            &odd("", "", &format!(r#", "functions": {empty}"#)),
        );
        assert!(got.status.success(), "{}", text(&got.stderr));
    }
}

#[test]
fn of_two_shapes_in_a_line_the_one_that_is_not_read_is_told() {
    let said = r#""prompt": "what is the code of it", "completion": "b""#;
    let list = r#""messages": [{"role": "user", "content": "what is the code of that"}, {"role": "assistant", "content": "b"}]"#;
    for (line, told) in [
        (format!("{{{list}, {said}}}"), vec!["prompt", "completion"]),
        (format!(r#"{{{said}, "text": "t"}}"#), vec!["text"]),
        (
            format!(r#"{{{said}, "text": null, "messages": null}}"#),
            vec![],
        ),
        (
            format!(r#"{{{list}, "text": null, "prompt": null}}"#),
            vec![],
        ),
    ] {
        let got = run(&mut tool(), &line);
        let said = text(&got.stderr);
        assert!(got.status.success(), "{line}: {said}");
        assert_eq!(
            said.matches(" is not read beside ").count(),
            told.len(),
            "{said}"
        );
        for key in told {
            let want = format!("<stdin>:1: key {key:?} is not read beside ");
            assert!(said.contains(&want), "{said}");
        }
    }
    let none = run(&mut tool(), r#"{"messages": null, "text": null}"#);
    let said = text(&none.stderr);
    assert!(
        said.contains("error missing_messages_list: 1 found"),
        "{said}"
    );
}

#[test]
fn a_line_of_very_many_unknown_keys_is_read_in_no_time() {
    let keys = |of: usize| {
        let key = |n: usize| format!(r#", "key{}": 0"#, n % of);
        (0..80_000).map(key).collect::<String>()
    };
    let start = std::time::Instant::now();
    let got = run(&mut tool(), &odd(&keys(80_000), "", &keys(60_000)));
    assert!(
        start.elapsed().as_secs() < 20,
        "80,000 x 80,000 comparisons"
    );
    let said = text(&got.stderr);
    for want in [
        "<stdin>:1: key \"key1\" is not read\n",
        "warning unknown_key: 6 found",
        "error message_unrecognized_key: 6 found",
        "error duplicate_key: 6 found",
    ] {
        assert!(said.contains(want), "{want}: {said}");
    }
}

/// The same conversation as `chat`, in TRL's two lists.
fn two_lists(user: &str, assistant: &str) -> String {
    serde_json::json!({"prompt": [{"role": "user", "content": user}],
        "completion": [{"role": "assistant", "content": assistant}]})
    .to_string()
}

#[test]
fn prompt_and_completion_as_messages_are_held_to_the_rules_of_messages() {
    let folder = tempfile::tempdir().unwrap();
    let schema = folder.path().join("schema.json");
    fs::write(&schema, r#"{"required": ["code"]}"#).unwrap();
    let order = r#"{"prompt": [{"role": "user", "content": "a question once"}, {"role": "user", "content": "and once more"}], "completion": [{"role": "assistant", "content": "{\"code\": 1}"}]}"#;
    let none = r#"{"prompt": [{"role": "user", "content": "a question twice"}, {"role": "assistant", "content": "{\"code\": 1}"}], "completion": [{"role": "user", "content": "is not answered"}]}"#;
    let lines = [
        two_lists("what is the code of it", r#"{"code": "B35"}"#),
        two_lists("what is the code of that", "B35"),
        two_lists("what is the code of this", "{}"),
        two_lists("", r#"{"code": "B35"}"#),
        two_lists("What is the code of it", r#"{"code": "B36"}"#),
        order.to_owned(),
        none.to_owned(),
        chat("what is the code of it", r#"{"code": "B35"}"#),
        two_lists("what is the code of those", r#"{"code": 7}"#)
            .replace("\"content\"", "\"content\": \"x\", \"content\""),
    ];
    let got = run(
        tool().args(["--label=code", "--schema"]).arg(schema),
        &lines.join("\n"),
    );
    let said = text(&got.stderr);
    for finding in [
        "2: completion[0].content is not JSON",
        "3: completion[0].content: \"code\" is a required property",
        "4: prompt[0].content is empty",
        "5: asks the same as line 1 and answers otherwise",
        "6: prompt[1] (user) follows another user message",
        "7: the completion has no assistant message",
        "8: says the same as line 1",
        "9: prompt[0]: key \"content\" is there twice",
        "1: label \"B35\" has 1 of at least 5 examples",
    ] {
        assert!(
            said.contains(&format!("<stdin>:{finding}")),
            "{finding}: {said}"
        );
    }
    assert_eq!(text(&got.stdout).lines().count(), 2, "{said}");
}

#[test]
fn lines_of_token_ids_are_read_as_tokenize_pack_reads_them() {
    for (more, says) in [
        (
            r#""attention_mask": [1, 1, 0], "position_ids": [0, 1, 2]"#,
            None,
        ),
        (
            r#""seq_lengths": [2, 1], "token_type_ids": [0, 0, 0]"#,
            None,
        ),
        (
            r#""seq_lengths": [1, 2], "token_type_ids": [0, 0, 0]"#,
            Some("no label is learned"), // the first of a segment is no target
        ),
        (
            r#""seq_lengths": [2]"#,
            Some("seq_lengths do not add up to the 3 input_ids"),
        ),
        (
            r#""position_ids": [0, 2, 1]"#,
            Some("position_ids[1] does not count on to 1"),
        ),
        (
            r#""attention_mask": [1, 0, 0]"#,
            Some("labels[1] is a target where attention_mask is 0"),
        ),
        (r#""messages": []"#, Some("unknown field `messages`")),
        (
            r#""assistant_masks": [0, 1, 0]"#,
            Some("unknown field `assistant_masks`"),
        ),
    ] {
        let line = format!(r#"{{"input_ids": [4, 5, 6], "labels": [-100, 5, -100], {more}}}"#);
        let got = run(&mut tool(), &line);
        let said = text(&got.stderr);
        match says {
            None => assert!(
                got.status.success() && !said.contains("unknown_key"),
                "{said}"
            ),
            Some(says) => assert!(
                !got.status.success() && said.contains(says),
                "{line}: {said}"
            ),
        }
    }
}
