//! Does memory stay flat while files grow? Peak memory of each data tool on a small file and on one
//! five times as long: what it grows by is bounded by so many bytes an example.

#![cfg(target_os = "linux")]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use workspace_tests::{Scene, tool};

const FEW: usize = 50_000;
const MANY: usize = 250_000;
/// Buffers grow with the length of their blocks and lines, and an allocator rounds.
const SLACK_BYTES: usize = 3 << 20;

/// Short examples, which cost the most bookkeeping a byte; no two ask the same.
fn examples(count: usize) -> String {
    let mut text = String::new();
    for number in 0..count {
        let _ = writeln!(
            text,
            r#"{{"messages": [{{"role": "user", "content": "case {number}?"}}, {{"role": "assistant", "content": "code {}"}}], "patient": {}, "ward": {}}}"#,
            number % 100,
            number / 2,
            number % 50,
        );
    }
    text
}

/// Runs a tool in the folder; gives its peak memory in bytes, as last seen before it ended.
fn peak(folder: &Path, command: &str) -> usize {
    let mut words = command.split(' ');
    let name = words.next().unwrap_or_default();
    let mut child = tool(name)
        .args(words)
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the tool runs");
    let status_file = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let said = fs::read_to_string(&status_file).unwrap_or_default();
        if let Some(line) = said.lines().find(|line| line.starts_with("VmHWM:")) {
            let kilobytes = line
                .split_whitespace()
                .nth(1)
                .and_then(|n| n.parse::<usize>().ok());
            peak = peak.max(kilobytes.expect("a number of kB") << 10);
        }
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            assert!(status.success(), "{command}: {status}");
            assert!(peak > 0, "{command}: ended before it was looked at");
            return peak;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn memory_grows_by_a_few_bytes_an_example() {
    let scene = Scene::new();
    for (name, count) in [("few.jsonl", FEW), ("many.jsonl", MANY)] {
        fs::write(scene.path().join(name), examples(count)).expect("a folder to write to");
    }
    let tools = [
        ("jsonl-import FILE -o out.jsonl", 0),
        // Of every example and of every prompt a hash with its line, in tables that grow by half. One
        // thread, because with more the number of blocks under way differs from run to run.
        ("jsonl-validate FILE --threads 1 -o out.jsonl", 60),
        (
            "jsonl-validate FILE --threads 1 --severity exact_duplicate=off --severity ambiguous_answer=off --severity low_diversity=off -o out.jsonl",
            0,
        ),
        ("jsonl-split FILE --out-dir out", 8),
        ("jsonl-split FILE --exact --out-dir out", 23),
        ("jsonl-split FILE --exact --stratify ward --out-dir out", 28),
        (
            "jsonl-split FILE --group-by patient --exact --out-dir out",
            28,
        ),
        ("jsonl-split FILE --near-duplicates --out-dir out", 340),
        (
            "tokenize-pack FILE --base base --max-seq-length 64 --packing wrapped -o out.safetensors",
            20,
        ),
        (
            "tokenize-pack FILE --base base --max-seq-length 64 -o out.safetensors --ledger l.csv",
            22,
        ),
    ];
    let mut over = String::new();
    for (command, bytes) in tools {
        let of = |file: &str| peak(scene.path(), &command.replace("FILE", file));
        let (few, many) = (of("few.jsonl"), of("many.jsonl"));
        let grown = many.saturating_sub(few);
        let an_example = grown as f64 / (MANY - FEW) as f64;
        println!(
            "{:>5.1} MiB + {an_example:>5.1} bytes an example: {command}",
            few as f64 / 1048576.0
        );
        if grown > bytes * (MANY - FEW) + SLACK_BYTES {
            let _ = writeln!(
                over,
                "{command}: {an_example:.1} bytes an example, over {bytes}"
            );
        }
    }
    assert!(over.is_empty(), "{over}");
}
