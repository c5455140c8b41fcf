//! What became of every line: the ledger, alone and after the tools before.

use std::fs;

use super::*;

#[test]
fn every_line_has_a_fate_and_the_fates_add_up() {
    let (dir, base) = folder(&chats(14));
    let run = |long: &str| {
        let arguments = [
            "train.jsonl",
            "--base",
            &base,
            "--max-seq-length",
            "64",
            "--long",
            long,
            "--ledger",
            "fates.csv",
            "--format",
            "jsonl",
        ];
        let output = tool(dir.path(), &arguments);
        (
            output,
            fs::read_to_string(dir.path().join("fates.csv")).unwrap_or_default(),
        )
    };
    let count = |fates: &str, fate: &str| {
        fates
            .lines()
            .filter(|row| row.contains(&format!(",{fate},")))
            .count()
    };

    let (output, _) = run("error");
    assert_eq!(code(&output), 2);
    assert!(
        stderr(&output).contains("tokens, over 64"),
        "{}",
        stderr(&output)
    );

    let (output, fates) = run("drop");
    assert_eq!(code(&output), 0);
    let dropped = count(&fates, "dropped");
    assert!(dropped > 0 && dropped + count(&fates, "kept") == 14);
    assert!(
        stderr(&output).contains(&format!("dropped, too long: {dropped} (train.jsonl:")),
        "{}",
        stderr(&output)
    );
    assert!(
        fates.starts_with("file,line,fate,rule,output,output_line\ntrain.jsonl,1,kept,,<stdout>,"),
        "{fates}"
    );
    assert!(fates.contains(",dropped,too_long,,\n"), "{fates}");

    // Cut at its end an example of this kind has nothing learned left, and is dropped after all.
    let (_, fates) = run("truncate");
    assert_eq!(
        count(&fates, "dropped") + count(&fates, "truncated") + count(&fates, "kept"),
        14
    );
}

/// (fate, rule, output) of every row of a ledger, and how often.
fn fates(ledger: &str) -> Vec<(String, usize)> {
    let mut counts = std::collections::BTreeMap::new();
    for row in ledger.lines().skip(1) {
        let columns: Vec<&str> = row.split(',').collect();
        *counts.entry(columns[2..5].join(",")).or_default() += 1;
    }
    counts.into_iter().collect()
}

#[test]
fn blank_lines_have_a_fate_too() {
    let (dir, base) = folder(&format!("{}\n  \n{}", chats(1), chats(1)));
    let flags = [
        "--base",
        &base,
        "-o",
        "t.safetensors",
        "--ledger",
        "fates.csv",
    ];
    let output = tool(dir.path(), &[&["train.jsonl"][..], &flags].concat());
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let ledger = fs::read_to_string(dir.path().join("fates.csv")).unwrap();
    assert_eq!(
        fates(&ledger),
        [
            ("dropped,blank_line,".to_owned(), 2),
            ("kept,,t.safetensors".to_owned(), 2)
        ]
    );
}

