//! Are model folders opened as Hugging Face and bitsandbytes wrote them, and bad ones refused?

use checkpoint::{Base, Dtype, Entry, LinearWeight, ModelType, RopeScaling, SafetensorsWriter};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/models")
}

/// A private copy of a model that a test may damage.
fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "generation_config.json", "model.safetensors"] {
        fs::copy(models().join(name).join(file), dir.path().join(file)).unwrap();
    }
    dir
}

fn edit_config(dir: &Path, key: &str, value: serde_json::Value) {
    let path = dir.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    fs::write(&path, config.to_string()).unwrap();
}

fn refusal(dir: &Path) -> String {
    Base::open(dir)
        .expect_err("the folder is damaged")
        .to_string()
}

#[test]
fn every_family_opens_with_its_switches() {
    let open = |name: &str| Base::open(&models().join(name)).unwrap();
    let llama = open("llama-tied");
    assert_eq!(llama.config().model_type, ModelType::Llama);
    assert_eq!(llama.config().head_dim, 16);
    assert_eq!(llama.config().dtype, Dtype::F32);
    assert_eq!(llama.config().eos_token_ids, [2]);
    assert!(llama.config().tie_word_embeddings && !llama.contains("lm_head.weight"));
    let untied = open("llama-untied");
    assert!(!untied.config().tie_word_embeddings && untied.contains("lm_head.weight"));
    assert_eq!(
        open("llama3-rope").config().rope.scaling,
        RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 64
        }
    );
    assert_eq!(open("mistral-swa").config().sliding_window, Some(8));
    let qwen2 = open("qwen2");
    assert!(qwen2.config().attention_bias && !qwen2.config().attention_output_bias);
    assert_eq!(qwen2.config().sliding_window, None);
    assert!(open("qwen3").config().qk_norm);
}

#[test]
fn parameters_are_counted_as_the_file_has_them() {
    for name in [
        "llama-tied",
        "llama-untied",
        "mistral-swa",
        "qwen2",
        "qwen3",
    ] {
        let dir = models().join(name);
        let base = Base::open(&dir).unwrap();
        let file = checkpoint::SafetensorsFile::open(&dir.join("model.safetensors")).unwrap();
        let stored: usize = file.names().map(|n| file.tensor(n).unwrap().numel()).sum();
        assert_eq!(base.config().parameters(), stored, "{name}");
    }
}

#[test]
fn both_spellings_of_rope_scaling_mean_the_same() {
    let dir = copy("llama-tied");
    edit_config(dir.path(), "rope_parameters", serde_json::Value::Null);
    edit_config(dir.path(), "rope_theta", 5e5.into());
    edit_config(
        dir.path(),
        "rope_scaling",
        serde_json::json!({"type": "linear", "factor": 4.0}),
    );
    let rope = Base::open(dir.path()).unwrap().config().rope.clone();
    assert_eq!(
        (rope.theta, rope.scaling),
        (5e5, RopeScaling::Linear { factor: 4.0 })
    );
    edit_config(
        dir.path(),
        "rope_scaling",
        serde_json::json!({"rope_type": "yarn", "factor": 4.0}),
    );
    assert!(refusal(dir.path()).contains("rope_scaling has type \"yarn\""));
}

/// Equal in everything but a few 8-bit codes of scales: the CPU library finds them in a table of
/// 65,536 bins, so its value may be worse than the nearest by a bin.
fn agree_but_for_the_table(ours: &nf4::Quantized, stored: &nf4::Quantized, scales: &[f32]) -> bool {
    use nf4::Absmax::Nested;
    let (
        Nested { codes: a, .. },
        Nested {
            codes: b,
            absmax,
            map,
            offset,
        },
    ) = (&ours.absmax, &stored.absmax)
    else {
        return false;
    };
    let within_a_bin = |i: usize| {
        let value = (scales[i] - offset) / absmax[i / 256];
        let error = |code: u8| (map[code as usize] - value).abs();
        error(a[i]) <= error(b[i]) && error(b[i]) <= error(a[i]) + 2.0 / 65_535.0
    };
    let mut same = ours.clone();
    if let Nested { codes, .. } = &mut same.absmax {
        codes.clone_from(b);
    }
    same == *stored && (0..a.len()).all(|i| a[i] == b[i] || within_a_bin(i))
}

