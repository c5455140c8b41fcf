//! How is a byte-level BPE tokenizer (GPT-2, Llama 3, Qwen, SmolLM) rebuilt from a GGUF file?

use super::tokenizer::{Pipeline, Vocabulary};
use anyhow::{anyhow, bail};
use checkpoint::gguf::{Gguf, Value};
use cli::Hint;
use serde_json::{Map, Value as Json, json};

pub fn pipeline(file: &Gguf, vocabulary: &Vocabulary) -> anyhow::Result<Pipeline> {
    let path = file.path().display();
    let name = file
        .get("tokenizer.ggml.pre")
        .and_then(Value::as_str)
        .unwrap_or("default");
    let Some(splitter) = splitter(name) else {
        return Err(
            anyhow!("{path}: how tokenizer.ggml.pre {name:?} splits text is not known")
                .hint("--tokenizer DIR takes the tokenizer from a Hugging Face folder"),
        );
    };
    let merges = file.require("tokenizer.ggml.merges")?.as_array();
    let pair = |merge: Value| {
        // The left part is never empty, so a separator cannot be the first character.
        let text = merge.as_str()?;
        let first = text.chars().next()?.len_utf8();
        let (left, right) = text.split_at(first + text[first..].find(' ')?);
        Some(json!([left, &right[1..]]))
    };
    let merges = merges.and_then(|merges| merges.iter().map(pair).collect::<Option<Vec<Json>>>());
    let Some(merges) = merges else {
        bail!("{path}: tokenizer.ggml.merges are not pairs of tokens");
    };
    let vocab: Map<String, Json> = vocabulary
        .tokens
        .iter()
        .enumerate()
        .map(|(id, token)| ((*token).to_owned(), json!(id)))
        .collect();
    if vocab.len() != vocabulary.tokens.len() {
        bail!("{path}: tokenizer.ggml.tokens has a token twice");
    }
    Ok(Pipeline {
        normalizer: splitter.normalizer,
        pre_tokenizer: splitter.pre_tokenizer,
        decoder: byte_level(true, true),
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": splitter.ignore_merges,
            "vocab": vocab,
            "merges": merges,
        }),
    })
}

struct Splitter {
    normalizer: Json,
    pre_tokenizer: Json,
    /// A word that is a token is taken whole, whatever the merges say.
    ignore_merges: bool,
}

/// Llama 3's words: numbers in groups of three.
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// Qwen 2's words: every digit alone.
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// How text is cut into words, by llama.cpp's name for it.
fn splitter(name: &str) -> Option<Splitter> {
    let by_regex = |regex: &str| {
        let split = json!({
            "type": "Split",
            "pattern": {"Regex": regex},
            "behavior": "Isolated",
            "invert": false,
        });
        sequence([split, byte_level(false, false)])
    };
    Some(match name {
        "gpt-2" | "mpt" | "olmo" => Splitter {
            normalizer: Json::Null,
            pre_tokenizer: byte_level(false, true),
            ignore_merges: false,
        },
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => Splitter {
            normalizer: Json::Null,
            pre_tokenizer: sequence([
                json!({"type": "Digits", "individual_digits": true}),
                byte_level(false, true),
            ]),
            ignore_merges: false,
        },
        "llama-bpe" | "llama3" | "llama-v3" => Splitter {
            normalizer: Json::Null,
            pre_tokenizer: by_regex(LLAMA3),
            ignore_merges: true,
        },
        "qwen2" | "deepseek-r1-qwen" => Splitter {
            normalizer: json!({"type": "NFC"}),
            pre_tokenizer: by_regex(QWEN2),
            ignore_merges: false,
        },
        _ => return None,
    })
}

fn sequence(steps: [Json; 2]) -> Json {
    json!({"type": "Sequence", "pretokenizers": steps})
}

fn byte_level(add_prefix_space: bool, use_regex: bool) -> Json {
    json!({
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": true,
        "use_regex": use_regex,
    })
}
