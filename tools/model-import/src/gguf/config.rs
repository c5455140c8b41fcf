//! Which config.json would Hugging Face have for the model in a GGUF file?

use anyhow::{anyhow, bail};
use checkpoint::ModelType;
use checkpoint::gguf::{Gguf, Value};
use cli::Hint;
use serde_json::{Map, Value as Json, json};

/// Where Llama 3.1's stretched frequencies lie.
pub const ROPE_FREQUENCIES: &str = "rope_freqs.weight";

pub fn config_json(file: &Gguf) -> anyhow::Result<Map<String, Json>> {
    let path = file.path().display();
    let Some(architecture) = file.get("general.architecture").and_then(Value::as_str) else {
        bail!("{path}: has no general.architecture: it is not a model");
    };
    let key = |name: &str| format!("{architecture}.{name}");
    let number = |name: &str| {
        file.get(&key(name))
            .and_then(Value::as_u64)
            .filter(|n| *n > 0)
    };
    let window = number("attention.sliding_window");
    let model_type = match architecture {
        "llama" if window.is_some() => ModelType::Mistral,
        "llama" => ModelType::Llama,
        "qwen2" => ModelType::Qwen2,
        "qwen3" => ModelType::Qwen3,
        other => {
            return Err(
                anyhow!("{path}: the architecture {other:?} is not supported")
                    .hint("llama, qwen2 and qwen3 are; Mistral calls itself llama"),
            );
        }
    };
    if number("expert_count").is_some() {
        bail!("{path}: mixtures of experts are not supported");
    }
    let require = |name: &str| match number(name) {
        Some(number) => Ok(number),
        None => Err(file.error(format!("has no whole number under {}", key(name)))),
    };
    let hidden_size = require("embedding_length")?;
    let heads = require("attention.head_count")?;
    let head_dim = number("attention.key_length").unwrap_or(hidden_size / heads);
    if number("rope.dimension_count").is_some_and(|turned| turned != head_dim) {
        bail!("{path}: heads that turn only in part are not supported");
    }
    if number("attention.value_length").is_some_and(|length| length != head_dim) {
        bail!("{path}: values of another length than keys are not supported");
    }
    let Some((_, embedding)) = file
        .tensors()
        .find(|(name, _)| *name == "token_embd.weight")
    else {
        bail!("{path}: has no token_embd.weight");
    };
    let has = |name: &str| file.tensors().any(|(n, _)| n == name);
    let context = require("context_length")?;
    let theta = float(file, &key("rope.freq_base")).unwrap_or(10_000.0);
    let rope = rope_parameters(file, architecture, theta, head_dim)?;
    let has_bias = has("blk.0.attn_q.bias");

    let mut config = Map::new();
    let mut set = |key: &str, value: Json| drop(config.insert(key.to_owned(), value));
    set("architectures", json!([model_type.architecture()]));
    set("model_type", json!(model_type.name()));
    if matches!(model_type, ModelType::Llama | ModelType::Qwen3) {
        set("attention_bias", json!(has_bias));
    }
    if model_type == ModelType::Llama {
        set("mlp_bias", json!(has("blk.0.ffn_up.bias")));
    }
    set("attention_dropout", json!(0.0));
    set("head_dim", json!(head_dim));
    set("hidden_act", json!("silu"));
    set("hidden_size", json!(hidden_size));
    set("initializer_range", json!(0.02));
    set("intermediate_size", json!(require("feed_forward_length")?));
    set("max_position_embeddings", json!(context));
    set("num_attention_heads", json!(heads));
    set("num_hidden_layers", json!(require("block_count")?));
    set(
        "num_key_value_heads",
        json!(number("attention.head_count_kv").unwrap_or(heads)),
    );
    let epsilon = float(file, &key("attention.layer_norm_rms_epsilon")).unwrap_or(1e-6);
    set("rms_norm_eps", json!(epsilon));
    if rope.get("rope_type") != Some(&json!("default")) {
        set("rope_scaling", json!(rope)); // for transformers before 5, like rope_theta
    }
    set("rope_parameters", json!(rope));
    set("rope_theta", json!(theta));
    if let Some(window) = window {
        set("sliding_window", json!(window));
    }
    set("tie_word_embeddings", json!(!has("output.weight")));
    set("use_cache", json!(true));
    set("vocab_size", json!(embedding.shape[0]));
    let token = |name: &str| {
        file.get(&format!("tokenizer.ggml.{name}"))
            .and_then(Value::as_u64)
    };
    set("bos_token_id", json!(token("bos_token_id")));
    let end = token("eos_token_id");
    set(
        "eos_token_id",
        match token("eot_token_id").filter(|turn| Some(*turn) != end) {
            Some(turn) => json!(end.into_iter().chain([turn]).collect::<Vec<_>>()),
            None => json!(end),
        },
    );
    if let Some(padding) = token("padding_token_id") {
        set("pad_token_id", json!(padding));
    }
    Ok(config)
}

