//! Does an exported adapter compute what the adapter does?

use checkpoint::gguf::{Gguf, Value, unpermute};
use checkpoint::{Base, Dtype, LinearWeight, adapter};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use workspace_tests::{copy, data, exits, text, tiny_base, tool};

fn models() -> PathBuf {
    data("models")
}

/// Exports, which must exit with `status`.
fn export(base: &Path, adapter: &Path, flags: &[&str], status: i32) -> Output {
    let mut tool = tool("adapter-export");
    tool.arg("--base").arg(base).arg("--adapter").arg(adapter);
    exits(tool.args(flags), status)
}

/// W₀ + s·B·A in f64.
fn merged_weight(weight: &[f32], pair: &adapter::Pair) -> Vec<f64> {
    let [rank, columns] = pair.a.shape;
    let at = |i: usize| {
        let (row, column) = (i / columns, i % columns);
        let product: f64 = (0..rank)
            .map(|r| {
                f64::from(pair.b.values[row * rank + r])
                    * f64::from(pair.a.values[r * columns + column])
            })
            .sum();
        f64::from(weight[i]) + pair.scaling * product
    };
    (0..weight.len()).map(at).collect()
}

#[test]
fn a_merged_weight_is_the_base_plus_the_scaled_product() {
    for (model, quantize) in [
        ("llama-tied", "none"),
        ("llama-tied", "nf4"),
        ("llama-tied-prequant", "none"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("merged");
        let adapter_dir = models().join("llama-tied/adapter");
        let flags = ["--out-dir", out.to_str().unwrap(), "--quantize", quantize];
        let output = export(&models().join(model), &adapter_dir, &flags, 0);
        assert_eq!(text(&output.stdout), "");
        let (base, merged_base) = (
            Base::open(&models().join(model)).unwrap(),
            Base::open(&out).unwrap(),
        );
        assert!(!merged_base.config().quantized);
        for pair in adapter::read(&adapter_dir).unwrap().pairs() {
            let before = match base.linear(pair.module).unwrap() {
                LinearWeight::Nf4(quantized) => quantized.dequantize(),
                LinearWeight::Dense(view) if quantize == "none" => view.to_f32().unwrap(),
                LinearWeight::Dense(view) => {
                    let shape = [view.shape[0], view.shape[1]];
                    let values = view.to_f32().unwrap();
                    nf4::quantize(&values, shape, nf4::Dtype::F32, true).dequantize()
                }
            };
            let LinearWeight::Dense(after) = merged_base.linear(pair.module).unwrap() else {
                panic!("merged weights are dense")
            };
            assert_eq!(after.dtype, Dtype::F32);
            let expected = merged_weight(&before, &pair);
            for (after, expected) in after.to_f32().unwrap().iter().zip(expected) {
                // Four products and two sums in f32.
                assert!(
                    (f64::from(*after) - expected).abs() <= 1e-6,
                    "{model} {}",
                    pair.module
                );
            }
        }
        let norm = "model.norm.weight";
        let (before, after) = (
            base.tensor(norm).unwrap(),
            merged_base.tensor(norm).unwrap(),
        );
        assert_eq!(before.bytes, after.bytes);
    }
}

#[test]
fn a_gguf_adapter_holds_the_same_numbers_under_llama_cpps_names() {
    for (model, architecture, heads) in [
        ("llama-tied", "llama", Some((4, 2))),
        ("mistral-swa", "llama", Some((4, 2))),
        ("qwen3", "qwen3", None),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("adapter.gguf");
        let adapter_dir = models().join(model).join("adapter");
        export(
            &models().join(model),
            &adapter_dir,
            &["-o", out.to_str().unwrap()],
            0,
        );
        let file = Gguf::open(&out).unwrap();
        let text = |key: &str| file.get(key).and_then(Value::as_str);
        assert_eq!(text("general.type"), Some("adapter"));
        assert_eq!(text("general.architecture"), Some(architecture));
        assert_eq!(text("adapter.type"), Some("lora"));
        assert_eq!(
            file.get("adapter.lora.alpha").and_then(Value::as_f64),
            Some(8.0)
        );
        assert_eq!(file.tensors().count(), 28);
        let adapter = adapter::read(&adapter_dir).unwrap();
        let pairs = adapter.pairs();
        let pair = |module: &str| *pairs.iter().find(|p| p.module == module).unwrap();
        for (name, module, heads) in [
            (
                "blk.0.attn_q",
                "model.layers.0.self_attn.q_proj",
                heads.map(|(q, _)| q),
            ),
            (
                "blk.1.attn_k",
                "model.layers.1.self_attn.k_proj",
                heads.map(|(_, k)| k),
            ),
            ("blk.1.ffn_down", "model.layers.1.mlp.down_proj", None),
        ] {
            let pair = pair(module);
            let (info, a) = file.tensor(&format!("{name}.weight.lora_a")).unwrap();
            assert_eq!((&info.shape[..], &a), (&pair.a.shape[..], &pair.a.values));
            let (info, mut b) = file.tensor(&format!("{name}.weight.lora_b")).unwrap();
            if let Some(heads) = heads {
                assert_ne!(b, pair.b.values, "{model} {name} is interleaved");
                b = unpermute(&b, info.shape[1], heads);
            }
            assert_eq!((&info.shape[..], &b), (&pair.b.shape[..], &pair.b.values));
        }
    }
}

#[test]
fn scalings_that_one_alpha_cannot_say_are_multiplied_into_b() {
    let dir = tempfile::tempdir().unwrap();
    let mut adapter = adapter::read(&models().join("qwen3/adapter")).unwrap();
    let alpha_of = |adapter: &adapter::Adapter| {
        let adapter_dir = dir.path().join("adapter");
        adapter::write(adapter, &adapter_dir, Dtype::F32).unwrap();
        let out = dir.path().join("adapter.gguf");
        export(
            &models().join("qwen3"),
            &adapter_dir,
            &["-o", out.to_str().unwrap()],
            0,
        );
        let file = Gguf::open(&out).unwrap();
        let alpha = file
            .get("adapter.lora.alpha")
            .and_then(Value::as_f64)
            .unwrap();
        (alpha, file.tensor("blk.0.ffn_up.weight.lora_b").unwrap().1)
    };
    let module = "model.layers.0.mlp.up_proj";
    let b = adapter.tensors[&adapter::key(module, 'B')].values.clone();
    adapter.config.use_rslora = true;
    assert_eq!(alpha_of(&adapter), (16.0, b.clone()), "α·√r = 8·√4");
    adapter.config.use_rslora = false;
    adapter
        .config
        .alpha_pattern
        .insert("up_proj".to_owned(), 2.0);
    let halved: Vec<f32> = b.iter().map(|v| v * 0.5).collect();
    assert_eq!(alpha_of(&adapter), (0.0, halved), "α/r = 2/4");
}

#[test]
fn an_adapter_of_another_base_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("merged");
    let mut adapter = adapter::read(&models().join("llama-tied/adapter")).unwrap();
    let wide = adapter::key("model.layers.0.mlp.up_proj", 'A');
    let tensor = adapter.tensors.get_mut(&wide).unwrap();
    tensor.shape[1] *= 2;
    tensor.values.extend(tensor.values.clone());
    let adapter_dir = dir.path().join("adapter");
    adapter::write(&adapter, &adapter_dir, Dtype::F32).unwrap();
    let flags = ["--out-dir", out.to_str().unwrap()];
    let output = export(&models().join("llama-tied"), &adapter_dir, &flags, 2);
    let message = text(&output.stderr);
    assert!(
        message.contains("model.layers.0.mlp.up_proj is for a weight of [128, 128]"),
        "{message}"
    );
    assert!(
        message.contains("hint: the adapter was trained on another base"),
        "{message}"
    );
    assert!(!out.exists());
}

