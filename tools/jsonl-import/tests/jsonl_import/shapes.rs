//! Other people's records.

use super::tool;
use workspace_tests::{run, text};

#[test]
fn other_peoples_shapes_are_told_by_their_keys() {
    let records = concat!(
        r#"{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}"#,
        "\n",
        r#"{"instruction":"q","input":"","output":"a"}"#,
        "\n",
        r#"{"prompt":"q","completion":"a"}"#,
        "\n",
    );
    let got = run(tool().args(["--alpaca-prompt", "plain"]), records);
    let line = r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}"#;
    assert_eq!(
        text(&got.stdout),
        format!("{line}\n{line}\n{line}\n"),
        "{}",
        text(&got.stderr)
    );
    let unsaid = run(&mut tool(), r#"{"instruction":"q","output":"a"}"#);
    assert_eq!(unsaid.status.code(), Some(2));
    assert!(
        text(&unsaid.stderr).contains("--alpaca-prompt plain or stanford"),
        "{}",
        text(&unsaid.stderr)
    );
}

#[test]
fn an_answer_not_to_give_is_not_imported_as_one_to_give() {
    for line in [
        r#"{"prompt":"q","completion":"I hate you.","label":false}"#,
        r#"{"prompt":"q","completion":"a","rejected":"b"}"#,
        r#"{"prompt":"q","chosen":"a","rejected":"b"}"#,
        r#"{"conversations":[{"from":"human","value":"q"}],"chosen":{"from":"gpt","value":"a"},"rejected":{"from":"gpt","value":"b"}}"#,
    ] {
        let got = run(&mut tool(), line);
        let said = text(&got.stderr);
        assert_eq!(got.status.code(), Some(2), "{said}");
        assert_eq!(text(&got.stdout), "");
        assert!(said.contains("this is preference data, as for "), "{said}");
        assert!(
            said.contains("hint: take the answer that is wanted"),
            "{said}"
        );
    }
    for (line, flags) in [
        (
            r#"{"prompt":"q","completion":"a","label":true,"rejected":null}"#,
            vec![],
        ),
        (
            r#"{"prompt":"q","chosen":"a","rejected":"b"}"#,
            vec!["--map=completion=chosen"],
        ),
        (
            r#"{"prompt":"q","chosen":"a","rejected":"b"}"#,
            vec!["--user={{ prompt }}", "--assistant={{ chosen }}"],
        ),
    ] {
        let got = run(tool().args(flags), line);
        let want =
            r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}"#;
        assert_eq!(
            text(&got.stdout),
            format!("{want}\n"),
            "{}",
            text(&got.stderr)
        );
    }
}

