//! Which files make tokens and prompts, and do they fit the model?

use crate::config::write_json;
use anyhow::{Context, anyhow, bail};
use checkpoint::beside;
use cli::Hint;
use serde_json::{Map, Value};
use std::fs;
use std::path::Path;

/// Copies a folder's tokenizer, and makes sure that a chat template stands in both places where
/// tools look for it: tokenizer_config.json and chat_template.jinja.
pub fn copy(from: &Path, out: &Path, must_exist: bool) -> anyhow::Result<()> {
    let from = &checkpoint::resolve(from)?; // of an entry of the cache
    if must_exist && !from.join("tokenizer.json").exists() {
        bail!("{}: holds no tokenizer.json", from.display());
    }
    beside::largest_token(from)?; // what is wrong with it is said of the source
    for name in beside::FILES {
        beside::copy(from, out, name)?;
    }
    let config_path = out.join("tokenizer_config.json");
    if !config_path.exists() {
        return Ok(());
    }
    let mut config = read(&config_path)?;
    let template_path = out.join("chat_template.jinja");
    match config.get("chat_template").and_then(Value::as_str) {
        Some(template) if !template_path.exists() => fs::write(&template_path, template)
            .with_context(|| template_path.display().to_string())?,
        None if template_path.exists() && !config.contains_key("chat_template") => {
            let template = fs::read_to_string(&template_path)
                .with_context(|| template_path.display().to_string())?;
            config.insert("chat_template".to_owned(), template.into());
            write_json(&config_path, &config)?;
        }
        _ => {}
    }
    Ok(())
}

/// Makes sure that every token has its row in the embedding; false if there is no tokenizer.
pub fn check(dir: &Path, vocab_size: usize) -> anyhow::Result<bool> {
    let Some(largest) = beside::largest_token(dir)? else {
        return Ok(false);
    };
    if largest >= vocab_size as u64 {
        return Err(anyhow!(
            "tokenizer.json has token {largest}, the model's vocabulary {vocab_size} rows"
        ))
        .hint("the tokenizer belongs to another model");
    }
    Ok(true)
}

fn read(path: &Path) -> anyhow::Result<Map<String, Value>> {
    let text = fs::read(path).with_context(|| path.display().to_string())?;
    let name = path.file_name().unwrap_or_default().display();
    serde_json::from_slice(&text).with_context(|| format!("{name} is not JSON"))
}