#[test]
fn an_adapter_that_names_another_base_is_merged_with_a_word_about_it() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("other");
    copy(&models().join("llama-tied"), &base);
    let out = dir.path().join("merged");
    let flags = ["--out-dir", out.to_str().unwrap()];
    let adapter_dir = models().join("llama-tied/adapter");
    let said = export(&base, &adapter_dir, &flags, 0);
    let said = text(&said.stderr);
    let warning =
        "warning: the adapter was trained on fixtures/models/llama-tied, and this base is ";
    assert!(said.contains(warning), "{said}");
    let said = export(&models().join("llama-tied"), &adapter_dir, &flags, 0);
    assert!(
        !text(&said.stderr).contains("warning"),
        "{}",
        text(&said.stderr)
    );
}

/// A run's folder with an adapter in it.
fn run(dir: &Path, settings: &str) -> PathBuf {
    let run = dir.join("run");
    copy(&models().join("llama-tied/adapter"), &run.join("adapter"));
    fs::write(run.join("inputs.json"), "{}").unwrap();
    fs::write(run.join("config.json"), settings).unwrap();
    run
}

/// One weight of a merged model.
fn up_proj(merged: &Path) -> Vec<f32> {
    match Base::open(merged)
        .unwrap()
        .linear("model.layers.0.mlp.up_proj")
        .unwrap()
    {
        LinearWeight::Dense(view) => view.to_f32().unwrap(),
        LinearWeight::Nf4(_) => panic!("merged weights are dense"),
    }
}

