//! Does jsonl-validate let sound lines through unchanged, and say what is wrong with the others?

use std::fs;
use std::process::Command;

use workspace_tests::{hostile, run, text, tiny_base};

fn tool() -> Command {
    workspace_tests::tool("jsonl-validate")
}

fn chat(user: &str, assistant: &str) -> String {
    serde_json::json!({"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]})
        .to_string()
}

#[test]
fn every_hostile_file_is_answered_to_the_letter() {
    hostile("jsonl-validate", &[".jsonl"], &["-o", "/dev/null"]);
}

#[test]
fn sound_lines_pass_unchanged_and_the_others_are_kept_apart() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let (good, bad) = (
        "{ \"messages\" : [{\"role\":\"user\",\"content\":\"a question \\u00e9\"},{\"role\":\"assistant\",\"content\":\"x\"}] }\n",
        "{\"messages\": []}\n",
    );
    let input = format!("{good}{bad}\n{}", chat("the last line without an end", "y"));
    let mut command = tool();
    command
        .arg("--rejects")
        .arg(file("bad"))
        .arg("--ledger")
        .arg(file("ledger"))
        .arg("--report")
        .arg(file("report"));
    let got = run(&mut command, &input);
    assert_eq!(got.status.code(), Some(1));
    assert_eq!(
        text(&got.stdout),
        format!("{good}{}", chat("the last line without an end", "y"))
    );
    assert_eq!(fs::read_to_string(file("bad")).unwrap(), format!("{bad}\n"));
    let ledger = fs::read_to_string(file("ledger")).unwrap();
    assert_eq!(
        ledger.lines().nth(2),
        Some("<stdin>,2,dropped,missing_messages_list,,")
    );
    assert_eq!(ledger.lines().count(), 1 + 4);
    let report: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(file("report")).unwrap()).unwrap();
    assert_eq!(
        report["lines"],
        serde_json::json!({"read": 4, "kept": 2, "dropped": 2})
    );
    assert_eq!(report["findings"][0]["rule"], "missing_messages_list");
    assert_eq!(
        run(command.arg("--drop-invalid"), &input).status.code(),
        Some(0)
    );
}

#[test]
fn the_output_is_the_same_with_any_number_of_threads() {
    let input: String = (0..30_000)
        .map(|n| {
            if n % 7 == 0 {
                format!("broken {n}\n")
            } else {
                chat(&format!("question number {}", n % 20_000), "x") + "\n"
            }
        })
        .collect();
    let one = run(tool().arg("--threads=1"), &input);
    let three = run(tool().arg("--threads=3"), &input);
    assert!(one.stdout == three.stdout && one.stderr == three.stderr);
    let two = run(tool().arg("--threads=2"), &input);
    assert!(one.stdout == two.stdout && one.stderr == two.stderr);
    assert!(!one.stdout.is_empty());
}

#[test]
fn where_no_line_passes_the_old_output_stays() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    for (input, flags, status) in [
        ("{}\n[]\n", vec!["--drop-invalid"], 2),
        ("\n \n", vec![], 2),
        ("{}\n[]\n", vec![], 1), // findings are a no
    ] {
        fs::write(file("out"), "old").unwrap();
        let mut command = tool();
        command.args(flags).arg("--rejects").arg(file("bad"));
        let got = run(command.arg("-o").arg(file("out")), input);
        let said = text(&got.stderr);
        assert_eq!(got.status.code(), Some(status), "{said}");
        assert_eq!(fs::read_to_string(file("out")).unwrap(), "old");
        assert_eq!(fs::read_to_string(file("bad")).unwrap(), input);
        let is_said = said.contains("<stdin>: no line passes, 2 were left out");
        assert_eq!(is_said, status == 2, "{said}");
    }
}

#[test]
fn drop_invalid_excuses_only_what_left_a_line_out() {
    let sound: Vec<String> = (0..10)
        .map(|n| chat(&format!("question number {n}"), "x") + "\n")
        .collect();
    let status = |input: &str, flags: &[&str]| {
        let got = run(tool().arg("--drop-invalid").args(flags), input);
        got.status.code()
    };
    let ten = sound.concat() + "{}\n";
    assert_eq!(status(&ten, &[]), Some(0));
    assert_eq!(status(&ten, &["--fail-on=warning"]), Some(0));
    let short = ten.clone() + &chat("a", "b");
    assert_eq!(status(&short, &[]), Some(0));
    assert_eq!(status(&short, &["--fail-on=warning"]), Some(1));
    let one = sound[0].clone() + "{}\n";
    assert_eq!(status(&one, &[]), Some(0));
    assert_eq!(status(&one, &["--severity=few_examples=error"]), Some(1));
}

