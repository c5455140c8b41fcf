//! What lies beside a model's weights and goes with them: tokenizer, chat template, what training said.
//!
//! Nobody here reads these files for what they say. But one that was cut short would be found long after
//! it has been copied, so each is held against its ending first.

use crate::Error;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// Files that make tokens and prompts, by their names in a model's folder.
pub const FILES: [&str; 10] = [
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "prompt.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

/// Copies a file of this name, if it is there: false if not. JSON must be an object, text UTF-8.
pub fn copy(from: &Path, to: &Path, name: &str) -> Result<bool, Error> {
    let (from, to) = (from.join(name), to.join(name));
    if !from.exists() {
        return Ok(false);
    }
    let bytes = fs::read(&from).map_err(Error::io(&from))?;
    check(&from, &bytes)?;
    fs::write(&to, bytes).map_err(Error::io(&to))?;
    Ok(true)
}

/// The largest token id that a folder's tokenizer.json knows; `None` if there is no such file.
pub fn largest_token(dir: &Path) -> Result<Option<u64>, Error> {
    let path = dir.join("tokenizer.json");
    if !path.exists() {
        return Ok(None);
    }
    let bytes = fs::read(&path).map_err(Error::io(&path))?;
    let tokenizer: Map<String, Value> = object(&path, &bytes)?;
    let vocabulary = tokenizer.get("model").and_then(|model| model.get("vocab"));
    let ids: Vec<u64> = match vocabulary {
        Some(Value::Object(ids)) => ids.values().filter_map(Value::as_u64).collect(),
        Some(Value::Array(tokens)) => (0..tokens.len() as u64).collect(),
        _ => return Err(Error::file(&path, "has no model.vocab")),
    };
    let added = tokenizer.get("added_tokens").and_then(Value::as_array);
    let added = added.into_iter().flatten();
    let added = added.filter_map(|token| token.get("id")?.as_u64());
    Ok(Some(ids.into_iter().chain(added).max().unwrap_or(0)))
}

fn check(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("json") => object::<HashMap<String, IgnoredAny>>(path, bytes).map(drop),
        Some("jinja" | "txt") => match std::str::from_utf8(bytes) {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::file(
                path,
                format!("is not UTF-8 at byte {}", error.valid_up_to()),
            )),
        },
        _ => Ok(()),
    }
}

fn object<T: serde::de::DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::file(path, format!("is not a JSON object: {error}")))
}
