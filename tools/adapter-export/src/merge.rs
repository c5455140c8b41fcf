//! How do base and adapter become one model? `W = W₀ + scaling · B·A`, rounded once.

use crate::args::Quantize;
use crate::trained::Loading;
use anyhow::{Context, anyhow, bail};
use checkpoint::adapter::{Adapter, Pair};
use checkpoint::beside;
use checkpoint::{Base, Dtype, Entry, LinearWeight, Part, Role, SafetensorsWriter};
use cli::{Hint, Progress, Unit};
use rayon::prelude::*;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What a template cannot say of the prompts that were trained on: the adapter's goes over the base's.
pub const PROMPT: &str = "prompt.json";

/// Every file that the merge reads of a base, writes, and so may replace in `--out-dir`.
pub fn files() -> impl Iterator<Item = &'static str> {
    let own = ["config.json", "generation_config.json", "model.safetensors"];
    own.into_iter().chain(beside::FILES)
}

/// The weights that lie in a base's folder, shards and the index that names them among them.
pub fn weights(base: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(base).into_iter().flatten().flatten();
    let mut paths: Vec<_> = paths.map(|entry| entry.path()).collect();
    let is_weights = |name: &str| name.ends_with(".safetensors") || name.contains(".safetensors.");
    paths.retain(|path| {
        path.file_name()
            .is_some_and(|n| is_weights(&n.to_string_lossy()))
    });
    paths
}

/// Copies what goes with the weights as it is; a damaged file is an error.
pub fn copy_files(base: &Path, adapter: &Path, out: &Path) -> anyhow::Result<()> {
    beside::largest_token(base)?; // is its tokenizer.json one?
    for name in beside::FILES.into_iter().chain(["generation_config.json"]) {
        beside::copy(base, out, name)?;
    }
    beside::copy(adapter, out, PROMPT)?;
    Ok(())
}

/// Writes configuration and weights; `Some(signal)` if a signal stopped it.
pub fn write(
    base: &Base,
    adapter: &Adapter,
    loading: Loading,
    dtype: Option<Dtype>,
    out: &Path,
) -> anyhow::Result<Option<i32>> {
    let stored = base.tensor("model.embed_tokens.weight")?.dtype;
    let dtype = match dtype.unwrap_or(stored) {
        Dtype::F64 => Dtype::F32,
        dtype => dtype,
    };
    write_config(base, dtype, out)?;
    let parts = checkpoint::parts(base.config());
    let entries = parts.iter().map(|part| Entry {
        name: part.name.clone(),
        dtype,
        shape: part.shape.clone(),
    });
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let writer =
        SafetensorsWriter::create(&out.join("model.safetensors"), entries.collect(), &metadata)?;
    let pairs: BTreeMap<&str, Pair> = adapter
        .pairs()
        .into_iter()
        .map(|pair| (pair.module, pair))
        .collect();
    // What is dense in a base that has 4-bit weights was left so by whoever quantised it, and by training.
    let quantizes = loading.quantize == Quantize::Nf4 && !base.has_4_bit_weights();
    let progress = Progress::new("merging", Some(parts.len() as u64), Unit::Items("tensors"));
    for part in &parts {
        if let Some(signal) = cli::interrupted() {
            return Ok(Some(signal));
        }
        let mut values = values(base, part, loading, quantizes)?;
        if let Some(pair) = part.name.strip_suffix(".weight").and_then(|m| pairs.get(m)) {
            merge(&mut values, pair);
        }
        check(part, dtype, &values)?;
        writer.put(&part.name, &dtype.encode(&values))?;
        progress.inc(1);
    }
    writer.finish()?;
    Ok(None)
}

/// A tensor as training saw it.
fn values(base: &Base, part: &Part, loading: Loading, quantizes: bool) -> anyhow::Result<Vec<f32>> {
    let dequantized_dtype = loading.dtype.0.and_then(Dtype::to_nf4);
    let module = part.name.strip_suffix(".weight");
    let Some(module) = module.filter(|_| part.role == Role::Linear) else {
        return Ok(base.tensor(&part.name)?.to_f32()?);
    };
    match base.linear(module)? {
        LinearWeight::Nf4(mut quantized) => {
            quantized.dtype = dequantized_dtype.unwrap_or(quantized.dtype);
            Ok(quantized.dequantize())
        }
        LinearWeight::Dense(view) if !quantizes => Ok(view.to_f32()?),
        LinearWeight::Dense(view) => {
            let &[rows, columns] = view.shape.as_slice() else {
                bail!("{}: a linear layer is a matrix", part.name);
            };
            let values = view.to_f32()?;
            let dtype = dequantized_dtype.unwrap_or(nf4::Dtype::F32);
            Ok(nf4::quantize(&values, [rows, columns], dtype, loading.double_quant).dequantize())
        }
    }
}

/// Adds scaling · B·A, row by row.
fn merge(values: &mut [f32], pair: &Pair) {
    let [rank, columns] = pair.a.shape;
    let scaling = pair.scaling as f32;
    values
        .par_chunks_mut(columns)
        .zip(pair.b.values.par_chunks(rank))
        .for_each(|(row, b)| {
            let mut delta = vec![0f32; columns];
            for (b, a) in b.iter().zip(pair.a.values.chunks(columns)) {
                for (delta, a) in delta.iter_mut().zip(a) {
                    *delta += b * a;
                }
            }
            for (value, delta) in row.iter_mut().zip(delta) {
                *value += scaling * delta;
            }
        });
}

fn check(part: &Part, dtype: Dtype, values: &[f32]) -> anyhow::Result<()> {
    let largest = if dtype == Dtype::F16 {
        65_504.0
    } else {
        f32::MAX
    };
    match values.iter().find(|v| !v.is_finite() || v.abs() > largest) {
        Some(value) => Err(anyhow!("{}: {value} does not fit into {dtype}", part.name)
            .hint("use --dtype f32; if that fails too, base or adapter diverged in training")),
        None => Ok(()),
    }
}

fn write_config(base: &Base, dtype: Dtype, out: &Path) -> anyhow::Result<()> {
    let path = base.dir().join("config.json");
    let text = fs::read(&path).with_context(|| path.display().to_string())?;
    let mut config: Map<String, Value> =
        serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    config.remove("quantization_config");
    config.remove("torch_dtype"); // the name of `dtype` before transformers 4.56
    config.insert("dtype".to_owned(), dtype.torch_name().into());
    let sorted: BTreeMap<&String, &Value> = config.iter().collect();
    let path = out.join("config.json");
    fs::write(&path, serde_json::to_string_pretty(&sorted)? + "\n")
        .with_context(|| path.display().to_string())
}
