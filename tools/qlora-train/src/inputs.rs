//! What a run was made from: fingerprints of the base and of every shard.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde_json::{Value, json};
use tokens::{Fingerprint, Vocabulary};
use xxhash_rust::xxh3::Xxh3;

use crate::args::Args;

/// Of a weight file only the header and what follows it up to here is hashed, and its size: a run
/// should start within seconds, and a changed base shows there.
const WEIGHTS_PREFIX_BYTES: u64 = 16 << 20;

/// The tokenizer and template of a base folder, as shards carry them.
pub fn fingerprint(base: &Path) -> anyhow::Result<Fingerprint> {
    Ok(Vocabulary::open(base)?.fingerprint)
}

/// The object that inputs.json holds.
pub fn describe(args: &Args, base: &checkpoint::Base) -> anyhow::Result<Value> {
    let shards = |paths: &[PathBuf]| -> anyhow::Result<Vec<String>> {
        paths.iter().map(|path| hash(path, u64::MAX)).collect()
    };
    let mut object = serde_json::Map::new();
    object.insert("base".into(), Value::String(hash_base(base.dir())?));
    object.insert("train-shards".into(), json!(shards(&args.train)?));
    object.insert("eval-shards".into(), json!(shards(&args.eval)?));
    if let Some(init) = &args.lora.init_adapter {
        let hash = hash(&init.join("adapter_model.safetensors"), u64::MAX)?;
        object.insert("init-adapter-weights".into(), Value::String(hash));
    }
    Ok(Value::Object(object))
}

fn hash_base(dir: &Path) -> anyhow::Result<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let name = entry
            .with_context(|| dir.display().to_string())?
            .file_name();
        let name = name.to_string_lossy().into_owned();
        if name == "config.json" || name.ends_with(".safetensors") {
            names.push(name);
        }
    }
    names.sort();
    let mut all = Xxh3::new();
    for name in names {
        all.update(name.as_bytes());
        all.update(hash(&dir.join(&name), WEIGHTS_PREFIX_BYTES)?.as_bytes());
    }
    Ok(hex(&all))
}

/// Of a file's size and its first `prefix` bytes.
fn hash(path: &Path, prefix: u64) -> anyhow::Result<String> {
    let read = || -> std::io::Result<Xxh3> {
        let file = File::open(path)?;
        let mut hash = Xxh3::new();
        hash.update(&file.metadata()?.len().to_le_bytes());
        let mut file = file.take(prefix);
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hash),
                n => hash.update(&buffer[..n]),
            }
        }
    };
    let hash = read().with_context(|| format!("reading {}", path.display()))?;
    Ok(hex(&hash))
}

fn hex(hash: &Xxh3) -> String {
    format!("xxh3:{:032x}", hash.digest128())
}