#[test]
fn four_bit_checkpoints_of_transformers_are_read_and_matched() {
    for name in ["llama-tied", "qwen2"] {
        let plain = Base::open(&models().join(name)).unwrap();
        let stored = Base::open(&models().join(format!("{name}-prequant"))).unwrap();
        assert!(stored.config().quantized);
        for part in checkpoint::parts(plain.config()) {
            if part.role != checkpoint::Role::Linear {
                continue;
            }
            let module = part.name.strip_suffix(".weight").unwrap();
            let LinearWeight::Dense(view) = plain.linear(module).unwrap() else {
                panic!()
            };
            let LinearWeight::Nf4(stored) = stored.linear(module).unwrap() else {
                panic!()
            };
            let (values, shape) = (view.to_f32().unwrap(), [view.shape[0], view.shape[1]]);
            let ours = nf4::quantize(&values, shape, nf4::Dtype::F32, true);
            let scales = nf4::quantize(&values, shape, nf4::Dtype::F32, false).scales();
            assert!(
                agree_but_for_the_table(&ours, &stored, &scales),
                "{name} {module}"
            );
        }
    }
}

#[test]
fn four_bit_tensors_are_written_as_bitsandbytes_writes_them() {
    for name in ["llama-tied-prequant", "qwen2-prequant"] {
        let dir = models().join(name);
        let base = Base::open(&dir).unwrap();
        let file = checkpoint::SafetensorsFile::open(&dir.join("model.safetensors")).unwrap();
        let weight = "model.layers.1.mlp.down_proj.weight";
        let LinearWeight::Nf4(quantized) = base.linear("model.layers.1.mlp.down_proj").unwrap()
        else {
            panic!("{name} is quantised")
        };
        for (entry, bytes) in checkpoint::bitsandbytes::tensors(weight, &quantized) {
            let view = file.tensor(&entry.name).unwrap();
            assert_eq!(
                (view.dtype, &view.shape),
                (entry.dtype, &entry.shape),
                "{}",
                entry.name
            );
            assert_eq!(view.bytes, bytes, "{}", entry.name);
        }
    }
}

/// Rewrites a model with other tensors; `change` may alter, drop or add some.
fn rewrite(dir: &Path, mut change: impl FnMut(&mut Vec<(Entry, Vec<u8>)>)) {
    let path = dir.join("model.safetensors");
    let file = checkpoint::SafetensorsFile::open(&path).unwrap();
    let mut tensors: Vec<(Entry, Vec<u8>)> = file
        .names()
        .map(|name| {
            let view = file.tensor(name).unwrap();
            let entry = Entry {
                name: name.to_owned(),
                dtype: view.dtype,
                shape: view.shape,
            };
            (entry, view.bytes.to_vec())
        })
        .collect();
    change(&mut tensors);
    fs::remove_file(&path).unwrap();
    write(&path, &tensors);
}

