//! Sheets for an expert, and back.

use super::{chat, tool};
use std::fs;
use workspace_tests::{run, text};

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
