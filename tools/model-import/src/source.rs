//! Where does the model come from, and what can be asked of it whichever it is?

use crate::folder::Folder;
use crate::gguf::GgufModel;
use anyhow::{Context, anyhow};
use checkpoint::{Dtype, ModelConfig, Part};
use cli::Hint;
use serde_json::{Map, Value};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// A model that can be imported.
pub enum Source {
    Gguf(Box<GgufModel>),
    Folder(Box<Folder>),
}

/// A linear layer's weight, or any other tensor, on its way.
pub enum Weight {
    /// Row-major.
    Values(Vec<f32>),
    Quantized(nf4::Quantized),
}

impl Source {
    pub fn open(path: &Path) -> anyhow::Result<Source> {
        let metadata = std::fs::metadata(path).with_context(|| path.display().to_string())?;
        if metadata.is_dir() {
            let is_a_model = ["config.json", "snapshots"]
                .iter()
                .any(|name| path.join(name).exists());
            let folder = match Folder::open(path) {
                Err(error) if !is_a_model => Err(error).hint(
                    "a source is a .gguf file, a Hugging Face folder with safetensors, or a \
                     models--ORG--NAME folder of its cache",
                ),
                opened => opened,
            };
            return Ok(Source::Folder(Box::new(folder?)));
        }
        let mut magic = [0; 4];
        let read = File::open(path)
            .and_then(|mut file| file.read(&mut magic))
            .with_context(|| path.display().to_string())?;
        if metadata.len() > 0 && &magic[..read] != b"GGUF" {
            return Err(anyhow!(
                "{}: is not a GGUF file: it does not begin with GGUF",
                path.display()
            )
            .hint("for safetensors, name the folder that also has config.json"));
        }
        Ok(Source::Gguf(Box::new(GgufModel::open(path)?)))
    }

    pub fn config(&self) -> &ModelConfig {
        match self {
            Source::Gguf(model) => &model.config,
            Source::Folder(folder) => folder.base.config(),
        }
    }

    /// config.json, but for what the import changes.
    pub fn config_json(&self) -> anyhow::Result<Map<String, Value>> {
        match self {
            Source::Gguf(model) => Ok(model.config_json.clone()),
            Source::Folder(folder) => folder.config_json(),
        }
    }

    /// generation_config.json, if there is one or it can be made.
    pub fn generation_config_json(&self) -> anyhow::Result<Option<Map<String, Value>>> {
        match self {
            Source::Gguf(model) => Ok(Some(model.generation_config_json())),
            Source::Folder(folder) => folder.generation_config_json(),
        }
    }

    /// The type a tensor would have if nothing were asked.
    pub fn dtype(&self, part: &Part) -> anyhow::Result<Dtype> {
        match self {
            Source::Gguf(_) => Ok(Dtype::BF16),
            Source::Folder(folder) => folder.dtype(part),
        }
    }

    /// Is it the weight of a linear layer, and stored in 4 bits?
    pub fn is_4_bit(&self, part: &Part) -> bool {
        match (self, part.name.strip_suffix(".weight")) {
            (Source::Folder(folder), Some(module)) => folder.base.is_4_bit(module),
            _ => false,
        }
    }

    pub fn has_4_bit_weights(&self) -> bool {
        matches!(self, Source::Folder(folder) if folder.base.has_4_bit_weights())
    }

    /// Are the scales of 4-bit weights quantised, too?
    pub fn has_8_bit_scales(&self) -> bool {
        matches!(self, Source::Folder(folder) if folder.base.has_8_bit_scales())
    }

    pub fn weight(&self, part: &Part) -> anyhow::Result<Weight> {
        match self {
            Source::Gguf(model) => Ok(Weight::Values(model.values(part)?)),
            Source::Folder(folder) => folder.weight(part),
        }
    }

    pub fn write_tokenizer(&self, out: &Path) -> anyhow::Result<()> {
        match self {
            Source::Gguf(model) => model.write_tokenizer(out),
            Source::Folder(folder) => crate::tokenizer::copy(folder.base.dir(), out, false),
        }
    }
}
