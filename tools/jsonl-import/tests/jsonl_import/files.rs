//! How the bytes are laid out.

use super::tool;
use std::fs;
use workspace_tests::{run, text};

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
