//! How do llama.cpp's tensors correspond to Hugging Face's?

/// Modules outside the layers: Hugging Face's name, llama.cpp's name.
const MODULES: [(&str, &str); 3] = [
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
];

/// Modules of a layer.
const LAYER_MODULES: [(&str, &str); 11] = [
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
];

/// The Hugging Face name of a tensor of a Llama-like model: `blk.0.attn_q.weight` is
/// `model.layers.0.self_attn.q_proj.weight`. `None` if llama.cpp has no such tensor there.
pub fn hugging_face_name(name: &str) -> Option<String> {
    let (module, kind) = name.rsplit_once('.')?;
    if !matches!(kind, "weight" | "bias") {
        return None;
    }
    if let Some((theirs, _)) = MODULES.iter().find(|(_, ours)| *ours == module) {
        return Some(format!("{theirs}.{kind}"));
    }
    let (layer, module) = module.strip_prefix("blk.")?.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let (theirs, _) = LAYER_MODULES.iter().find(|(_, ours)| *ours == module)?;
    Some(format!("model.layers.{layer}.{theirs}.{kind}"))
}

/// llama.cpp's name of a module: `model.layers.0.self_attn.q_proj` is `blk.0.attn_q`.
pub fn llama_cpp_name(module: &str) -> Option<String> {
    if let Some((_, ours)) = MODULES.iter().find(|(theirs, _)| *theirs == module) {
        return Some((*ours).to_owned());
    }
    let (layer, module) = module.strip_prefix("model.layers.")?.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let (_, ours) = LAYER_MODULES.iter().find(|(theirs, _)| *theirs == module)?;
    Some(format!("blk.{layer}.{ours}"))
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
    reorder(values, columns, heads, |position, head_dim| {
        let (half, i) = (position / (head_dim / 2), position % (head_dim / 2));
        2 * i + half
    })
}

/// llama.cpp's reordering, which [`unpermute`] undoes.
///
/// # Panics
/// Likewise.
pub fn permute(values: &[f32], columns: usize, heads: usize) -> Vec<f32> {
    reorder(values, columns, heads, |position, head_dim| {
        position % 2 * (head_dim / 2) + position / 2
    })
}

/// Row `position` of a head is taken from row `source(position, head_dim)`.
fn reorder(
    values: &[f32],
    columns: usize,
    heads: usize,
    source: impl Fn(usize, usize) -> usize,
) -> Vec<f32> {
    let rows = values.len() / columns;
    let head_dim = rows / heads;
    assert!(
        head_dim * heads * columns == values.len() && head_dim.is_multiple_of(2),
        "whole heads of an even number of rows"
    );
    let mut out = Vec::with_capacity(values.len());
    for row in 0..rows {
        let (head, position) = (row / head_dim, row % head_dim);
        let from = (head * head_dim + source(position, head_dim)) * columns;
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
        let rows: Vec<f32> = (0..48).map(|i| i as f32).collect();
        assert_eq!(
            permute(&rows[..24], 1, 3),
            [
                0., 4., 1., 5., 2., 6., 3., 7., 8., 12., 9., 13., 10., 14., 11., 15., 16., 20.,
                17., 21., 18., 22., 19., 23.
            ]
        );
        assert_eq!(unpermute(&permute(&rows, 2, 3), 2, 3), rows);
    }

    #[test]
    fn names_of_layers_are_translated_and_others_refused() {
        let name = hugging_face_name("blk.12.attn_output.weight").unwrap();
        assert_eq!(name, "model.layers.12.self_attn.o_proj.weight");
        assert_eq!(
            llama_cpp_name("model.layers.12.self_attn.o_proj").unwrap(),
            "blk.12.attn_output"
        );
        assert_eq!(llama_cpp_name("lm_head").unwrap(), "output");
        assert_eq!(hugging_face_name("blk.x.attn_q.weight"), None);
        assert_eq!(hugging_face_name("blk.1.ssm_conv1d.weight"), None);
    }
}
