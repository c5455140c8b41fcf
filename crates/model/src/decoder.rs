//! The Llama-family decoder, as the paper draws it and with the checkpoint's names.
//!
//! Everything is token-major and ragged: `[tokens, features]`, sequences end to end, no padding.

use burn::tensor::{Device, Tensor};
use checkpoint::ModelConfig;
use ops::{AttentionKernel, AttentionOptions, DecodingLayer, DecodingLinear, FanOut, Weight};

use crate::{
    Error,
    lora::{LayerLora, LoraPair},
    rotary::Rotary,
    training::Dropout,
};

/// The seven linear maps of a decoder layer, each of which can carry a LoRA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    Query,
    Key,
    Value,
    Output,
    Gate,
    Up,
    Down,
}

impl Projection {
    pub const ALL: [Self; 7] = [
        Self::Query,
        Self::Key,
        Self::Value,
        Self::Output,
        Self::Gate,
        Self::Up,
        Self::Down,
    ];

    /// Where it stands in a layer of the checkpoint.
    pub fn path(self) -> &'static str {
        match self {
            Self::Query => "self_attn.q_proj",
            Self::Key => "self_attn.k_proj",
            Self::Value => "self_attn.v_proj",
            Self::Output => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    /// The name PEFT's `target_modules` knows it by.
    pub fn name(self) -> &'static str {
        let path = self.path();
        &path[path.find('.').expect("every path has a parent") + 1..]
    }

    /// The projection that `target_modules` calls `name`.
    pub fn by_name(name: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|p| p.name() == name);
        found.ok_or_else(|| Error::UnknownTarget(name.to_owned()))
    }

    /// The names of all seven, for messages.
    pub fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// `[out_features, in_features]`.
    pub fn shape(self, config: &ModelConfig) -> [usize; 2] {
        let hidden = config.hidden_size;
        let q = config.num_attention_heads * config.head_dim;
        let kv = config.num_key_value_heads * config.head_dim;
        match self {
            Self::Query => [q, hidden],
            Self::Key | Self::Value => [kv, hidden],
            Self::Output => [hidden, q],
            Self::Gate | Self::Up => [config.intermediate_size, hidden],
            Self::Down => [hidden, config.intermediate_size],
        }
    }

    /// Full name of the module in the checkpoint.
    pub fn module(self, layer: usize) -> String {
        format!("model.layers.{layer}.{}", self.path())
    }
}

/// A frozen linear map; its LoRA lives in the adapter.
pub(crate) struct Linear {
    pub weight: Weight,
    pub bias: Option<Tensor<1>>,
}

pub(crate) struct Layer {
    pub input_layernorm: Tensor<1>,
    pub projections: [Linear; 7],
    /// Qwen3 normalises each head's query and key, `[head_dim]`.
    pub q_norm: Option<Tensor<1>>,
    pub k_norm: Option<Tensor<1>>,
    pub post_attention_layernorm: Tensor<1>,
}

/// A frozen base on a device.
pub struct Decoder {
    pub(crate) config: ModelConfig,
    pub(crate) device: Device,
    /// On the CPU back end, which generates by a path of its own.
    pub(crate) on_cpu: bool,
    pub(crate) embed_tokens: Weight,
    pub(crate) layers: Vec<Layer>,
    pub(crate) norm: Tensor<1>,
    /// The embedding itself when the two are tied.
    pub(crate) lm_head: Weight,
    pub(crate) rotary: Rotary,
    pub(crate) attention: AttentionKernel,
}

/// What every layer of one forward pass shares.
pub(crate) struct Pass {
    /// Rotary tables of this pass's tokens, each `[tokens, head_dim / 2]`.
    pub cos: Tensor<2>,
    pub sin: Tensor<2>,
    pub dropout: Option<Dropout>,
}