#[test]
fn an_adapter_is_merged_into_the_weights_that_its_run_trained_on() {
    let module = "model.layers.0.mlp.up_proj";
    let base_dir = models().join("llama-tied");
    let base = Base::open(&base_dir).unwrap();
    let LinearWeight::Dense(view) = base.linear(module).unwrap() else {
        panic!("stored in full")
    };
    let (stored, shape) = (view.to_f32().unwrap(), [view.shape[0], view.shape[1]]);
    let in_4_bits =
        |dtype, double_quant| nf4::quantize(&stored, shape, dtype, double_quant).dequantize();
    let adapter = adapter::read(&base_dir.join("adapter")).unwrap();
    let pairs = adapter.pairs();
    let pair = pairs.iter().find(|pair| pair.module == module).unwrap();
    let is_merge_of = |merged: &[f32], weight: &[f32]| {
        let expected = merged_weight(weight, pair);
        merged
            .iter()
            .zip(expected)
            .all(|(a, b)| (f64::from(*a) - b).abs() <= 1e-6)
    };
    let run_of = |quantize: &str, no_double_quant: bool, dtype: &str| {
        format!(
            r#"{{"quantize": "{quantize}", "no-double-quant": {no_double_quant}, "dtype": "{dtype}"}}"#
        )
    };
    use nf4::Dtype::{BF16, F32};
    for (settings, flags, weight, said) in [
        (
            run_of("nf4", false, "auto"),
            &[][..],
            in_4_bits(F32, true),
            "nf4 with double quantization, dequantized to f32, as ",
        ),
        (
            run_of("nf4", true, "bf16"),
            &[],
            in_4_bits(BF16, false),
            "the base's weights in nf4, dequantized to bf16, as ",
        ),
        (
            run_of("none", false, "auto"),
            &[],
            stored.clone(),
            "as they are stored, as ",
        ),
        (
            run_of("nf4", false, "auto"),
            &["--quantize", "none"],
            stored.clone(),
            "warning: merging into the base's weights as they are stored; ",
        ),
        (
            run_of("nf4", false, "bf16"),
            &["--no-double-quant", "--dequantized-dtype", "f32"],
            in_4_bits(F32, false),
            "says that training loaded it otherwise",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (run, out) = (run(dir.path(), &settings), dir.path().join("merged"));
        let flags = [&["--out-dir", out.to_str().unwrap()], flags].concat();
        let output = export(&base_dir, &run.join("adapter"), &flags, 0);
        let message = text(&output.stderr);
        assert!(
            message.contains(said) && message.contains("run/config.json says"),
            "{message}"
        );
        assert!(is_merge_of(&up_proj(&out), &weight), "{settings} {flags:?}");
    }

    // Of a checkpoint too, and of a link to the adapter; not of a folder that only looks like a run's.
    let dir = tempfile::tempdir().unwrap();
    let (run, out) = (
        run(dir.path(), &run_of("nf4", false, "auto")),
        dir.path().join("merged"),
    );
    let checkpoint = run.join("checkpoints/checkpoint-3");
    copy(&run.join("adapter"), &checkpoint);
    let link = dir.path().join("current");
    std::os::unix::fs::symlink(run.join("adapter"), &link).unwrap();
    let flags = ["--out-dir", out.to_str().unwrap()];
    for adapter in [&checkpoint, &link] {
        export(&base_dir, adapter, &flags, 0);
        assert!(is_merge_of(&up_proj(&out), &in_4_bits(F32, true)));
    }
    fs::write(run.join("config.json"), r#"{"quantize": "fp4"}"#).unwrap();
    let output = export(&base_dir, &link, &flags, 2);
    let message = text(&output.stderr);
    assert!(
        message.contains("run/config.json: does not say how training"),
        "{message}"
    );
    fs::remove_file(run.join("inputs.json")).unwrap();
    let output = export(&base_dir, &link, &flags, 0);
    let message = text(&output.stderr);
    assert!(
        message.contains("no run beside the adapter says"),
        "{message}"
    );
    assert!(is_merge_of(&up_proj(&out), &stored));
}

#[test]
fn flags_that_would_change_nothing_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let [alone, merged] = ["adapter.gguf", "merged"].map(|name| dir.path().join(name));
    let [alone, merged] = [
        ["-o", alone.to_str().unwrap()],
        ["--out-dir", merged.to_str().unwrap()],
    ];
    let in_full = models().join("llama-tied");
    for (base, out, flags) in [
        ("llama-tied", alone, &["--quantize", "nf4"][..]),
        ("llama-tied", alone, &["--no-double-quant"]),
        ("llama-tied", alone, &["--dequantized-dtype", "bf16"]),
        ("llama-tied", merged, &["--no-double-quant"]),
        ("llama-tied", merged, &["--dequantized-dtype", "bf16"]),
        (
            "llama-tied-prequant",
            merged,
            &["--quantize", "nf4", "--no-double-quant"],
        ),
    ] {
        let flags = [&out, flags].concat();
        let output = export(&models().join(base), &in_full.join("adapter"), &flags, 2);
        let message = text(&output.stderr);
        assert!(message.contains("hint: it "), "{flags:?}: {message}");
    }
}

#[test]
fn layers_that_a_4_bit_base_has_in_full_are_merged_in_full() {
    let dir = tempfile::tempdir().unwrap();
    let (base_dir, out) = (models().join("llama-tied-mixed"), dir.path().join("merged"));
    let flags = ["--out-dir", out.to_str().unwrap(), "--quantize", "nf4"];
    let adapter_dir = models().join("llama-tied/adapter");
    export(&base_dir, &adapter_dir, &flags, 0);
    let base = Base::open(&base_dir).unwrap();
    let LinearWeight::Dense(view) = base.linear("model.layers.0.mlp.up_proj").unwrap() else {
        panic!("left in full")
    };
    let adapter = adapter::read(&adapter_dir).unwrap();
    let pairs = adapter.pairs();
    let pair = pairs
        .iter()
        .find(|pair| pair.module == "model.layers.0.mlp.up_proj")
        .unwrap();
    for (after, expected) in up_proj(&out)
        .iter()
        .zip(merged_weight(&view.to_f32().unwrap(), pair))
    {
        assert!((f64::from(*after) - expected).abs() <= 1e-6);
    }
}

#[test]
fn no_file_of_the_adapter_or_of_a_cache_entry_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let run = run(dir.path(), "{}");
    fs::write(run.join("adapter/prompt.json"), "{}").unwrap();
    let snapshot = dir.path().join("models--a--b/snapshots/c0");
    copy(&models().join("llama-tied"), &snapshot);
    let entry = dir.path().join("models--a--b");
    let of_the_base = ["model.safetensors", "config.json"].map(|name| snapshot.join(name));
    let of_the_adapter = [
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/prompt.json",
        "config.json",
    ];
    let of_the_adapter = of_the_adapter.map(|name| run.join(name));
    for out in of_the_base.iter().chain(&of_the_adapter) {
        let before = fs::read(out).unwrap();
        let output = export(
            &entry,
            &run.join("adapter"),
            &["-o", out.to_str().unwrap()],
            2,
        );
        let message = text(&output.stderr);
        assert!(message.contains("would replace --"), "{message}");
        assert!(before == fs::read(out).unwrap(), "{}", out.display());
    }
}

