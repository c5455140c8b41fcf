//! What kind of model is it, and how large? (`config.json`, with transformers' own defaults.)

use crate::json::Object;
use crate::{Dtype, Error, Rope};
use serde_json::{Map, Value};
use std::path::Path;

/// A family of decoders that differ in a few switches only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelType {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
}

impl ModelType {
    /// `llama`, as in config.json.
    pub fn name(self) -> &'static str {
        match self {
            ModelType::Llama => "llama",
            ModelType::Mistral => "mistral",
            ModelType::Qwen2 => "qwen2",
            ModelType::Qwen3 => "qwen3",
        }
    }

    /// `LlamaForCausalLM`, as in config.json.
    pub fn architecture(self) -> &'static str {
        match self {
            ModelType::Llama => "LlamaForCausalLM",
            ModelType::Mistral => "MistralForCausalLM",
            ModelType::Qwen2 => "Qwen2ForCausalLM",
            ModelType::Qwen3 => "Qwen3ForCausalLM",
        }
    }
}

/// A decoder's dimensions and switches.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    pub model_type: ModelType,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub rms_norm_eps: f64,
    pub rope: Rope,
    /// The output layer is the embedding's own matrix.
    pub tie_word_embeddings: bool,
    pub max_position_embeddings: usize,
    /// q_proj, k_proj and v_proj have a bias.
    pub attention_bias: bool,
    /// o_proj has a bias.
    pub attention_output_bias: bool,
    pub mlp_bias: bool,
    /// Queries and keys are RMS-normalised per head (Qwen3).
    pub qk_norm: bool,
    /// A token sees this many tokens back, itself included; `None` sees all.
    pub sliding_window: Option<usize>,
    /// Any of these ends a completion: config.json's and generation_config.json's.
    pub eos_token_ids: Vec<u32>,
    pub bos_token_id: Option<u32>,
    pub pad_token_id: Option<u32>,
    /// The type the weights were saved in, when config.json says so; f32 otherwise.
    pub dtype: Dtype,
    /// Weights of the linear layers are in bitsandbytes' 4 bits.
    pub quantized: bool,
}

impl ModelConfig {
    /// Reads `config.json`, and the end tokens of `generation_config.json`, of a folder.
    pub fn read(dir: &Path) -> Result<ModelConfig, Error> {
        let config = Object::read(&dir.join("config.json"))?;
        let mut parsed = parse(&config)?;
        if let Some(generation) = Object::read_if_there(&dir.join("generation_config.json"))? {
            for id in generation.token_ids("eos_token_id")? {
                if !parsed.eos_token_ids.contains(&id) {
                    parsed.eos_token_ids.push(id);
                }
            }
        }
        Ok(parsed)
    }

    /// From fields that were not read from a folder; `path` is named in errors.
    pub fn from_json(path: &Path, config: &Map<String, Value>) -> Result<ModelConfig, Error> {
        parse(&Object::new(path, config.clone()))
    }

    /// Trainable or not, the number of weights: linear layers, embeddings, norms, biases.
    pub fn parameters(&self) -> usize {
        crate::parts(self)
            .iter()
            .map(|part| part.shape.iter().product::<usize>())
            .sum()
    }
}

/// What transformers assumes when a field is absent.
struct Defaults {
    vocab_size: usize,
    intermediate_size: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    bos_token_id: Option<u32>,
    eos_token_id: Option<u32>,
}

impl Defaults {
    fn of(model_type: ModelType) -> Defaults {
        let llama = Defaults {
            vocab_size: 32_000,
            intermediate_size: 11_008,
            num_key_value_heads: None,
            head_dim: None,
            max_position_embeddings: 2048,
            bos_token_id: Some(1),
            eos_token_id: Some(2),
        };
        let qwen = Defaults {
            vocab_size: 151_936,
            intermediate_size: 22_016,
            num_key_value_heads: Some(32),
            head_dim: None,
            max_position_embeddings: 32_768,
            bos_token_id: None,
            eos_token_id: None,
        };
        match model_type {
            ModelType::Llama => llama,
            ModelType::Mistral => Defaults {
                intermediate_size: 14_336,
                num_key_value_heads: Some(8),
                max_position_embeddings: 4096 * 32,
                ..llama
            },
            ModelType::Qwen2 => qwen,
            ModelType::Qwen3 => Defaults {
                head_dim: Some(128),
                ..qwen
            },
        }
    }
}

