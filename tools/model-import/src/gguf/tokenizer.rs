//! Which tokenizer.json, tokenizer_config.json and chat template does a GGUF file imply?

use super::{bpe, sentencepiece};
use crate::config::write_json;
use anyhow::{Context, anyhow, bail};
use checkpoint::gguf::{Gguf, Value};
use cli::Hint;
use serde_json::{Map, Value as Json, json};
use std::path::Path;

/// The file's vocabulary: position is id.
pub struct Vocabulary<'a> {
    pub tokens: Vec<&'a str>,
    kinds: Vec<u64>,
}

/// llama.cpp's token types.
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

impl<'a> Vocabulary<'a> {
    fn read(file: &'a Gguf) -> anyhow::Result<Vocabulary<'a>> {
        let array = |key: &str| file.get(key).and_then(Value::as_array);
        let tokens: Option<Vec<_>> = array("tokenizer.ggml.tokens")
            .and_then(|tokens| tokens.iter().map(Value::as_str).collect());
        let Some(tokens) = tokens else {
            return Err(
                anyhow!("{}: has no tokenizer.ggml.tokens", file.path().display())
                    .hint("--tokenizer DIR takes the tokenizer from a Hugging Face folder"),
            );
        };
        let kinds = array("tokenizer.ggml.token_type")
            .and_then(|kinds| kinds.iter().map(Value::as_u64).collect::<Option<Vec<_>>>());
        let kinds = kinds.unwrap_or_else(|| vec![1; tokens.len()]);
        if kinds.len() != tokens.len() {
            bail!(
                "{}: has another number of token types than tokens",
                file.path().display()
            );
        }
        Ok(Vocabulary { tokens, kinds })
    }

    fn get(&self, id: u64) -> Option<&'a str> {
        usize::try_from(id)
            .ok()
            .and_then(|id| self.tokens.get(id))
            .copied()
    }

    /// Tokens that are cut out of the text before it is split, as tokenizer.json lists them.
    fn added(&self) -> Vec<Json> {
        let is_added = |kind: u64| matches!(kind, UNKNOWN | CONTROL | USER_DEFINED);
        let tokens = self.tokens.iter().zip(&self.kinds).enumerate();
        tokens
            .filter(|(_, (_, kind))| is_added(**kind))
            .map(|(id, (content, kind))| {
                json!({
                    "id": id,
                    "content": content,
                    "single_word": false,
                    "lstrip": false,
                    "rstrip": false,
                    "normalized": false,
                    "special": *kind != USER_DEFINED,
                })
            })
            .collect()
    }
}

/// What the two kinds of tokenizers differ in.
pub struct Pipeline {
    pub normalizer: Json,
    pub pre_tokenizer: Json,
    pub decoder: Json,
    pub model: Json,
}

