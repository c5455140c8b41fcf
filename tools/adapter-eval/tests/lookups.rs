//! What holds without any model: cases, lookups, reports, comparisons, gates.

mod common;

use common::{exits, folder, golden, lines, read, report, run, run_reading, stderr, write};
use serde_json::Value;
use workspace_tests::text;

const LOOKUPS: &str =
    "--cases test.jsonl --train train.jsonl --systems majority,nearest --metric json-field:code";

#[test]
fn lookups_need_no_base_and_the_table_says_what_they_score() {
    let dir = folder();
    golden("table.txt", &exits(&dir, 0, LOOKUPS));
}

#[test]
fn the_keys_of_the_report_are_a_contract() {
    let dir = folder();
    exits(&dir, 0, &format!("{LOOKUPS} --out-dir eval"));
    golden("report.json", &read(&dir, "eval/report.json"));
    let predictions = read(&dir, "eval/predictions.jsonl");
    golden("predictions.jsonl", predictions.lines().next().unwrap());
    assert_eq!(predictions.lines().count(), 2 * 16);
}

#[test]
fn the_same_evaluation_writes_the_same_bytes() {
    let dir = folder();
    for out in ["one", "two"] {
        exits(&dir, 0, &format!("{LOOKUPS} --out-dir {out}"));
    }
    for name in ["report.json", "report.html", "predictions.jsonl"] {
        assert_eq!(
            read(&dir, &format!("one/{name}")),
            read(&dir, &format!("two/{name}"))
        );
    }
}

#[test]
fn cases_come_from_standard_input_too() {
    let dir = folder();
    let words = LOOKUPS.replace("test.jsonl", "-");
    let output = run_reading(&dir, &words, &lines(32..48));
    let text = text(&output.stdout);
    assert_eq!(
        text.replace("<stdin>", "test.jsonl"),
        exits(&dir, 0, LOOKUPS)
    );
}

#[test]
fn a_gate_that_is_not_met_exits_with_1_and_still_writes_the_report() {
    let dir = folder();
    exits(
        &dir,
        0,
        &format!("{LOOKUPS} --min-accuracy 0.6 --must-beat majority"),
    );
    let table = exits(
        &dir,
        1,
        &format!("{LOOKUPS} --min-accuracy 0.9 --out-dir eval"),
    );
    assert!(table.contains("--min-accuracy 0.9: NOT met"), "{table}");
    assert_eq!(report(&dir, "eval")["gates"][0]["met"], false);
}

#[test]
fn a_gate_that_is_not_met_is_told_though_nobody_reads_the_table() {
    let dir = folder();
    for (gate, status) in [("--min-accuracy 0.9", 1), ("--min-accuracy 0.1", 0)] {
        // A pipe whose reader is gone before anything is written to it.
        let line = format!(
            "mkfifo table; cat <table >/dev/null & reader=$!; exec 3>table; kill $reader; wait $reader; rm table
             \"$0\" {LOOKUPS} {gate} >&3"
        );
        let mut shell = std::process::Command::new("sh");
        shell.current_dir(dir.path()).args(["-c", &line]);
        let output = shell
            .arg(workspace_tests::tool("adapter-eval").get_program())
            .output()
            .unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(status), "{gate}: {said}");
        assert_eq!(said.contains("is not met"), status == 1, "{gate}: {said}");
    }
}

#[test]
fn a_question_under_other_instructions_is_the_same_question() {
    let dir = folder();
    let other = lines(32..48).replace("Answer with JSON.", "Answer with JSON");
    write(&dir, "leaked.jsonl", &other);
    let words = LOOKUPS.replace("train.jsonl", "leaked.jsonl");
    let table = exits(&dir, 0, &words);
    let told = "16 of 16 questions of test.jsonl are in leaked.jsonl too";
    assert!(table.contains(told), "{table}");
}

