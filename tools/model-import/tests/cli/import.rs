//! Does the command turn other people's models into bases, exactly?

use crate::gguf::*;
use checkpoint::{Base, LinearWeight, SafetensorsFile};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use tempfile::TempDir;
use workspace_tests::{exits, text as utf8, tool};

fn model_import(arguments: &[&str]) -> Output {
    exits(tool("model-import").args(arguments), 0)
}

/// Imports into a fresh folder.
fn import(source: &Path, flags: &[&str]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("base");
    let mut arguments = vec![source.to_str().unwrap(), "--out-dir", out.to_str().unwrap()];
    arguments.extend(flags);
    assert_eq!(utf8(&model_import(&arguments).stdout), "");
    (dir, out)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn same_file(a: &Path, b: &Path) -> bool {
    fs::read(a).unwrap() == fs::read(b).unwrap()
}

fn write_gguf(model: &str, architecture: &str, keys: Vec<Vec<u8>>) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, gguf(&models().join(model), architecture, keys)).unwrap();
    (dir, path)
}

#[test]
fn a_gguf_file_becomes_the_model_it_was_made_from() {
    for (model, architecture) in [
        ("llama-tied", "llama"),
        ("qwen2", "qwen2"),
        ("qwen3", "qwen3"),
    ] {
        let (_dir, path) = write_gguf(model, architecture, byte_level_tokenizer());
        let dtype = if model == "llama-tied" { "f32" } else { "auto" };
        let (_out_dir, out) = import(&path, &["--dtype", dtype]);
        let weights = "model.safetensors";
        assert!(
            same_file(&out.join(weights), &models().join(model).join(weights)),
            "{model}"
        );
        let (ours, theirs) = (
            Base::open(&out).unwrap(),
            Base::open(&models().join(model)).unwrap(),
        );
        let mut ours = ours.config().clone();
        (ours.bos_token_id, ours.pad_token_id) = (Some(1), Some(0));
        assert_eq!(&ours, theirs.config(), "{model}");
    }
}

#[test]
fn a_gguf_files_tokenizer_is_rebuilt() {
    let (_dir, path) = write_gguf("llama-tied", "llama", byte_level_tokenizer());
    let (_out_dir, out) = import(&path, &[]);
    let tokenizer = tokenizers::Tokenizer::from_file(out.join("tokenizer.json")).unwrap();
    let tokens = |text: &str| tokenizer.encode(text, false).unwrap().get_tokens().to_vec();
    assert_eq!(
        tokens("hello hello<|im_end|>"),
        ["hello", "Ġhello", "<|im_end|>"]
    );
    // Digits stand alone before merges are looked at.
    assert_eq!(tokens("12"), ["1", "2"]);
    let ids = tokenizer
        .encode("<|im_start|>hello", false)
        .unwrap()
        .get_ids()
        .to_vec();
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "<|im_start|>hello");
    let config = json(&out.join("tokenizer_config.json"));
    assert_eq!(config["eos_token"], "<|im_end|>");
    let template = fs::read_to_string(out.join("chat_template.jinja")).unwrap();
    assert_eq!(config["chat_template"], template.as_str());
    assert_eq!(json(&out.join("generation_config.json"))["eos_token_id"], 2);
}

