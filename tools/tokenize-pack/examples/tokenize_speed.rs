//! How fast do chats become packed rows, against the tokenizer library alone on texts already rendered?
//!
//! `cargo run --release -p tokenize-pack --example tokenize_speed [BASE]`; without a base, the tests' small one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Parser;
use dataset::Example;
use rayon::prelude::*;
use tokenize_pack::Args;
use tokens::{Chat, Shard};

const CHATS: usize = 50_000;
const WORDS: &str = "acute chronic fracture of left right femur infection skin tissue initial \
    encounter for closed open with without complication diabetes mellitus type hypertension \
    essential primary bronchitis due to other specified organisms unspecified disease heart kidney";

fn main() -> anyhow::Result<()> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tokens/base");
    let base = std::env::args_os().nth(1).map_or(tests, PathBuf::from);
    let dir = tempfile::tempdir()?;
    let (data, packed) = (
        dir.path().join("chats.jsonl"),
        dir.path().join("chats.safetensors"),
    );
    fs::write(&data, chats())?;

    let start = Instant::now();
    let [data_name, base_name, packed_name] = [&data, &base, &packed].map(|path| path.as_os_str());
    let flags = [
        "--base".as_ref(),
        base_name,
        "-o".as_ref(),
        packed_name,
        "--quiet".as_ref(),
    ];
    tokenize_pack::run(Args::parse_from(
        [["tokenize-pack".as_ref(), data_name].as_slice(), &flags].concat(),
    ))?;
    let whole = start.elapsed().as_secs_f64();
    let tokens = Shard::open(&packed)?.meta().counts.tokens as f64;

    let chat = Chat::open(&base)?;
    let texts = fs::read_to_string(&data)?;
    let texts: Vec<String> = texts
        .lines()
        .map(|line| match Example::from_json(line)? {
            Example::Chat(conversation) => Ok(chat.render_chat(&conversation, false)?.text),
            _ => anyhow::bail!("a chat was written"),
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
    let alone = start.elapsed().as_secs_f64();
    assert_eq!(counted as f64, tokens);

    println!(
        "{CHATS} chats, {tokens} tokens, {} threads",
        rayon::current_num_threads()
    );
    println!(
        "tokenizer library alone  {alone:.2} s, {:.0} tokens/s",
        tokens / alone
    );
    println!(
        "JSONL to packed file     {whole:.2} s, {:.0} tokens/s, {:.1} × the library alone",
        tokens / whole,
        alone / whole
    );
    Ok(())
}

/// Chats of words drawn by a counter.
fn chats() -> String {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let phrase = |seed: usize| {
        let word = |i: usize| {
            words[(seed.wrapping_mul(2_654_435_761).wrapping_add(i * 40_503) >> 7) % words.len()]
        };
        (0..6 + seed % 9).map(word).collect::<Vec<_>>().join(" ")
    };
    let line = |n: usize| {
        let messages = serde_json::json!([
            {"role": "system", "content": "You are a medical coding assistant."},
            {"role": "user", "content": format!("Assign the ICD-10-CM code for: {}.", phrase(n))},
            {"role": "assistant", "content": format!("The code is E{} ({}).", n % 90, phrase(n + 7))}
        ]);
        format!("{}\n", serde_json::json!({ "messages": messages }))
    };
    (0..CHATS).map(line).collect()
}
