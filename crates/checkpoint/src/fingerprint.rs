//! Is this the file that it was? Hashes for runs that go on where another one stopped.
//!
//! A weight file is hashed in parts: a run should start within seconds. Its size, a first part with its
//! header, and from there on a sample where each tensor begins and at every [`STRIDE`]: a merged adapter
//! may have changed one small projection of every layer.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    ops::Range,
    path::Path,
};

use xxhash_rust::xxh3::Xxh3;

use crate::{Error, SafetensorsFile};

const FIRST: u64 = 16 << 20;
const STRIDE: u64 = 16 << 20;
const SAMPLE: u64 = 64 << 10;

/// Of a model's folder: its configuration, whole, and its weights, by samples.
pub fn of_weights(dir: &Path) -> Result<String, Error> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io(dir))? {
        let name = entry.map_err(Error::io(dir))?.file_name();
        let name = name.to_string_lossy().into_owned();
        if name == "config.json" || name.ends_with(".safetensors") {
            names.push(name);
        }
    }
    names.sort();
    let mut all = Xxh3::new();
    for name in names {
        let path = dir.join(&name);
        let tensors = tensors(&path);
        all.update(name.as_bytes());
        all.update(hash(&path, |size| samples(size, &tensors))?.as_bytes());
    }
    Ok(hex(&all))
}

/// Of all of a file.
pub fn of_file(path: &Path) -> Result<String, Error> {
    hash(path, whole)
}

/// Where the tensors of a file begin; what is not safetensors has none.
fn tensors(path: &Path) -> Vec<u64> {
    let file = SafetensorsFile::open(path);
    file.map_or(Vec::new(), |file| file.starts().collect())
}

fn whole(size: u64) -> Vec<Range<u64>> {
    std::iter::once(0..size).collect()
}

/// Parts in the file's order that do not overlap.
fn samples(size: u64, tensors: &[u64]) -> Vec<Range<u64>> {
    let first = FIRST.min(size);
    let mut starts: Vec<u64> = (first..size).step_by(STRIDE as usize).collect();
    starts.extend(
        tensors
            .iter()
            .filter(|start| (first..size).contains(*start)),
    );
    starts.sort_unstable();
    starts.dedup();
    let ends = starts.iter().skip(1).chain([&size]);
    let samples = starts.iter().zip(ends);
    let samples = samples.map(|(&start, &end)| start..(start + SAMPLE).min(end));
    std::iter::once(0..first).chain(samples).collect()
}

/// Of a file's size and these parts of it.
fn hash(path: &Path, parts: impl FnOnce(u64) -> Vec<Range<u64>>) -> Result<String, Error> {
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
    Ok(hex(&read().map_err(Error::io(path))?))
}

fn hex(hash: &Xxh3) -> String {
    format!("xxh3:{:032x}", hash.digest128())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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
        let sampled = |path| hash(path, |size| samples(size, &[])).unwrap();
        assert_ne!(sampled(&before), sampled(&after));
        assert_ne!(sampled(&before), of_file(&before).unwrap());
        std::fs::copy(&before, &after).unwrap();
        assert_eq!(sampled(&before), sampled(&after));
    }

    #[test]
    fn a_change_of_one_small_projection_between_two_strides_shows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let written = |k_proj: f32| {
            let entry = |name: &str, values: usize| crate::Entry {
                name: name.into(),
                dtype: crate::Dtype::F32,
                shape: vec![values],
            };
            let [embedding, small, rest] = [(FIRST + SAMPLE) as usize / 4, 64, 1 << 20];
            let entries = vec![
                entry("a.embed_tokens.weight", embedding),
                entry("b.k_proj.weight", small),
                entry("c.rest.weight", rest),
            ];
            let file = crate::SafetensorsWriter::create(&path, entries, &BTreeMap::new());
            let file = file.unwrap();
            let bytes = |values: usize, value: f32| value.to_le_bytes().repeat(values);
            file.put("a.embed_tokens.weight", &bytes(embedding, 1.0))
                .unwrap();
            file.put("b.k_proj.weight", &bytes(small, k_proj)).unwrap();
            file.put("c.rest.weight", &bytes(rest, 1.0)).unwrap();
            file.finish().unwrap();
            of_weights(dir.path()).unwrap()
        };
        let before = written(1.0);
        assert_ne!(before, written(2.0));
        assert_eq!(before, written(1.0));
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
            for tensors in [
                vec![],
                vec![8, FIRST + 1, FIRST + SAMPLE, FIRST + STRIDE + 3],
            ] {
                let parts = samples(size, &tensors);
                assert_eq!(parts[0], 0..size.min(FIRST));
                assert!(parts.windows(2).all(|two| two[0].end <= two[1].start));
                assert!(parts.last().unwrap().end <= size, "{size}");
            }
        }
    }
}
