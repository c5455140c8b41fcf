//! Does any mutation of a line make the checker panic, or let pass what cannot be read?
//! `cargo run --release -p dataset --example fuzz -- 1000000` tries a million, the same ones every time.

use std::time::Instant;

use dataset::keys::rank;
use dataset::{Checker, Example, Judge, Options, Verdict};

const SEEDS: [&str; 4] = [
    r#"{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a \"question\" \u00e9\n"}, {"role": "assistant", "content": "{\"code\": \"B35\"}"}]}"#,
    r#"{"messages": [{"role": "user", "content": "write to a@b.org, 4111 1111 1111 1111"}, {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"n\": 1}"}}]}], "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]}"#,
    r#"{"prompt": "a question", "completion": "an answer -----BEGIN RSA PRIVATE KEY-----"}"#,
    r#"{"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "metadata": {"patient": 7}}"#,
];

fn main() {
    let lines: u64 = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(1_000_000);
    let options = Options {
        min_user_chars: 10,
        assistant_json: true,
        label: Some("code".into()),
        near_duplicates: Some(0.8),
        ..Options::default()
    };
    let (mut checker, mut judge) = (Checker::new(&options), Judge::new(&options, 2));
    let (mut kept, mut bytes) = (0u64, 0);
    let start = Instant::now();
    for number in 1..=lines {
        let line = mutated(number);
        bytes += line.len();
        let mut checked = checker.check(number, &line, number == 1);
        let is_kept = judge.judge(number, &mut checked) == Verdict::Keep;
        kept += u64::from(is_kept);
        if let Ok(text) = std::str::from_utf8(&line) {
            let is_read = Example::from_json(text.trim_start_matches('\u{feff}')).is_ok();
            assert!(is_read || !is_kept, "passes and cannot be read: {text}");
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{lines} mutated lines, {} MB, {kept} kept, {} dropped, no panic, {seconds:.1} s",
        bytes / 1_000_000,
        lines - kept
    );
}

/// One to four changes: a byte overwritten, removed, doubled, or the line cut.
fn mutated(number: u64) -> Vec<u8> {
    let mut draw = 0;
    let mut random = || {
        draw += 1;
        rank(draw, number)
    };
    let mut line = SEEDS[random() as usize % SEEDS.len()].as_bytes().to_vec();
    for _ in 0..=random() % 4 {
        if line.is_empty() {
            break;
        }
        let at = random() as usize % line.len();
        match random() % 4 {
            0 => line[at] = random() as u8,
            1 => drop(line.remove(at)),
            2 => line.insert(at, line[at]),
            _ => line.truncate(at.max(1)),
        }
    }
    line
}
