//! Does jsonl-import turn tables into chats, and name what is wrong with them?

use std::fs;
use std::process::Command;

use workspace_tests::{hostile, run, text};

fn tool() -> Command {
    workspace_tests::tool("jsonl-import")
}

#[test]
fn every_hostile_table_is_answered_to_the_letter() {
    hostile(
        "jsonl-import",
        &[".csv", ".json"],
        &[
            "--user",
            "{{ note }}",
            "--assistant",
            "{{ code }}",
            "-o",
            "/dev/null",
        ],
    );
}

#[test]
fn a_table_from_a_pipe_becomes_chats_in_every_format() {
    let want = r#"{"messages":[{"role":"system","content":"S"},{"role":"user","content":"a, b"},{"role":"assistant","content":"{\"code\": \"R52\"}"}]}"#;
    let flags = [
        "--system",
        "S",
        "--user",
        "{{ note }}",
        "--assistant",
        r#"{{ {"code": code} | tojson }}"#,
    ];
    let tables = [
        ("note,code\n\"a, b\",R52\n", vec![]),
        ("\u{feff}note,code\r\n\"a, b\",R52\r\n", vec![]),
        ("note\tcode\na, b\tR52\n", vec!["--format", "tsv"]),
        ("note;code\na, b;R52\n", vec!["--delimiter", ";"]),
        ("note\tcode\na, b\tR52\n", vec!["--delimiter", "\\t"]),
        ("\"a, b\",R52\n", vec!["--columns", "note,code"]),
        (r#"[{"note":"a, b","code":"R52"}]"#, vec![]),
        (r#"{"note":"a, b","code":"R52"}"#, vec![]),
    ];
    for (table, more) in tables {
        let got = run(tool().args(flags).args(&more), table);
        assert_eq!(
            text(&got.stdout),
            format!("{want}\n"),
            "{table}: {}",
            text(&got.stderr)
        );
    }
}

#[test]
fn a_quote_in_a_tsv_swallows_no_row() {
    let import = |table: &str, flags: &[&str]| {
        let mut tool = tool();
        tool.args(["--format=tsv", "--user={{ q }}", "--assistant={{ a }}"]);
        let got = run(tool.args(flags), table);
        let rows = text(&got.stdout).lines().count();
        (got.status.code(), rows, text(&got.stderr).to_owned())
    };
    let corpus = "q\ta\nx\t\"Yes, he said\ny\tno\nz\tshe said \"go\"\n";
    let (status, _, said) = import(corpus, &[]);
    assert_eq!(status, Some(2));
    assert!(
        said.contains(
            "<stdin>:2: column \"a\": a quote is opened, and where it is closed, on line 4, text follows\n"
        ),
        "{said}"
    );
    assert!(
        said.contains("\nhint: --quoting none reads quotes as text"),
        "{said}"
    );
    let quotations = corpus.replace("she said \"go", "go");
    let (status, _, said) = import(&quotations, &[]);
    assert_eq!(status, Some(2));
    assert!(
        said.contains("<stdin>:2: is one row of 3 lines if"),
        "{said}"
    );
    for (flag, rows) in [("--quoting=none", 3), ("--quoting=minimal", 1)] {
        let (status, written, said) = import(&quotations, &[flag]);
        assert_eq!((status, written), (Some(0), rows), "{said}");
    }
    let (status, _, said) = import("q\ta\nx\t\"Yes.\"\n", &[]);
    assert_eq!(status, Some(0));
    assert!(
        said.contains("<stdin>:2: quotes around a cell were taken off, 1 times"),
        "{said}"
    );
    let (_, _, said) = import("q\ta\nx\t\"Yes.\"\n", &["--quoting=minimal"]);
    assert!(!said.contains("quotes"), "{said}");
}

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
fn a_skipped_row_is_in_the_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger.csv");
    let flags = [
        "--user",
        "{{ q }}",
        "--assistant",
        "{{ a }}",
        "--on-empty",
        "skip",
        "--keep",
        "id",
    ];
    let got = run(
        tool().args(flags).arg("--ledger").arg(&ledger),
        "id,q,a\n1,x,y\n2,,y\n3,z,y\n",
    );
    assert_eq!(got.status.code(), Some(0));
    assert!(text(&got.stdout).contains(r#""metadata":{"id":"3"}"#));
    let want = "file,line,fate,rule,output,output_line\n<stdin>,2,kept,,<stdout>,1\n<stdin>,3,dropped,empty_cell,,\n<stdin>,4,kept,,<stdout>,2\n";
    assert_eq!(fs::read_to_string(ledger).unwrap(), want);
}

#[test]
fn a_column_asked_for_in_brackets_is_checked_as_any_other() {
    let import = |user: &str, table: &str| {
        let got = run(
            tool().args(["--user", user, "--assistant", "{{ code }}"]),
            table,
        );
        (got.status.code(), text(&got.stderr).to_owned())
    };
    let user = r#"q {{ row["Patient note"] }}"#;
    let (status, said) = import(user, "Patient note,code\n ,B35\n");
    assert_eq!(status, Some(2), "{said}");
    assert!(
        said.contains("<stdin>:2: column \"Patient note\" is empty\nhint: --on-empty skip"),
        "{said}"
    );
    let (status, said) = import(user, "note,code\nx,B35\n");
    assert_eq!(status, Some(2), "{said}");
    let want = "<stdin>:1: no column \"Patient note\"\nhint: the columns are note, code";
    assert!(said.contains(want), "{said}");
    let optional = r#"q {{ row["Patient note"] | default("none", true) }}"#;
    let (status, said) = import(optional, "Patient note,code\n ,B35\n");
    assert_eq!(status, Some(0), "{said}");
    let (status, said) = import("{{ row }}", "row,code\nx,B35\n");
    assert_eq!(status, Some(2), "{said}");
    assert!(
        said.contains("<stdin>:1: --user: row is the whole row, and also one"),
        "{said}"
    );
    assert!(said.contains("hint: row[\"row\"] is the column"), "{said}");
}

#[test]
fn the_arrays_of_two_queries_are_both_read() {
    let flags = ["--user", "{{ q }}", "--assistant", "{{ a }}"];
    let two =
        "[{\"q\":\"x\",\"a\":\"1\"},\n{\"q\":\"y\",\"a\":\"2\"}]\n[{\"q\":\"z\",\"a\":\"3\"}]\n";
    let got = run(tool().args(flags), two);
    assert_eq!(got.status.code(), Some(0), "{}", text(&got.stderr));
    assert_eq!(text(&got.stdout).lines().count(), 3);
    let got = run(tool().args(flags), &format!("{two}junk"));
    assert_eq!(got.status.code(), Some(2));
    assert!(
        text(&got.stderr).contains("<stdin>:4: something follows the array"),
        "{}",
        text(&got.stderr)
    );
}

#[test]
fn an_mlx_lm_folder_is_read_whole() {
    let folder = tempfile::tempdir().unwrap();
    for (name, line) in [
        ("train", r#"{"prompt":"q","completion":"a"}"#),
        ("test", r#"{"text":"t"}"#),
    ] {
        fs::write(folder.path().join(format!("{name}.jsonl")), line).unwrap();
    }
    let got = run(tool().arg(folder.path()), "");
    let lines: Vec<&str> = text(&got.stdout).lines().collect();
    assert!(
        lines[0].ends_with(r#""metadata":{"split":"train"}}"#)
            && lines[1].contains(r#""text":"t""#),
        "{lines:?}"
    );
}

#[test]
fn a_flag_that_would_be_ignored_is_refused() {
    let lines = r#"{"q":"x","a":"y"}"#;
    let templates = ["--user", "{{ q }}", "--assistant", "{{ a }}"];
    for (flags, input, want) in [
        (
            vec!["--format=tsv", "--delimiter=;"],
            "q\ta\nx\ty\n",
            "--delimiter is for csv, and this is read as tsv",
        ),
        (
            vec!["--columns=q,a"],
            lines,
            "--columns is for csv and tsv, and this is read as jsonl",
        ),
        (
            vec!["--quoting=none"],
            lines,
            "--quoting is for csv and tsv, and this is read as jsonl",
        ),
        (
            vec!["--delimiter=;"],
            lines,
            "--delimiter is for csv, and this is read as jsonl",
        ),
    ] {
        let got = run(tool().args(templates).args(flags), input);
        assert_eq!(got.status.code(), Some(2));
        assert!(text(&got.stderr).contains(want), "{}", text(&got.stderr));
    }
    for (table, way_out) in [
        ("q\ta\nx\ty\n", "--format tsv"),
        ("q;a\nx;y\n", "--delimiter ';'"),
    ] {
        let got = run(tool().args(templates), table);
        let said = text(&got.stderr);
        assert!(said.contains(&format!(": {way_out} cuts it\n")), "{said}");
    }
    for wrong in ["\"", "\n", "ü", "ab", ""] {
        let got = run(tool().args(templates).args(["--delimiter", wrong]), "q\n");
        assert_eq!(got.status.code(), Some(2));
    }
    let got = run(tool().arg("--map=mesages=dialog"), lines);
    assert_eq!(got.status.code(), Some(2));
    let said = text(&got.stderr);
    assert!(
        said.contains(r#"no key "mesages" is known here; known are messages, role"#),
        "{said}"
    );
    let got = run(
        tool().args(["--map=prompt=prompt", "--map=prompt=completion"]),
        lines,
    );
    let said = text(&got.stderr);
    assert_eq!(got.status.code(), Some(2));
    assert!(
        said.contains(r#"--map names "prompt" twice: "prompt" and "completion""#),
        "{said}"
    );
    let got = run(tool().args(templates), "q,q\nx,y\n");
    let said = text(&got.stderr);
    assert!(
        said.contains("<stdin>:1: column \"q\" is there twice"),
        "{said}"
    );
}

#[test]
fn a_quote_in_a_csv_that_is_never_closed_is_told_where_it_opens_and_swallows_no_row() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out.jsonl");
    std::fs::write(&output, "older\n").unwrap();
    for (rows, what) in [
        ("x,\"open\ny,b\nz,c\n", "a quote is opened and never closed"),
        (
            "x,\"open \"\"y\"\"\nz,c\n",
            "a quote is opened and never closed",
        ),
        (
            "x,\"open\ny,b\nz,\"c\"\nw,d\n",
            "column \"a\": a quote is opened, and where it is closed, on line 5, text follows",
        ),
    ] {
        let mut tool = tool();
        tool.args(["--format=csv", "--user={{ q }}", "--assistant={{ a }}"]);
        let table = format!("q,a\nfirst,row\n{rows}");
        let got = run(tool.arg("-o").arg(&output), &table);
        let said = text(&got.stderr);
        assert_eq!(got.status.code(), Some(2), "{table}{said}");
        let want = format!("<stdin>:3: {what}\nhint: --quoting none reads quotes as text");
        assert!(said.contains(&want), "{table}{said}");
        assert_eq!(std::fs::read_to_string(&output).unwrap(), "older\n");
    }
}

#[test]
fn a_key_that_a_message_holds_twice_is_refused() {
    let message = r#"{"role":"user","role":"assistant","content":"x"}"#;
    for (input, place) in [
        (format!(r#"{{"messages":[{message}]}}"#), "1: messages[0]"),
        (
            format!(r#"[{{"a":{{}},"conversations":[{{}},{message}]}}]"#),
            "row 1: conversations[1]",
        ),
    ] {
        let got = run(&mut tool(), &input);
        let said = text(&got.stderr);
        assert_eq!(got.status.code(), Some(2), "{said}");
        assert_eq!(text(&got.stdout), "");
        let want = format!("<stdin>:{place}: key \"role\" is there twice at column ");
        assert!(said.contains(&want), "{said}");
    }
}

#[test]
fn an_integer_beyond_64_bits_is_refused_not_rounded() {
    let flags = ["--user", "{{ id }}", "--assistant", "{{ a }}"];
    let huge = r#"{"id":12345678901234567890123,"a":"y"}"#;
    for (input, place) in [
        (format!("{}\n{huge}\n", r#"{"id":-0,"a":"y"}"#), "2"),
        (format!("[{huge}]"), "row 1"),
    ] {
        let got = run(tool().args(flags), &input);
        let said = text(&got.stderr);
        assert_eq!(got.status.code(), Some(2), "{said}");
        let want = format!("<stdin>:{place}: \"id\" is 12345678901234567890123, an integer beyond");
        assert!(said.contains(&want) && said.contains("quote it"), "{said}");
    }
    let got = run(tool().args(flags), r#"{"id":-0,"a":18446744073709551615}"#);
    let want = r#"{"messages":[{"role":"user","content":"0"},{"role":"assistant","content":"18446744073709551615"}]}"#;
    assert_eq!(text(&got.stdout), format!("{want}\n"));
}

#[test]
fn a_decimal_that_would_be_rounded_is_refused() {
    let flags = ["--user", "{{ q }}", "--assistant", "{{ amount }}"];
    let got = run(
        tool().args(flags),
        r#"{"q":"x","amount":12345678901234567.89}"#,
    );
    let said = text(&got.stderr);
    assert_eq!(got.status.code(), Some(2), "{said}");
    let want =
        "<stdin>:1: \"amount\" is 12345678901234567.89, a decimal of more digits than are kept";
    assert!(said.contains(want) && said.contains("quote it"), "{said}");
    let got = run(tool().args(flags), r#"{"q":"x","amount":1.10}"#);
    assert!(
        text(&got.stdout).contains(r#""content":"1.1""#),
        "{}",
        text(&got.stdout)
    );
}

#[test]
fn a_call_written_as_text_is_read_as_exactly_as_a_column() {
    let line = |arguments: &str| {
        let call = format!(r#"{{\"name\":\"w\",\"arguments\":{{{arguments}}}}}"#);
        format!(
            r#"{{"conversations":[{{"from":"human","value":"q"}},{{"from":"function_call","value":"{call}"}}]}}"#
        )
    };
    for (arguments, want) in [
        (
            r#"\"iban\":123456789012345678901234"#,
            "conversations[1].value.arguments.iban is 123456789012345678901234, an integer beyond",
        ),
        (
            r#"\"a\":1,\"a\":2"#,
            "conversations[1].value.arguments: key \"a\" is there twice\n",
        ),
        (r#"\"a\":["#, "conversations[1].value holds no JSON: "),
    ] {
        let got = run(&mut tool(), &line(arguments));
        let said = text(&got.stderr);
        assert_eq!(got.status.code(), Some(2), "{said}");
        assert!(said.contains(&format!("<stdin>:1: {want}")), "{said}");
    }
    let got = run(&mut tool(), &line(r#"\"z\":-0"#));
    assert!(text(&got.stdout).contains(r#""arguments":"{\"z\":0}""#));
    let tools = r#"{"prompt":"q","completion":"a","tools":"[{\"n\":123456789012345678901}]"}"#;
    let said = run(&mut tool(), tools).stderr;
    assert!(text(&said).contains("<stdin>:1: tools[0].n is 123456789012345678901, an integer"));
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
fn what_is_laid_out_otherwise_is_told_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--user={{ q }}", "--assistant={{ a }}"];
    let object = "{\n \"q\": \"x\",\n \"a\": \"y\"\n}\n";
    for (name, bytes, says) in [
        (
            "a",
            object.as_bytes(),
            "hint: a line is a whole object: jq -c .",
        ),
        (
            "a.jsonl",
            b"[{\"q\":\"x\",\"a\":\"y\"}]\n",
            "hint: --format json reads arrays",
        ),
        (
            "a.csv",
            b"q,a\nx,caf\xE9\n",
            "is not UTF-8\nhint: iconv -f CP1252 -t UTF-8",
        ),
        (
            "a.csv",
            b"sep=;\nq;a\nx;y\n",
            ":1: is Excel's word for the delimiter",
        ),
        ("a.csv", b"\x1F\x8B\x08\0\0", ": is compressed; gunzip -c"),
        (
            "a.xlsx",
            b"PK\x03\x04\x14\0",
            ": is a zip archive or a spreadsheet",
        ),
        ("a.parquet", b"PAR1\x15\0", ": is Parquet; duckdb -json"),
    ] {
        let file = folder.path().join(name);
        fs::write(&file, bytes).unwrap();
        let got = run(tool().args(flags).arg(&file), "");
        let said = text(&got.stderr);
        assert_eq!(got.status.code(), Some(2), "{said}");
        assert!(said.contains(says), "{name}: {said}");
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

#[test]
fn an_import_of_nothing_leaves_the_old_output() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    fs::write(file("chat.jsonl"), "old").unwrap();
    let flags = [
        "--user",
        "{{ q }}",
        "--assistant",
        "{{ a }}",
        "--on-empty",
        "skip",
    ];
    let mut command = tool();
    command.args(flags).arg("-o").arg(file("chat.jsonl"));
    let got = run(command.arg("--ledger").arg(file("ledger")), "q,a\nx,\n,y\n");
    let said = text(&got.stderr);
    assert_eq!(got.status.code(), Some(2), "{said}");
    assert!(
        said.contains("<stdin>: all 2 rows have an empty cell"),
        "{said}"
    );
    assert_eq!(fs::read_to_string(file("chat.jsonl")).unwrap(), "old");
    assert_eq!(
        fs::read_to_string(file("ledger")).unwrap().lines().count(),
        3
    );
}

#[test]
fn a_failed_import_leaves_the_old_output() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("chat.jsonl");
    fs::write(&out, "old").unwrap();
    let got = run(
        tool()
            .args(["--user", "{{ q }}", "--assistant", "{{ a }}", "-o"])
            .arg(&out),
        "q,a\nx,y\nz\n",
    );
    assert_eq!(got.status.code(), Some(2));
    assert_eq!(fs::read_to_string(&out).unwrap(), "old");
}
