//! How does one open an encoder, BERT (arXiv 1810.04805) or RoBERTa (arXiv 1907.11692)?

use crate::json::Object;
use crate::tensors::Tensors;
use crate::{Error, folder};
use std::path::{Path, PathBuf};

/// What lies between the two linear layers of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x·Φ(x)
    Gelu,
    /// Its approximation by tanh.
    GeluTanh,
    Relu,
}

/// An encoder's dimensions and switches.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// `bert`, `roberta` or `xlm-roberta`.
    pub model_type: String,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub max_position_embeddings: usize,
    /// The row of the position embeddings that a text's first token gets: 0, for RoBERTa one past the
    /// padding token's.
    pub first_position: usize,
    pub layer_norm_eps: f64,
    pub hidden_act: Activation,
}

impl EncoderConfig {
    fn read(path: &Path) -> Result<EncoderConfig, Error> {
        let config = Object::read(path)?;
        let asked = |key: &str| {
            config
                .size(key)?
                .ok_or_else(|| config.error(key, "is missing"))
        };
        let model_type = config.string("model_type")?.unwrap_or_default();
        let first_position = match model_type.as_str() {
            "bert" => 0,
            "roberta" | "xlm-roberta" => config.token_id("pad_token_id")?.unwrap_or(1) as usize + 1,
            other => {
                let message =
                    format!("is {other:?}; an encoder here is bert, roberta or xlm-roberta");
                return Err(config.error("model_type", message));
            }
        };
        let position = config.string("position_embedding_type")?;
        if let Some(kind) = position.filter(|kind| kind != "absolute") {
            let message = format!("is {kind:?}; only absolute positions are known");
            return Err(config.error("position_embedding_type", message));
        }
        let act = config.string("hidden_act")?.unwrap_or("gelu".to_owned());
        let hidden_act = match act.as_str() {
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
            "relu" => Activation::Relu,
            other => {
                let message = format!("is {other:?}; gelu, gelu_new and relu are known");
                return Err(config.error("hidden_act", message));
            }
        };
        let read = EncoderConfig {
            vocab_size: asked("vocab_size")?,
            hidden_size: asked("hidden_size")?,
            intermediate_size: asked("intermediate_size")?,
            num_hidden_layers: asked("num_hidden_layers")?,
            num_attention_heads: asked("num_attention_heads")?,
            max_position_embeddings: asked("max_position_embeddings")?,
            layer_norm_eps: config.number("layer_norm_eps")?.unwrap_or(1e-12),
            model_type,
            first_position,
            hidden_act,
        };
        if !read.hidden_size.is_multiple_of(read.num_attention_heads) {
            let heads = read.num_attention_heads;
            let message = format!("is {}, which {heads} heads do not divide", read.hidden_size);
            return Err(config.error("hidden_size", message));
        }
        if read.longest_text() < 3 {
            return Err(config.error("max_position_embeddings", "leaves no room for a text"));
        }
        Ok(read)
    }

    /// Tokens, special ones among them, that a text may have.
    pub fn longest_text(&self) -> usize {
        self.max_position_embeddings
            .saturating_sub(self.first_position)
    }
}

/// An encoder's folder: its config and its mapped tensors.
#[derive(Debug)]
pub struct EncoderBase {
    dir: PathBuf,
    config: EncoderConfig,
    tensors: Tensors,
    /// Before every name, where the folder holds more than the encoder: `bert.`, `roberta.`.
    prefix: String,
}

impl EncoderBase {
    /// Opens a Hugging Face folder, or an entry of the Hugging Face cache.
    pub fn open(dir: &Path) -> Result<EncoderBase, Error> {
        let dir = folder::resolve(dir)?;
        let config = EncoderConfig::read(&dir.join("config.json"))?;
        let tensors = Tensors::open(&dir)?;
        let family = match config.model_type.as_str() {
            "bert" => "bert.",
            _ => "roberta.",
        };
        let prefix = match tensors.contains(&format!("{family}{WORDS}")) {
            true => family.to_owned(),
            false => String::new(),
        };
        Ok(EncoderBase {
            dir,
            config,
            tensors,
            prefix,
        })
    }

    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// Where the files are: below a cache entry, its snapshot.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The first row of a matrix of so many columns.
    pub fn first_row(&self, name: &str, columns: usize) -> Result<Vec<f32>, Error> {
        let view = self.tensors.get(&format!("{}{name}", self.prefix))?;
        let rows = view.shape.first().copied().unwrap_or(0);
        let mut values = self.values(name, &[rows.max(1), columns])?;
        values.truncate(columns);
        Ok(values)
    }

    /// The values of a tensor, row-major; `name` as in a folder of the encoder alone:
    /// `encoder.layer.0.attention.self.query.weight`.
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let view = self.tensors.get(&format!("{}{name}", self.prefix))?;
        match view.is_finite() {
            true => view.to_f32_of_shape(shape),
            false => Err(view.error("holds values that are not finite")),
        }
    }
}

/// The table of the vocabulary's embeddings.
const WORDS: &str = "embeddings.word_embeddings.weight";