#[test]
fn the_base_is_not_replaced_by_the_merge_whatever_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base");
    copy(&models().join("qwen3"), &base);
    let before = fs::read(base.join("model.safetensors")).unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&base, &link).unwrap();
    for out in [&base, &link] {
        let flags = ["--out-dir", out.to_str().unwrap()];
        let output = export(&base, &models().join("qwen3/adapter"), &flags, 2);
        let message = text(&output.stderr);
        assert!(message.contains("which is replaced whole"), "{message}");
    }
    assert!(before == fs::read(base.join("model.safetensors")).unwrap());
}

#[test]
fn no_file_of_the_base_is_replaced_by_the_gguf_adapter() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base");
    copy(&models().join("llama-tied"), &base);
    let shard = "model-00001-of-00002.safetensors";
    fs::write(base.join(shard), "a shard").unwrap();
    for name in [shard, "model.safetensors", "config.json"] {
        let before = fs::read(base.join(name)).unwrap();
        let out = base.join(name);
        let flags = ["-o", out.to_str().unwrap()];
        let output = export(&base, &models().join("llama-tied/adapter"), &flags, 2);
        let message = text(&output.stderr);
        assert!(message.contains("would replace --base"), "{message}");
        assert!(before == fs::read(base.join(name)).unwrap());
    }
}

