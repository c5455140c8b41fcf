//! How fast do chats become packed rows, against `datasets.map` and the tokenizer library alone?
//!
//! `cargo run --release -p tokenize-pack --example tokenize_speed [BASE [CHATS.jsonl]]`
//!
//! Without a base it takes the imported SmolLM2, else the tests' small one; without chats it makes
//! 50,000 of pairs of clinical phrases. PYTHON names the Python that has datasets and transformers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use clap::Parser;
use dataset::Example;
use rayon::prelude::*;
use tokenize_pack::Args;
use tokens::{Chat, Shard};

const CHATS: usize = 50_000;

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let real = root.join("work/models/smollm2-135m-instruct");
    let small = root.join("tests/data/tokens/base");
    let mut given = std::env::args_os().skip(1).map(PathBuf::from);
    let base = given
        .next()
        .unwrap_or(if real.is_dir() { real } else { small });
    let dir = tempfile::tempdir()?;
    let data = match given.next() {
        Some(chats) => chats,
        None => {
            let path = dir.path().join("chats.jsonl");
            fs::write(&path, chats(&root.join("data/icd10-categories.csv"))?)?;
            path
        }
    };

    let packed = dir.path().join("chats.safetensors");
    let whole = timed_pack(&data, &base, &packed)?;
    let tokens = Shard::open(&packed)?.meta().counts.tokens;
    let alone = library_alone(&data, &base, tokens)?;
    let speed = |seconds: f64| format!("{seconds:.2} s, {:.0} tokens/s", tokens as f64 / seconds);
    let bytes = fs::metadata(&data)?.len();
    println!(
        "{tokens} tokens in {:.1} MB of chats, {} threads, {}",
        bytes as f64 / 1e6,
        rayon::current_num_threads(),
        base.display()
    );
    println!("JSONL to packed file, with loss mask  {}", speed(whole));
    println!(
        "tokenizer library alone, texts given  {}: we are {:.2} x as fast",
        speed(alone),
        alone / whole
    );
    match datasets_map(&root, &base, &data)? {
        Ok(peer) => {
            anyhow::ensure!(
                peer["tokens"] == tokens,
                "datasets.map made {} tokens, we made {tokens}",
                peer["tokens"]
            );
            let seconds = peer["seconds"].as_f64().unwrap_or(f64::NAN);
            println!(
                "datasets.map, batched, num_proc=2     {}: we are {:.2} x as fast ({})",
                speed(seconds),
                seconds / whole,
                peer["with"].as_str().unwrap_or_default()
            );
        }
        Err(why) => println!("datasets.map: SKIPPED, not compared: {why}"),
    }
    Ok(())
}

/// Seconds from lines of text to a packed file on disk.
fn timed_pack(data: &Path, base: &Path, packed: &Path) -> anyhow::Result<f64> {
    let start = Instant::now();
    let flags = ["tokenize-pack", "--quiet"].map(PathBuf::from);
    let named = [
        data.to_owned(),
        "--base".into(),
        base.to_owned(),
        "-o".into(),
        packed.to_owned(),
    ];
    tokenize_pack::run(Args::parse_from(flags.iter().chain(&named)))?;
    Ok(start.elapsed().as_secs_f64())
}

/// Seconds of encoding texts that are rendered already, on all cores.
fn library_alone(data: &Path, base: &Path, tokens: usize) -> anyhow::Result<f64> {
    let chat = Chat::open(base)?;
    let texts: Vec<String> = fs::read_to_string(data)?
        .lines()
        .map(|line| match Example::from_json(line)? {
            Example::Chat(conversation) => Ok(chat.render_chat(&conversation, false)?.text),
            _ => anyhow::bail!("chats are compared, and this line is none"),
        })
        .collect::<anyhow::Result<_>>()?;
    let tokenizer = tokenizers::Tokenizer::from_file(base.join("tokenizer.json"))
        .map_err(anyhow::Error::msg)?;
    let start = Instant::now();
    let counted: usize = texts
        .par_iter()
        .map(|text| {
            tokenizer
                .encode_fast(text.as_str(), false)
                .map_or(0, |ids| ids.len())
        })
        .sum();
    anyhow::ensure!(
        counted == tokens,
        "the library made {counted} tokens, we made {tokens}"
    );
    Ok(start.elapsed().as_secs_f64())
}

/// What scripts/peers/datasets-map.py measured, or why it could not.
fn datasets_map(
    root: &Path,
    base: &Path,
    data: &Path,
) -> anyhow::Result<Result<serde_json::Value, String>> {
    let python = std::env::var_os("PYTHON").unwrap_or("python3".into());
    let output = Command::new(&python)
        .arg(root.join("scripts/peers/datasets-map.py"))
        .args([base, data])
        .output();
    let output = match output {
        Ok(output) if output.status.success() => output,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.trim().lines().last().unwrap_or_default();
            return Ok(Err(format!("{}: {last}", python.display())));
        }
        Err(error) => return Ok(Err(format!("{}: {error}", python.display()))),
    };
    Ok(Ok(serde_json::from_slice(&output.stdout)?))
}

/// Chats about pairs of phrases, so that no two are alike.
fn chats(csv: &Path) -> anyhow::Result<String> {
    let table = fs::read_to_string(csv)?;
    let rows: Vec<Vec<&str>> = table
        .lines()
        .skip(1)
        .filter(|line| !line.contains('"'))
        .map(|line| line.split(',').collect())
        .collect();
    let line = |n: usize| {
        let (a, b) = (
            &rows[n % rows.len()],
            &rows[n.wrapping_mul(7919) / 3 % rows.len()],
        );
        let answer = serde_json::json!({"codes": [a[1], b[1]], "description": a[2]});
        let messages = serde_json::json!([
            {"role": "system", "content": "You are a medical coding assistant."},
            {"role": "user", "content": format!("Case {n}: {}, with {}. Assign the codes.", a[0], b[0])},
            {"role": "assistant", "content": answer.to_string()}
        ]);
        format!("{}\n", serde_json::json!({ "messages": messages }))
    };
    Ok((0..CHATS).map(line).collect())
}
