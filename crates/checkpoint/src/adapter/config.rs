//! Which LoRA does an `adapter_config.json` describe, and can it be computed here?

use super::{Layers, TargetModules};
use crate::Error;
use crate::json::Object;
use regex::Regex;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// The fields of PEFT's `LoraConfig` that change what is computed.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    pub base_model_name_or_path: Option<String>,
    pub r: usize,
    pub lora_alpha: f64,
    pub lora_dropout: f64,
    pub target_modules: TargetModules,
    /// Not adapted, even if they are among the targets.
    pub exclude_modules: Option<TargetModules>,
    /// Of these layers only, where the targets are a list; `None` is all.
    pub layers: Option<Layers>,
    /// Module pattern → rank, where it differs from `r`.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Module pattern → alpha, where it differs from `lora_alpha`.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Scale by α/√r instead of α/r (arXiv 2312.03732).
    pub use_rslora: bool,
}

impl AdapterConfig {
    /// A plain LoRA on the modules named.
    pub fn new(r: usize, lora_alpha: f64, lora_dropout: f64, target_modules: Vec<String>) -> Self {
        AdapterConfig {
            base_model_name_or_path: None,
            r,
            lora_alpha,
            lora_dropout,
            target_modules: TargetModules::List(target_modules),
            exclude_modules: None,
            layers: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            use_rslora: false,
        }
    }

    /// Whether PEFT would put a LoRA on this linear layer: `model.layers.0.self_attn.q_proj`.
    pub fn adapts(&self, module: &str) -> bool {
        if self
            .exclude_modules
            .as_ref()
            .is_some_and(|excluded| excluded.contains(module))
        {
            return false;
        }
        match &self.target_modules {
            TargetModules::Pattern(all) if all.eq_ignore_ascii_case("all-linear") => true,
            TargetModules::Pattern(_) => self.target_modules.contains(module),
            // A whole path is adapted whatever its layer.
            TargetModules::List(names) if names.iter().any(|name| name == module) => true,
            TargetModules::List(_) => {
                let layers = self.layers.as_ref();
                self.target_modules.contains(module)
                    && layers.is_none_or(|layers| layers.contains(module))
            }
        }
    }

    /// The rank of a module's matrices.
    pub fn rank(&self, module: &str) -> usize {
        matching(&self.rank_pattern, module)
            .copied()
            .unwrap_or(self.r)
    }

    /// α/r, or α/√r with rsLoRA.
    pub fn scaling(&self, module: &str, rank: usize) -> f64 {
        let alpha = matching(&self.alpha_pattern, module)
            .copied()
            .unwrap_or(self.lora_alpha);
        match self.use_rslora {
            true => alpha / (rank as f64).sqrt(),
            false => alpha / rank as f64,
        }
    }

    pub(super) fn read(path: &Path) -> Result<AdapterConfig, Error> {
        let config = Object::read(path)?;
        if let Some(kind) = config.string("peft_type")?.filter(|kind| kind != "LORA") {
            return Err(config.error("peft_type", format!("is {kind:?}; only LORA is supported")));
        }
        refuse_what_changes_the_result(&config)?;
        let Some(target_modules) = TargetModules::read(&config, "target_modules")? else {
            return Err(config.error("target_modules", "is missing"));
        };
        let parsed = AdapterConfig {
            base_model_name_or_path: config.string("base_model_name_or_path")?,
            r: config.size("r")?.unwrap_or(8), // PEFT, LoraConfig
            lora_alpha: config.number("lora_alpha")?.unwrap_or(8.0), // likewise
            lora_dropout: config.number("lora_dropout")?.unwrap_or(0.0),
            target_modules,
            exclude_modules: TargetModules::read(&config, "exclude_modules")?,
            layers: Layers::read(&config)?,
            rank_pattern: patterns(&config, "rank_pattern", |v| {
                v.as_u64()
                    .and_then(|n| usize::try_from(n).ok())
                    .filter(|n| *n > 0)
            })?,
            alpha_pattern: patterns(&config, "alpha_pattern", Value::as_f64)?,
            use_rslora: config.boolean("use_rslora")?.unwrap_or(false),
        };
        if !(0.0..1.0).contains(&parsed.lora_dropout) {
            return Err(config.error("lora_dropout", "is not between 0 and 1"));
        }
        Ok(parsed)
    }