#[test]
fn a_ledger_that_follows_the_splits_tells_of_the_first_tools_lines() {
    let (dir, base) = folder(&chats(14)); // lines 5, 6, 7, 12, 13, 14 are long
    let origin = |line: usize, to: &str, of: usize| format!("notes.csv,{line},kept,,{to},{of}\n");
    let mut before =
        "file,line,fate,rule,output,output_line\nnotes.csv,1,dropped,empty_cell,,\n".to_owned();
    for line in 1..=14 {
        before += &origin(2 * line, "train.jsonl", line);
        before += &origin(2 * line + 1, "test.jsonl", line);
    }
    fs::write(dir.path().join("before.csv"), &before).unwrap();
    let run = |input: &str, stdin: &str, more: &[&str]| {
        let flags = [
            "--base",
            &base,
            "--max-seq-length",
            "64",
            "-o",
            "t.safetensors",
            "--ledger",
            "all.csv",
        ];
        let flags = [&[input][..], &flags, more].concat();
        tool_reading(dir.path(), &flags, stdin)
    };
    let output = run("train.jsonl", "", &["--ledger-from", "before.csv"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let all = fs::read_to_string(dir.path().join("all.csv")).unwrap();
    assert_eq!(all.lines().count(), before.lines().count());
    let dropped = all.matches(",dropped,too_long,,").count();
    assert!(dropped > 0);
    assert_eq!(
        fates(&all),
        [
            ("dropped,empty_cell,".to_owned(), 1),
            ("dropped,too_long,".to_owned(), dropped),
            ("kept,,t.safetensors".to_owned(), 14 - dropped),
            ("kept,,test.jsonl".to_owned(), 14)
        ]
    );

    // The ledger of another file: nothing is written.
    fs::remove_file(dir.path().join("all.csv")).unwrap();
    fs::remove_file(dir.path().join("t.safetensors")).unwrap();
    fs::write(dir.path().join("other.jsonl"), chats(15)).unwrap();
    let foreign = run("other.jsonl", "", &["--ledger-from", "before.csv"]);
    assert_eq!(code(&foreign), 2);
    assert!(
        stderr(&foreign)
            .contains("before.csv: this ledger is not of the tool that wrote the input"),
        "{}",
        stderr(&foreign)
    );
    assert!(stderr(&foreign).contains("hint: --ledger-from takes what --ledger wrote"));
    assert!(!dir.path().join("t.safetensors").exists() && !dir.path().join("all.csv").exists());
}

#[test]
fn two_machines_complete_one_ledger() {
    let (dir, base) = folder(&chats(9));
    let rows: String = (1..=9)
        .map(|line| format!("raw,{line},kept,,train.jsonl,{line}\n"))
        .collect();
    let header = "file,line,fate,rule,output,output_line\n";
    fs::write(dir.path().join("0.csv"), format!("{header}{rows}")).unwrap();
    for (shard, from, to, out) in [
        ("1/2", "0.csv", "1.csv", "a.safetensors"),
        ("2/2", "1.csv", "2.csv", "b.safetensors"),
    ] {
        let flags = ["train.jsonl", "--base", &base, "--shard", shard, "-o", out];
        let output = tool(
            dir.path(),
            &[&flags[..], &["--ledger", to, "--ledger-from", from]].concat(),
        );
        assert_eq!(code(&output), 0, "{}", stderr(&output));
    }
    let ledger = fs::read_to_string(dir.path().join("2.csv")).unwrap();
    assert_eq!(
        fates(&ledger),
        [
            ("kept,,a.safetensors".to_owned(), 5),
            ("kept,,b.safetensors".to_owned(), 4)
        ]
    );
}

#[test]
fn a_ledger_goes_to_standard_output_too() {
    let (dir, base) = folder(&chats(3));
    let flags = ["train.jsonl", "--base", &base, "-o", "t.safetensors"];
    let output = tool(dir.path(), &[&flags[..], &["--ledger", "-"]].concat());
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let ledger = String::from_utf8(output.stdout).unwrap();
    assert_eq!(ledger.lines().count(), 4, "{ledger}");
    assert!(!dir.path().join("-").exists());
}

#[test]
fn what_packing_cuts_is_told_and_is_not_called_kept() {
    let (dir, base) = folder(&chats(14));
    for packing in ["bfd_split", "wrapped"] {
        let flags = ["train.jsonl", "--base", &base, "--max-seq-length", "48"];
        let more = ["--packing", packing, "--ledger", "l.csv", "-o", "t.st"];
        let output = tool(dir.path(), &[&flags[..], &more].concat());
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let shard = Shard::open(&dir.path().join("t.st")).unwrap();
        let counts = shard.meta().counts;
        let ledger = fs::read_to_string(dir.path().join("l.csv")).unwrap();
        let cut = ledger.matches(",truncated,split,t.st,").count();
        assert_eq!(cut + ledger.matches(",kept,,t.st,").count(), 14);
        assert!(cut > 0 && counts.sequences > 14);
        let whole = ["train.jsonl", "--base", &base, "-o", "whole.st"];
        assert_eq!(code(&tool(dir.path(), &whole)), 0);
        let whole = Shard::open(&dir.path().join("whole.st")).unwrap();
        let lost = whole.meta().counts.supervised_tokens - counts.supervised_tokens;
        let told = format!("{cut} examples cut, {lost} targets lost");
        assert!(
            stderr(&output).contains(&told),
            "{told}\n{}",
            stderr(&output)
        );
    }
}

#[test]
fn a_look_at_the_mask_takes_no_flag_that_it_would_not_heed() {
    let (dir, base) = folder(&chats(3));
    for other in [
        ["--ledger", "l.csv"],
        ["--output-shards", "2"],
        ["--format", "jsonl"],
    ] {
        let flags = ["train.jsonl", "--base", &base, "--show-mask", "1"];
        let output = tool(dir.path(), &[&flags[..], &other].concat());
        assert_eq!(code(&output), 2, "{other:?}");
        assert!(stderr(&output).contains("cannot be used with"));
    }
}
