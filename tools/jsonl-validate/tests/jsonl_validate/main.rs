//! Does jsonl-validate let sound lines through unchanged, and say what is wrong with the others?

mod duplicates;
mod files;
mod review;
mod shapes;
mod words;

use std::fs;
use std::process::Command;

use workspace_tests::{hostile, run, text};

fn tool() -> Command {
    workspace_tests::tool("jsonl-validate")
}

fn chat(user: &str, assistant: &str) -> String {
    serde_json::json!({"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]})
        .to_string()
}

/// Lines of one conversation, whose messages and line may hold something besides.
fn odd(question: &str, answer: &str, line: &str) -> String {
    format!(
        r#"{{"messages": [{{"role": "user", "content": "what is the code of it"{question}}}, {{"role": "assistant", "content": "b"{answer}}}]{line}}}"#
    )
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
