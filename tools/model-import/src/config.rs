//! What do config.json and generation_config.json say of the imported model?

use crate::source::Source;
use crate::weights::{Plan, Quantization};
use anyhow::Context;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

pub fn write(source: &Source, plan: &Plan, out: &Path) -> anyhow::Result<()> {
    let mut config = source.config_json()?;
    config.remove("torch_dtype"); // the name of `dtype` before transformers 4.56
    config.insert("dtype".to_owned(), plan.dtype.torch_name().into());
    match &plan.quantization {
        // A source in 4 bits that stays so describes itself, but for layers that are quantised now.
        Some(_) if source.config().quantized => {
            if plan.quantizes_what_was_dense {
                config["quantization_config"]["llm_int8_skip_modules"] = Value::Null;
            }
        }
        Some(quantization) => {
            let description = describe(quantization, &plan.dense_modules());
            config.insert("quantization_config".to_owned(), description);
        }
        None => drop(config.remove("quantization_config")),
    }
    write_json(&out.join("config.json"), &config)?;
    if let Some(generation) = source.generation_config_json()? {
        write_json(&out.join("generation_config.json"), &generation)?;
    }
    Ok(())
}

/// As transformers writes it for `BitsAndBytesConfig(load_in_4bit=True, …)`. A list of modules to leave as
/// they are stands for transformers' own, which is the head.
fn describe(quantization: &Quantization, dense: &[&str]) -> Value {
    let skipped = match dense {
        [] => Value::Null,
        modules => json!([&["lm_head"], modules].concat()),
    };
    json!({
        "_load_in_4bit": true,
        "_load_in_8bit": false,
        "bnb_4bit_compute_dtype": quantization.dtype.torch_name(),
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": quantization.double_quant,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": skipped,
        "llm_int8_threshold": 6.0,
        "load_in_4bit": true,
        "load_in_8bit": false,
        "quant_method": "bitsandbytes",
    })
}

/// Sorted keys, two spaces, a newline at the end: as transformers writes its configs.
pub fn write_json(path: &Path, fields: &Map<String, Value>) -> anyhow::Result<()> {
    let sorted: BTreeMap<&String, &Value> = fields.iter().collect();
    let text = serde_json::to_string_pretty(&sorted)? + "\n";
    std::fs::write(path, text).with_context(|| path.display().to_string())
}
