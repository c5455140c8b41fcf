//! How does one open a base model, whichever way its folder is laid out?

use crate::json::Object;
use crate::{Error, ModelConfig, Role, SafetensorsFile, TensorView, bitsandbytes, folder, parts};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A model folder: its config and its mapped tensors, checked against each other.
#[derive(Debug)]
pub struct Base {
    dir: PathBuf,
    config: ModelConfig,
    files: Vec<SafetensorsFile>,
    /// Tensor name → index of its file.
    index: BTreeMap<String, usize>,
}

/// The weight of a linear layer as it is stored.
#[derive(Clone, Debug)]
pub enum LinearWeight<'a> {
    Dense(TensorView<'a>),
    Nf4(nf4::Quantized),
}

impl Base {
    /// Opens a Hugging Face folder, or an entry of the Hugging Face cache.
    ///
    /// Every tensor that the config asks for must be there in the right shape.
    pub fn open(dir: &Path) -> Result<Base, Error> {
        let dir = folder::resolve(dir)?;
        let config = ModelConfig::read(&dir)?;
        let (files, index) = open_files(&dir)?;
        let base = Base {
            dir,
            config,
            files,
            index,
        };
        base.check()?;
        Ok(base)
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where the files are: below a cache entry, its snapshot.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// A tensor by its name in the file: `model.norm.weight`.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, Error> {
        match self.index.get(name) {
            Some(file) => self.files[*file].tensor(name),
            None => Err(Error::tensor(
                &self.dir,
                name,
                "is in none of the safetensors files",
            )),
        }
    }

    /// The weight of a linear layer by its module: `model.layers.0.self_attn.q_proj`.
    pub fn linear(&self, module: &str) -> Result<LinearWeight<'_>, Error> {
        let name = format!("{module}.weight");
        match bitsandbytes::read(self, &name)? {
            Some(quantized) => Ok(LinearWeight::Nf4(quantized)),
            None => {
                let view = self.tensor(&name)?;
                match (view.shape.len(), view.dtype.is_float()) {
                    (2, true) => Ok(LinearWeight::Dense(view)),
                    (2, false) => Err(view.error(format!(
                        "holds {} without bitsandbytes' quant_state: another quantisation, or a \
                         damaged file",
                        view.dtype
                    ))),
                    _ => Err(view.error(format!("has shape {:?}, not a matrix's", view.shape))),
                }
            }
        }
    }

    fn check(&self) -> Result<(), Error> {
        for part in parts(&self.config) {
            if part.role == Role::Linear && bitsandbytes::is_quantized(self, &part.name)? {
                bitsandbytes::check_shape(self, &part.name, &part.shape)?;
                continue;
            }
            let view = self.tensor(&part.name)?;
            if view.shape != part.shape {
                return Err(view.error(format!(
                    "has shape {:?}, where config.json asks for {:?}",
                    view.shape, part.shape
                )));
            }
            if !view.dtype.is_float() {
                return Err(view.error(format!("holds {}, not floating-point", view.dtype)));
            }
        }
        Ok(())
    }
}

type Files = (Vec<SafetensorsFile>, BTreeMap<String, usize>);

fn open_files(dir: &Path) -> Result<Files, Error> {
    let single = dir.join("model.safetensors");
    let index = dir.join("model.safetensors.index.json");
    if single.exists() {
        let file = SafetensorsFile::open(&single)?;
        let index = file.names().map(|name| (name.to_owned(), 0)).collect();
        return Ok((vec![file], index));
    }
    match index.exists() {
        true => open_shards(dir, &index),
        false => Err(Error::file(
            dir,
            "holds neither model.safetensors nor model.safetensors.index.json",
        )),
    }
}

fn open_shards(dir: &Path, index_path: &Path) -> Result<Files, Error> {
    let index = Object::read(index_path)?;
    let weight_map = index
        .object("weight_map")?
        .ok_or_else(|| Error::file(index_path, "has no weight_map"))?;
    let mut shards = BTreeMap::new();
    let mut places = BTreeMap::new();
    for (tensor, shard) in weight_map.value() {
        let shard = shard
            .as_str()
            .filter(|name| Path::new(name).components().count() == 1 && !name.starts_with('.'))
            .ok_or_else(|| {
                weight_map.error(
                    tensor,
                    format!("is {shard}, not the name of a file beside it"),
                )
            })?;
        let next = shards.len();
        let number = *shards.entry(shard.to_owned()).or_insert(next);
        places.insert(tensor.clone(), number);
    }
    let mut names: Vec<_> = shards.into_iter().collect();
    names.sort_by_key(|(_, number)| *number);
    let files = names
        .iter()
        .map(|(name, _)| SafetensorsFile::open(&dir.join(name)))
        .collect::<Result<Vec<_>, _>>()?;
    for (tensor, number) in &places {
        let file = &files[*number];
        if !file.contains(tensor) {
            return Err(Error::tensor(
                file.path(),
                tensor,
                "is promised by model.safetensors.index.json but not in this shard: the shard \
                 belongs to another model or download",
            ));
        }
    }
    Ok((files, places))
}
