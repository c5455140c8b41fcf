//! Do the adapter and the base belong together? Same tokens, same template, and the base it was trained on.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use checkpoint::adapter::Adapter;
use cli::Hint;
use serde_json::Value;
use tokens::{Date, Prompting};

/// What stands beside an adapter must say the same as the base. A folder without tokenizer or template says nothing.
pub fn check(adapter: &Path, base: &Path) -> anyhow::Result<()> {
    let refuse = |file: &str| -> anyhow::Result<()> {
        let refusal = (|| {
            bail!(
                "{}: its {file} is not that of {}",
                adapter.display(),
                base.display()
            )
        })();
        refusal.hint("evaluate the adapter on the base it was trained with: token ids would mean other words")
    };
    if let (Some(ours), Some(theirs)) = (vocabulary(adapter)?, vocabulary(base)?)
        && ours != theirs
    {
        return refuse("tokenizer.json");
    }
    if let (Some(ours), Some(theirs)) = (template(adapter)?, template(base)?)
        && ours != theirs
    {
        return refuse("chat template");
    }
    Ok(())
}

/// The date to ask with, if prompts are to print another than the template's: the one that the adapter
/// was trained with, else the base. One that was asked for must be the same.
pub fn date(
    asked: Option<Date>,
    adapter: Option<&Path>,
    base: &Path,
) -> anyhow::Result<Option<Date>> {
    let read = |whose, dir| {
        let prompting = Prompting::read(dir)?;
        anyhow::Ok(prompting.map(|prompting| (whose, prompting.date)))
    };
    let adapters = adapter.map(|dir| read("adapter", dir)).transpose()?;
    let trained = match adapters.flatten() {
        None => read("base", base)?,
        adapters => adapters,
    };
    match (asked, trained) {
        (Some(asked), Some((whose, trained))) if asked != trained => Err(anyhow::anyhow!(
            "--date {asked}: the {whose}'s training data printed {trained}"
        ))
        .hint(format!("leave --date out: the {whose}'s own is taken")),
        _ => Ok(trained.map(|(_, date)| date).or(asked)),
    }
}

/// Says so when adapter_config.json names another base.
pub fn other_base(adapter: &Adapter, base: &Path) -> Option<String> {
    let trained_on = adapter
        .config
        .base_model_name_or_path
        .as_deref()
        .filter(|name| !name.is_empty())?;
    let named = Path::new(trained_on);
    let same_folder = match (named.canonicalize(), base.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    };
    // `org/name` on the hub and `models/name` on disk are taken for the same model.
    let last = |path: &Path| {
        path.components()
            .next_back()
            .map(|part| part.as_os_str().to_owned())
    };
    if same_folder || last(named) == last(base) {
        return None;
    }
    Some(format!(
        "the adapter was trained on {trained_on}, and this base is {}",
        base.display()
    ))
}

/// Token texts and their ids; how the file is written does not matter.
fn vocabulary(dir: &Path) -> anyhow::Result<Option<BTreeMap<String, u64>>> {
    let Some(tokenizer) = json(&dir.join("tokenizer.json"))? else {
        return Ok(None);
    };
    let mut tokens = BTreeMap::new();
    match &tokenizer["model"]["vocab"] {
        Value::Object(vocab) => {
            tokens.extend(
                vocab
                    .iter()
                    .filter_map(|(token, id)| Some((token.clone(), id.as_u64()?))),
            );
        }
        Value::Array(vocab) => {
            let texts = vocab
                .iter()
                .map(|entry| entry[0].as_str().unwrap_or_default().to_string());
            tokens.extend(texts.zip(0..));
        }
        _ => {}
    }
    for added in tokenizer["added_tokens"].as_array().into_iter().flatten() {
        if let (Some(text), Some(id)) = (added["content"].as_str(), added["id"].as_u64()) {
            tokens.insert(text.to_string(), id);
        }
    }
    Ok(Some(tokens))
}

fn template(dir: &Path) -> anyhow::Result<Option<String>> {
    let path = dir.join("chat_template.jinja");
    if path.exists() {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        return Ok(Some(text.replace("\r\n", "\n")));
    }
    let config = json(&dir.join("tokenizer_config.json"))?;
    Ok(config.and_then(|config| Some(config["chat_template"].as_str()?.replace("\r\n", "\n"))))
}

fn json(path: &Path) -> anyhow::Result<Option<Value>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(Some(
        serde_json::from_str(&text).with_context(|| path.display().to_string())?,
    ))
}

/// A tokens error with its way out.
pub fn hinted(error: tokens::Error) -> anyhow::Error {
    match error.hint() {
        Some(hint) => anyhow::Error::from(error).hint(hint),
        None => error.into(),
    }
}
