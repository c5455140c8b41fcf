//! Which file of a model's folder holds a tensor?

use crate::json::Object;
use crate::{Error, SafetensorsFile, TensorView};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The mapped files of a folder.
#[derive(Debug)]
pub(crate) struct Tensors {
    dir: PathBuf,
    files: Vec<SafetensorsFile>,
    /// Tensor name → index of its file.
    index: BTreeMap<String, usize>,
}

impl Tensors {
    /// Of `model.safetensors`, or of the shards that its index names.
    pub fn open(dir: &Path) -> Result<Tensors, Error> {
        let single = dir.join("model.safetensors");
        let index = dir.join("model.safetensors.index.json");
        if single.exists() {
            let file = SafetensorsFile::open(&single)?;
            let index = file.names().map(|name| (name.to_owned(), 0)).collect();
            return Ok(Tensors {
                dir: dir.to_owned(),
                files: vec![file],
                index,
            });
        }
        match index.exists() {
            true => open_shards(dir, &index),
            false => Err(Error::file(
                dir,
                "holds neither model.safetensors nor model.safetensors.index.json",
            )),
        }
    }

    pub fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// In alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// The file that holds a tensor, or the folder if none does.
    pub fn path(&self, name: &str) -> &Path {
        match self.index.get(name) {
            Some(file) => self.files[*file].path(),
            None => &self.dir,
        }
    }

    pub fn get(&self, name: &str) -> Result<TensorView<'_>, Error> {
        match self.index.get(name) {
            Some(file) => self.files[*file].tensor(name),
            None => Err(Error::tensor(
                &self.dir,
                name,
                "is in none of the safetensors files",
            )),
        }
    }
}

fn open_shards(dir: &Path, index_path: &Path) -> Result<Tensors, Error> {
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
    Ok(Tensors {
        dir: dir.to_owned(),
        files,
        index: places,
    })
}