#[test]
fn a_sentencepiece_tokenizer_is_rebuilt_with_its_merges() {
    let tokens = [
        "<unk>", "<s>", "</s>", "<0x21>", "▁", "a", "b", "ab", "▁ab", "bb",
    ];
    let scores = [0., 0., 0., 0., -9., -7., -8., -2., -1., -3.];
    let keys = vec![
        text("tokenizer.ggml.model", "llama"),
        texts("tokenizer.ggml.tokens", &tokens),
        floats("tokenizer.ggml.scores", &scores),
        numbers("tokenizer.ggml.token_type", &[2, 3, 3, 6, 1, 1, 1, 1, 1, 1]),
        number("tokenizer.ggml.bos_token_id", 1),
        number("tokenizer.ggml.eos_token_id", 2),
        flag("tokenizer.ggml.add_bos_token", true),
    ];
    let (_dir, path) = write_gguf("llama-tied", "llama", keys);
    let (_out_dir, out) = import(&path, &[]);
    let tokenizer = tokenizers::Tokenizer::from_file(out.join("tokenizer.json")).unwrap();
    let tokens = |text: &str| tokenizer.encode(text, true).unwrap().get_tokens().to_vec();
    assert_eq!(tokens("ab"), ["<s>", "▁ab"]);
    // "ab" outscores "bb", so it is joined first.
    assert_eq!(tokens("babb!"), ["<s>", "▁", "b", "ab", "b", "<0x21>"]);
    let ids = tokenizer
        .encode("ab ab!", false)
        .unwrap()
        .get_ids()
        .to_vec();
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "ab ab!");
}

/// Every tensor but the 8-bit scales; a few of those differ where the CPU library's table of
/// 65,536 bins rounds once more than the exact rule (see crates/checkpoint/tests/base.rs).
#[test]
fn quantising_writes_the_checkpoint_that_transformers_writes() {
    for model in ["llama-tied", "qwen2"] {
        let (_dir, out) = import(
            &models().join(model),
            &["--quantize", "nf4", "--dtype", "f32"],
        );
        let theirs = models().join(format!("{model}-prequant"));
        assert_eq!(
            json(&out.join("config.json")),
            json(&theirs.join("config.json"))
        );
        let ours = SafetensorsFile::open(&out.join("model.safetensors")).unwrap();
        let theirs = SafetensorsFile::open(&theirs.join("model.safetensors")).unwrap();
        assert!(ours.names().eq(theirs.names()));
        let mut codes = 0;
        let mut differing = 0;
        for name in ours.names() {
            let (ours, theirs) = (ours.tensor(name).unwrap(), theirs.tensor(name).unwrap());
            assert_eq!(
                (ours.dtype, &ours.shape),
                (theirs.dtype, &theirs.shape),
                "{name}"
            );
            if name.ends_with(".absmax") {
                codes += ours.bytes.len();
                differing += ours
                    .bytes
                    .iter()
                    .zip(theirs.bytes)
                    .filter(|(a, b)| a != b)
                    .count();
            } else {
                assert_eq!(ours.bytes, theirs.bytes, "{model} {name}");
            }
        }
        assert!(differing <= 2, "{model}: {differing} of {codes}");
    }
}

#[test]
fn left_to_itself_dtype_keeps_what_is_stored_and_dequantizes_to_f32() {
    let (_dir, out) = import(&models().join("qwen2"), &["--quantize", "nf4"]);
    let file = SafetensorsFile::open(&out.join("model.safetensors")).unwrap();
    assert_eq!(
        file.tensor("model.embed_tokens.weight")
            .unwrap()
            .dtype
            .torch_name(),
        "bfloat16"
    );
    let LinearWeight::Nf4(weight) = Base::open(&out)
        .unwrap()
        .linear("model.layers.0.mlp.up_proj")
        .unwrap()
    else {
        panic!("asked for nf4")
    };
    assert_eq!(weight.dtype, nf4::Dtype::F32);
    let (_dir, out) = import(
        &models().join("qwen2"),
        &["--quantize", "nf4", "--dtype", "bf16"],
    );
    let LinearWeight::Nf4(weight) = Base::open(&out)
        .unwrap()
        .linear("model.layers.0.mlp.up_proj")
        .unwrap()
    else {
        panic!("asked for nf4")
    };
    assert_eq!(weight.dtype, nf4::Dtype::BF16);
}

