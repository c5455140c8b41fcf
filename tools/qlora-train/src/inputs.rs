//! What a run was made from: fingerprints of the base and of every shard.

use std::path::{Path, PathBuf};

use checkpoint::adapter::{CONFIG_FILE, WEIGHTS_FILE};
use checkpoint::fingerprint::{of_file, of_weights};
use serde_json::{Value, json};
use tokens::{Fingerprint, Vocabulary};

use crate::args::Args;

/// The tokenizer and template of a base folder, as shards carry them.
pub fn fingerprint(base: &Path) -> anyhow::Result<Fingerprint> {
    Ok(Vocabulary::open(base)?.fingerprint)
}

/// The object that inputs.json holds.
pub fn describe(args: &Args, base: &checkpoint::Base) -> anyhow::Result<Value> {
    let shards = |paths: &[PathBuf]| -> Result<Vec<String>, checkpoint::Error> {
        paths.iter().map(|path| of_file(path)).collect()
    };
    let mut object = serde_json::Map::new();
    object.insert("base".into(), Value::String(of_weights(base.dir())?));
    object.insert("train-shards".into(), json!(shards(&args.train)?));
    object.insert("eval-shards".into(), json!(shards(&args.eval)?));
    if let Some(init) = &args.lora.init_adapter {
        for (key, name) in [
            ("init-adapter-weights", WEIGHTS_FILE),
            ("init-adapter-config", CONFIG_FILE),
        ] {
            let hash = of_file(&init.join(name))?;
            object.insert(key.into(), Value::String(hash));
        }
    }
    Ok(Value::Object(object))
}

/// The first shard to evaluate on that is also trained on.
pub fn shared_shard<'a>(args: &'a Args, inputs: &Value) -> Option<&'a Path> {
    let (train, eval) = (&inputs["train-shards"], &inputs["eval-shards"]);
    let trained = |hash: &Value| train.as_array().is_some_and(|train| train.contains(hash));
    let at = eval.as_array()?.iter().position(trained)?;
    Some(&args.eval[at])
}
