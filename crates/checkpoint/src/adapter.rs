//! How does PEFT store a LoRA adapter? (`adapter_config.json`, `adapter_model.safetensors`.)

mod config;
mod targets;

pub use config::AdapterConfig;
pub use targets::{Layers, TargetModules};

use crate::{Dtype, Entry, Error, SafetensorsFile, SafetensorsWriter, resolve};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// The files of an adapter's folder.
pub const FILES: [&str; 2] = [CONFIG_FILE, WEIGHTS_FILE];
pub const CONFIG_FILE: &str = "adapter_config.json";
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";

/// A LoRA adapter: for each adapted linear layer two small matrices A and B.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    pub config: AdapterConfig,
    /// Keyed as in PEFT's file:
    /// `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`.
    pub tensors: BTreeMap<String, AdapterTensor>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AdapterTensor {
    /// `[r, in]` for A, `[out, r]` for B.
    pub shape: [usize; 2],
    /// Row-major.
    pub values: Vec<f32>,
}

/// One adapted linear layer: `y = W₀x + scaling · B(Ax)`.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// In the base's own words: `model.layers.0.self_attn.q_proj`.
    pub module: &'a str,
    /// `[r, in]`
    pub a: &'a AdapterTensor,
    /// `[out, r]`
    pub b: &'a AdapterTensor,
    pub scaling: f64,
}

impl Adapter {
    /// The base that adapter_config.json names, where that is another than this folder. `org/name` on
    /// the hub and `models/name` on disk are taken for the same model.
    pub fn other_base(&self, base: &Path) -> Option<&str> {
        let named = self.config.base_model_name_or_path.as_deref();
        let named = named.filter(|name| !name.is_empty())?;
        let last = |path: &Path| {
            path.components()
                .next_back()
                .map(|part| part.as_os_str().to_owned())
        };
        let path = Path::new(named);
        let is_same_folder = match (path.canonicalize(), base.canonicalize()) {
            (Ok(a), Ok(b)) => a == b || last(&a) == last(&b),
            (Err(_), Ok(b)) => last(path) == last(&b),
            _ => false,
        };
        (!is_same_folder && last(path) != last(base)).then_some(named)
    }

    /// The adapted layers by name.
    ///
    /// # Panics
    /// If an A has no B. [`read`] has made sure of it; whoever builds an adapter must.
    pub fn pairs(&self) -> Vec<Pair<'_>> {
        self.tensors
            .iter()
            .filter_map(|(name, a)| {
                let module = name.strip_prefix(PREFIX)?.strip_suffix(".lora_A.weight")?;
                let b = &self.tensors[&key(module, 'B')];
                let scaling = self.config.scaling(module, a.shape[0]);
                Some(Pair {
                    module,
                    a,
                    b,
                    scaling,
                })
            })
            .collect()
    }
}

/// The key of a layer's A or B in PEFT's file; `which` is `'A'` or `'B'`.
pub fn key(module: &str, which: char) -> String {
    format!("{PREFIX}{module}.lora_{which}.weight")
}