pub fn write(file: &Gguf, out: &Path) -> anyhow::Result<()> {
    let vocabulary = Vocabulary::read(file)?;
    let pipeline = match file.require("tokenizer.ggml.model")?.as_str() {
        Some("gpt2") => bpe::pipeline(file, &vocabulary)?,
        Some("llama") => sentencepiece::pipeline(file, &vocabulary)?,
        other => {
            let other = other.unwrap_or("no name");
            return Err(anyhow!(
                "{}: tokenizer.ggml.model {other:?} is not supported",
                file.path().display()
            )
            .hint("--tokenizer DIR takes the tokenizer from a Hugging Face folder"));
        }
    };
    let added = vocabulary.added();
    let tokenizer: Map<String, Json> = [
        ("version", json!("1.0")),
        ("truncation", Json::Null),
        ("padding", Json::Null),
        ("added_tokens", json!(added)),
        ("normalizer", pipeline.normalizer),
        ("pre_tokenizer", pipeline.pre_tokenizer),
        ("post_processor", post_processor(file, &vocabulary)),
        ("decoder", pipeline.decoder),
        ("model", pipeline.model),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    let path = out.join("tokenizer.json");
    std::fs::write(&path, serde_json::to_string_pretty(&tokenizer)?)
        .with_context(|| path.display().to_string())?;

    let template = file.get("tokenizer.chat_template").and_then(Value::as_str);
    if let Some(template) = template {
        let path = out.join("chat_template.jinja");
        std::fs::write(&path, template).with_context(|| path.display().to_string())?;
    }
    write_json(
        &out.join("tokenizer_config.json"),
        &config(file, &vocabulary, &added, template),
    )
}

fn config(
    file: &Gguf,
    vocabulary: &Vocabulary,
    added: &[Json],
    template: Option<&str>,
) -> Map<String, Json> {
    let mut config = Map::new();
    let mut decoder = Map::new();
    for token in added {
        let mut token = token.clone();
        if let Some(id) = token.as_object_mut().and_then(|fields| fields.remove("id")) {
            decoder.insert(id.to_string(), token);
        }
    }
    config.insert("added_tokens_decoder".to_owned(), Json::Object(decoder));
    for (ours, theirs) in [
        ("bos_token", "bos_token_id"),
        ("eos_token", "eos_token_id"),
        ("pad_token", "padding_token_id"),
        ("unk_token", "unknown_token_id"),
    ] {
        let id = file
            .get(&format!("tokenizer.ggml.{theirs}"))
            .and_then(Value::as_u64);
        if let Some(token) = id.and_then(|id| vocabulary.get(id)) {
            config.insert(ours.to_owned(), json!(token));
        }
    }
    if let Some(template) = template {
        config.insert("chat_template".to_owned(), json!(template));
    }
    config.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
    let architecture = file.get("general.architecture").and_then(Value::as_str);
    let context = architecture.and_then(|a| file.get(&format!("{a}.context_length")));
    if let Some(context) = context.and_then(Value::as_u64) {
        config.insert("model_max_length".to_owned(), json!(context));
    }
    config.insert(
        "tokenizer_class".to_owned(),
        json!("PreTrainedTokenizerFast"),
    );
    config
}

/// Whether llama.cpp puts the first token before a text where the file does not say so.
fn adds_first_token(file: &Gguf) -> bool {
    let name = |key: &str| file.get(key).and_then(Value::as_str);
    let is_sentencepiece = name("tokenizer.ggml.model") == Some("llama");
    let is_llama3 = matches!(
        name("tokenizer.ggml.pre"),
        Some("llama-bpe" | "llama3" | "llama-v3")
    );
    is_sentencepiece || is_llama3
}

/// Text that is not a chat begins or ends with these tokens, if the file says so or llama.cpp does it unsaid.
fn post_processor(file: &Gguf, vocabulary: &Vocabulary) -> Json {
    let token = |add: &str, unsaid: bool, id: &str| {
        file.get(&format!("tokenizer.ggml.{add}"))
            .and_then(Value::as_bool)
            .unwrap_or(unsaid)
            .then_some(())?;
        let id = file
            .get(&format!("tokenizer.ggml.{id}"))
            .and_then(Value::as_u64)?;
        Some((id, vocabulary.get(id)?))
    };
    let first = token("add_bos_token", adds_first_token(file), "bos_token_id");
    let last = token("add_eos_token", false, "eos_token_id");
    if first.is_none() && last.is_none() {
        return Json::Null;
    }
    let special = |(_, token): (u64, &str), sequence: u8| json!({"SpecialToken": {"id": token, "type_id": sequence}});
    let around = |name: &str, sequence: u8| {
        let middle = json!({"Sequence": {"id": name, "type_id": sequence}});
        let first = first.map(|token| special(token, sequence));
        let last = last.map(|token| special(token, sequence));
        first
            .into_iter()
            .chain([middle])
            .chain(last)
            .collect::<Vec<_>>()
    };
    let describe = |(id, token): (u64, &str)| {
        (
            token.to_owned(),
            json!({"id": token, "ids": [id], "tokens": [token]}),
        )
    };
    let tokens: Map<String, Json> = first.into_iter().chain(last).map(describe).collect();
    let pair = [around("A", 0), around("B", 1)].concat();
    json!({
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": pair,
        "special_tokens": tokens,
    })
}
