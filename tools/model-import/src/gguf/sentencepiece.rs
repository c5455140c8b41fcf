//! How is a SentencePiece BPE tokenizer (Llama 2, Mistral, TinyLlama) rebuilt from a GGUF file?

use super::tokenizer::{Pipeline, Vocabulary};
use anyhow::bail;
use checkpoint::gguf::{Gguf, Value};
use serde_json::{Map, Value as Json, json};
use std::collections::HashMap;

pub fn pipeline(file: &Gguf, vocabulary: &Vocabulary) -> anyhow::Result<Pipeline> {
    let path = file.path().display();
    let scores: Option<Vec<f64>> = file
        .get("tokenizer.ggml.scores")
        .and_then(Value::as_array)
        .and_then(|scores| scores.iter().map(Value::as_f64).collect());
    let Some(scores) = scores.filter(|scores| scores.len() == vocabulary.tokens.len()) else {
        bail!("{path}: has no score for each token");
    };
    let ids: HashMap<&str, usize> = vocabulary
        .tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (*token, id))
        .collect();
    if ids.len() != vocabulary.tokens.len() {
        bail!("{path}: tokenizer.ggml.tokens has a token twice");
    }
    let vocab: Map<String, Json> = vocabulary
        .tokens
        .iter()
        .enumerate()
        .map(|(id, token)| ((*token).to_owned(), json!(id)))
        .collect();
    let unknown = file
        .get("tokenizer.ggml.unknown_token_id")
        .and_then(Value::as_u64)
        .unwrap_or(0);
    let unknown = usize::try_from(unknown)
        .ok()
        .and_then(|id| vocabulary.tokens.get(id));
    let prefix = file
        .get("tokenizer.ggml.add_space_prefix")
        .and_then(Value::as_bool);
    let adds_prefix = prefix.unwrap_or(true); // llama.cpp's default
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let prepend = json!({"type": "Prepend", "prepend": "▁"});
    let normalizers: Vec<Json> = adds_prefix
        .then_some(prepend)
        .into_iter()
        .chain([spaces])
        .collect();
    let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
    let decoders: Vec<Json> = [
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ]
    .into_iter()
    .chain(adds_prefix.then_some(strip))
    .collect();
    Ok(Pipeline {
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Json::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": unknown,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": true,
            "ignore_merges": false,
            "vocab": vocab,
            "merges": merges(vocabulary, &scores, &ids),
        }),
    })
}

/// SentencePiece joins whichever neighbours make the best-scored token: every way to split a
/// token into two tokens is a merge, in order of the token's score, as transformers has it.
fn merges(vocabulary: &Vocabulary, scores: &[f64], ids: &HashMap<&str, usize>) -> Vec<[String; 2]> {
    let mut merges = Vec::new();
    for (token, score) in vocabulary.tokens.iter().zip(scores) {
        let mut splits: Vec<(&str, &str)> = token
            .char_indices()
            .skip(1)
            .map(|(at, _)| token.split_at(at))
            .filter(|(left, right)| ids.contains_key(left) && ids.contains_key(right))
            .collect();
        splits.sort_by_key(|(left, right)| (ids[left], ids[right]));
        merges.extend(
            splits
                .into_iter()
                .map(|(left, right)| (*score, left, right)),
        );
    }
    let length = |text: &str| text.chars().count();
    merges.sort_by(|a, b| {
        let (a, b) = (
            (a.0, length(a.1), length(a.2)),
            (b.0, length(b.1), length(b.2)),
        );
        b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(b.2.cmp(&a.2))
    });
    merges
        .into_iter()
        .map(|(_, left, right)| [left.to_owned(), right.to_owned()])
        .collect()
}