#[test]
fn importing_and_then_quantising_is_quantising_at_once() {
    let (_dir, path) = write_gguf("llama-tied", "llama", byte_level_tokenizer());
    let (_one, at_once) = import(&path, &["--quantize", "nf4"]);
    let (_two, plain) = import(&path, &[]);
    let (_three, then) = import(&plain, &["--quantize", "nf4"]);
    for file in [
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "chat_template.jinja",
    ] {
        assert!(same_file(&at_once.join(file), &then.join(file)), "{file}");
    }
}

#[test]
fn a_4_bit_source_stays_as_it_is_unless_asked() {
    let source = models().join("llama-tied-prequant");
    let (_dir, out) = import(&source, &[]);
    let weights = "model.safetensors";
    assert!(same_file(&out.join(weights), &source.join(weights)));
    assert_eq!(
        json(&out.join("config.json")),
        json(&source.join("config.json"))
    );

    let (_dir, out) = import(&source, &["--dtype", "bf16"]);
    let base = Base::open(&out).unwrap();
    let LinearWeight::Nf4(weight) = base.linear("model.layers.0.mlp.up_proj").unwrap() else {
        panic!("still in 4 bits")
    };
    assert_eq!(weight.dtype, nf4::Dtype::BF16);

    let (_dir, out) = import(&source, &["--quantize", "none"]);
    let (full, stored) = (Base::open(&out).unwrap(), Base::open(&source).unwrap());
    assert!(!full.config().quantized);
    let module = "model.layers.1.self_attn.k_proj";
    let (LinearWeight::Dense(full), LinearWeight::Nf4(stored)) =
        (full.linear(module).unwrap(), stored.linear(module).unwrap())
    else {
        panic!("dequantised and stored")
    };
    assert_eq!(full.to_f32().unwrap(), stored.dequantize());
}

/// Made by transformers with llm_int8_skip_modules: a projection and an attention are in full.
fn mixed() -> PathBuf {
    models().join("llama-tied-mixed")
}

#[test]
fn layers_that_a_4_bit_source_has_in_full_stay_so_unless_asked() {
    let (_dir, out) = import(&mixed(), &[]);
    for file in ["model.safetensors", "config.json"] {
        let (ours, theirs) = (out.join(file), mixed().join(file));
        match file {
            "config.json" => assert_eq!(json(&ours), json(&theirs)),
            _ => assert!(same_file(&ours, &theirs)),
        }
    }

    let (_dir, out) = import(&mixed(), &["--quantize", "nf4"]);
    let base = Base::open(&out).unwrap();
    let plain = Base::open(&models().join("llama-tied")).unwrap();
    for module in [
        "model.layers.0.mlp.up_proj",
        "model.layers.1.self_attn.q_proj",
    ] {
        let (LinearWeight::Nf4(ours), LinearWeight::Dense(stored)) =
            (base.linear(module).unwrap(), plain.linear(module).unwrap())
        else {
            panic!("quantized and stored")
        };
        let shape = [stored.shape[0], stored.shape[1]];
        let values = stored.to_f32().unwrap();
        assert!(
            ours == nf4::quantize(&values, shape, nf4::Dtype::F32, true),
            "{module}"
        );
    }
    let quantization = &json(&out.join("config.json"))["quantization_config"];
    assert_eq!(quantization["llm_int8_skip_modules"], Value::Null);

    let (_dir, out) = import(&mixed(), &["--quantize", "none"]);
    assert!(!Base::open(&out).unwrap().has_4_bit_weights());
    assert!(json(&out.join("config.json"))["quantization_config"].is_null());
}

