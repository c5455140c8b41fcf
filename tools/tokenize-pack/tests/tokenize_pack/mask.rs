//! What --show-mask shows.

use std::fs;

use super::*;

#[test]
fn what_is_learned_can_be_seen() {
    let (dir, base) = folder(&chats(3));
    let text = tool(
        dir.path(),
        &["train.jsonl", "--base", &base, "--show-mask", "1"],
    );
    let shown = String::from_utf8(text.stdout).unwrap();
    assert!(shown.starts_with("── train.jsonl:1: "), "{shown}");
    assert!(
        shown.contains("<|im_start|>assistant\n⟦E·0·<|im_end|>⟧\n"),
        "{shown}"
    );
    let page = tool(
        dir.path(),
        &[
            "train.jsonl",
            "--base",
            &base,
            "--show-mask",
            "2",
            "-o",
            "mask.html",
        ],
    );
    assert_eq!(code(&page), 0, "{}", stderr(&page));
    let html = fs::read_to_string(dir.path().join("mask.html")).unwrap();
    assert!(
        html.contains(r#"<span class="learned">&lt;|im_end|&gt;</span>"#),
        "{html}"
    );
    assert_eq!(html.matches("<h2>").count(), 2);
}

#[test]
fn a_character_of_several_tokens_is_shown_whole() {
    let (dir, base) = folder(&line("what?", "é 東"));
    let output = tool(
        dir.path(),
        &["train.jsonl", "--base", &base, "--show-mask", "1"],
    );
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(
        shown.contains('é') && shown.contains('東') && !shown.contains('\u{FFFD}'),
        "{shown}"
    );
}

#[test]
fn the_mask_shows_what_packing_makes_of_long_examples() {
    let (dir, base) = folder(&format!(
        "{}{}",
        line("what?", "E1"),
        line("and?", &"one two ".repeat(30))
    ));
    let shown = |more: &[&str]| {
        let flags = ["train.jsonl", "--base", &base, "--show-mask", "2"];
        let length = ["--max-seq-length", "96"];
        let output = tool(dir.path(), &[&flags[..], &length, more].concat());
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let dropped = shown(&[]);
    assert!(
        dropped.contains(" tokens, 0 learned, dropped: over 96\n"),
        "{dropped}"
    );
    assert_eq!(dropped.matches('⟦').count(), 1);
    let truncated = shown(&["--long", "truncate"]);
    assert!(
        truncated.contains(" learned, truncated: over 96\n"),
        "{truncated}"
    );
    assert!(truncated.contains("⟧✂"), "{truncated}");
    for packing in ["bfd_split", "wrapped"] {
        let cut = shown(&["--packing", packing]);
        assert!(cut.contains("cut into 3 pieces\n"), "{cut}");
        assert_eq!(cut.matches('✂').count(), 2, "{cut}");
        let learned = |shown: &str| -> usize {
            let learned = shown
                .split(" learned")
                .filter_map(|part| part.rsplit(' ').next());
            learned
                .filter_map(|count| count.parse::<usize>().ok())
                .sum()
        };
        let flags = ["train.jsonl", "--base", &base, "--max-seq-length", "96"];
        let packed = tool(
            dir.path(),
            &[&flags[..], &["--packing", packing, "-o", "t.st"]].concat(),
        );
        assert_eq!(code(&packed), 0, "{}", stderr(&packed));
        let counts = Shard::open(&dir.path().join("t.st")).unwrap().meta().counts;
        assert_eq!(learned(&cut), counts.supervised_tokens);
    }
    let flags = ["train.jsonl", "--base", &base, "--max-seq-length", "96"];
    let error = ["--show-mask", "2", "--long", "error"];
    let error = tool(dir.path(), &[&flags[..], &error].concat());
    assert_eq!(code(&error), 2);
    assert!(
        stderr(&error).contains("train.jsonl:2: "),
        "{}",
        stderr(&error)
    );
}

#[test]
fn of_no_examples_no_mask_is_shown() {
    let (dir, base) = folder("\n");
    let flags = ["train.jsonl", "--base", &base, "--show-mask", "1"];
    let output = tool(dir.path(), &flags);
    assert_eq!(code(&output), 2);
    assert!(
        stderr(&output).contains("train.jsonl: no examples"),
        "{}",
        stderr(&output)
    );
}
