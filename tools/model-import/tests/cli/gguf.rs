//! A GGUF file made of a tiny Hugging Face model, as llama.cpp's converter would make it.

use checkpoint::Base;
use std::path::{Path, PathBuf};

pub fn models() -> PathBuf {
    workspace_tests::data("models")
}

pub fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&string(key)[..], &kind.to_le_bytes(), value].concat()
}

pub fn text(key: &str, value: &str) -> Vec<u8> {
    pair(key, 8, &string(value))
}

pub fn number(key: &str, value: u32) -> Vec<u8> {
    pair(key, 4, &value.to_le_bytes())
}

pub fn float(key: &str, value: f32) -> Vec<u8> {
    pair(key, 6, &value.to_le_bytes())
}

pub fn flag(key: &str, value: bool) -> Vec<u8> {
    pair(key, 7, &[u8::from(value)])
}

pub fn texts(key: &str, values: &[&str]) -> Vec<u8> {
    let head = [
        &8u32.to_le_bytes()[..],
        &(values.len() as u64).to_le_bytes(),
    ]
    .concat();
    let values: Vec<u8> = values.iter().flat_map(|value| string(value)).collect();
    pair(key, 9, &[head, values].concat())
}

pub fn numbers(key: &str, values: &[i32]) -> Vec<u8> {
    let head = [
        &5u32.to_le_bytes()[..],
        &(values.len() as u64).to_le_bytes(),
    ]
    .concat();
    let values: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    pair(key, 9, &[head, values].concat())
}

pub fn floats(key: &str, values: &[f32]) -> Vec<u8> {
    let head = [
        &6u32.to_le_bytes()[..],
        &(values.len() as u64).to_le_bytes(),
    ]
    .concat();
    let values: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    pair(key, 9, &[head, values].concat())
}

/// Tokens of `llama-tied`: three special ones, the first bytes of GPT-2's alphabet, a few merges.
pub fn byte_level_tokenizer() -> Vec<Vec<u8>> {
    let mut tokens = vec![
        "<|end|>".to_owned(),
        "<|im_start|>".to_owned(),
        "<|im_end|>".to_owned(),
    ];
    tokens.extend(('!'..='~').map(String::from));
    tokens.extend(["Ġ", "Ċ", "he", "ll", "hell", "hello", "Ġhello", "12"].map(str::to_owned));
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let kinds: Vec<i32> = (0..tokens.len())
        .map(|id| if id < 3 { 3 } else { 1 })
        .collect();
    vec![
        text("tokenizer.ggml.model", "gpt2"),
        text("tokenizer.ggml.pre", "smollm"),
        texts("tokenizer.ggml.tokens", &tokens),
        numbers("tokenizer.ggml.token_type", &kinds),
        texts(
            "tokenizer.ggml.merges",
            &["h e", "l l", "he ll", "hell o", "Ġ hello", "1 2"],
        ),
        number("tokenizer.ggml.bos_token_id", 1),
        number("tokenizer.ggml.eos_token_id", 2),
        number("tokenizer.ggml.padding_token_id", 0),
        text(
            "tokenizer.chat_template",
            "{{ messages[0]['content'] }}<|im_end|>",
        ),
    ]
}

/// A whole GGUF file in f32. `keys` come on top of the dimensions'.
pub fn gguf(model: &Path, architecture: &str, keys: Vec<Vec<u8>>) -> Vec<u8> {
    let base = Base::open(model).unwrap();
    let config = base.config();
    let dimension = |name: &str, value: usize| {
        number(
            &format!("{architecture}.{name}"),
            u32::try_from(value).unwrap(),
        )
    };
    let mut pairs = vec![
        text("general.architecture", architecture),
        dimension("block_count", config.num_hidden_layers),
        dimension("context_length", config.max_position_embeddings),
        dimension("embedding_length", config.hidden_size),
        dimension("feed_forward_length", config.intermediate_size),
        dimension("attention.head_count", config.num_attention_heads),
        dimension("attention.head_count_kv", config.num_key_value_heads),
        float(
            &format!("{architecture}.attention.layer_norm_rms_epsilon"),
            config.rms_norm_eps as f32,
        ),
        float(
            &format!("{architecture}.rope.freq_base"),
            config.rope.theta as f32,
        ),
    ];
    pairs.extend(keys);
    let mut descriptions = Vec::new();
    let mut data = Vec::new();
    let parts = checkpoint::parts(config);
    for part in &parts {
        let mut values = base.tensor(&part.name).unwrap().to_f32().unwrap();
        let columns = part.shape.get(1).copied().unwrap_or(1);
        if architecture == "llama" && part.name.contains("q_proj") {
            values = permute(&values, columns, config.num_attention_heads);
        }
        if architecture == "llama" && part.name.contains("k_proj") {
            values = permute(&values, columns, config.num_key_value_heads);
        }
        let mut description = string(&llama_cpp_name(&part.name));
        description.extend((part.shape.len() as u32).to_le_bytes());
        description.extend(
            part.shape
                .iter()
                .rev()
                .flat_map(|n| (*n as u64).to_le_bytes()),
        );
        description.extend(0u32.to_le_bytes());
        description.extend((data.len() as u64).to_le_bytes());
        descriptions.push(description);
        data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        data.resize(data.len().next_multiple_of(32), 0);
    }
    let mut file = [&b"GGUF"[..], &3u32.to_le_bytes()].concat();
    file.extend((parts.len() as u64).to_le_bytes());
    file.extend((pairs.len() as u64).to_le_bytes());
    file.extend(pairs.concat());
    file.extend(descriptions.concat());
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend(data);
    file
}

/// llama.cpp's reordering: the halves of each head interleaved.
fn permute(values: &[f32], columns: usize, heads: usize) -> Vec<f32> {
    let rows: Vec<&[f32]> = values.chunks(columns).collect();
    let head_dim = rows.len() / heads;
    (0..rows.len())
        .flat_map(|row| {
            let (head, position) = (row / head_dim, row % head_dim);
            rows[head * head_dim + position % 2 * head_dim / 2 + position / 2].to_vec()
        })
        .collect()
}

fn llama_cpp_name(name: &str) -> String {
    let fixed = [
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.norm.weight", "output_norm.weight"),
        ("lm_head.weight", "output.weight"),
    ];
    if let Some((_, ours)) = fixed.iter().find(|(theirs, _)| *theirs == name) {
        return (*ours).to_owned();
    }
    [
        ("model.layers", "blk"),
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
    ]
    .iter()
    .fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}