/// A float as it was meant: 1e-5 was stored as f32 and would print as 9.999999747378752e-6.
fn float(file: &Gguf, key: &str) -> Option<f64> {
    let value = file.get(key)?.as_f64()?;
    format!("{}", value as f32).parse().ok()
}

fn rope_parameters(
    file: &Gguf,
    architecture: &str,
    theta: f64,
    head_dim: u64,
) -> anyhow::Result<Map<String, Json>> {
    let path = file.path().display();
    let mut rope = Map::new();
    rope.insert("rope_theta".to_owned(), json!(theta));
    // As llama.cpp reads them: the type is linear unless said otherwise, the factor had another name once,
    // and 0 stands for none.
    let kind = file
        .get(&format!("{architecture}.rope.scaling.type"))
        .and_then(Value::as_str)
        .unwrap_or("linear");
    let factor = float(file, &format!("{architecture}.rope.scaling.factor"))
        .or_else(|| float(file, &format!("{architecture}.rope.scale_linear")))
        .filter(|factor| kind == "linear" && ![0.0, 1.0].contains(factor));
    let stretched = file.tensors().any(|(name, _)| name == ROPE_FREQUENCIES);
    match (kind, factor, stretched) {
        ("none" | "linear", None, true) => {
            let (_, divisors) = file.tensor(ROPE_FREQUENCIES)?;
            let Some(factor) = llama3_factor(&divisors, theta, head_dim) else {
                bail!("{path}: {ROPE_FREQUENCIES} does not hold Llama 3.1's frequencies");
            };
            rope.insert("rope_type".to_owned(), json!("llama3"));
            rope.insert("factor".to_owned(), json!(factor));
            rope.insert("low_freq_factor".to_owned(), json!(LLAMA3_LOW));
            rope.insert("high_freq_factor".to_owned(), json!(LLAMA3_HIGH));
            rope.insert(
                "original_max_position_embeddings".to_owned(),
                json!(LLAMA3_CONTEXT),
            );
        }
        ("linear", Some(factor), false) => {
            rope.insert("rope_type".to_owned(), json!("linear"));
            rope.insert("factor".to_owned(), json!(factor));
        }
        ("none" | "linear", None, false) => {
            rope.insert("rope_type".to_owned(), json!("default"));
        }
        ("linear", Some(_), true) => {
            bail!(
                "{path}: {ROPE_FREQUENCIES} and a factor of rope.scaling are not supported together"
            )
        }
        (kind, ..) => bail!("{path}: rope.scaling.type {kind:?} is not supported"),
    }
    Ok(rope)
}

/// As Meta trained 3.1, 3.2 and 3.3; only the factor differs between them.
const LLAMA3_LOW: f64 = 1.0;
const LLAMA3_HIGH: f64 = 4.0;
const LLAMA3_CONTEXT: u64 = 8192;

/// The factor by which Llama 3.1's rule yields these divisors of the frequencies.
fn llama3_factor(divisors: &[f32], theta: f64, head_dim: u64) -> Option<f64> {
    let factor = divisors.iter().copied().fold(1.0, f32::max);
    let factor = f64::from(factor);
    let context = LLAMA3_CONTEXT as f64;
    let expected = (0..head_dim / 2).map(|i| {
        let frequency = theta.powf(-2.0 * i as f64 / head_dim as f64);
        let wavelength = 2.0 * std::f64::consts::PI / frequency;
        if wavelength < context / LLAMA3_HIGH {
            1.0
        } else if wavelength > context / LLAMA3_LOW {
            factor
        } else {
            let smooth = (context / wavelength - LLAMA3_LOW) / (LLAMA3_HIGH - LLAMA3_LOW);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    });
    let agree = |(found, expected): (&f32, f64)| (f64::from(*found) / expected - 1.0).abs() < 1e-4;
    let same_length = divisors.len() as u64 == head_dim / 2;
    (same_length && divisors.iter().zip(expected).all(agree)).then_some(factor)
}
