//! Does jsonl-import turn tables into chats, and name what is wrong with them?

mod exact;
mod files;
mod shapes;

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
