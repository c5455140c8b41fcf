//! A base of SmolLM2-135M's shape with random weights.

use std::path::Path;

use safetensors::{Dtype, tensor::TensorView};

const LAYERS: usize = 30;
const HIDDEN: usize = 576;
const KV: usize = 192;
const FFN: usize = 1536;
const VOCABULARY: usize = 49_152;

/// Writes config.json and model.safetensors, bf16.
pub fn write(dir: &Path) {
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": LAYERS,
        "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64,
        "vocab_size": VOCABULARY, "tie_word_embeddings": true, "rms_norm_eps": 1e-5,
        "rope_theta": 100_000.0, "max_position_embeddings": 8192, "dtype": "bfloat16",
    });
    std::fs::write(dir.join("config.json"), config.to_string()).expect("writing config.json");

    let mut shapes = vec![
        ("model.embed_tokens".to_owned(), vec![VOCABULARY, HIDDEN]),
        ("model.norm".to_owned(), vec![HIDDEN]),
    ];
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("input_layernorm", vec![HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.k_proj", vec![KV, HIDDEN]),
            ("self_attn.v_proj", vec![KV, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
            ("mlp.gate_proj", vec![FFN, HIDDEN]),
            ("mlp.up_proj", vec![FFN, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, FFN]),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}"), shape));
        }
    }
    let mut random = 1u64;
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let spread = if shape.len() == 1 { 0.0 } else { 0.08 };
            let centre = if shape.len() == 1 { 1.0 } else { 0.0 };
            let bytes = (0..shape.iter().product::<usize>())
                .flat_map(|_| {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let uniform = (random >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
                    let value: f32 = centre + spread * uniform;
                    ((value.to_bits() >> 16) as u16).to_le_bytes()
                })
                .collect();
            (format!("{name}.weight"), shape, bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::BF16, shape.clone(), bytes).expect("bytes of the shape");
        (name, view)
    });
    safetensors::serialize_to_file(views, None, &dir.join("model.safetensors"))
        .expect("writing model.safetensors");
}