fn parse(config: &Object) -> Result<ModelConfig, Error> {
    let model_type = match config.string("model_type")?.as_deref() {
        Some("llama") => ModelType::Llama,
        Some("mistral") => ModelType::Mistral,
        Some("qwen2") => ModelType::Qwen2,
        Some("qwen3") => ModelType::Qwen3,
        Some(other) => {
            let message = format!("is {other:?}; llama, mistral, qwen2 and qwen3 are supported");
            return Err(config.error("model_type", message));
        }
        None => return Err(config.error("model_type", "is missing")),
    };
    let defaults = Defaults::of(model_type);
    let size = |key: &str, default: usize| Ok(config.size(key)?.unwrap_or(default));
    let switch = |key: &str| Ok::<_, Error>(config.boolean(key)?.unwrap_or(false));

    let hidden_size = size("hidden_size", 4096)?;
    let num_hidden_layers = size("num_hidden_layers", 32)?;
    let num_attention_heads = size("num_attention_heads", 32)?;
    let num_key_value_heads = size(
        "num_key_value_heads",
        defaults.num_key_value_heads.unwrap_or(num_attention_heads),
    )?;
    let head_dim = size(
        "head_dim",
        defaults
            .head_dim
            .unwrap_or(hidden_size / num_attention_heads),
    )?;
    if num_attention_heads % num_key_value_heads != 0 {
        let message = format!(
            "is {num_key_value_heads}, which does not divide the {num_attention_heads} \
             attention heads"
        );
        return Err(config.error("num_key_value_heads", message));
    }
    if head_dim == 0 || head_dim % 2 != 0 {
        return Err(config.error(
            "head_dim",
            format!("is {head_dim}, not a positive even number"),
        ));
    }
    if let Some(activation) = config.string("hidden_act")?.filter(|a| a != "silu") {
        let message = format!("is {activation:?}; only silu is supported");
        return Err(config.error("hidden_act", message));
    }
    if num_hidden_layers > MOST_LAYERS {
        let message = format!("is {num_hidden_layers}; no model has more than {MOST_LAYERS}");
        return Err(config.error("num_hidden_layers", message));
    }
    let max_position_embeddings =
        size("max_position_embeddings", defaults.max_position_embeddings)?;
    let eos_token_ids = match config.value().contains_key("eos_token_id") {
        true => config.token_ids("eos_token_id")?,
        false => defaults.eos_token_id.into_iter().collect(),
    };
    let bos_token_id = match config.value().contains_key("bos_token_id") {
        true => config.token_ids("bos_token_id")?.first().copied(),
        false => defaults.bos_token_id,
    };
    Ok(ModelConfig {
        model_type,
        vocab_size: size("vocab_size", defaults.vocab_size)?,
        hidden_size,
        intermediate_size: size("intermediate_size", defaults.intermediate_size)?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        rms_norm_eps: config.number("rms_norm_eps")?.unwrap_or(1e-6),
        rope: Rope::parse(config, max_position_embeddings)?,
        tie_word_embeddings: switch("tie_word_embeddings")?,
        max_position_embeddings,
        attention_bias: match model_type {
            ModelType::Qwen2 => true,
            ModelType::Mistral => false,
            ModelType::Llama | ModelType::Qwen3 => switch("attention_bias")?,
        },
        attention_output_bias: match model_type {
            ModelType::Qwen2 | ModelType::Mistral => false,
            ModelType::Llama | ModelType::Qwen3 => switch("attention_bias")?,
        },
        mlp_bias: model_type == ModelType::Llama && switch("mlp_bias")?,
        qk_norm: model_type == ModelType::Qwen3,
        sliding_window: sliding_window(config, model_type, num_hidden_layers)?,
        eos_token_ids,
        bos_token_id,
        pad_token_id: match config.get("pad_token_id") {
            Some(id) if id.as_i64() == Some(-1) => None, // as the first Llama was published
            _ => config.token_id("pad_token_id")?,
        },
        dtype: dtype(config)?,
        quantized: quantized(config)?,
    })
}

/// A damaged number of layers would have all their names made before one is missed.
const MOST_LAYERS: usize = 10_000;

fn dtype(config: &Object) -> Result<Dtype, Error> {
    let (key, name) = match config.string("dtype")? {
        Some(name) => ("dtype", Some(name)),
        None => ("torch_dtype", config.string("torch_dtype")?),
    };
    match name.as_deref() {
        None | Some("auto") => Ok(Dtype::F32),
        Some(name) => Dtype::from_torch_name(name)
            .ok_or_else(|| config.error(key, format!("is {name:?}, not a floating-point type"))),
    }
}

fn quantized(config: &Object) -> Result<bool, Error> {
    let Some(quantization) = config.object("quantization_config")? else {
        return Ok(false);
    };
    let method = quantization.string("quant_method")?;
    match method.as_deref() {
        Some("bitsandbytes") | None => {}
        Some(other) => {
            let message = format!("is {other:?}; only bitsandbytes' 4-bit weights are supported");
            return Err(quantization.error("quant_method", message));
        }
    }
    if quantization.boolean("load_in_8bit")? == Some(true) {
        return Err(quantization.error("load_in_8bit", "is true; 4-bit weights are supported"));
    }
    Ok(quantization.boolean("load_in_4bit")?.unwrap_or(false))
}

fn sliding_window(
    config: &Object,
    model_type: ModelType,
    layers: usize,
) -> Result<Option<usize>, Error> {
    let window = match config.value().contains_key("sliding_window") {
        true => config.size("sliding_window")?,
        false => Some(4096), // transformers, MistralConfig, Qwen2Config and Qwen3Config
    };
    match model_type {
        ModelType::Llama => return Ok(None),
        ModelType::Mistral => return Ok(window),
        ModelType::Qwen2 | ModelType::Qwen3 => {}
    }
    if config.boolean("use_sliding_window")? != Some(true) {
        return Ok(None);
    }
    let sliding = match config.get("layer_types") {
        Some(Value::Array(types)) => types.iter().filter(|t| *t == "sliding_attention").count(),
        Some(_) => return Err(config.error("layer_types", "is not a list")),
        None => layers.saturating_sub(config.size("max_window_layers")?.unwrap_or(28)),
    };
    match sliding {
        0 => Ok(None),
        _ if sliding == layers => Ok(window),
        _ => Err(config.error(
            "use_sliding_window",
            format!("gives a window to {sliding} of {layers} layers; all or none is supported"),
        )),
    }
}
