//! What is in the folder, by size and hash? The last file to be written.

use crate::args::Args;
use crate::config::write_json;
use crate::weights::Plan;
use anyhow::Context;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// No time and no absolute path: equal sources make equal folders.
pub fn write(args: &Args, plan: &Plan, out: &Path) -> anyhow::Result<()> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(out).with_context(|| out.display().to_string())? {
        let path = entry.with_context(|| out.display().to_string())?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let (bytes, sha256) = hash(&path).with_context(|| path.display().to_string())?;
        files.insert(name, json!({"bytes": bytes, "sha256": sha256}));
    }
    let source = args
        .source
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let manifest: Map<String, Value> = [
        ("format_version", json!(1)),
        (
            "written_by",
            json!(concat!("model-import ", env!("CARGO_PKG_VERSION"))),
        ),
        ("source", json!(source)),
        ("dtype", json!(args.dtype)),
        ("quantize", json!(args.quantize)),
        (
            "double_quant", // null where nothing is in 4 bits
            json!(plan.quantization.map(|q| q.double_quant)),
        ),
        ("files", json!(files)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    write_json(&out.join("manifest.json"), &manifest)
}

fn hash(path: &Path) -> std::io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        bytes += read as u64;
        hasher.update(&buffer[..read]);
    }
    let digest = hasher.finalize();
    Ok((
        bytes,
        digest.iter().map(|byte| format!("{byte:02x}")).collect(),
    ))
}
