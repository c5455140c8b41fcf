//! What a run was made from: fingerprints of the base and of every shard.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde_json::{Value, json};
use tokens::{Fingerprint, Vocabulary};
use xxhash_rust::xxh3::Xxh3;

use crate::args::Args;

/// A weight file is hashed in parts: a run should start within seconds. Its size, a first part with its
/// header, and from there on a sample at every [`STRIDE`]: what adapts a model changes all its layers.
const FIRST: u64 = 16 << 20;
const STRIDE: u64 = 16 << 20;
const SAMPLE: u64 = 64 << 10;

/// The tokenizer and template of a base folder, as shards carry them.
pub fn fingerprint(base: &Path) -> anyhow::Result<Fingerprint> {
    Ok(Vocabulary::open(base)?.fingerprint)
}

/// The object that inputs.json holds.
pub fn describe(args: &Args, base: &checkpoint::Base) -> anyhow::Result<Value> {
    let shards = |paths: &[PathBuf]| -> anyhow::Result<Vec<String>> {
        paths.iter().map(|path| hash(path, whole)).collect()
    };
    let mut object = serde_json::Map::new();
    object.insert("base".into(), Value::String(hash_base(base.dir())?));
    object.insert("train-shards".into(), json!(shards(&args.train)?));
    object.insert("eval-shards".into(), json!(shards(&args.eval)?));
    if let Some(init) = &args.lora.init_adapter {
        for (key, name) in [
            ("init-adapter-weights", "adapter_model.safetensors"),
            ("init-adapter-config", "adapter_config.json"),
        ] {
            let hash = hash(&init.join(name), whole)?;
            object.insert(key.into(), Value::String(hash));
        }
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
        all.update(hash(&dir.join(&name), samples)?.as_bytes());
    }
    Ok(hex(&all))
}

fn whole(size: u64) -> Vec<Range<u64>> {
    std::iter::once(0..size).collect()
}

fn samples(size: u64) -> Vec<Range<u64>> {
    let first = FIRST.min(size);
    let starts = (first..size).step_by(STRIDE as usize);
    let samples = starts.map(|start| start..(start + SAMPLE).min(size));
    std::iter::once(0..first).chain(samples).collect()
}

/// Of a file's size and these parts of it.
fn hash(path: &Path, parts: fn(u64) -> Vec<Range<u64>>) -> anyhow::Result<String> {
    let read = || -> std::io::Result<Xxh3> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut hash = Xxh3::new();
        hash.update(&size.to_le_bytes());
        let mut buffer = vec![0; 1 << 20];
        for part in parts(size) {
            file.seek(SeekFrom::Start(part.start))?;
            let mut part = (&file).take(part.end - part.start);
            loop {
                match part.read(&mut buffer)? {
                    0 => break,
                    n => hash.update(&buffer[..n]),
                }
            }
        }
        Ok(hash)
    };
    let hash = read().with_context(|| format!("reading {}", path.display()))?;
    Ok(hex(&hash))
}

fn hex(hash: &Xxh3) -> String {
    format!("xxh3:{:032x}", hash.digest128())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_every_layer_shows_in_a_file_of_which_samples_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let (before, after) = (dir.path().join("before"), dir.path().join("after"));
        let mut weights = vec![7u8; 40 << 20];
        std::fs::write(&before, &weights).unwrap();
        // The first part as it was, as where an embedding comes first.
        weights[FIRST as usize..].fill(8);
        std::fs::write(&after, &weights).unwrap();
        let of = |path, parts| hash(path, parts).unwrap();
        assert_ne!(of(&before, samples), of(&after, samples));
        assert_ne!(of(&before, samples), of(&before, whole));
        std::fs::copy(&before, &after).unwrap();
        assert_eq!(of(&before, samples), of(&after, samples));
    }

    #[test]
    fn samples_stay_inside_the_file() {
        for size in [
            0,
            1,
            FIRST,
            FIRST + 1,
            FIRST + STRIDE,
            FIRST + STRIDE + SAMPLE + 5,
        ] {
            let parts = samples(size);
            assert_eq!(parts[0], 0..size.min(FIRST));
            assert!(parts.windows(2).all(|two| two[0].end <= two[1].start));
            assert!(parts.last().unwrap().end <= size, "{size}");
        }
    }
}