fn write(path: &Path, tensors: &[(Entry, Vec<u8>)]) {
    let entries = tensors.iter().map(|(entry, _)| entry.clone()).collect();
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let writer = SafetensorsWriter::create(path, entries, &metadata).unwrap();
    for (entry, bytes) in tensors {
        writer.put(&entry.name, bytes).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn equal_tensors_make_the_file_that_the_reference_library_makes() {
    for name in ["llama-tied", "qwen2-prequant"] {
        let dir = copy(name);
        rewrite(dir.path(), |_| {});
        let file = "model.safetensors";
        let (ours, theirs) = (dir.path().join(file), models().join(name).join(file));
        assert!(
            fs::read(ours).unwrap() == fs::read(theirs).unwrap(),
            "{name}"
        );
    }
}

#[test]
fn codes_stored_under_another_type_are_the_same_codes() {
    let dir = copy("llama-tied-prequant");
    rewrite(dir.path(), |tensors| {
        for (entry, _) in tensors
            .iter_mut()
            .filter(|(e, _)| e.name.ends_with("_proj.weight"))
        {
            (entry.dtype, entry.shape) = (Dtype::BF16, vec![entry.shape[0] / 2, 1]);
        }
    });
    let (there, here) = (
        Base::open(&models().join("llama-tied-prequant")),
        Base::open(dir.path()),
    );
    let module = "model.layers.0.mlp.up_proj";
    let (there, here) = (there.unwrap(), here.unwrap());
    let (LinearWeight::Nf4(there), LinearWeight::Nf4(here)) =
        (there.linear(module).unwrap(), here.linear(module).unwrap())
    else {
        panic!("both are quantised")
    };
    assert_eq!(there, here);
}

/// Splits a model into two shards with an index.
fn shard(dir: &Path) {
    let mut halves = [Vec::new(), Vec::new()];
    rewrite(dir, |tensors| {
        for (i, tensor) in tensors.iter().enumerate() {
            halves[i % 2].push(tensor.clone());
        }
    });
    fs::remove_file(dir.join("model.safetensors")).unwrap();
    let mut weight_map = serde_json::Map::new();
    for (i, half) in halves.iter().enumerate() {
        let name = format!("model-{:05}-of-00002.safetensors", i + 1);
        for (entry, _) in half {
            weight_map.insert(entry.name.clone(), name.clone().into());
        }
        write(&dir.join(name), half);
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": weight_map});
    fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn a_sharded_model_reads_like_a_whole_one() {
    let dir = copy("llama-untied");
    shard(dir.path());
    let (whole, sharded) = (
        Base::open(&models().join("llama-untied")).unwrap(),
        Base::open(dir.path()).unwrap(),
    );
    for part in checkpoint::parts(whole.config()) {
        let (a, b) = (
            whole.tensor(&part.name).unwrap(),
            sharded.tensor(&part.name).unwrap(),
        );
        assert_eq!(a.bytes, b.bytes, "{}", part.name);
    }
}

#[test]
fn a_foreign_or_missing_shard_is_named() {
    let dir = copy("llama-untied");
    shard(dir.path());
    let second = dir.path().join("model-00002-of-00002.safetensors");
    fs::copy(dir.path().join("model-00001-of-00002.safetensors"), &second).unwrap();
    let message = refusal(dir.path());
    assert!(
        message.contains("model-00002-of-00002.safetensors"),
        "{message}"
    );
    assert!(
        message.contains("the shard belongs to another model"),
        "{message}"
    );
    fs::remove_file(&second).unwrap();
    assert!(refusal(dir.path()).contains("model-00002-of-00002.safetensors"));
}

#[test]
fn an_index_may_not_lead_out_of_the_folder() {
    let dir = copy("llama-untied");
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let index = serde_json::json!({"weight_map": {"model.norm.weight": "../other.safetensors"}});
    fs::write(
        dir.path().join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();
    assert!(refusal(dir.path()).contains("not the name of a file beside it"));
}

#[test]
fn a_cache_entry_leads_to_its_snapshot() {
    let cache = tempfile::tempdir().unwrap();
    let entry = cache.path().join("models--org--name");
    let snapshot = entry.join("snapshots").join("0123abc");
    fs::create_dir_all(entry.join("refs")).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(entry.join("refs/main"), "0123abc").unwrap();
    for file in ["config.json", "model.safetensors"] {
        let from = fs::canonicalize(models().join("qwen3").join(file)).unwrap();
        std::os::unix::fs::symlink(from, snapshot.join(file)).unwrap();
    }
    assert_eq!(Base::open(&entry).unwrap().dir(), snapshot);
    fs::write(entry.join("refs/main"), "4567def").unwrap();
    assert!(refusal(&entry).contains("4567def, which is not downloaded"));
    fs::write(entry.join("refs/main"), "../../secret").unwrap();
    assert!(refusal(&entry).contains("not a commit"));
}

#[test]
fn what_the_config_asks_for_must_be_there_in_its_shape() {
    let dir = copy("llama-tied");
    edit_config(dir.path(), "intermediate_size", 96.into());
    let message = refusal(dir.path());
    assert!(
        message.contains("model.safetensors: model.layers.0.mlp.gate_proj.weight"),
        "{message}"
    );
    assert!(
        message.contains("[128, 64], where config.json asks for [96, 64]"),
        "{message}"
    );
    let dir = copy("llama-tied-prequant");
    edit_config(dir.path(), "intermediate_size", 96.into());
    assert!(refusal(dir.path()).contains("where config.json asks for [96, 64]"));
    let dir = copy("llama-tied");
    edit_config(dir.path(), "num_hidden_layers", 1_000_000_000_000u64.into());
    let message = refusal(dir.path());
    assert!(
        message.contains("num_hidden_layers is 1000000000000; no model has"),
        "{message}"
    );
    edit_config(dir.path(), "num_hidden_layers", 3.into());
    assert!(refusal(dir.path()).contains("model.layers.2.self_attn.q_proj.weight"));
}

#[test]
fn other_architectures_and_quantisations_are_refused_by_name() {
    let refused = |key: &str, value: serde_json::Value| {
        let dir = copy("llama-tied");
        edit_config(dir.path(), key, value);
        refusal(dir.path())
    };
    assert!(refused("model_type", "mamba".into()).contains("model_type is \"mamba\""));
    assert!(refused("hidden_act", "gelu".into()).contains("hidden_act is \"gelu\""));
    assert!(refused("vocab_size", "many".into()).contains("vocab_size is \"many\""));
    assert!(refused("num_key_value_heads", 3.into()).contains("does not divide"));
    let gptq = serde_json::json!({"quant_method": "gptq"});
    assert!(refused("quantization_config", gptq).contains("quantization_config.quant_method"));
}

#[test]
fn empty_unreadable_and_absent_files_are_named() {
    let dir = copy("llama-tied");
    let weights = dir.path().join("model.safetensors");
    fs::write(&weights, b"").unwrap();
    assert!(refusal(dir.path()).contains("model.safetensors: is empty"));
    fs::remove_file(&weights).unwrap();
    assert!(refusal(dir.path()).contains("holds neither model.safetensors nor"));
    fs::create_dir(&weights).unwrap();
    assert!(refusal(dir.path()).contains("is a folder"));
    fs::write(dir.path().join("config.json"), b"{").unwrap();
    assert!(refusal(dir.path()).contains("config.json: is not JSON"));
    fs::remove_file(dir.path().join("config.json")).unwrap();
    assert!(refusal(dir.path()).contains("config.json"));
}

/// Adds a vector of ones of the model's width.
fn add(tensors: &mut Vec<(Entry, Vec<u8>)>, name: &str) {
    let entry = Entry {
        name: name.to_owned(),
        dtype: Dtype::F32,
        shape: vec![64],
    };
    tensors.push((entry, Dtype::F32.encode(&[1.0; 64])));
}

#[test]
fn a_tensor_that_the_config_does_not_account_for_is_refused() {
    for (name, said) in [
        (
            "model.layers.0.self_attn.q_proj.bias",
            "see attention_bias and mlp_bias",
        ),
        (
            "model.layers.0.mlp.router.weight",
            "config.json does not account for it",
        ),
        (
            "model.layers.0.mlp.up_proj.weight.absmax",
            "config.json does not account for it",
        ),
    ] {
        let dir = copy("llama-tied");
        rewrite(dir.path(), |tensors| add(tensors, name));
        let message = refusal(dir.path());
        let place = format!("model.safetensors: {name}: ");
        assert!(
            message.contains(&place) && message.contains(said),
            "{message}"
        );
    }
    let dir = copy("llama-tied");
    edit_config(dir.path(), "num_hidden_layers", 1.into());
    let message = refusal(dir.path());
    let said = "is of layer 1, where config.json has num_hidden_layers 1";
    assert!(message.contains(said), "{message}");
    let dir = copy("llama-tied");
    rewrite(dir.path(), |tensors| {
        add(tensors, "model.layers.1.self_attn.rotary_emb.inv_freq")
    });
    Base::open(dir.path()).unwrap();
}

#[test]
fn a_head_beside_a_tied_embedding_is_the_embedding_or_refused() {
    let dir = copy("llama-untied");
    edit_config(dir.path(), "tie_word_embeddings", true.into());
    let message = refusal(dir.path());
    assert!(
        message.contains("lm_head.weight: is another matrix"),
        "{message}"
    );
    assert!(
        message.contains("\"tie_word_embeddings\": false"),
        "{message}"
    );
    rewrite(dir.path(), |tensors| {
        let of = |name: &str| {
            tensors
                .iter()
                .position(|(entry, _)| entry.name == name)
                .unwrap()
        };
        let (head, embedding) = (of("lm_head.weight"), of("model.embed_tokens.weight"));
        tensors[head].1 = tensors[embedding].1.clone();
    });
    Base::open(dir.path()).unwrap();
}

#[test]
fn a_scale_that_is_no_number_is_refused() {
    let module = "model.layers.0.mlp.up_proj";
    for (beside, change) in [
        ("nested_absmax", f32::NAN),
        ("nested_absmax", f32::INFINITY),
        ("nested_quant_map", f32::NAN),
        ("nested_offset", 1e39f64 as f32),
        ("absmax", f32::NAN),
    ] {
        let dir = copy("llama-tied-prequant");
        let plain = beside == "absmax";
        rewrite(dir.path(), |tensors| {
            let weight = format!("{module}.weight");
            if plain {
                // The same weight with its scales in full.
                let base = Base::open(&models().join("llama-tied-prequant")).unwrap();
                let LinearWeight::Nf4(mut quantized) = base.linear(module).unwrap() else {
                    panic!("stored in 4 bits")
                };
                quantized.absmax = nf4::Absmax::Plain(quantized.scales());
                tensors.retain(|(entry, _)| !entry.name.starts_with(&weight));
                tensors.extend(checkpoint::bitsandbytes::tensors(&weight, &quantized));
            }
            let name = match beside {
                "nested_offset" => format!("{weight}.quant_state.bitsandbytes__nf4"),
                _ => format!("{weight}.{beside}"),
            };
            let (entry, bytes) = tensors
                .iter_mut()
                .find(|(entry, _)| entry.name == name)
                .unwrap();
            if beside == "nested_offset" {
                let mut state: serde_json::Value = serde_json::from_slice(bytes).unwrap();
                state["nested_offset"] = 1e39.into(); // beyond f32
                *bytes = state.to_string().into_bytes();
                entry.shape = vec![bytes.len()];
            } else {
                let end = bytes.len().min(4 * 256);
                for value in bytes[..end].chunks_mut(4) {
                    value.copy_from_slice(&change.to_le_bytes());
                }
            }
        });
        let message = Base::open(dir.path())
            .unwrap()
            .linear(module)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("up_proj.weight.absmax: makes "),
            "{beside}: {message}"
        );
        assert!(
            message.contains(" the scale of block 0"),
            "{beside}: {message}"
        );
    }
}

#[test]
fn a_padding_token_of_minus_one_is_none() {
    let dir = copy("llama-tied");
    edit_config(dir.path(), "pad_token_id", (-1).into());
    assert_eq!(Base::open(dir.path()).unwrap().config().pad_token_id, None);
    edit_config(dir.path(), "pad_token_id", (-2).into());
    assert!(refusal(dir.path()).contains("pad_token_id is -2"));
}

proptest! {
    #[test]
    fn a_file_cut_off_anywhere_is_an_error_with_its_name(cut in 0usize..100_000) {
        let dir = copy("llama-tied-prequant");
        let path = dir.path().join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..cut * 198_097 / 100_000]).unwrap();
        prop_assert!(refusal(dir.path()).contains("model.safetensors"));
    }

    #[test]
    fn no_damage_to_a_header_is_a_panic(at in 0usize..10_000, byte: u8) {
        let dir = copy("llama-tied-prequant");
        let path = dir.path().join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] = byte;
        fs::write(&path, &bytes).unwrap();
        if let Ok(base) = Base::open(dir.path()) {
            for part in checkpoint::parts(base.config()) {
                let module = part.name.trim_end_matches(".weight");
                let _ = base.linear(module).map(drop);
            }
        }
    }
}
