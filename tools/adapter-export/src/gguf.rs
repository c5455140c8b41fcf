//! How does llama.cpp want a LoRA adapter?
//!
//! `BLOCK.weight.lora_a` is A and `.lora_b` is B, row-major as PEFT has them. llama.cpp scales by
//! `adapter.lora.alpha / rank`, or by 1 if alpha is 0: where one alpha cannot say it for all
//! layers, the scaling is multiplied into B. Architecture `llama` interleaves the rows of q_proj
//! and k_proj, so the rows of their B are interleaved likewise.

use anyhow::{Context, bail};
use checkpoint::adapter::{Adapter, Pair};
use checkpoint::gguf::{GgufWriter, Key, llama_cpp_name, permute};
use checkpoint::{Base, Dtype, ModelType};

pub fn adapter(base: &Base, adapter: &Adapter, dtype: Dtype) -> anyhow::Result<GgufWriter> {
    let pairs = adapter.pairs();
    let alpha = common_alpha(&pairs);
    let architecture = match base.config().model_type {
        ModelType::Llama | ModelType::Mistral => "llama",
        ModelType::Qwen2 => "qwen2",
        ModelType::Qwen3 => "qwen3",
    };
    let mut file = GgufWriter::default();
    file.key("general.type", Key::String("adapter".to_owned()));
    file.key("general.architecture", Key::String(architecture.to_owned()));
    file.key("adapter.type", Key::String("lora".to_owned()));
    file.key("adapter.lora.alpha", Key::F32(alpha.unwrap_or(0.0)));
    for pair in &pairs {
        let name = llama_cpp_name(pair.module)
            .with_context(|| format!("llama.cpp has no name for {}", pair.module))?;
        let mut b = pair.b.values.clone();
        if alpha.is_none() {
            b.iter_mut().for_each(|v| *v *= pair.scaling as f32);
        }
        if architecture == "llama" {
            let heads = match pair.module.rsplit('.').next() {
                Some("q_proj") => Some(base.config().num_attention_heads),
                Some("k_proj") => Some(base.config().num_key_value_heads),
                _ => None,
            };
            if let Some(heads) = heads {
                b = permute(&b, pair.b.shape[1], heads);
            }
        }
        if dtype == Dtype::F16 && pair.a.values.iter().chain(&b).any(|v| v.abs() > 65_504.0) {
            bail!("{}: does not fit into f16", pair.module);
        }
        file.tensor(
            &format!("{name}.weight.lora_a"),
            &pair.a.shape,
            &pair.a.values,
            dtype,
        );
        file.tensor(&format!("{name}.weight.lora_b"), &pair.b.shape, &b, dtype);
    }
    Ok(file)
}

/// The alpha for which alpha / rank is every layer's scaling, if there is one: α itself, or α·√r
/// with rsLoRA. 0 means something else to llama.cpp.
fn common_alpha(pairs: &[Pair]) -> Option<f32> {
    let alpha = |pair: &Pair| (pair.scaling * pair.a.shape[0] as f64) as f32;
    let first = pairs.first().map(alpha)?;
    (first != 0.0 && pairs.iter().all(|pair| alpha(pair) == first)).then_some(first)
}
