//! Do we read PEFT's adapters, and would PEFT read ours?

use checkpoint::Dtype;
use checkpoint::adapter::{self, Adapter, AdapterConfig, AdapterTensor};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn peft() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/models/llama-tied/adapter")
}

fn copy() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(peft().join(file), dir.path().join(file)).unwrap();
    }
    dir
}

fn edit(dir: &Path, key: &str, value: serde_json::Value) {
    let path = dir.join("adapter_config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    fs::write(&path, config.to_string()).unwrap();
}

#[test]
fn an_adapter_of_peft_is_read_with_its_pairs_and_scaling() {
    let adapter = adapter::read(&peft()).unwrap();
    let pairs = adapter.pairs();
    assert_eq!(pairs.len(), 14);
    let down = pairs
        .iter()
        .find(|p| p.module == "model.layers.0.mlp.down_proj")
        .unwrap();
    assert_eq!(
        (down.a.shape, down.b.shape, down.scaling),
        ([4, 128], [64, 4], 2.0)
    );
}

#[test]
fn what_is_written_is_what_peft_wrote() {
    let adapter = adapter::read(&peft()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    adapter::write(&adapter, dir.path(), Dtype::F32).unwrap();
    let file = "adapter_model.safetensors";
    assert!(fs::read(dir.path().join(file)).unwrap() == fs::read(peft().join(file)).unwrap());
    let json = |dir: &Path| -> serde_json::Map<String, serde_json::Value> {
        let text = fs::read(dir.join("adapter_config.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    };
    let (ours, theirs) = (json(dir.path()), json(&peft()));
    for (key, value) in &ours {
        if key == "target_modules" {
            let set = |value: &serde_json::Value| -> std::collections::BTreeSet<String> {
                value
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(ToString::to_string)
                    .collect()
            };
            assert_eq!(set(value), set(&theirs[key]));
        } else {
            assert_eq!(value, &theirs[key], "{key}");
        }
    }
    let left = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 2, "nothing but the two files");
}

#[test]
fn half_precision_survives_the_round_trip() {
    let config = AdapterConfig::new(2, 16.0, 0.05, vec!["q_proj".to_owned()]);
    let tensor = |shape: [usize; 2]| AdapterTensor {
        shape,
        values: (0..shape[0] * shape[1])
            .map(|i| i as f32 * 0.125 - 1.0)
            .collect(),
    };
    let module = "model.layers.0.self_attn.q_proj";
    let tensors = BTreeMap::from([
        (adapter::key(module, 'A'), tensor([2, 8])),
        (adapter::key(module, 'B'), tensor([4, 2])),
    ]);
    let before = Adapter { config, tensors };
    for dtype in [Dtype::F32, Dtype::BF16, Dtype::F16] {
        let dir = tempfile::tempdir().unwrap();
        adapter::write(&before, dir.path(), dtype).unwrap();
        assert_eq!(adapter::read(dir.path()).unwrap(), before, "{dtype}");
    }
}

#[test]
fn patterns_of_rank_and_alpha_are_applied_as_in_peft() {
    let mut config = AdapterConfig::new(8, 16.0, 0.0, vec![]);
    config.rank_pattern.insert("mlp.up_proj".to_owned(), 32);
    config
        .alpha_pattern
        .insert(r"layers\.1\..*\.q_proj".to_owned(), 4.0);
    assert_eq!(config.rank("model.layers.0.mlp.up_proj"), 32);
    assert_eq!(config.rank("model.layers.0.xmlp.up_proj"), 8);
    assert_eq!(config.scaling("model.layers.1.self_attn.q_proj", 8), 0.5);
    assert_eq!(config.scaling("model.layers.2.self_attn.q_proj", 8), 2.0);
    config.use_rslora = true;
    assert_eq!(config.scaling("model.layers.2.self_attn.q_proj", 16), 4.0);
}

#[test]
fn what_would_be_computed_otherwise_is_refused_by_name() {
    for (key, value) in [
        ("use_dora", true.into()),
        ("lora_bias", true.into()),
        ("bias", "all".into()),
        ("modules_to_save", serde_json::json!(["lm_head"])),
        ("peft_type", "IA3".into()),
        ("r", 5.into()),
        ("lora_dropout", 1.5.into()),
        ("init_lora_weights", "pissa".into()),
        ("init_lora_weights", "pissa_niter_4".into()),
        ("init_lora_weights", "olora".into()),
        ("init_lora_weights", "corda".into()),
        ("init_lora_weights", "loftq".into()),
        ("init_lora_weights", "lora_ga".into()),
    ] {
        let dir = copy();
        edit(dir.path(), key, value);
        let message = adapter::read(dir.path()).unwrap_err().to_string();
        let named = if key == "r" {
            "rank 4, where adapter_config.json says 5"
        } else {
            key
        };
        assert!(message.contains(named), "{key}: {message}");
    }
}

#[test]
fn an_initialisation_that_leaves_the_base_as_it_is_reads() {
    let dir = copy();
    for value in ["gaussian", "orthogonal", "eva", "mica"].map(serde_json::Value::from) {
        edit(dir.path(), "init_lora_weights", value);
        adapter::read(dir.path()).unwrap();
    }
    for value in [true.into(), false.into(), serde_json::Value::Null] {
        edit(dir.path(), "init_lora_weights", value);
        adapter::read(dir.path()).unwrap();
    }
}

#[test]
fn a_tensor_that_the_configuration_does_not_name_is_refused() {
    let dir = copy();
    edit(dir.path(), "target_modules", serde_json::json!(["q_proj"]));
    let message = adapter::read(dir.path()).unwrap_err().to_string();
    assert!(
        message.contains("of no module that target_modules"),
        "{message}"
    );
    // A name is a module's last, not the end of its letters.
    edit(dir.path(), "target_modules", serde_json::json!(["proj"]));
    assert!(adapter::read(dir.path()).is_err());
    edit(
        dir.path(),
        "target_modules",
        serde_json::json!("all-linear"),
    );
    assert!(adapter::read(dir.path()).is_ok());
}

/// What PEFT 0.21 would put a LoRA on (tuners_utils.check_target_module_exists).
#[test]
fn patterns_exclusions_and_layers_name_what_they_name_in_peft() {
    use serde_json::{Value, json};
    let all = json!([
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj"
    ]);
    let every_layer = r"model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj";
    let reads = |settings: &[(&str, Value)]| {
        let dir = copy();
        for (key, value) in settings {
            edit(dir.path(), key, value.clone());
        }
        let config = adapter::read(dir.path()).map(|adapter| {
            // What is written again means the same.
            adapter::write(&adapter, dir.path(), Dtype::F32).unwrap();
            let again = adapter::read(dir.path()).unwrap().config;
            assert_eq!(again.exclude_modules, adapter.config.exclude_modules);
            assert_eq!(again.layers, adapter.config.layers);
        });
        config.map_err(|error| error.to_string())
    };
    let pattern = |text: &str| [("target_modules", json!(text))];
    assert_eq!(reads(&pattern(every_layer)), Ok(()));
    for part in [
        r"model\.layers\.0\..*",
        r".*\.q_proj",
        "proj",
        r"layers\.\d+\..*_proj",
    ] {
        let message = reads(&pattern(part)).unwrap_err();
        assert!(
            message.contains("PEFT would not load it"),
            "{part}: {message}"
        );
    }
    let message = reads(&pattern(r"(?!.*lm_head).*_proj")).unwrap_err();
    assert!(
        message.contains("target_modules is no pattern that can be read here"),
        "{message}"
    );

    let excluded = |value: Value| [("target_modules", all.clone()), ("exclude_modules", value)];
    assert_eq!(reads(&excluded(json!(["lm_head", "roj"]))), Ok(()));
    assert_eq!(reads(&excluded(json!("q_proj"))), Ok(()), "no full match");
    for value in [
        json!(["q_proj"]),
        json!(["self_attn.q_proj"]),
        json!(r".*layers\.1\..*"),
    ] {
        assert!(reads(&excluded(value.clone())).is_err(), "{value}");
    }

    let layers = |numbers: Value, patterns: Value| {
        [
            ("target_modules", all.clone()),
            ("layers_to_transform", numbers),
            ("layers_pattern", patterns),
        ]
    };
    assert_eq!(reads(&layers(json!([0, 1]), Value::Null)), Ok(()));
    assert_eq!(reads(&layers(json!([0, 1]), json!("layers"))), Ok(()));
    assert_eq!(
        reads(&layers(json!([]), json!(["h"]))),
        Ok(()),
        "of no layer is of all"
    );
    assert!(reads(&layers(json!(0), Value::Null)).is_err());
    assert!(reads(&layers(json!([0, 1]), json!(["h"]))).is_err());
}

#[test]
fn an_adapted_embedding_or_head_is_refused_with_the_way_out() {
    for name in [
        "lm_head.lora_A.weight",
        "lm_head.weight",
        "model.embed_tokens.lora_embedding_A",
    ] {
        let dir = copy();
        let entry = checkpoint::Entry {
            name: format!("base_model.model.{name}"),
            dtype: Dtype::F32,
            shape: vec![1, 1],
        };
        let path = dir.path().join("adapter_model.safetensors");
        let metadata = BTreeMap::new();
        let writer = checkpoint::SafetensorsWriter::create(&path, vec![entry.clone()], &metadata);
        let writer = writer.unwrap();
        writer.put(&entry.name, &[0; 4]).unwrap();
        writer.finish().unwrap();
        let message = adapter::read(dir.path()).unwrap_err().to_string();
        assert!(
            message.contains("adapts the embedding or the output layer"),
            "{message}"
        );
        assert!(message.contains("merge_and_unload"), "{message}");
    }
    let dir = copy();
    edit(
        dir.path(),
        "modules_to_save",
        serde_json::json!(["lm_head"]),
    );
    let message = adapter::read(dir.path()).unwrap_err().to_string();
    assert!(message.contains("merge_and_unload"), "{message}");
}

#[test]
fn an_adapter_in_the_cache_is_read_from_its_snapshot() {
    let cache = tempfile::tempdir().unwrap();
    let entry = cache.path().join("models--org--name");
    let snapshot = entry.join("snapshots").join("0123abc");
    fs::create_dir_all(entry.join("refs")).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(entry.join("refs/main"), "0123abc").unwrap();
    for file in adapter::FILES {
        fs::copy(peft().join(file), snapshot.join(file)).unwrap();
    }
    assert_eq!(
        adapter::read(&entry).unwrap(),
        adapter::read(&peft()).unwrap()
    );
    // A folder that has its files is its own, whatever folders lie beside them.
    let own = tempfile::tempdir().unwrap();
    for file in adapter::FILES {
        fs::copy(peft().join(file), own.path().join(file)).unwrap();
    }
    fs::create_dir(own.path().join("snapshots")).unwrap();
    assert!(adapter::read(own.path()).is_ok());
}

#[test]
fn a_missing_twin_and_a_truncated_file_are_errors() {
    let dir = copy();
    let mut adapter = adapter::read(dir.path()).unwrap();
    let gone = adapter::key("model.layers.0.mlp.up_proj", 'B');
    adapter.tensors.remove(&gone);
    adapter::write(&adapter, dir.path(), Dtype::F32).unwrap();
    let message = adapter::read(dir.path()).unwrap_err().to_string();
    assert!(message.contains(&gone), "{message}");

    let path = dir.path().join("adapter_model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(
        adapter::read(dir.path())
            .unwrap_err()
            .to_string()
            .contains("adapter_model")
    );
}
