//! Which modules does an adapter's configuration name? As PEFT's `check_target_module_exists` has it.

use crate::Error;
use crate::json::Object;
use regex::Regex;
use serde_json::{Value, json};

/// Which linear layers are adapted, or left out.
#[derive(Clone, Debug, PartialEq)]
pub enum TargetModules {
    /// Each matches a module of this name, or one whose path ends in it.
    List(Vec<String>),
    /// A regular expression over whole paths, or `all-linear`.
    Pattern(String),
}

/// The layers that a list of targets is confined to.
#[derive(Clone, Debug, PartialEq)]
pub struct Layers {
    /// `layers_to_transform`
    pub numbers: Vec<u64>,
    /// `layers_pattern`: what stands before the number, `layers` say; any name if empty.
    pub patterns: Vec<String>,
}

impl TargetModules {
    pub(super) fn read(config: &Object, key: &str) -> Result<Option<TargetModules>, Error> {
        match config.get(key) {
            None => Ok(None),
            Some(Value::String(pattern)) => {
                full_match(pattern).map_err(|error| no_pattern(config, key, &error))?;
                Ok(Some(TargetModules::Pattern(pattern.clone())))
            }
            Some(Value::Array(_)) => Ok(Some(TargetModules::List(names(config, key)?))),
            Some(_) => Err(config.error(key, "is neither a list of names nor a pattern")),
        }
    }

    pub(super) fn contains(&self, module: &str) -> bool {
        match self {
            TargetModules::List(names) => names.iter().any(|name| is_named(module, name)),
            TargetModules::Pattern(pattern) => {
                full_match(pattern).is_ok_and(|regex| regex.is_match(module))
            }
        }
    }

    pub(super) fn to_json(&self) -> Value {
        match self {
            TargetModules::List(names) => {
                let mut names = names.clone();
                names.sort();
                json!(names)
            }
            TargetModules::Pattern(pattern) => json!(pattern),
        }
    }
}

impl Layers {
    pub(super) fn read(config: &Object) -> Result<Option<Layers>, Error> {
        let key = "layers_to_transform";
        let numbers = match config.get(key) {
            None => return Ok(None),
            Some(Value::Array(numbers)) => numbers.iter().map(Value::as_u64).collect(),
            Some(number) => number.as_u64().map(|number| vec![number]),
        };
        let numbers: Vec<u64> =
            numbers.ok_or_else(|| config.error(key, "holds more than numbers of layers"))?;
        if numbers.is_empty() {
            return Ok(None);
        }
        let key = "layers_pattern";
        let patterns = match config.get(key) {
            None => Vec::new(),
            Some(Value::String(pattern)) if pattern.is_empty() => Vec::new(),
            Some(Value::String(pattern)) => vec![pattern.clone()],
            Some(_) => names(config, key)?,
        };
        for pattern in &patterns {
            before_number(pattern).map_err(|error| no_pattern(config, key, &error))?;
        }
        Ok(Some(Layers { numbers, patterns }))
    }

    /// The first number after a pattern decides, as in PEFT.
    pub(super) fn contains(&self, module: &str) -> bool {
        let any_name = [String::from("[^.]*")];
        let patterns = match self.patterns.as_slice() {
            [] => &any_name,
            patterns => patterns,
        };
        let number = patterns.iter().find_map(|pattern| {
            let regex = before_number(pattern).ok()?;
            regex.captures(module)?.name("index")?.as_str().parse().ok()
        });
        number.is_some_and(|number| self.numbers.contains(&number))
    }
}

/// As PEFT reads a list: the module's whole path, or the end of it.
fn is_named(module: &str, name: &str) -> bool {
    let before = module.strip_suffix(name);
    before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// Python's `re.fullmatch`.
fn full_match(pattern: &str) -> Result<Regex, regex::Error> {
    Regex::new(&format!("^(?:{pattern})$"))
}

fn before_number(pattern: &str) -> Result<Regex, regex::Error> {
    Regex::new(&format!(r"^(?:.*?\.)?(?:{pattern})\.(?<index>\d+)\."))
}

fn names(config: &Object, key: &str) -> Result<Vec<String>, Error> {
    let names = config.get(key).and_then(Value::as_array);
    let names = names.and_then(|names| {
        names
            .iter()
            .map(|name| name.as_str().map(str::to_owned))
            .collect()
    });
    names.ok_or_else(|| config.error(key, "holds more than names"))
}

fn no_pattern(config: &Object, key: &str, error: &regex::Error) -> Error {
    config.error(
        key,
        format!("is no pattern that can be read here ({error}); a list of names can"),
    )
}
