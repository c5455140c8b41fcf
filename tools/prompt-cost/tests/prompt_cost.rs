//! prompt-cost from outside.

use std::fs;
use std::path::Path;
use std::process::Output;

use workspace_tests::{data, run, text};

fn tool(dir: &Path, arguments: &[&str]) -> Output {
    let mut tool = workspace_tests::tool("prompt-cost");
    run(tool.current_dir(dir).args(arguments), "")
}

fn stdout(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout).to_owned()
}

#[test]
fn the_guides_figures_come_out() {
    let dir = tempfile::tempdir().unwrap();
    let flags = [
        "--prompt-tokens",
        "600",
        "--tuned-prompt-tokens",
        "50",
        "--requests-per-day",
        "10000",
    ];
    let text = stdout(&tool(dir.path(), &flags));
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        rows[2],
        ["tokens", "a", "day", "6,000,000", "500,000", "91.7", "%"]
    );
    assert!(text.contains("recommendation: tune\n"), "{text}");
    let csv = stdout(&tool(
        dir.path(),
        &[&flags[..], &["--format", "csv"]].concat(),
    ));
    let row = csv.lines().nth(1).unwrap();
    assert!(
        row.starts_with("600,50,10000,6000000,500000,180000000,15000000,0.91666"),
        "{row}"
    );
    assert!(csv.starts_with("prompted_tokens,tuned_tokens,requests_per_day,"));
}

#[test]
fn a_prompt_file_is_counted_with_the_models_own_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let base = data("tokens/base");
    let prompt = "You are a medical coding assistant. Answer with JSON.\n";
    fs::write(dir.path().join("system.txt"), prompt).unwrap();
    let chat = tokens::Chat::open(&base).unwrap();
    let expected = chat.encode(prompt.trim_end()).unwrap().len();
    let base = base.display().to_string();
    let json = stdout(&tool(
        dir.path(),
        &[
            "system.txt",
            "system.txt",
            "--base",
            &base,
            "--requests-per-day",
            "10",
            "--format",
            "json",
        ],
    ));
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["prompt_tokens"]["prompted"], 2 * expected);
    assert_eq!(report["advice"]["verdict"], "prompt");
}

#[test]
fn prices_come_from_the_user_and_break_even_from_them() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("prices.toml"),
        "currency = \"EUR\"\n[prompted]\ninput_per_million_tokens = 2\n[tuned]\ninput_per_million_tokens = 2\n\
         [training]\nper_hour = 4\nonce = 100\n",
    )
    .unwrap();
    let flags = [
        "--prompt-tokens",
        "600",
        "--requests-per-day",
        "10000",
        "--prices",
        "prices.toml",
        "--train-tokens",
        "12000000",
        "--epochs",
        "3",
        "--tokens-per-second",
        "4000",
    ];
    let text = stdout(&tool(dir.path(), &flags));
    assert!(
        text.contains("12,000,000 tokens, 3 epochs, 2.50 hours"),
        "{text}"
    );
    assert!(
        text.contains("training costs 110.00 EUR\nbreak-even: day 10\n"),
        "{text}"
    );
}

#[test]
fn a_mistake_in_the_prices_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("prices.toml"),
        "[prompted]\ninput_per_milion = 2\n[tuned]\n",
    )
    .unwrap();
    let flags = [
        "--prompt-tokens",
        "600",
        "--requests-per-day",
        "1",
        "--prices",
        "prices.toml",
    ];
    let output = tool(dir.path(), &flags);
    assert_eq!(output.status.code(), Some(2));
    let message = text(&output.stderr);
    assert!(
        message.contains("prices.toml") && message.contains("input_per_milion"),
        "{message}"
    );
}