/// Reads a PEFT LoRA folder, or an entry of the Hugging Face cache. What this project would compute
/// otherwise than PEFT is an error.
pub fn read(dir: &Path) -> Result<Adapter, Error> {
    let dir = &resolve(dir)?;
    let config = AdapterConfig::read(&dir.join(CONFIG_FILE))?;
    let path = dir.join(WEIGHTS_FILE);
    if !path.exists() && dir.join("adapter_model.bin").exists() {
        let message = "has adapter_model.bin only; save it again as adapter_model.safetensors";
        return Err(Error::file(dir, message));
    }
    let file = SafetensorsFile::open(&path)?;
    let mut tensors = BTreeMap::new();
    for name in file.names() {
        let view = file.tensor(name)?;
        let ours = name.starts_with(PREFIX)
            && !is_of_an_embedding(name)
            && (name.ends_with(".lora_A.weight") || name.ends_with(".lora_B.weight"));
        if !ours {
            return Err(view.error(match is_of_an_embedding(name) {
                true => {
                    "adapts the embedding or the output layer, which is not supported here; PEFT's \
                         merge_and_unload makes a base of adapter and base"
                }
                false => "is not the A or B of a linear layer's LoRA",
            }));
        }
        let &[rows, columns] = view.shape.as_slice() else {
            return Err(view.error(format!("has shape {:?}, not a matrix's", view.shape)));
        };
        let values = view.to_f32()?;
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            return Err(view.error(format!("has {} at element {i}", values[i])));
        }
        tensors.insert(
            name.to_owned(),
            AdapterTensor {
                shape: [rows, columns],
                values,
            },
        );
    }
    if tensors.is_empty() {
        return Err(Error::file(&path, "holds no tensors"));
    }
    check_pairs(&path, &config, &tensors)?;
    Ok(Adapter { config, tensors })
}

/// LoRA over lm_head or embed_tokens, or a whole copy of one (`modules_to_save`).
fn is_of_an_embedding(tensor: &str) -> bool {
    tensor
        .split('.')
        .any(|part| part == "lm_head" || part == "embed_tokens")
}

fn check_pairs(
    path: &Path,
    config: &AdapterConfig,
    tensors: &BTreeMap<String, AdapterTensor>,
) -> Result<(), Error> {
    for (name, tensor) in tensors {
        let (twin, rank) = match name.strip_suffix(".lora_A.weight") {
            Some(module) => (format!("{module}.lora_B.weight"), tensor.shape[0]),
            None => {
                let module = name.trim_end_matches(".lora_B.weight");
                (format!("{module}.lora_A.weight"), tensor.shape[1])
            }
        };
        if !tensors.contains_key(&twin) {
            return Err(Error::tensor(path, name, format!("has no twin {twin}")));
        }
        let module = name[PREFIX.len()..]
            .rsplitn(3, '.')
            .last()
            .unwrap_or_default();
        // PEFT drops what its configuration does not name.
        if !config.adapts(module) {
            let message = "is of no module that target_modules, exclude_modules and layers_to_transform in \
                           adapter_config.json name; PEFT would not load it";
            return Err(Error::tensor(path, name, message));
        }
        let expected = config.rank(module);
        if rank != expected {
            let message = format!("has rank {rank}, where adapter_config.json says {expected}");
            return Err(Error::tensor(path, name, message));
        }
    }
    Ok(())
}

/// Writes a folder that PEFT loads. Each file appears whole or not at all, the config last.
///
/// # Panics
/// If `dtype` is not `F32`, `BF16` or `F16`.
pub fn write(adapter: &Adapter, dir: &Path, dtype: Dtype) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let entries = adapter.tensors.iter().map(|(name, tensor)| Entry {
        name: name.clone(),
        dtype,
        shape: tensor.shape.to_vec(),
    });
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    whole(&dir.join(WEIGHTS_FILE), |path| {
        let writer = SafetensorsWriter::create(path, entries.collect(), &metadata)?;
        for (name, tensor) in &adapter.tensors {
            writer.put(name, &dtype.encode(&tensor.values))?;
        }
        writer.finish()
    })?;
    whole(&dir.join(CONFIG_FILE), |path| {
        let mut file = File::create(path).map_err(Error::io(path))?;
        file.write_all(adapter.config.to_json().as_bytes())
            .map_err(Error::io(path))?;
        file.sync_all().map_err(Error::io(path))
    })
}

/// Writes beside the target and renames; a failed attempt leaves nothing behind.
fn whole(target: &Path, write: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
    let name = target
        .file_name()
        .expect("a name was joined")
        .to_string_lossy();
    let beside = target.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let result =
        write(&beside).and_then(|()| fs::rename(&beside, target).map_err(Error::io(target)));
    if result.is_err() {
        let _ = fs::remove_file(&beside); // the first error is the one to tell
    }
    result
}