#[test]
fn layers_in_full_are_named_where_the_source_does_not_say_what_is_in_4_bits() {
    let dir = tempfile::tempdir().unwrap();
    workspace_tests::copy(&mixed(), dir.path());
    let mut config = json(&dir.path().join("config.json"));
    config
        .as_object_mut()
        .unwrap()
        .remove("quantization_config");
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let (_dir, out) = import(dir.path(), &[]);
    let quantization = &json(&out.join("config.json"))["quantization_config"];
    let attention = ["q_proj", "k_proj", "v_proj", "o_proj"];
    let attention = attention.map(|name| format!("model.layers.1.self_attn.{name}"));
    let skipped: Vec<_> = ["lm_head", "model.layers.0.mlp.up_proj"]
        .into_iter()
        .map(String::from)
        .chain(attention)
        .collect();
    assert_eq!(
        quantization["llm_int8_skip_modules"],
        serde_json::json!(skipped)
    );
}

#[test]
fn double_quantization_is_said_of_what_is_written_only() {
    let said = |source: &Path, flags: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("base");
        let paths = [source.to_str().unwrap(), "--out-dir", out.to_str().unwrap()];
        let output = model_import(&[&paths[..], flags].concat());
        let manifest = json(&out.join("manifest.json"));
        (
            manifest["double_quant"].clone(),
            utf8(&output.stderr).to_owned(),
            dir,
        )
    };
    let (double_quant, ..) = said(&models().join("llama-tied"), &[]);
    assert_eq!(double_quant, Value::Null);
    let flags = ["--quantize", "nf4", "--no-double-quant"];
    let (double_quant, _, dir) = said(&models().join("llama-tied"), &flags);
    assert_eq!(double_quant, false);
    // Such a base is no other one for being imported again.
    let base = dir.path().join("base");
    let (double_quant, message, _dir) = said(&base, &[]);
    assert_eq!(double_quant, false);
    assert!(!message.contains("double quantization"), "{message}");
    let (double_quant, message, _dir) = said(&models().join("llama-tied-prequant"), &[]);
    assert_eq!(double_quant, true);
    assert!(
        message.contains("nf4 with double quantization"),
        "{message}"
    );
}

#[test]
fn rope_is_stretched_linearly_unless_the_file_says_otherwise() {
    use checkpoint::RopeScaling::{Linear, None};
    for (keys, scaling) in [
        (
            vec![float("llama.rope.scaling.factor", 4.0)],
            Linear { factor: 4.0 },
        ),
        (
            vec![float("llama.rope.scale_linear", 2.0)],
            Linear { factor: 2.0 },
        ),
        (
            vec![
                text("llama.rope.scaling.type", "linear"),
                float("llama.rope.scale_linear", 2.0),
                float("llama.rope.scaling.factor", 8.0),
            ],
            Linear { factor: 8.0 },
        ),
        (vec![text("llama.rope.scaling.type", "linear")], None),
        (vec![float("llama.rope.scaling.factor", 0.0)], None),
        (vec![float("llama.rope.scaling.factor", 1.0)], None),
        (
            vec![
                text("llama.rope.scaling.type", "none"),
                float("llama.rope.scaling.factor", 4.0),
            ],
            None,
        ),
    ] {
        let (_dir, path) = write_gguf(
            "llama-tied",
            "llama",
            [byte_level_tokenizer(), keys].concat(),
        );
        let (_out_dir, out) = import(&path, &[]);
        assert_eq!(Base::open(&out).unwrap().config().rope.scaling, scaling);
    }
}