#[test]
fn a_label_of_a_table_that_says_no_is_read_as_false() {
    for no in ["False", "f", "false", " NO", "0"] {
        let table = format!("prompt,completion,label\nq,a,True\nq,I hate you.,{no}\n");
        let got = run(&mut tool(), &table);
        let said = text(&got.stderr);
        assert_eq!(got.status.code(), Some(2), "{said}");
        assert!(said.contains("<stdin>:3: label says no: "), "{said}");
        assert!(said.contains("--keep label takes it along"), "{said}");
        for flags in [
            vec!["--keep=label"],
            vec!["--user={{ prompt }}", "--assistant={{ completion }}"],
        ] {
            let got = run(tool().args(flags), &table);
            assert_eq!(
                text(&got.stdout).lines().count(),
                2,
                "{}",
                text(&got.stderr)
            );
        }
    }
    for line in [
        r#"{"prompt":"q","completion":"a","label":0}"#,
        r#"{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}],"label":"f"}"#,
    ] {
        let number = run(&mut tool(), line);
        assert_eq!(number.status.code(), Some(2), "{line}");
    }
    let class = run(&mut tool(), r#"{"text":"t","label":0}"#);
    assert_eq!(class.status.code(), Some(0), "{}", text(&class.stderr));
}

#[test]
fn what_a_record_brings_besides_is_kept_or_told() {
    let beside = r#""system":"Be terse.","chat_template_kwargs":{"k":1},"metadata":{"id":7},"mine":1,"other":null"#;
    let kept = r#""chat_template_kwargs":{"k":1},"metadata":{"id":7}"#;
    let messages = r#"[{"role":"system","content":"Be terse."},{"role":"user","content":"q"},{"role":"assistant","content":"a"}]"#;
    for shape in [
        r#""prompt":"q","completion":"a""#,
        r#""prompt":[{"role":"user","content":"q"}],"completion":[{"role":"assistant","content":"a"}]"#,
        r#""instruction":"q","output":"a""#,
        r#""conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]"#,
    ] {
        let functions = r#""functions":[{"name":"f"}]"#;
        let got = run(
            tool().args(["--system=S", "--alpaca-prompt=plain"]),
            &format!("{{{shape},{beside},{functions}}}\n"),
        );
        let said = text(&got.stderr);
        let tools = r#""tools":[{"type":"function","function":{"name":"f"}}]"#;
        let line: serde_json::Value = serde_json::from_slice(&got.stdout).expect(said);
        let want = format!(r#"{{"messages":{messages},{kept},{tools}}}"#);
        assert_eq!(
            line,
            serde_json::from_str::<serde_json::Value>(&want).unwrap()
        );
        assert!(
            said.contains("left behind: \"mine\" of 1 rows; --keep KEY"),
            "{said}"
        );
    }
    let got = run(&mut tool(), &format!(r#"{{"text":"t",{kept},"more":1}}"#));
    assert_eq!(text(&got.stdout), format!("{{\"text\":\"t\",{kept}}}\n"));
    for (metadata, want) in [
        (
            r#""m""#,
            Err("metadata is no object that --keep could add to"),
        ),
        (
            r#"{"p":2}"#,
            Err("metadata holds another \"p\", which would be replaced"),
        ),
        (r#"{"p":1}"#, Ok(r#""metadata":{"p":1}"#)),
        (r#"{"q":2}"#, Ok(r#""metadata":{"q":2,"p":1}"#)),
        ("null", Ok(r#""metadata":{"p":1}"#)),
    ] {
        let line = format!(r#"{{"prompt":"q","completion":"a","p":1,"metadata":{metadata}}}"#);
        let got = run(tool().arg("--keep=p"), &line);
        match want {
            Ok(kept) => assert!(text(&got.stdout).contains(kept), "{}", text(&got.stderr)),
            Err(want) => assert!(text(&got.stderr).contains(&format!("<stdin>:1: {want}\n"))),
        }
    }
}

#[test]
fn json_in_the_cells_of_a_table_is_opened() {
    let quoted = |json: &str| format!("\"{}\"", json.replace('"', "\"\""));
    let messages = r#"[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]"#;
    let sharegpt = r#"[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]"#;
    let beside =
        r#""chat_template_kwargs":{"k":1},"parallel_tool_calls":false,"metadata":{"id":7}"#;
    let cells = [r#"{"k":1}"#, "false", r#"{"id":7}"#].map(quoted).join(",");
    let header = "chat_template_kwargs,parallel_tool_calls,metadata";
    for (column, list) in [("messages", messages), ("conversations", sharegpt)] {
        let table = format!("{column},{header}\n{},{cells}\n", quoted(list));
        let got = run(&mut tool(), &table);
        let want = format!("{{\"messages\":{messages},{beside}}}\n");
        assert_eq!(text(&got.stdout), want, "{}", text(&got.stderr));
    }
    let table = format!(
        "instruction,input,output,history\nx, ,y,{}\n",
        quoted(r#"[["q","a"]]"#)
    );
    let got = run(tool().arg("--alpaca-prompt=plain"), &table);
    let turns = r#"{"role":"user","content":"x"},{"role":"assistant","content":"y"}]"#;
    let want = format!(
        "{{\"messages\":{},{turns}}}\n",
        messages.trim_end_matches(']')
    );
    assert_eq!(text(&got.stdout), want, "{}", text(&got.stderr));
    for (table, says) in [
        (
            "messages\nhello\n",
            "<stdin>:2: messages holds no JSON: expected value",
        ),
        (
            "prompt,completion,chat_template_kwargs\nq,a,k=1\n",
            "<stdin>:2: chat_template_kwargs holds no JSON",
        ),
        ("messages\n{}\n", "<stdin>:2: messages is no list"),
    ] {
        let said = run(&mut tool(), table).stderr;
        assert!(text(&said).contains(says), "{}", text(&said));
    }
    let own = run(&mut tool(), "prompt,completion,metadata\nq,a,mine\n");
    assert!(text(&own.stdout).contains(r#""metadata":"mine""#));
}

#[test]
fn sharegpt_is_read_in_all_its_dialects() {
    let call = r#"{\"name\":\"f\",\"arguments\":{}}"#;
    let calling = format!(
        r#"{{"conversations":[{{"from":"Human","value":"q"}},{{"from":"tool_call","value":"{call}"}},{{"from":"tool_response","value":""}},{{"from":"AI","value":"a"}}]}}"#
    );
    let got = run(&mut tool(), &calling);
    let said = text(&got.stderr);
    let line: serde_json::Value = serde_json::from_slice(&got.stdout).expect(said);
    let roles = ["user", "assistant", "tool", "assistant"];
    for (index, role) in roles.into_iter().enumerate() {
        assert_eq!(line["messages"][index]["role"], role);
    }
    assert_eq!(line["messages"][2]["tool_call_id"], "call_0");
    let want = r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}"#;
    for conversations in [
        r#"[{"from":"prompter","value":"q"},{"from":"GPT","value":"a"}]"#,
        r#"[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]"#,
        r#"[{"role":"human","value":"q"},{"role":"gpt","value":"a"}]"#,
    ] {
        let got = run(
            &mut tool(),
            &format!(r#"{{"conversations":{conversations}}}"#),
        );
        assert_eq!(
            text(&got.stdout),
            format!("{want}\n"),
            "{}",
            text(&got.stderr)
        );
    }
}

#[test]
fn a_shape_whose_cell_is_empty_makes_way_for_another() {
    let said = r#""prompt":"q","completion":"a""#;
    let list = r#""messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]"#;
    for line in [
        format!(r#"{{"messages":null,{said}}}"#),
        format!(r#"{{"messages":"",{said}}}"#),
        format!(r#"{{"prompt":null,"completion":null,{list}}}"#),
    ] {
        let got = run(&mut tool(), &line);
        let said = text(&got.stderr);
        assert_eq!(text(&got.stdout), format!("{{{list}}}\n"), "{line}: {said}");
    }
    let got = run(&mut tool(), r#"{"messages":null}"#);
    assert!(text(&got.stderr).contains("<stdin>:1: column \"messages\" is empty"));
}

#[test]
fn calls_in_openais_old_way_become_tool_calls() {
    let line = r#"{"messages":[{"role":"user","content":"q"},
        {"role":"assistant","content":null,"function_call":{"name":"f","arguments":"{}"}},
        {"role":"function","name":"f","content":"7"},{"role":"assistant","content":"seven","tool_calls":null}]}"#;
    let got = run(&mut tool(), &line.replace('\n', ""));
    let said = text(&got.stderr);
    let line: serde_json::Value = serde_json::from_slice(&got.stdout).expect(said);
    let messages = &line["messages"];
    assert_eq!(messages[1]["tool_calls"][0]["function"]["name"], "f");
    assert_eq!(messages[1]["function_call"], serde_json::Value::Null);
    assert_eq!(messages[2]["role"], "tool");
    assert_eq!(messages[2]["tool_call_id"], "call_0");
    let empty = r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"","tool_calls":null}]}"#;
    let got = run(&mut tool(), empty);
    assert!(text(&got.stderr).contains("<stdin>:1: column \"messages[1].content\" is empty"));
}
