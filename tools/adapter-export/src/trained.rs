//! Which weights did training put the adapter on? The run that an adapter lies in says how it loaded
//! the base.

use crate::args::{Args, Quantize};
use anyhow::{Context, anyhow};
use checkpoint::{Base, DtypeChoice};
use clap::ValueEnum;
use cli::Hint;
use serde_json::{Map, Value};
use std::fs;
use std::path::{Path, PathBuf};

/// How the base's linear layers are loaded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loading {
    pub quantize: Quantize,
    pub double_quant: bool,
    /// What 4-bit weights are rounded to; `auto` is what those in the file say, f32 of others.
    pub dtype: DtypeChoice,
}

/// The config.json of the run whose result or checkpoint a folder is: qlora-train writes
/// RUN/adapter and RUN/checkpoints/checkpoint-N, and beside its config.json an inputs.json, which tells
/// it from a model's.
pub fn run_config(adapter: &Path) -> Option<PathBuf> {
    let adapter = adapter.canonicalize().ok()?; // `current` may lead to it
    let mut above = adapter.ancestors().skip(1).take(2);
    let run = above.find(|dir| {
        ["config.json", "inputs.json"]
            .iter()
            .all(|name| dir.join(name).is_file())
    });
    run.map(|run| run.join("config.json"))
}

/// How that run loaded its base.
pub fn read(config: &Path) -> anyhow::Result<Loading> {
    let bytes = fs::read(config).with_context(|| config.display().to_string())?;
    let fields: Map<String, Value> = serde_json::from_slice(&bytes)
        .with_context(|| format!("{}: is not JSON", config.display()))?;
    let text = |key: &str| fields.get(key).and_then(Value::as_str);
    let loading = || {
        Some(Loading {
            quantize: Quantize::from_str(text("quantize")?, false).ok()?,
            double_quant: !fields.get("no-double-quant")?.as_bool()?,
            dtype: text("dtype")?.parse().ok()?,
        })
    };
    loading()
        .with_context(|| {
            format!(
                "{}: does not say how training loaded the base",
                config.display()
            )
        })
        .hint("copied out of its run, the adapter is taken for what --quantize says")
}

/// What the flags say, else the run, else that the base is taken as it is stored. Refuses flags that
/// would change nothing.
pub fn loading(args: &Args, run: Option<Loading>, base: &Base) -> anyhow::Result<Loading> {
    let unknown = Loading {
        quantize: Quantize::None,
        double_quant: true,
        dtype: DtypeChoice(None),
    };
    let known = run.unwrap_or(unknown);
    let loading = Loading {
        quantize: args.quantize.unwrap_or(known.quantize),
        double_quant: known.double_quant && !args.no_double_quant,
        dtype: args.dequantized_dtype.unwrap_or(known.dtype),
    };
    let refuse = |flag: &str, why: &str, hint: &str| Err(anyhow!("{flag}: {why}")).hint(hint);
    let quantizes = loading.quantize == Quantize::Nf4;
    match base.has_4_bit_weights() {
        true if args.no_double_quant => refuse(
            "--no-double-quant",
            "the base is in 4 bits already",
            "it is taken as it is",
        ),
        false if args.no_double_quant && !quantizes => refuse(
            "--no-double-quant",
            "nothing is quantized",
            "it goes with --quantize nf4",
        ),
        false if args.dequantized_dtype.is_some() && !quantizes => refuse(
            "--dequantized-dtype",
            "nothing is quantized",
            "it goes with --quantize nf4",
        ),
        _ => Ok(loading),
    }
}

/// For people: which weights the adapter is merged into, and who says so.
pub fn describe(
    args: &Args,
    loading: &Loading,
    run: Option<(&Path, Loading)>,
    base: &Base,
) -> String {
    let stored = base.has_4_bit_weights();
    let weights = match (stored, loading.quantize, loading.double_quant) {
        (true, ..) => "the base's 4-bit weights",
        (false, Quantize::None, _) => "the base's weights as they are stored",
        (false, Quantize::Nf4, true) => "the base's weights in nf4 with double quantization",
        (false, Quantize::Nf4, false) => "the base's weights in nf4",
    };
    let dequantized = match (stored, loading.quantize, loading.dtype.0) {
        (false, Quantize::None, _) => String::new(),
        (true, _, None) => ", dequantized".to_owned(),
        (false, Quantize::Nf4, None) => ", dequantized to f32".to_owned(),
        (.., Some(_)) => format!(", dequantized to {}", loading.dtype),
    };
    let merging = format!("merging into {weights}{dequantized}");
    let is_same = |run: &Loading| match stored {
        true => run.dtype == loading.dtype,
        false => run == loading,
    };
    match run {
        Some((config, run)) if is_same(&run) => format!("{merging}, as {} says", config.display()),
        Some((config, _)) => format!(
            "warning: {merging}; {} says that training loaded it otherwise",
            config.display()
        ),
        None if args.quantize.is_some() => merging,
        None => format!("{merging}; no run beside the adapter says what training loaded"),
    }
}
