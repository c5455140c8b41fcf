//! How fast is jsonl-validate, as a whole process, against a plain checker in Python on the same file?
//!
//! `cargo run --release -p jsonl-validate --example validate_speed [LINES]`, after the tool was built.
//! 200,000 lines of questions about codes, about 70 MB, with a defect in every thousandth.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};
use dataset::keys::rank;

const SIDES: [&str; 4] = ["left", "right", "bilateral", "unspecified"];
const ENCOUNTERS: [&str; 6] = [
    "initial encounter for closed fracture",
    "subsequent encounter for fracture with routine healing",
    "sequela",
    "initial encounter",
    "subsequent encounter for fracture with delayed healing",
    "initial encounter for open fracture type I or II",
];
/// Each time is the best of so many runs.
const RUNS: usize = 5;

fn main() -> anyhow::Result<()> {
    let lines: u64 = match std::env::args().nth(1) {
        Some(number) => number.parse().context("LINES")?,
        None => 200_000,
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("examples.jsonl");
    fs::write(&file, examples(&root, lines)?)?;
    let megabytes = fs::metadata(&file)?.len() as f64 / 1e6;
    println!("{lines} lines, {megabytes:.0} MB; the best of {RUNS} runs");
    let python = Command::new("python3")
        .arg(root.join("scripts/peers/check_jsonl.py"))
        .arg(&file)
        .output();
    let plain = match python {
        Ok(output) if output.status.success() => {
            let said = String::from_utf8(output.stdout)?;
            let seconds: f64 = said.split(' ').next().unwrap_or_default().parse()?;
            println!(
                "python3 scripts/peers/check_jsonl.py     {:>5.0} MB/s",
                megabytes / seconds
            );
            Some(seconds)
        }
        _ => None,
    };
    let told = |seconds: f64| match plain {
        Some(plain) => format!(
            "{:>5.0} MB/s, {:.1} × Python",
            megabytes / seconds,
            plain / seconds
        ),
        None => format!("{:>5.0} MB/s", megabytes / seconds),
    };
    let mut alone = 0.0;
    for (threads, flags) in [(1, [].as_slice()), (2, &[]), (1, &["--near-duplicates"])] {
        let seconds = timed(&file, threads, flags)?;
        print!(
            "jsonl-validate --threads {threads} {:<18} {}",
            flags.join(" "),
            told(seconds)
        );
        match (threads, flags) {
            (1, []) => alone = seconds,
            (2, []) => print!(", {:.2} × one thread", alone / seconds),
            _ => {}
        }
        println!();
    }
    Ok(())
}

/// Seconds of the whole process.
fn timed(file: &Path, threads: usize, flags: &[&str]) -> anyhow::Result<f64> {
    let tool: PathBuf = std::env::current_exe()?
        .parent()
        .and_then(Path::parent)
        .context("target/release/examples")?
        .join("jsonl-validate");
    ensure!(tool.exists(), "{}: build the tool first", tool.display());
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        let start = Instant::now();
        let status = Command::new(&tool)
            .arg(file)
            .args([
                "--drop-invalid",
                "--quiet",
                "--threads",
                &threads.to_string(),
            ])
            .args(flags)
            .stdout(Stdio::null())
            .status()?;
        ensure!(status.success(), "jsonl-validate: {status}");
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Questions about the demo's phrases, made many by sides and encounters.
fn examples(root: &Path, lines: u64) -> anyhow::Result<String> {
    let phrases = fs::read_to_string(root.join("data/icd10-categories.csv"))?;
    let phrases: Vec<[&str; 3]> = phrases
        .lines()
        .skip(1)
        .filter(|row| !row.contains('"'))
        .filter_map(|row| row.split(',').collect::<Vec<_>>().try_into().ok())
        .collect();
    let mut text = String::new();
    for number in 0..lines {
        let draw = |what: u64, of: usize| rank(number, what) as usize % of;
        let [phrase, category, title] = phrases[draw(0, phrases.len())];
        let (side, encounter) = (SIDES[draw(1, 4)], ENCOUNTERS[draw(2, 6)]);
        let code = format!("{category}.{:03}A", draw(0, 1000));
        let said = format!("{phrase}, {side} side, {encounter}");
        let (asked, answered) = match draw(3, 2) {
            0 => (
                format!("What does ICD-10-CM code {code} mean?"),
                format!("{code}: {said}."),
            ),
            _ => (
                format!("Assign the ICD-10-CM code for: {said}."),
                format!("The code is {code} ({said}), under {category} {title}."),
            ),
        };
        let role = if number % 1000 == 77 { "humn" } else { "user" };
        let end = if number % 1000 == 500 { "" } else { "]}" };
        let answered = if number % 1000 == 900 { "" } else { &answered };
        writeln!(
            text,
            r#"{{"messages": [{{"role": "system", "content": "You are a medical coding assistant."}}, {{"role": "{role}", "content": "{asked}"}}, {{"role": "assistant", "content": "{answered}"}}{end}"#
        )?;
    }
    Ok(text)
}