#[test]
fn without_a_destination_it_is_a_usage_error() {
    export(
        &models().join("llama-tied"),
        &models().join("llama-tied/adapter"),
        &[],
        2,
    );
}

#[test]
fn tokenizer_files_travel_with_the_merged_model() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base");
    copy(&models().join("qwen3"), &base);
    fs::write(base.join("chat_template.jinja"), "{{ messages }}").unwrap();
    let out = dir.path().join("merged");
    let flags = ["--out-dir", out.to_str().unwrap(), "--dtype", "f16"];
    export(&base, &models().join("qwen3/adapter"), &flags, 0);
    assert_eq!(
        fs::read(out.join("chat_template.jinja")).unwrap(),
        b"{{ messages }}"
    );
    let merged = Base::open(&out).unwrap();
    assert_eq!(merged.config().dtype, Dtype::F16);
}

#[test]
fn a_damaged_file_beside_the_weights_is_named_not_copied() {
    let dir = tempfile::tempdir().unwrap();
    let [base, out] = ["base", "merged"].map(|name| dir.path().join(name));
    let flags = ["--out-dir", out.to_str().unwrap()];
    let adapter = models().join("llama-tied/adapter");
    for (name, damaged) in [
        ("tokenizer.json", &b"{\"model\": {\"vocab\": {\"a\""[..]),
        ("tokenizer.json", b""),
        ("tokenizer_config.json", b"{\"eos_token\": \"</s"),
        ("special_tokens_map.json", b"[]"),
        ("prompt.json", b"{\"date\""),
        ("chat_template.jinja", b"{{ \xff }}"),
    ] {
        tiny_base("llama-tied", &base);
        fs::write(base.join(name), damaged).unwrap();
        let said = export(&base, &adapter, &flags, 2);
        let said = text(&said.stderr);
        assert!(said.contains(&format!("base/{name}: is not ")), "{said}");
        assert!(!out.exists());
        fs::remove_dir_all(&base).unwrap();
    }
    tiny_base("llama-tied", &base);
    fs::write(base.join("tokenizer.json"), "{}").unwrap();
    let said = export(&base, &adapter, &flags, 2);
    let want = "base/tokenizer.json: has no model.vocab";
    assert!(text(&said.stderr).contains(want), "{}", text(&said.stderr));
}

#[test]
fn a_merged_model_keeps_the_date_that_the_adapter_was_trained_with_else_the_bases() {
    let dir = tempfile::tempdir().unwrap();
    let [base, adapter_dir, out] = ["base", "adapter", "merged"].map(|name| dir.path().join(name));
    copy(&models().join("qwen3"), &base);
    copy(&models().join("qwen3/adapter"), &adapter_dir);
    let flags = ["--out-dir", out.to_str().unwrap()];
    let (older, newer) = ("{\"date\":\"2026-11-24\"}\n", "{\"date\":\"2026-11-25\"}\n");
    fs::write(base.join("prompt.json"), older).unwrap();
    for says in [older, newer] {
        export(&base, &adapter_dir, &flags, 0);
        assert_eq!(fs::read_to_string(out.join("prompt.json")).unwrap(), says);
        fs::write(adapter_dir.join("prompt.json"), newer).unwrap();
    }
    for folder in [&base, &adapter_dir] {
        fs::remove_file(folder.join("prompt.json")).unwrap();
    }
    export(&base, &adapter_dir, &flags, 0);
    assert!(!out.join("prompt.json").exists());
}
