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
