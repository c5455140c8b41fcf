//! Do the adapter and the base belong together? Same tokens, same template, and the base it was trained on.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use checkpoint::adapter::Adapter;
use cli::Hint;
use serde_json::Value;
use tokens::{Date, Prompting, Vocabulary};

/// What stands beside an adapter, and what training said of its prompts, must be the base's. A folder without
/// tokenizer or template says nothing.
pub fn check(adapter: &Path, base: &Path) -> anyhow::Result<()> {
    if let (Some(ours), Some(theirs)) = (vocabulary(adapter)?, vocabulary(base)?)
        && let Some(difference) = difference(&ours, &theirs)
    {
        let [ours, theirs] = [adapter, base].map(|dir| dir.join("tokenizer.json"));
        return Err(anyhow!(
            "{} is not that of {}: {difference}",
            ours.display(),
            theirs.display()
        ))
        .hint(
            "token ids would mean other words: evaluate the adapter on the base it was trained with",
        );
    }
    if let (Some((ours, file)), Some((theirs, base_file))) = (template(adapter)?, template(base)?)
        && ours != theirs
    {
        return Err(anyhow!(
            "{}: the chat template is not that of {}",
            file.display(),
            base_file.display()
        ))
        .hint(ASKED_OTHERWISE);
    }
    let trained = Prompting::read(adapter).map_err(hinted)?.fingerprint;
    let bases = Vocabulary::open(base).map_err(hinted)?.fingerprint;
    if let Some(what) = trained.difference(&bases) {
        return Err(anyhow!(
            "{}: trained {what}, {}",
            adapter.display(),
            base.display()
        ))
        .hint(ASKED_OTHERWISE);
    }
    Ok(())
}

const ASKED_OTHERWISE: &str = "the adapter would be asked otherwise than it was trained: evaluate it on the base \
     it was trained with, or give that base the adapter's template";

/// The first token that two tokenizers have not in common.
fn difference(ours: &BTreeMap<String, u64>, theirs: &BTreeMap<String, u64>) -> Option<String> {
    let mut all = ours.keys().chain(theirs.keys());
    let token = all.find(|token| ours.get(*token) != theirs.get(*token))?;
    let id = |tokens: &BTreeMap<String, u64>| {
        let id = tokens.get(token);
        id.map_or("no token".to_owned(), |id| format!("token {id}"))
    };
    Some(format!(
        "{token:?} is {} here and {} there",
        id(ours),
        id(theirs)
    ))
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
        anyhow::Ok(prompting.date.map(|date| (whose, date)))
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
    let trained_on = adapter.other_base(base)?;
    Some(format!(
        "the adapter was trained on {trained_on}, and this base is {}",
        base.display()
    ))
}

/// The way out where an adapter's tensors do not fit.
pub fn trained_on(adapter: &Adapter) -> String {
    match adapter.config.base_model_name_or_path.as_deref() {
        None | Some("") => "evaluate the adapter on the base it was trained with".into(),
        Some(name) => format!("the adapter was trained on {name}: evaluate it on that base"),
    }
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

/// The template and the file that holds it.
fn template(dir: &Path) -> anyhow::Result<Option<(String, PathBuf)>> {
    let path = dir.join("chat_template.jinja");
    if path.exists() {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        return Ok(Some((text.replace("\r\n", "\n"), path)));
    }
    let path = dir.join("tokenizer_config.json");
    let config = json(&path)?;
    let text = config
        .as_ref()
        .and_then(|config| config["chat_template"].as_str());
    Ok(text.map(|text| (text.replace("\r\n", "\n"), path)))
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
