//! How is a Hugging Face folder read as a source?

use crate::source::Weight;
use anyhow::Context;
use checkpoint::{Base, Dtype, LinearWeight, Part, Role};
use serde_json::{Map, Value};
use std::path::Path;

pub struct Folder {
    pub base: Base,
}

impl Folder {
    pub fn open(path: &Path) -> anyhow::Result<Folder> {
        Ok(Folder {
            base: Base::open(path)?,
        })
    }

    pub fn config_json(&self) -> anyhow::Result<Map<String, Value>> {
        read(&self.base.dir().join("config.json"))
    }

    pub fn generation_config_json(&self) -> anyhow::Result<Option<Map<String, Value>>> {
        let path = self.base.dir().join("generation_config.json");
        path.exists().then(|| read(&path)).transpose()
    }

    /// The stored type; of a 4-bit weight the one it dequantizes to.
    pub fn dtype(&self, part: &Part) -> anyhow::Result<Dtype> {
        match self.linear(part)? {
            Some(LinearWeight::Nf4(quantized)) => Ok(match quantized.dtype {
                nf4::Dtype::F32 => Dtype::F32,
                nf4::Dtype::BF16 => Dtype::BF16,
                nf4::Dtype::F16 => Dtype::F16,
            }),
            Some(LinearWeight::Dense(view)) => Ok(view.dtype),
            None => Ok(self.base.tensor(&part.name)?.dtype),
        }
    }

    pub fn weight(&self, part: &Part) -> anyhow::Result<Weight> {
        match self.linear(part)? {
            Some(LinearWeight::Nf4(quantized)) => Ok(Weight::Quantized(quantized)),
            Some(LinearWeight::Dense(view)) => Ok(Weight::Values(view.to_f32()?)),
            None => Ok(Weight::Values(self.base.tensor(&part.name)?.to_f32()?)),
        }
    }

    fn linear(&self, part: &Part) -> anyhow::Result<Option<LinearWeight<'_>>> {
        match part.name.strip_suffix(".weight") {
            Some(module) if part.role == Role::Linear => Ok(Some(self.base.linear(module)?)),
            _ => Ok(None),
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Map<String, Value>> {
    let text = std::fs::read(path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| format!("{}: is not JSON", path.display()))
}