#[test]
fn a_number_of_threads_that_no_machine_has_is_refused() {
    for number in ["0", "1025", "18446744073709551615"] {
        let got = run(tool().args(["--threads", number]), "");
        assert_eq!(got.status.code(), Some(2), "{}", text(&got.stderr));
        assert!(
            text(&got.stderr).contains("1..=1024"),
            "{}",
            text(&got.stderr)
        );
    }
}

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

/// Lines of one conversation, whose messages and line may hold something besides.
fn odd(question: &str, answer: &str, line: &str) -> String {
    format!(
        r#"{{"messages": [{{"role": "user", "content": "what is the code of it"{question}}}, {{"role": "assistant", "content": "b"{answer}}}]{line}}}"#
    )
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

#[test]
fn a_label_that_no_line_has_is_an_error() {
    let input = chat("what is the code of it", r#"{"code": "B35"}"#);
    assert_eq!(
        run(tool().arg("--label=code"), &input).status.code(),
        Some(0)
    );
    let got = run(tool().arg("--label=cod"), &input);
    let said = text(&got.stderr);
    assert_eq!(got.status.code(), Some(2), "{said}");
    assert!(
        said.contains(r#"no line that passes has the field "cod""#),
        "{said}"
    );
}

#[test]
fn severities_decide_what_passes() {
    let input = chat("a", "b") + "\n";
    assert_eq!(run(&mut tool(), &input).status.code(), Some(0));
    assert_eq!(
        run(tool().arg("--severity=short_user_message=error"), &input)
            .status
            .code(),
        Some(1)
    );
    assert_eq!(
        run(tool().arg("--fail-on=warning"), &input).status.code(),
        Some(1)
    );
    let off = run(
        tool().args([
            "--severity=short_user_message=off",
            "--severity=few_examples=off",
            "--fail-on=warning",
        ]),
        &input,
    );
    assert_eq!(off.status.code(), Some(0));
    let wrong = run(tool().arg("--severity=no_such_rule=off"), "");
    assert!(wrong.status.code() == Some(2) && text(&wrong.stderr).contains("no_such_rule"));
}

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
fn an_experts_no_comes_back_as_a_rule() {
    let folder = tempfile::tempdir().unwrap();
    let sheet = folder.path().join("sheet");
    let input: String = (0..50)
        .map(|n| chat(&format!("question <b>{n}</b>"), "x") + "\n")
        .collect();
    let got = run(tool().args(["--sample=5", "--review"]).arg(&sheet), &input);
    assert_eq!(got.status.code(), Some(0), "{}", text(&got.stderr));
    let page = fs::read_to_string(folder.path().join("sheet.html")).unwrap();
    assert!(
        page.matches("<section").count() == 5
            && page.contains("&lt;b&gt;")
            && !page.contains("http")
    );
    let csv = fs::read_to_string(folder.path().join("sheet.csv")).unwrap();
    let rejected = csv.replacen(",,,", ",reject,the code is wrong,", 1);
    let verdicts = folder.path().join("verdicts.csv");
    fs::write(&verdicts, rejected).unwrap();
    let got = run(tool().arg("--verdicts").arg(verdicts), &input);
    assert_eq!(
        text(&got.stdout).lines().count(),
        49,
        "{}",
        text(&got.stderr)
    );
    assert!(text(&got.stderr).contains("a reviewer rejected it: the code is wrong"));
}

#[test]
fn a_sheet_that_went_through_a_spreadsheet_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let input = chat("a question of an expert", "x");
    run(
        tool().args(["--sample=1", "--review"]).arg(file("sheet")),
        &input,
    );
    let csv = fs::read_to_string(file("sheet.csv")).unwrap();
    let id = csv.lines().nth(1).unwrap().split(',').next().unwrap();
    for delimiter in [",", ";", "\t"] {
        let row = [
            "id,line,verdict,comment,prompt,answer",
            &format!("{id},1,reject,caf#,q,x"),
        ];
        let sheet = row.join("\n").replace(',', delimiter);
        let bytes: Vec<u8> = sheet
            .bytes()
            .map(|byte| if byte == b'#' { 0xE9 } else { byte })
            .collect();
        fs::write(file("back"), bytes).unwrap();
        let got = run(tool().arg("--verdicts").arg(file("back")), &input);
        let said = text(&got.stderr);
        assert!(
            said.contains("a reviewer rejected it: caf\u{fffd}"),
            "{delimiter:?}: {said}"
        );
    }
}

#[test]
fn a_flag_that_would_be_ignored_is_refused() {
    for (flag, wants) in [
        ("--min-per-label=9", "--label"),
        ("--format=csv", "--report"),
    ] {
        let got = run(tool().arg(flag), &chat("a sound question", "x"));
        let said = text(&got.stderr);
        assert_eq!(got.status.code(), Some(2), "{said}");
        assert!(said.contains(wants), "{said}");
    }
}

#[test]
fn a_run_that_fails_leaves_review_sheets_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let input = chat("a question of an expert", "x");
    let review = |output: &str, input: &str| {
        let mut command = tool();
        command.current_dir(folder.path());
        let flags = ["--sample=5", "--review=sheet", "-o", output];
        run(command.args(flags), input).status.code()
    };
    for (output, input) in [
        ("/dev/full", input.as_str()), // all passes, and cannot be written
        ("out", "{}\n"),
        ("out", ""),
    ] {
        fs::write(file("sheet.csv"), "old").unwrap();
        assert_ne!(review(output, input), Some(0));
        assert_eq!(fs::read_to_string(file("sheet.csv")).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
    fs::create_dir(file("sheet.html")).unwrap();
    assert_eq!(review("out", &input), Some(2));
    assert!(!file("out").exists(), "told before the work");
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

#[test]
fn a_ledger_goes_on_from_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let header = "file,line,fate,rule,output,output_line\n";
    fs::write(
        file("first"),
        format!("{header}a.csv,2,kept,,-,1\na.csv,3,dropped,empty_cell,,\na.csv,4,kept,,-,2\n"),
    )
    .unwrap();
    let input = format!("{}\n[]\n", chat("a sound question", "x"));
    run(
        tool()
            .arg("--ledger")
            .arg(file("all"))
            .arg("--ledger-from")
            .arg(file("first")),
        &input,
    );
    let want =
        "a.csv,2,kept,,<stdout>,1\na.csv,3,dropped,empty_cell,,\na.csv,4,dropped,data_type,,\n";
    assert_eq!(
        fs::read_to_string(file("all")).unwrap(),
        format!("{header}{want}")
    );
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

#[test]
fn a_byte_order_mark_that_is_let_through_is_left_out() {
    let line = chat("a sound question", "x") + "\n";
    let folder = tempfile::tempdir().unwrap();
    let sheet = folder.path().join("sheet");
    let mut command = tool();
    command.args([
        "--severity=byte_order_mark=warning",
        "--sample=1",
        "--review",
    ]);
    let got = run(command.arg(sheet), &format!("\u{feff}{line}"));
    assert_eq!(text(&got.stdout), line, "{}", text(&got.stderr));
}

#[test]
fn a_file_in_utf16_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("in");
    for (mark, encoding) in [("\u{feff}", "UTF-16"), ("", "UTF-16LE")] {
        let text_of_file = format!("{mark}{}\n", chat("a question", "x"));
        let bytes: Vec<u8> = text_of_file
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        fs::write(&file, bytes).unwrap();
        let got = run(tool().arg(&file), "");
        let want = format!("in:1: is UTF-16; convert it with iconv -f {encoding} -t UTF-8");
        assert!(text(&got.stderr).contains(&want), "{}", text(&got.stderr));
    }
}

#[test]
fn a_file_that_is_compressed_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("in");
    fs::write(&file, b"\x1F\x8B\x08\0\0\n\xFF").unwrap();
    let got = run(tool().arg(&file), "");
    let said = text(&got.stderr);
    assert!(
        said.contains("in:1: is compressed; gunzip -c FILE"),
        "{said}"
    );
}

#[test]
fn the_first_failure_ends_every_thread() {
    let input: String = (0..20_000)
        .map(|n| chat(&format!("question number {n}"), "x") + "\n")
        .collect();
    let got = run(tool().args(["--threads=3", "-o", "/dev/full"]), &input);
    assert_eq!(got.status.code(), Some(2));
    assert!(
        text(&got.stderr).contains("writing /dev/full: No space left"),
        "{}",
        text(&got.stderr)
    );
}

#[test]
fn every_rule_is_explained() {
    let all = run(tool().args(["--explain", "all"]), "");
    for code in text(&all.stdout)
        .lines()
        .filter_map(|line| line.split(' ').next())
    {
        let one = run(tool().args(["--explain", code]), "");
        assert!(one.status.success() && text(&one.stdout).starts_with(code));
        assert!(text(&one.stdout).contains("\nFor example:\n"), "{code}");
    }
}