#[test]
fn prose_that_repeats_now_and_then_is_no_table_of_classes() {
    let dir = folder();
    let line = |n: usize| {
        let answer = if n < 3 { "the same" } else { "another" };
        let messages = serde_json::json!({"messages": [
            {"role": "user", "content": format!("q {n}")},
            {"role": "assistant", "content": format!("{answer} {}", n.max(2))},
        ]});
        messages.to_string() + "\n"
    };
    write(&dir, "prose.jsonl", &(0..40).map(line).collect::<String>());
    let words = "--cases prose.jsonl --train train.jsonl --systems nearest --out-dir eval";
    exits(&dir, 0, words);
    assert!(report(&dir, "eval")["systems"][0]["labels"].is_null());
}

#[test]
fn a_gate_that_is_not_met_says_why_on_standard_error_with_quiet_too() {
    let dir = folder();
    let output = run(
        &dir,
        &format!("{LOOKUPS} --quiet --min-accuracy 0.9 --must-beat majority"),
    );
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.starts_with("adapter-eval: --min-accuracy 0.9 is not met: nearest scores 0."),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn a_gate_against_a_system_that_is_not_there_is_an_error() {
    let dir = folder();
    let output = run(&dir, &format!("{LOOKUPS} --must-beat neerest"));
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("hint: the systems here are majority, nearest"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_gate_against_the_judged_system_itself_is_never_open() {
    let dir = folder();
    let both = run(
        &dir,
        &format!("{LOOKUPS} --must-beat nearest --out-dir eval"),
    );
    assert_eq!(both.status.code(), Some(1), "{}", stderr(&both));
    let gate = &report(&dir, "eval")["gates"][0];
    assert_eq!(gate["because"], "nearest is the judged system itself");

    let alone = LOOKUPS.replace("majority,nearest", "nearest");
    let output = run(&dir, &format!("{alone} --must-beat nearest"));
    assert_eq!(output.status.code(), Some(2));
    let message = stderr(&output);
    assert!(message.contains("there is no other\nhint: "), "{message}");
}

#[test]
fn a_gate_may_ask_for_more_than_the_better_mean() {
    let dir = folder();
    for (status, limit, flag) in [
        (0, 16, "--must-beat"),
        (0, 16, "--must-beat-clearly"),
        (0, 4, "--must-beat"),
        (1, 4, "--must-beat-clearly"),
    ] {
        let words = format!("{LOOKUPS} --limit {limit} {flag} majority");
        let table = exits(&dir, status, &words);
        let met = if status == 0 { "met" } else { "NOT met" };
        assert!(
            table.contains(&format!("{flag} majority: {met} (nearest")),
            "{table}"
        );
        assert_eq!(
            table.contains("; p = "),
            table.contains("-clearly"),
            "{table}"
        );
    }
}

#[test]
fn a_trial_on_the_first_cases_says_so() {
    let dir = folder();
    let table = exits(&dir, 0, &format!("{LOOKUPS} --limit 4 --out-dir eval"));
    assert!(table.contains("on the first 4 of 16 cases"), "{table}");
    let cases = &report(&dir, "eval")["cases"];
    assert_eq!(
        (&cases["count"], &cases["in_file"]),
        (&4.into(), &16.into())
    );
    assert_eq!(read(&dir, "eval/predictions.jsonl").lines().count(), 2 * 4);
    exits(&dir, 2, &format!("{LOOKUPS} --against eval"));
    exits(&dir, 0, &format!("{LOOKUPS} --against eval --limit 4"));
}

/// Runs the tool, which must refuse with `message` before a model is looked for.
fn refused(dir: &tempfile::TempDir, words: &str, message: &str) {
    let output = run(dir, words);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{words}\n{said}");
    assert!(said.contains(message), "{words}\n{said}");
}

#[test]
fn names_and_gates_that_cannot_be_are_told_before_anything_is_generated() {
    let dir = folder();
    exits(&dir, 0, &format!("{LOOKUPS} --out-dir one"));
    let adapter = "--cases test.jsonl --train train.jsonl --base nowhere --adapter nowhere";
    for (words, message) in [
        (
            format!("{adapter} --name nearest --systems nearest,adapter"),
            "two systems would be named nearest\nhint: ",
        ),
        (
            format!("{adapter} --systems adapter,adapter"),
            "two systems would be named adapter\nhint: ",
        ),
        (
            format!("{adapter} --systems adapter,zero-shot --must-beat adapter"),
            "it is the judged system itself\nhint: the others here are base-nf4-zero-shot\n",
        ),
        (
            format!("{adapter} --systems zero-shot,adapter --must-beat-clearly zero-short"),
            "--must-beat-clearly zero-short: no such system\nhint: ",
        ),
        (
            format!("{LOOKUPS} --against one --must-beat neerest"),
            "hint: the systems here are majority, nearest\n",
        ),
    ] {
        refused(&dir, &words, message);
    }
    write(&dir, "train.jsonl", &lines(0..24).replace("I10", "I15"));
    let words = format!("{adapter} --systems nearest,adapter --against one");
    refused(
        &dir,
        &words,
        "two evaluations name a system nearest and differ\nhint: ",
    );
}

#[test]
fn a_choice_of_shots_that_two_folders_hold_is_told_once() {
    let dir = folder();
    let selection = |system: &str| serde_json::json!({"system": system, "file": "valid.jsonl", "cases": 8, "candidates": [], "chosen": 1});
    for out in ["one", "two"] {
        exits(&dir, 0, &format!("{LOOKUPS} --out-dir {out}"));
        let mut report = report(&dir, out);
        report["selections"] = vec![selection("a"), selection("b")].into();
        write(&dir, &format!("{out}/report.json"), &report.to_string());
    }
    exits(
        &dir,
        0,
        &format!("{LOOKUPS} --against one two --out-dir all"),
    );
    let expected = Value::from(vec![selection("a"), selection("b")]);
    assert_eq!(report(&dir, "all")["selections"], expected);
}

#[test]
fn a_reference_that_is_not_right_itself_is_told() {
    let dir = folder();
    let with = |metric: &str| LOOKUPS.replace("json-field:code", metric);
    for metric in ["json-field:cdoe", "json-found:cdoe", "json-set:cdoe"] {
        let message = format!(
            "test.jsonl: no reference is right by --metric {metric}\nhint: the fields there are code\n"
        );
        refused(&dir, &with(metric), &message);
    }
    let (all, plain) = (lines(32..48), |text: &str| {
        text.replace(r#"{\"code\":\"I10\"}"#, "I10")
    });
    write(&dir, "test.jsonl", &plain(&all));
    let table = exits(&dir, 0, &format!("{LOOKUPS} --out-dir eval"));
    let warning =
        "warning: 4 of 16 references of test.jsonl are not right by json-field:code themselves";
    assert!(table.contains(warning), "{table}");
    let labels = &report(&dir, "eval")["systems"][1]["labels"];
    let scores = &report(&dir, "eval")["systems"][1]["scores"];
    assert_eq!(labels["accuracy"], scores["json-field:code"]["mean"]);
    let text = |range| {
        let of = lines(range)
            .replace(r#"{\"code\":\""#, "")
            .replace(r#"\"}""#, "\"");
        assert!(!of.contains("code"), "{of}");
        of
    };
    write(&dir, "test.jsonl", &text(32..48));
    exits(&dir, 0, &with("json-valid"));
    refused(
        &dir,
        &with("json-match"),
        "hint: exact and chrf compare texts",
    );
    write(&dir, "test.jsonl", &all);
    write(&dir, "train.jsonl", &text(0..24));
    refused(
        &dir,
        LOOKUPS,
        "train.jsonl: no reference is right by --metric json-field:code",
    );
}

#[test]
fn a_flag_without_a_use_is_told() {
    let dir = folder();
    for (flag, warning) in [
        ("--shots 4", "--shots is for few-shot"),
        ("--select valid.jsonl", "--select is for few-shot"),
        ("--top-p 0.5", "--top-p is for drawn answers"),
        ("--temperature 1", "--temperature is for models"),
        (
            "--confidence-field conf",
            "no answer of majority, nearest states conf",
        ),
    ] {
        let table = exits(&dir, 0, &format!("{LOOKUPS} {flag}"));
        assert!(table.contains(&format!("warning: {warning}")), "{table}");
    }
    let by_degree = LOOKUPS.replace("json-field:code", "word-f1");
    let words = format!("{by_degree} --confidence-field conf");
    refused(
        &dir,
        &words,
        "--confidence-field: by word-f1 no answer is right or wrong\nhint: ",
    );
}

#[test]
fn earlier_evaluations_of_the_same_cases_join_the_table() {
    let dir = folder();
    exits(
        &dir,
        0,
        &format!(
            "{} --out-dir one",
            LOOKUPS.replace("majority,nearest", "majority")
        ),
    );
    exits(
        &dir,
        0,
        &format!(
            "{} --against one --out-dir two",
            LOOKUPS.replace("majority,nearest", "nearest")
        ),
    );
    exits(&dir, 0, &format!("{LOOKUPS} --out-dir both"));
    let (two, both) = (report(&dir, "two"), report(&dir, "both"));
    assert_eq!(two["systems"], both["systems"]);
    assert_eq!(
        read(&dir, "two/predictions.jsonl"),
        read(&dir, "both/predictions.jsonl")
    );
}

#[test]
fn earlier_answers_are_judged_by_the_metric_of_today() {
    let dir = folder();
    let exact = LOOKUPS.replace("json-field:code", "exact");
    exits(
        &dir,
        0,
        &format!(
            "{} --out-dir one",
            exact.replace("majority,nearest", "majority")
        ),
    );
    exits(
        &dir,
        0,
        &format!(
            "{} --against one --out-dir two",
            LOOKUPS.replace("majority,nearest", "nearest")
        ),
    );
    let scores = &report(&dir, "two")["systems"][0]["scores"];
    assert!(scores["json-field:code"]["mean"].is_f64(), "{scores}");
}

#[test]
fn evaluations_of_other_cases_are_refused() {
    let dir = folder();
    exits(&dir, 0, &format!("{LOOKUPS} --out-dir one"));
    write(&dir, "test.jsonl", &lines(33..48));
    let output = run(&dir, &format!("{LOOKUPS} --against one"));
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("one: evaluated 16 cases of test.jsonl, which are others"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn the_number_of_shots_is_never_chosen_on_test_cases() {
    let dir = folder();
    let few_shot = "--base nowhere --cases test.jsonl --train train.jsonl --systems few-shot";
    let output = run(&dir, &format!("{few_shot} --select test.jsonl"));
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(
        text.contains("16 of the 16 questions of test.jsonl are in test.jsonl too"),
        "{text}"
    );
    assert!(
        text.contains("hint: --select takes a validation file"),
        "{text}"
    );
    let output = run(&dir, few_shot);
    assert!(
        stderr(&output).contains("no file to choose among them"),
        "{}",
        stderr(&output)
    );
    let none = few_shot.replace("train.jsonl", "test.jsonl") + " --shots 2";
    refused(
        &dir,
        &none,
        "test.jsonl: no example is left to show\nhint: ",
    );
}

#[test]
fn questions_that_were_trained_on_are_told() {
    let dir = folder();
    write(&dir, "train.jsonl", &lines(20..40));
    let table = exits(&dir, 0, LOOKUPS);
    assert!(
        table.contains("warning: 8 of 16 questions of test.jsonl are in train.jsonl too"),
        "{table}"
    );
}

#[test]
fn a_case_without_a_reference_names_its_line() {
    let dir = folder();
    let mut text = lines(32..34);
    text.push_str("{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}]}\n");
    write(&dir, "test.jsonl", &text);
    let output = run(&dir, LOOKUPS);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("test.jsonl:3: the last message is not the assistant's"),
        "{}",
        stderr(&output)
    );
    for bad in ["", "\n\n"] {
        write(&dir, "test.jsonl", bad);
        assert!(stderr(&run(&dir, LOOKUPS)).contains("test.jsonl: no cases"));
    }
    write(&dir, "test.jsonl", "{\"text\": \"q\"}");
    assert!(stderr(&run(&dir, LOOKUPS)).contains("test.jsonl:1: no messages"));
}

#[test]
fn a_failed_evaluation_leaves_the_old_outcome_as_it_was() {
    let dir = folder();
    exits(&dir, 0, &format!("{LOOKUPS} --out-dir eval"));
    let before = read(&dir, "eval/report.json");
    exits(
        &dir,
        2,
        &format!("{LOOKUPS} --base nowhere --systems zero-shot --out-dir eval"),
    );
    assert_eq!(read(&dir, "eval/report.json"), before);
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        4,
        "nothing is left beside it"
    );
}

#[test]
fn the_page_needs_nothing_else_and_escapes_what_was_said() {
    let dir = folder();
    let hostile = lines(0..24).replace("number 0", "<script>alert(1)</script>");
    write(
        &dir,
        "train.jsonl",
        &hostile.replace(r#"{\"code\":\"I10\"}"#, r#"<img src=x>"#),
    );
    exits(&dir, 0, &format!("{LOOKUPS} --out-dir eval"));
    let page = read(&dir, "eval/report.html");
    assert!(page.contains("&lt;img src=x&gt;"));
    for foreign in ["<script", "<img", "http://", "https://", "url("] {
        assert!(!page.contains(foreign), "{foreign}");
    }
}

#[test]
fn wrong_answers_name_who_was_right_and_these_come_first() {
    let dir = folder();
    let only = |system: &str| LOOKUPS.replace("majority,nearest", system);
    exits(&dir, 0, &format!("{} --out-dir nearest", only("nearest")));
    let alone = read(&dir, "nearest/report.html");
    assert!(!alone.contains("others that"), "there are none");

    let judged = format!("{} --against nearest --out-dir eval", only("majority"));
    exits(&dir, 0, &judged);
    let page = read(&dir, "eval/report.html");
    let (_, table) = page.split_once("others that were right</th>").unwrap();
    let (_, rows) = table.split_once("<tbody>").unwrap();
    let rows: Vec<&str> = rows
        .split("</tbody>")
        .next()
        .unwrap()
        .split("</tr>")
        .collect();
    let lost: Vec<bool> = rows[..rows.len() - 1]
        .iter()
        .map(|row| row.ends_with("<td><span class=\"nobreak\">nearest</span></td>"))
        .collect();
    let report = report(&dir, "eval");
    let only_nearest = report["comparisons"][0]["only_against"].as_u64().unwrap() as usize;
    let expected: Vec<bool> = (0..12).map(|row| row < only_nearest).collect();
    assert_eq!((lost, only_nearest), (expected, 7), "{rows:?}");
}

#[test]
fn the_printed_config_runs_the_same_evaluation() {
    let dir = folder();
    let config = exits(&dir, 0, &format!("{LOOKUPS} --print-config"));
    let parsed: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(parsed["metric"], "json-field:code");
    write(&dir, "eval.json", &config);
    assert_eq!(
        exits(&dir, 0, "--config eval.json"),
        exits(&dir, 0, LOOKUPS)
    );
}

#[test]
fn flags_that_cannot_go_together_are_usage_errors() {
    let dir = folder();
    for words in [
        "",
        "--cases test.jsonl --data x.safetensors --base b",
        "--data x.safetensors",
        "--cases test.jsonl --metric accuracy",
        "--cases test.jsonl --min-accuracy 2",
        "--cases test.jsonl --systems majority",
        "--cases test.jsonl --base b --systems adapter",
        "--cases test.jsonl --base b --adapter a --systems zero-shot",
        "--cases test.jsonl",
    ] {
        exits(&dir, 2, words);
    }
    // What is printed of flags that go together can be read again.
    let config = exits(
        &dir,
        0,
        "--data x.safetensors --base nowhere --print-config",
    );
    write(&dir, "data.json", &config);
    refused(&dir, "--config data.json", "nowhere");
    // Loss of packed data is not generated.
    for flag in [
        "--max-new-tokens 3",
        "--temperature 1",
        "--top-p 0.5",
        "--seed 1",
        "--name a",
    ] {
        let words = format!("--data x.safetensors --base b {flag}");
        refused(&dir, &words, "cannot be used with");
    }
    let words = "--cases test.jsonl --base b --quantize none --no-double-quant";
    refused(&dir, words, "--no-double-quant: nothing is quantised");
    let base = workspace_tests::data("models/llama-tied-prequant");
    let words = format!(
        "--cases test.jsonl --base {} --quantize none",
        base.display()
    );
    refused(
        &dir,
        &words,
        "its full-precision weights are gone\nhint: it is judged as it is",
    );
}
