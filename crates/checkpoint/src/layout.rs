//! Which tensors does a model of given dimensions consist of?

use crate::ModelConfig;

/// One tensor of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// As in a Hugging Face file: `model.layers.0.mlp.up_proj.weight`.
    pub name: String,
    pub shape: Vec<usize>,
    pub role: Role,
}

/// What a tensor is for, which decides how it may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The token embedding or the output layer: never quantised.
    Embedding,
    /// The weight of a linear layer of a decoder block: may be in 4 bits.
    Linear,
    /// A norm's weight or a bias.
    Vector,
}

/// Every tensor, in the order of computation.
pub fn parts(config: &ModelConfig) -> Vec<Part> {
    let hidden = config.hidden_size;
    let queries = config.num_attention_heads * config.head_dim;
    let keys = config.num_key_value_heads * config.head_dim;
    let mut parts = Vec::new();
    let mut add = |name: String, shape: &[usize], role: Role| {
        parts.push(Part {
            name,
            shape: shape.to_vec(),
            role,
        });
    };
    add(
        "model.embed_tokens.weight".to_owned(),
        &[config.vocab_size, hidden],
        Role::Embedding,
    );
    for layer in 0..config.num_hidden_layers {
        let layer = format!("model.layers.{layer}");
        let mut linear = |module: &str, shape: [usize; 2], bias: bool| {
            add(format!("{layer}.{module}.weight"), &shape, Role::Linear);
            if bias {
                add(format!("{layer}.{module}.bias"), &shape[..1], Role::Vector);
            }
        };
        linear("self_attn.q_proj", [queries, hidden], config.attention_bias);
        linear("self_attn.k_proj", [keys, hidden], config.attention_bias);
        linear("self_attn.v_proj", [keys, hidden], config.attention_bias);
        linear(
            "self_attn.o_proj",
            [hidden, queries],
            config.attention_output_bias,
        );
        linear(
            "mlp.gate_proj",
            [config.intermediate_size, hidden],
            config.mlp_bias,
        );
        linear(
            "mlp.up_proj",
            [config.intermediate_size, hidden],
            config.mlp_bias,
        );
        linear(
            "mlp.down_proj",
            [hidden, config.intermediate_size],
            config.mlp_bias,
        );
        if config.qk_norm {
            let shape = [config.head_dim];
            add(
                format!("{layer}.self_attn.q_norm.weight"),
                &shape,
                Role::Vector,
            );
            add(
                format!("{layer}.self_attn.k_norm.weight"),
                &shape,
                Role::Vector,
            );
        }
        add(
            format!("{layer}.input_layernorm.weight"),
            &[hidden],
            Role::Vector,
        );
        add(
            format!("{layer}.post_attention_layernorm.weight"),
            &[hidden],
            Role::Vector,
        );
    }
    add("model.norm.weight".to_owned(), &[hidden], Role::Vector);
    if !config.tie_word_embeddings {
        add(
            "lm_head.weight".to_owned(),
            &[config.vocab_size, hidden],
            Role::Embedding,
        );
    }
    parts
}