#[test]
fn a_first_token_goes_unsaid_before_texts_of_the_tokenizers_that_llama_cpp_does_it_for() {
    let first = |keys: Vec<Vec<u8>>| {
        let (_dir, path) = write_gguf("llama-tied", "llama", keys);
        let (_out_dir, out) = import(&path, &[]);
        let tokenizer = tokenizers::Tokenizer::from_file(out.join("tokenizer.json")).unwrap();
        tokenizer.encode("a", true).unwrap().get_tokens()[0].clone()
    };
    let byte_level = |pre: &str, keys: &[Vec<u8>]| {
        let mut all = byte_level_tokenizer();
        all[1] = text("tokenizer.ggml.pre", pre);
        [&all[..], keys].concat()
    };
    assert_eq!(first(byte_level("smollm", &[])), "a");
    assert_eq!(first(byte_level("qwen2", &[])), "a");
    for pre in ["llama-bpe", "llama3", "llama-v3"] {
        assert_eq!(first(byte_level(pre, &[])), "<|im_start|>", "{pre}");
        let denied = [flag("tokenizer.ggml.add_bos_token", false)];
        assert_eq!(first(byte_level(pre, &denied)), "a", "{pre}");
    }
    let sentencepiece = vec![
        text("tokenizer.ggml.model", "llama"),
        texts(
            "tokenizer.ggml.tokens",
            &["<unk>", "<s>", "</s>", "▁", "a", "▁a"],
        ),
        floats("tokenizer.ggml.scores", &[0., 0., 0., -2., -3., -1.]),
        numbers("tokenizer.ggml.token_type", &[2, 3, 3, 1, 1, 1]),
        number("tokenizer.ggml.bos_token_id", 1),
    ];
    assert_eq!(first(sentencepiece), "<s>");
}

#[test]
fn a_tokenizer_may_come_from_an_entry_of_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let entry = dir.path().join("models--a--b");
    workspace_tests::copy(
        &workspace_tests::data("tiny-chat"),
        &entry.join("snapshots/c0"),
    );
    let (_out_dir, out) = import(
        &models().join("llama-tied"),
        &["--tokenizer", entry.to_str().unwrap()],
    );
    assert!(same_file(
        &out.join("tokenizer.json"),
        &entry.join("snapshots/c0/tokenizer.json")
    ));
}

#[test]
fn scales_may_stay_in_f32() {
    let flags = ["--quantize", "nf4", "--no-double-quant"];
    let (_dir, out) = import(&models().join("llama-tied"), &flags);
    let LinearWeight::Nf4(weight) = Base::open(&out)
        .unwrap()
        .linear("model.layers.0.mlp.up_proj")
        .unwrap()
    else {
        panic!("asked for nf4")
    };
    assert!(matches!(weight.absmax, nf4::Absmax::Plain(_)));
    let quantization = &json(&out.join("config.json"))["quantization_config"];
    assert_eq!(quantization["bnb_4bit_use_double_quant"], false);
}

#[test]
fn the_same_source_makes_the_same_bytes() {
    let (_dir, path) = write_gguf("llama-tied", "llama", byte_level_tokenizer());
    let (_one, first) = import(&path, &["--quantize", "nf4"]);
    let (_two, second) = import(&path, &["--quantize", "nf4"]);
    let mut names: Vec<_> = fs::read_dir(&first)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names.len(), 7, "{names:?}");
    for name in names {
        assert!(
            same_file(&first.join(&name), &second.join(&name)),
            "{name:?}"
        );
    }
}

#[test]
fn print_config_reads_back_to_the_same_run() {
    let source = models().join("llama-tied");
    let dir = tempfile::tempdir().unwrap();
    let (out, config) = (dir.path().join("base"), dir.path().join("config.json"));
    let flags = [
        "--out-dir",
        out.to_str().unwrap(),
        "--quantize",
        "nf4",
        "--print-config",
    ];
    let printed = model_import(&[&[source.to_str().unwrap()], &flags[..]].concat());
    fs::write(&config, &printed.stdout).unwrap();
    model_import(&["--config", config.to_str().unwrap()]);
    assert!(Base::open(&out).unwrap().config().quantized);
}

#[test]
fn a_dry_run_says_how_much_and_writes_nothing() {
    let source = models().join("llama-tied");
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("base");
    let flags = ["--out-dir", out.to_str().unwrap(), "--dry-run"];
    let output = model_import(&[&[source.to_str().unwrap()], &flags[..]].concat());
    let said = utf8(&output.stdout);
    assert!(
        said.starts_with("llama, 0.1 million weights, float32: 0 MB of disk"),
        "{said}"
    );
    assert!(!out.exists());
}
