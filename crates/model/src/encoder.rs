//! An encoder, BERT or RoBERTa, on the CPU: what stands around each token of a text, for BERTScore.
//!
//! Post-norm transformer blocks (arXiv 1810.04805) in f32 on `ops::linear`; every token sees the whole of
//! its own text and nothing of those beside it. Inference alone.

use burn::tensor::{Device, Tensor, TensorData, activation};
use checkpoint::{Activation, EncoderBase, EncoderConfig};
use ops::Weight;

use crate::Error;

/// Tokens of the texts that are read at once, where one alone is not longer.
const TOKENS: usize = 1024;

/// The lowest layers of an encoder.
pub struct Encoder {
    config: EncoderConfig,
    device: Device,
    /// `[vocab_size, hidden]`, row-major; the type of the first segment is in `positions`.
    words: Vec<f32>,
    /// `[longest_text, hidden]`
    positions: Vec<f32>,
    norm: LayerNorm,
    layers: Vec<Block>,
}

struct Linear {
    weight: Weight,
    bias: Tensor<1>,
}

struct LayerNorm {
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f32,
}

struct Block {
    query: Linear,
    key: Linear,
    value: Linear,
    attended: Linear,
    attended_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    output_norm: LayerNorm,
}

impl Encoder {
    /// Reads the lowest `layers` layers.
    ///
    /// # Panics
    /// When the model has fewer.
    pub fn load(base: &EncoderBase, layers: usize) -> Result<Encoder, Error> {
        let config = base.config().clone();
        assert!(layers <= config.num_hidden_layers, "layers that are there");
        let reader = Reader {
            base,
            device: Device::flex(),
        };
        let hidden = config.hidden_size;
        let table = |name: &str, rows: usize| {
            let name = format!("embeddings.{name}_embeddings.weight");
            base.values(&name, &[rows, hidden])
        };
        let words = table("word", config.vocab_size)?;
        let mut positions = table("position", config.max_position_embeddings)?;
        positions.drain(..config.first_position * hidden);
        // Every token is of the first segment, whose embedding may as well lie in the positions'.
        let segment = base.first_row("embeddings.token_type_embeddings.weight", hidden)?;
        for row in positions.chunks_exact_mut(hidden) {
            row.iter_mut().zip(&segment).for_each(|(p, s)| *p += s);
        }
        Ok(Encoder {
            norm: reader.norm("embeddings.LayerNorm")?,
            layers: (0..layers)
                .map(|i| reader.block(i))
                .collect::<Result<_, _>>()?,
            device: reader.device,
            words,
            positions,
            config,
        })
    }

    /// The last layer's output for each text, `[tokens, hidden]` row-major.
    ///
    /// # Panics
    /// When a text is longer than [`EncoderConfig::longest_text`] or a token is none of the vocabulary.
    pub fn embed(&self, texts: &[Vec<u32>]) -> Vec<Vec<f32>> {
        let mut embedded = Vec::with_capacity(texts.len());
        let mut rest = texts;
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = rest.iter().take_while(|text| {
                tokens += text.len();
                tokens <= TOKENS
            });
            let (now, later) = rest.split_at(fits.count().max(1));
            embedded.extend(self.batch(now));
            rest = later;
        }
        embedded
    }

    fn batch(&self, texts: &[Vec<u32>]) -> Vec<Vec<f32>> {
        let hidden = self.config.hidden_size;
        let mut ends = vec![0];
        let mut values = Vec::new();
        for text in texts {
            assert!(text.len() <= self.config.longest_text(), "a text's tokens");
            ends.push(ends[ends.len() - 1] + text.len());
            for (id, position) in text.iter().zip(self.positions.chunks_exact(hidden)) {
                let word = &self.words[*id as usize * hidden..][..hidden];
                values.extend(word.iter().zip(position).map(|(w, p)| w + p));
            }
        }
        let rows = ends[texts.len()];
        if rows == 0 {
            return vec![Vec::new(); texts.len()];
        }
        let x = Tensor::<2>::from_data(TensorData::new(values, [rows, hidden]), &self.device);
        let x = self.norm.forward(x);
        let x = self
            .layers
            .iter()
            .fold(x, |x, block| block.forward(x, &ends, &self.config));
        let values = crate::lora::host(&x);
        let texts = ends.windows(2);
        texts
            .map(|text| values[text[0] * hidden..text[1] * hidden].to_vec())
            .collect()
    }
}

