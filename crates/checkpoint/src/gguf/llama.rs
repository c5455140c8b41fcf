//! How do llama.cpp's tensors correspond to Hugging Face's?

/// The Hugging Face name of a tensor of a Llama-like model: `blk.0.attn_q.weight` is
/// `model.layers.0.self_attn.q_proj.weight`. `None` if llama.cpp has no such tensor there.
pub fn hugging_face_name(name: &str) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".to_owned()),
        "output_norm.weight" => return Some("model.norm.weight".to_owned()),
        "output.weight" => return Some("lm_head.weight".to_owned()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    layer.parse::<u32>().ok()?;
    let (module, kind) = rest.split_once('.')?;
    let module = match module {
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        "attn_norm" => "input_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        _ => return None,
    };
    matches!(kind, "weight" | "bias").then(|| format!("model.layers.{layer}.{module}.{kind}"))
}

/// Undoes llama.cpp's reordering of the rows of q_proj and k_proj.
///
/// ggml turns neighbouring rows together, Hugging Face rows half a head apart; converting to
/// GGUF interleaves the halves of each head (architecture `llama` only), and this separates them:
/// row `2i + half` of a head goes to row `half · head_dim/2 + i`.
///
/// # Panics
/// If `values` are not `heads` times an even number of rows of `columns`.
pub fn unpermute(values: &[f32], columns: usize, heads: usize) -> Vec<f32> {
    let rows = values.len() / columns;
    let head_dim = rows / heads;
    assert!(
        head_dim * heads * columns == values.len() && head_dim.is_multiple_of(2),
        "whole heads of an even number of rows"
    );
    let mut out = Vec::with_capacity(values.len());
    for row in 0..rows {
        let (head, position) = (row / head_dim, row % head_dim);
        let (half, i) = (position / (head_dim / 2), position % (head_dim / 2));
        let from = (head * head_dim + 2 * i + half) * columns;
        out.extend_from_slice(&values[from..from + columns]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_halves_of_each_head_are_separated() {
        let rows: Vec<f32> = (0..8).map(|i| i as f32).collect();
        assert_eq!(unpermute(&rows, 1, 2), [0., 2., 1., 3., 4., 6., 5., 7.]);
    }

    #[test]
    fn names_of_layers_are_translated_and_others_refused() {
        let name = hugging_face_name("blk.12.attn_output.weight").unwrap();
        assert_eq!(name, "model.layers.12.self_attn.o_proj.weight");
        assert_eq!(hugging_face_name("blk.x.attn_q.weight"), None);
        assert_eq!(hugging_face_name("blk.1.ssm_conv1d.weight"), None);
    }
}
