//! How is a GGUF file read as a source?

mod bpe;
mod config;
mod sentencepiece;
mod tokenizer;

use anyhow::{Context, anyhow, bail};
use checkpoint::gguf::{Gguf, hugging_face_name, unpermute};
use checkpoint::{ModelConfig, Part};
use cli::Hint;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// A GGUF file whose every tensor has found its place in a model.
pub struct GgufModel {
    file: Gguf,
    pub config: ModelConfig,
    pub config_json: Map<String, Value>,
    /// Hugging Face name → name in the file.
    names: BTreeMap<String, String>,
    /// Rows of q_proj and k_proj are interleaved.
    is_permuted: bool,
}

impl GgufModel {
    pub fn open(path: &Path) -> anyhow::Result<GgufModel> {
        let file = Gguf::open(path)?;
        let pieces = file.get("split.count").and_then(|v| v.as_u64());
        if let Some(pieces) = pieces.filter(|n| *n > 1) {
            return Err(anyhow!("{}: is one of {pieces} pieces", path.display())
                .hint("llama-gguf-split --merge joins them"));
        }
        let mut names = BTreeMap::new();
        for (name, _) in file.tensors() {
            match hugging_face_name(name) {
                Some(theirs) => drop(names.insert(theirs, name.to_owned())),
                None if name == config::ROPE_FREQUENCIES => {}
                None => Err(file.tensor_error(name, "has no place in a Llama-like model"))?,
            }
        }
        let config_json = config::config_json(&file)?;
        let config = ModelConfig::from_json(path, &config_json)?;
        let is_permuted =
            file.get("general.architecture").and_then(|v| v.as_str()) == Some("llama");
        let model = GgufModel {
            file,
            config,
            config_json,
            names,
            is_permuted,
        };
        model.check()?;
        Ok(model)
    }

    fn check(&self) -> anyhow::Result<()> {
        let mut places = self.names.clone();
        for part in checkpoint::parts(&self.config) {
            let Some(name) = places.remove(&part.name) else {
                bail!(
                    "{}: has no tensor for {}",
                    self.file.path().display(),
                    part.name
                );
            };
            let found = self
                .file
                .tensors()
                .find(|(n, _)| *n == name)
                .map(|(_, info)| &info.shape);
            if found != Some(&part.shape) {
                let message = format!(
                    "has shape {:?}, where the file's keys ask for {:?}",
                    found.map_or(&[][..], |shape| &shape[..]),
                    part.shape
                );
                Err(self.file.tensor_error(&name, message))?;
            }
        }
        match places.into_values().next() {
            Some(name) => Err(self
                .file
                .tensor_error(&name, "is not expected by the file's keys"))?,
            None => Ok(()),
        }
    }

    pub fn values(&self, part: &Part) -> anyhow::Result<Vec<f32>> {
        let name = self.names.get(&part.name).context("checked when opened")?;
        let (_, values) = self.file.tensor(name)?;
        let columns = part.shape.get(1).copied().unwrap_or(1);
        let heads = match () {
            () if !self.is_permuted => return Ok(values),
            () if part.name.contains("self_attn.q_proj") => self.config.num_attention_heads,
            () if part.name.contains("self_attn.k_proj") => self.config.num_key_value_heads,
            () => return Ok(values),
        };
        Ok(unpermute(&values, columns, heads))
    }

    pub fn generation_config_json(&self) -> Map<String, Value> {
        let mut generation = Map::new();
        let end = match self.config.eos_token_ids.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            several => json!(several),
        };
        for (key, value) in [
            ("bos_token_id", json!(self.config.bos_token_id)),
            ("eos_token_id", end),
            ("pad_token_id", json!(self.config.pad_token_id)),
        ] {
            if !value.is_null() {
                generation.insert(key.to_owned(), value);
            }
        }
        generation
    }

    pub fn write_tokenizer(&self, out: &Path) -> anyhow::Result<()> {
        tokenizer::write(&self.file, out)
    }
}