impl Block {
    /// `ends` are where each text of x `[tokens, hidden]` begins, and the last one's end.
    fn forward(&self, x: Tensor<2>, ends: &[usize], config: &EncoderConfig) -> Tensor<2> {
        let [rows, hidden] = x.dims();
        let heads = config.num_attention_heads;
        let width = hidden / heads;
        let split = |linear: &Linear| {
            let y = linear.forward(x.clone()).reshape([rows, heads, width]);
            y.swap_dims(0, 1) // [heads, tokens, width]
        };
        let query = split(&self.query) * (width as f32).powf(-0.5);
        let (key, value) = (split(&self.key), split(&self.value));
        let attended = ends
            .windows(2)
            .filter(|text| text[0] < text[1])
            .map(|text| {
                let of = |t: &Tensor<3>| t.clone().slice([0..heads, text[0]..text[1], 0..width]);
                let scores = of(&query).matmul(of(&key).swap_dims(1, 2));
                let o = activation::softmax(scores, 2).matmul(of(&value));
                o.swap_dims(0, 1).reshape([text[1] - text[0], hidden])
            });
        let attended = self.attended.forward(Tensor::cat(attended.collect(), 0));
        let x = self.attended_norm.forward(attended + x);
        let inner = activate(self.intermediate.forward(x.clone()), config.hidden_act);
        self.output_norm.forward(self.output.forward(inner) + x)
    }
}

fn activate(x: Tensor<2>, activation: Activation) -> Tensor<2> {
    match activation {
        Activation::Gelu => activation::gelu(x),
        Activation::Relu => activation::relu(x),
        Activation::GeluTanh => {
            let inner = (x.clone().powf_scalar(3.0) * 0.044715 + x.clone())
                * std::f64::consts::FRAC_2_PI.sqrt();
            x * (inner.tanh() + 1.0) * 0.5
        }
    }
}

impl Linear {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        ops::linear(x, &self.weight, Some(&self.bias), None)
    }
}

impl LayerNorm {
    /// (x − mean) / √(variance + ε)·w + b, row by row.
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let centred = x.clone() - x.mean_dim(1);
        let variance = (centred.clone() * centred.clone()).mean_dim(1);
        let unit = centred / (variance + self.epsilon).sqrt();
        unit * self.weight.clone().unsqueeze() + self.bias.clone().unsqueeze()
    }
}

struct Reader<'a> {
    base: &'a EncoderBase,
    device: Device,
}

impl Reader<'_> {
    fn block(&self, index: usize) -> Result<Block, Error> {
        let config = self.base.config();
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let name = |part: &str| format!("encoder.layer.{index}.{part}");
        let square = |part: &str| self.linear(&name(part), [hidden, hidden]);
        Ok(Block {
            query: square("attention.self.query")?,
            key: square("attention.self.key")?,
            value: square("attention.self.value")?,
            attended: square("attention.output.dense")?,
            attended_norm: self.norm(&name("attention.output.LayerNorm"))?,
            intermediate: self.linear(&name("intermediate.dense"), [inner, hidden])?,
            output: self.linear(&name("output.dense"), [hidden, inner])?,
            output_norm: self.norm(&name("output.LayerNorm"))?,
        })
    }

    fn linear(&self, name: &str, shape: [usize; 2]) -> Result<Linear, Error> {
        let values = self.base.values(&format!("{name}.weight"), &shape)?;
        Ok(Linear {
            weight: Weight::dense_f32(&values, shape, &self.device),
            bias: self.vector(&format!("{name}.bias"), shape[0])?,
        })
    }

    fn norm(&self, name: &str) -> Result<LayerNorm, Error> {
        let hidden = self.base.config().hidden_size;
        Ok(LayerNorm {
            weight: self.vector(&format!("{name}.weight"), hidden)?,
            bias: self.vector(&format!("{name}.bias"), hidden)?,
            epsilon: self.base.config().layer_norm_eps as f32,
        })
    }

    fn vector(&self, name: &str, length: usize) -> Result<Tensor<1>, Error> {
        let values = self.base.values(name, &[length])?;
        Ok(Tensor::from_data(
            TensorData::new(values, [length]),
            &self.device,
        ))
    }
}