    /// As PEFT writes it: sorted keys, two spaces.
    pub(super) fn to_json(&self) -> String {
        let layers = self.layers.as_ref();
        let fields: BTreeMap<&str, Value> = BTreeMap::from([
            ("alora_invocation_tokens", Value::Null),
            (
                "alpha_pattern",
                object(&self.alpha_pattern, |alpha| number(*alpha)),
            ),
            ("auto_mapping", Value::Null),
            (
                "base_model_name_or_path",
                json!(self.base_model_name_or_path),
            ),
            ("bias", json!("none")),
            (
                "exclude_modules",
                json!(self.exclude_modules.as_ref().map(TargetModules::to_json)),
            ),
            ("fan_in_fan_out", json!(false)),
            ("inference_mode", json!(true)),
            ("init_lora_weights", json!(true)),
            (
                "layers_pattern",
                json!(
                    layers
                        .map(|layers| &layers.patterns)
                        .filter(|patterns| !patterns.is_empty())
                ),
            ),
            (
                "layers_to_transform",
                json!(layers.map(|layers| &layers.numbers)),
            ),
            ("lora_alpha", number(self.lora_alpha)),
            ("lora_bias", json!(false)),
            ("lora_dropout", json!(self.lora_dropout)),
            ("modules_to_save", Value::Null),
            ("peft_type", json!("LORA")),
            ("r", json!(self.r)),
            (
                "rank_pattern",
                object(&self.rank_pattern, |rank| json!(rank)),
            ),
            ("revision", Value::Null),
            ("target_modules", self.target_modules.to_json()),
            ("target_parameters", Value::Null),
            ("task_type", json!("CAUSAL_LM")),
            ("trainable_token_indices", Value::Null),
            ("use_dora", json!(false)),
            ("use_qalora", json!(false)),
            ("use_rslora", json!(self.use_rslora)),
        ]);
        serde_json::to_string_pretty(&fields).expect("strings and numbers") + "\n"
    }
}

/// A whole number without a decimal point, as PEFT's users write alpha.
fn number(value: f64) -> Value {
    match value.fract() == 0.0 && value.abs() < 1e15 {
        true => json!(value as i64),
        false => json!(value),
    }
}

fn object<T>(map: &BTreeMap<String, T>, value: impl Fn(&T) -> Value) -> Value {
    let fields = map.iter().map(|(key, v)| (key.clone(), value(v)));
    Value::Object(fields.collect::<Map<_, _>>())
}

/// Fields that are harmless when off and change the result when on, and initialisations that put a part of the base into
/// the adapter: trained beside what was left of it, such an adapter on the whole base is another model.
fn refuse_what_changes_the_result(config: &Object) -> Result<(), Error> {
    let off = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text == "none" || text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    for key in [
        "use_dora",
        "use_qalora",
        "use_bdlora",
        "lora_bias",
        "fan_in_fan_out",
        "bias",
        "modules_to_save",
        "trainable_token_indices",
        "target_parameters",
        "alora_invocation_tokens",
        "layer_replication",
        "arrow_config",
        "velora_config",
        "kasa_config",
        "monteclora_config",
    ] {
        if let Some(value) = config.get(key).filter(|value| !off(value)) {
            let way_out = match key {
                "modules_to_save" => "; PEFT's merge_and_unload makes a base of adapter and base",
                _ => "",
            };
            let message = format!("is {value}, which is not supported here{way_out}");
            return Err(config.error(key, message));
        }
    }
    // Of PEFT 0.21's, pissa, pissa_niter_N, olora, corda, loftq and lora_ga change the base.
    let (key, leave_the_base) = (
        "init_lora_weights",
        ["gaussian", "orthogonal", "eva", "mica"],
    );
    match config.get(key) {
        None | Some(Value::Null | Value::Bool(_)) => Ok(()),
        Some(Value::String(name)) if leave_the_base.contains(&name.as_str()) => Ok(()),
        Some(value) => {
            let message = format!(
                "is {value}, for which PEFT changes the base; save the adapter again with \
                 save_pretrained(…, path_initial_model_for_weight_conversion=…), or merge it there"
            );
            Err(config.error(key, message))
        }
    }
}

fn patterns<T>(
    config: &Object,
    key: &str,
    parse: impl Fn(&Value) -> Option<T>,
) -> Result<BTreeMap<String, T>, Error> {
    let Some(fields) = config.object(key)? else {
        return Ok(BTreeMap::new());
    };
    let entry = |(pattern, value): (&String, &Value)| {
        compile(pattern)
            .map_err(|error| fields.error(pattern, format!("is no regular expression: {error}")))?;
        let value = parse(value)
            .ok_or_else(|| fields.error(pattern, format!("is {value}, not a positive number")))?;
        Ok((pattern.clone(), value))
    };
    fields.value().iter().map(entry).collect()
}

/// PEFT matches `(.*\.)?(key)$` from the start of the module's path.
fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    Regex::new(&format!(r"^(.*\.)?({pattern})$"))
}

fn matching<'a, T>(patterns: &'a BTreeMap<String, T>, module: &str) -> Option<&'a T> {
    patterns
        .iter()
        .find(|(pattern, _)| compile(pattern).is_ok_and(|regex| regex.is_match(module)))
        .map(|(_, value)| value)
}