impl Decoder {
    /// What config.json says of this model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    pub(crate) fn pass(&self, position_ids: &[u32], dropout: Option<Dropout>) -> Pass {
        let (cos, sin) = self.rotary.tables(position_ids, &self.device);
        Pass { cos, sin, dropout }
    }

    /// Runs `work` on this decoder's device; the CPU's threads stay awake through it.
    pub(crate) fn busy<R>(&self, work: impl FnOnce() -> R) -> R {
        match self.on_cpu {
            true => ops::awake(work),
            false => work(),
        }
    }

    /// How a layer attends, with the kernel that was chosen.
    pub fn attention_options(&self) -> AttentionOptions {
        AttentionOptions {
            heads: self.config.num_attention_heads,
            kv_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
            scale: (self.config.head_dim as f32).powf(-0.5),
            window: self.config.sliding_window,
            softcap: None,
            compute: self.embed_tokens.format().compute,
            kernel: self.attention,
        }
    }

    /// One decoder layer: x + Attention(Norm(x)), then + MLP(Norm(·)). `[tokens, hidden]` to the
    /// same. `attend` maps rotated queries and keys, and values, to what the heads saw.
    pub(crate) fn layer(
        &self,
        index: usize,
        x: Tensor<2>,
        lora: Option<&LayerLora>,
        pass: &Pass,
        attend: impl FnOnce(Tensor<2>, Tensor<2>, Tensor<2>) -> Tensor<2>,
    ) -> Tensor<2> {
        let (x, gated) = self.layer_before_down(index, x, lora, pass, attend);
        let (linear, lora) = self.linear(index, Projection::Down, lora, pass.dropout);
        let down = ops::linear(gated, &linear.weight, linear.bias.as_ref(), lora);
        ops::add(x, down)
    }

    /// A linear of a layer, and its LoRA.
    pub(crate) fn linear<'a>(
        &'a self,
        index: usize,
        projection: Projection,
        lora: Option<&'a LayerLora>,
        dropout: Option<Dropout>,
    ) -> (&'a Linear, Option<ops::Lora<'a>>) {
        let pair = lora.and_then(|lora| lora[projection as usize].as_ref());
        let linear = &self.layers[index].projections[projection as usize];
        (
            linear,
            pair.map(|pair| pair.borrow(index, projection, dropout)),
        )
    }

    /// A layer but for its last product: what down_proj's result is added to, and what it reads.
    pub(crate) fn layer_before_down(
        &self,
        index: usize,
        x: Tensor<2>,
        lora: Option<&LayerLora>,
        pass: &Pass,
        attend: impl FnOnce(Tensor<2>, Tensor<2>, Tensor<2>) -> Tensor<2>,
    ) -> (FanOut, Tensor<2>) {
        use Projection::*;
        let layer = &self.layers[index];
        let eps = self.config.rms_norm_eps as f32;
        let (heads, kv_heads) = (
            self.config.num_attention_heads,
            self.config.num_key_value_heads,
        );
        let linear = |projection: Projection, x: FanOut| {
            let (linear, lora) = self.linear(index, projection, lora, pass.dropout);
            ops::linear(x, &linear.weight, linear.bias.as_ref(), lora)
        };
        let rotate = |x, heads| ops::rotary(x, &pass.cos, &pass.sin, heads);

        let x = FanOut::new(x);
        let h = FanOut::new(ops::rms_norm(x.clone(), &layer.input_layernorm, eps));
        let q = per_head_norm(linear(Query, h.clone()), layer.q_norm.as_ref(), heads, eps); // [tokens, heads * head_dim]
        let k = per_head_norm(linear(Key, h.clone()), layer.k_norm.as_ref(), kv_heads, eps); // [tokens, kv_heads * head_dim]
        let v = linear(Value, h);
        let seen = attend(rotate(q, heads), rotate(k, kv_heads), v);
        let x = FanOut::new(ops::add(x, linear(Output, seen.into())));

        let h = FanOut::new(ops::rms_norm(
            x.clone(),
            &layer.post_attention_layernorm,
            eps,
        ));
        let gated = ops::swiglu(linear(Gate, h.clone()), linear(Up, h)); // [tokens, intermediate]
        (x, gated)
    }

    /// A layer as decoding reads it, a token of each sequence at a time.
    pub(crate) fn decoding_layer<'a>(
        &'a self,
        index: usize,
        lora: Option<&'a LayerLora>,
    ) -> DecodingLayer<'a> {
        use Projection::*;
        let layer = &self.layers[index];
        let linear = |projection: Projection| {
            let (linear, lora) = self.linear(index, projection, lora, None);
            DecodingLinear {
                weight: &linear.weight,
                bias: linear.bias.as_ref(),
                lora,
            }
        };
        DecodingLayer {
            input_layernorm: &layer.input_layernorm,
            q_proj: linear(Query),
            k_proj: linear(Key),
            v_proj: linear(Value),
            q_norm: layer.q_norm.as_ref(),
            k_norm: layer.k_norm.as_ref(),
            o_proj: linear(Output),
            post_attention_layernorm: &layer.post_attention_layernorm,
            gate_proj: linear(Gate),
            up_proj: linear(Up),
            down_proj: linear(Down),
        }
    }
}

fn per_head_norm(x: Tensor<2>, weight: Option<&Tensor<1>>, heads: usize, eps: f32) -> Tensor<2> {
    let Some(weight) = weight else { return x };
    let [tokens, width] = x.dims();
    let x = x.reshape([tokens * heads, width / heads]);
    ops::rms_norm(x, weight, eps).reshape([tokens, width])
}

impl LoraPair {
    fn borrow(
        &self,
        layer: usize,
        projection: Projection,
        dropout: Option<Dropout>,
    ) -> ops::Lora<'_> {
        ops::Lora {
            a: &self.a,
            b: &self.b,
            scaling: self.scaling,
            dropout: dropout.map(|d| d.at(layer, projection)),
        }
    }
}
