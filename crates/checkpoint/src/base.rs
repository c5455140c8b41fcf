//! How does one open a base model, whichever way its folder is laid out?

use crate::tensors::Tensors;
use crate::{Error, ModelConfig, Part, Role, TensorView, bitsandbytes, folder, parts};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const HEAD: &str = "lm_head.weight";

/// A model folder: its config and its mapped tensors, checked against each other.
#[derive(Debug)]
pub struct Base {
    dir: PathBuf,
    config: ModelConfig,
    tensors: Tensors,
}

/// The weight of a linear layer as it is stored.
#[derive(Clone, Debug)]
pub enum LinearWeight<'a> {
    Dense(TensorView<'a>),
    Nf4(nf4::Quantized),
}

impl Base {
    /// Opens a Hugging Face folder, or an entry of the Hugging Face cache.
    ///
    /// Every tensor that the config asks for must be there in the right shape, and no other: what a
    /// program leaves out of a model in silence makes another model of it.
    pub fn open(dir: &Path) -> Result<Base, Error> {
        let dir = folder::resolve(dir)?;
        let config = ModelConfig::read(&dir)?;
        let tensors = Tensors::open(&dir)?;
        let base = Base {
            dir,
            config,
            tensors,
        };
        base.check()?;
        Ok(base)
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where the files are: below a cache entry, its snapshot.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains(name)
    }

    /// A tensor by its name in the file: `model.norm.weight`.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, Error> {
        self.tensors.get(name)
    }

    /// The weight of a linear layer by its module: `model.layers.0.self_attn.q_proj`.
    pub fn linear(&self, module: &str) -> Result<LinearWeight<'_>, Error> {
        let name = format!("{module}.weight");
        match bitsandbytes::read(self, &name)? {
            Some(quantized) => Ok(LinearWeight::Nf4(quantized)),
            None => {
                let view = self.tensor(&name)?;
                match (view.shape.len(), view.dtype.is_float()) {
                    (2, true) => Ok(LinearWeight::Dense(view)),
                    (2, false) => Err(view.error(format!(
                        "holds {} without bitsandbytes' quant_state: another quantisation, or a \
                         damaged file",
                        view.dtype
                    ))),
                    _ => Err(view.error(format!("has shape {:?}, not a matrix's", view.shape))),
                }
            }
        }
    }

    /// Whether this module's weight is stored in 4 bits.
    pub fn is_4_bit(&self, module: &str) -> bool {
        self.contains(&format!("{module}.weight{}", bitsandbytes::STATE))
    }

    /// Whether any linear weight is stored in 4 bits. Those that are not then were left out by whoever
    /// quantised it (bitsandbytes' `llm_int8_skip_modules`).
    pub fn has_4_bit_weights(&self) -> bool {
        self.some_linear_has(bitsandbytes::STATE)
    }

    /// Whether any of these has its scales quantised, too.
    pub fn has_8_bit_scales(&self) -> bool {
        self.some_linear_has(bitsandbytes::NESTED_ABSMAX)
    }

    fn some_linear_has(&self, suffix: &str) -> bool {
        let has = |part: Part| self.contains(&format!("{}{suffix}", part.name));
        let parts = parts(&self.config).into_iter();
        parts.filter(|part| part.role == Role::Linear).any(has)
    }

    fn check(&self) -> Result<(), Error> {
        for part in parts(&self.config) {
            if part.role == Role::Linear && bitsandbytes::is_quantized(self, &part.name)? {
                bitsandbytes::check_shape(self, &part.name, &part.shape)?;
                continue;
            }
            let view = self.tensor(&part.name)?;
            if view.shape != part.shape {
                return Err(view.error(format!(
                    "has shape {:?}, where config.json asks for {:?}",
                    view.shape, part.shape
                )));
            }
            if !view.dtype.is_float() {
                return Err(view.error(format!("holds {}, not floating-point", view.dtype)));
            }
        }
        self.check_tied_head()?;
        self.check_leftovers()
    }

    /// A file may hold the head that config.json ties to the embedding, if it is the embedding.
    fn check_tied_head(&self) -> Result<(), Error> {
        if !self.config.tie_word_embeddings || !self.contains(HEAD) {
            return Ok(());
        }
        let (head, embedding) = (
            self.tensor(HEAD)?,
            self.tensor("model.embed_tokens.weight")?,
        );
        match head.dtype == embedding.dtype && head.bytes == embedding.bytes {
            true => Ok(()),
            false => Err(head.error(
                "is another matrix than model.embed_tokens.weight, to which config.json ties it: with \
                 \"tie_word_embeddings\": false both are used",
            )),
        }
    }

    fn check_leftovers(&self) -> Result<(), Error> {
        let mut accounted = BTreeSet::from([HEAD.to_owned()]);
        for part in parts(&self.config) {
            if part.role == Role::Linear
                && self.contains(&format!("{}{}", part.name, bitsandbytes::STATE))
            {
                accounted.extend(bitsandbytes::beside(&part.name));
            }
            accounted.insert(part.name);
        }
        // Angles that old versions of transformers saved; they follow from the configuration.
        let is_known =
            |name: &&str| accounted.contains(*name) || name.ends_with(".rotary_emb.inv_freq");
        let Some(name) = self.tensors.names().find(|name| !is_known(name)) else {
            return Ok(());
        };
        let number = name
            .strip_prefix("model.layers.")
            .and_then(|rest| rest.split('.').next());
        let layer: Option<usize> = number.and_then(|number| number.parse().ok());
        let layers = self.config.num_hidden_layers;
        let message = match layer {
            Some(layer) if layer >= layers => {
                format!("is of layer {layer}, where config.json has num_hidden_layers {layers}")
            }
            _ if name.ends_with(".bias") => "is a bias that config.json does not account for: see \
                 attention_bias and mlp_bias there"
                .to_owned(),
            _ => "is in the file, but config.json does not account for it".to_owned(),
        };
        Err(Error::tensor(self.tensors.path(name), name, message))
    }
}
