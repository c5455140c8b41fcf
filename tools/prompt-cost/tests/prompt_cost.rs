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
        [
            "prompt",
            "tokens",
            "a",
            "day",
            "6,000,000",
            "500,000",
            "91.7",
            "%"
        ]
    );
    assert!(text.contains("recommendation: undecided\n"), "{text}");
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
    assert!(!message.ends_with("\n\n"), "{message:?}");
    for price in ["-1", "nan", "inf"] {
        let prices = format!("[prompted]\n[tuned]\nper_hour = {price}\n");
        fs::write(dir.path().join("prices.toml"), prices).unwrap();
        let output = tool(dir.path(), &flags);
        assert_eq!(output.status.code(), Some(2));
        let want = "prices.toml: [tuned] has a price that is below 0 or no number\n";
        assert!(
            text(&output.stderr).contains(want),
            "{}",
            text(&output.stderr)
        );
    }
}

#[test]
fn a_training_has_an_epoch() {
    let flags = ["--prompt-tokens=6", "--requests-per-day=1"];
    let training = ["--train-tokens=9", "--epochs=0"];
    let output = tool(&std::env::temp_dir(), &[flags, training].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("0 is not in 1"));
}

#[test]
fn what_would_change_nothing_is_refused() {
    let flags = ["--prompt-tokens=6", "--requests-per-day=1"];
    for (flag, lacks) in [
        ("--request-tokens=5", "--prices <FILE>"),
        ("--answer-tokens=5", "--prices <FILE>"),
        ("--horizon-days=5", "--prices <FILE>"),
        ("--epochs=5", "--train"),
        ("--tokens-per-second=5", "--train"),
    ] {
        let output = tool(&std::env::temp_dir(), &[&flags[..], &[flag]].concat());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flag}\n{said}");
        assert!(said.contains(lacks), "{flag}\n{said}");
    }
}

#[test]
fn training_without_a_price_is_not_free() {
    let dir = tempfile::tempdir().unwrap();
    let prices =
        "[prompted]\ninput_per_million_tokens = 2\n[tuned]\ninput_per_million_tokens = 2\n";
    fs::write(dir.path().join("prices.toml"), prices).unwrap();
    let flags = [
        "--prompt-tokens=600",
        "--requests-per-day=10000",
        "--prices=prices.toml",
    ];
    let text = stdout(&tool(dir.path(), &flags));
    assert!(text.contains("break-even: unknown"), "{text}");
    assert!(text.contains("recommendation: prompt"), "{text}");
    assert!(!text.contains("\ntraining costs"), "{text}");
    assert!(
        text.contains(
            "it saves 11.00 a day, but what training costs is not known: give per_hour or once of [training]"
        ),
        "{text}"
    );
    assert!(text.contains("\ncost a day "), "{text}");
    let empty = prices.to_owned() + "[training]\n";
    fs::write(dir.path().join("prices.toml"), &empty).unwrap();
    assert_eq!(stdout(&tool(dir.path(), &flags)), text);
    fs::write(
        dir.path().join("prices.toml"),
        empty.clone() + "per_hour = 4\n",
    )
    .unwrap();
    for (more, missing) in [
        (&[][..], "give --train and --tokens-per-second\n"),
        (
            &["--train-tokens=9"],
            "is not known: give --tokens-per-second\n",
        ),
    ] {
        let text = stdout(&tool(dir.path(), &[&flags[..], more].concat()));
        assert!(text.contains(missing), "{text}");
    }
    fs::write(dir.path().join("prices.toml"), empty + "once = 0\n").unwrap();
    let text = stdout(&tool(dir.path(), &flags));
    assert!(
        text.contains("training costs 0.00\nbreak-even: day 1\n"),
        "{text}"
    );
}

#[test]
fn of_nothing_no_share_is_saved() {
    let dir = tempfile::tempdir().unwrap();
    for flags in [
        ["--prompt-tokens=0", "--requests-per-day=10"],
        ["--prompt-tokens=600", "--requests-per-day=0"],
    ] {
        let text = stdout(&tool(dir.path(), &flags));
        assert!(text.contains('–') && !text.contains(" %"), "{text}");
        let csv = stdout(&tool(dir.path(), &[&flags[..], &["--format=csv"]].concat()));
        assert!(csv.lines().nth(1).unwrap().contains(",,"), "{csv}");
    }
}

#[test]
fn answers_move_what_a_day_costs_and_not_what_is_saved() {
    let dir = tempfile::tempdir().unwrap();
    let model = "input_per_million_tokens = 2\noutput_per_million_tokens = 2\n";
    let prices = format!("[prompted]\n{model}[tuned]\n{model}[training]\n");
    fs::write(dir.path().join("prices.toml"), prices).unwrap();
    let money = |answer: &str| {
        let json = stdout(&tool(
            dir.path(),
            &[
                "--prompt-tokens=600",
                "--requests-per-day=10000",
                "--prices=prices.toml",
                "--format=json",
                "--answer-tokens",
                answer,
            ],
        ));
        serde_json::from_str::<serde_json::Value>(&json).unwrap()["money"].clone()
    };
    let (without, with) = (money("0"), money("100"));
    assert_eq!(without["saved_per_day"], with["saved_per_day"]);
    assert_eq!(with["per_day"]["tuned"], 3.0);
    let help = stdout(&tool(dir.path(), &["--help"]));
    assert!(!help.contains("counts only where"), "{help}");
}

#[test]
fn no_file_is_standard_input() {
    let base = data("tokens/base").display().to_string();
    let flags = [
        "--base",
        &base,
        "--requests-per-day",
        "10",
        "--format",
        "json",
    ];
    let count = |more: &[&str], input: &str| {
        let mut tool = workspace_tests::tool("prompt-cost");
        let json = stdout(&run(tool.args(flags).args(more), input));
        let report: serde_json::Value = serde_json::from_str(&json).unwrap();
        report["prompt_tokens"]["prompted"].as_u64().unwrap()
    };
    let prompt = "You are a medical coding assistant.\n";
    assert!(count(&[], prompt) > 3);
    assert_eq!(count(&[], prompt), count(&["-"], prompt));
    assert_eq!(count(&["--prompt-tokens", "7"], prompt), 7);
    let nothing = tool(&std::env::temp_dir(), &["--requests-per-day", "10"]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(
        text(&nothing.stderr).contains("--base"),
        "{}",
        text(&nothing.stderr)
    );
}

#[test]
fn examples_are_no_prompt() {
    let dir = tempfile::tempdir().unwrap();
    let example = r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}"#;
    fs::write(
        dir.path().join("chat.jsonl"),
        format!("\n{example}\n{example}\n"),
    )
    .unwrap();
    fs::write(dir.path().join("tools.json"), "{\"name\": \"f\"}\n").unwrap();
    let base = data("tokens/base").display().to_string();
    let flags = ["--base", &base, "--requests-per-day", "10"];
    let refused = tool(dir.path(), &[&["chat.jsonl"], &flags[..]].concat());
    let tuned = ["--prompt-tokens", "9", "--tuned-prompt", "chat.jsonl"];
    for output in [refused, tool(dir.path(), &[&flags[..], &tuned].concat())] {
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains("chat.jsonl:2: is an example with messages"),
            "{said}"
        );
        assert!(said.contains("hint: "), "{said}");
    }
    stdout(&tool(dir.path(), &[&["tools.json"], &flags[..]].concat())); // JSON may well be a prompt
}
