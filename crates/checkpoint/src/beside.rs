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

/// Files that make tokens and prompts, by their names in a model's folder, and one folder of such files:
/// transformers writes the templates there that go by a name.
pub const FILES: [&str; 11] = [
    "added_tokens.json",
    "additional_chat_templates",
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

/// Copies what has this name, if it is there: false if not. JSON must be an object, text UTF-8.
pub fn copy(from: &Path, to: &Path, name: &str) -> Result<bool, Error> {
    let (from, to) = (from.join(name), to.join(name));
    if !from.exists() {
        return Ok(false);
    }
    if from.is_dir() {
        return copy_templates(&from, &to).map(|()| true);
    }
    let bytes = fs::read(&from).map_err(Error::io(&from))?;
    check(&from, &bytes)?;
    fs::write(&to, bytes).map_err(Error::io(&to))?;
    Ok(true)
}

/// Copies the templates of a folder.
fn copy_templates(from: &Path, to: &Path) -> Result<(), Error> {
    fs::create_dir_all(to).map_err(Error::io(to))?;
    for entry in fs::read_dir(from).map_err(Error::io(from))? {
        let name = entry.map_err(Error::io(from))?.file_name();
        if let Some(name) = name.to_str().filter(|name| name.ends_with(".jinja")) {
            copy(from, to, name)?;
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_that_go_by_a_name_are_copied_with_their_folder() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        let folder = from.join("additional_chat_templates");
        fs::create_dir_all(&folder).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(folder.join("tool_use.jinja"), "tools").unwrap();
        fs::write(folder.join("notes.txt"), "mine").unwrap();
        for name in FILES {
            let is_copied = copy(&from, &to, name).unwrap();
            assert_eq!(is_copied, name == "additional_chat_templates");
        }
        let copied = to.join("additional_chat_templates");
        let text = fs::read_to_string(copied.join("tool_use.jinja")).unwrap();
        assert_eq!(text, "tools");
        assert_eq!(fs::read_dir(copied).unwrap().count(), 1);
        fs::write(folder.join("tool_use.jinja"), b"\xff").unwrap();
        let error = copy(&from, &to, "additional_chat_templates").unwrap_err();
        assert!(
            error.to_string().contains("tool_use.jinja: is not UTF-8"),
            "{error}"
        );
    }
}
