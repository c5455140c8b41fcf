//! What a base folder says about its tokens, read without loading the tokenizer.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{Error, Prompting};

/// Which tokenizer and chat template made a packed file: sha256, in hex. None where the base has
/// none (test models that are fed token ids).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    pub tokenizer: Option<String>,
    pub template: Option<String>,
}

impl Fingerprint {
    /// In what these tokens were made otherwise than the base makes them; what only one of the two knows
    /// is no difference.
    pub fn difference(&self, base: &Fingerprint) -> Option<&'static str> {
        let differ = |ours: &Option<String>, base: &Option<String>| matches!((ours, base), (Some(ours), Some(base)) if ours != base);
        if differ(&self.tokenizer, &base.tokenizer) {
            Some("with another tokenizer than the base's")
        } else if differ(&self.template, &base.template) {
            Some("with another chat template than the base's")
        } else {
            None
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The files of a base folder that nothing may be written over: those that say something about its tokens,
/// whether they are there or not, and its weights.
pub fn base_files(dir: &Path) -> Vec<PathBuf> {
    let of_tokens = [
        "additional_chat_templates/default.jinja",
        "additional_chat_templates/tool_use.jinja",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        Prompting::FILE,
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    // model.safetensors, or shards and the index that names them.
    let is_weights = |name: &str| name.starts_with("model") && name.contains(".safetensors");
    let names = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let weights = names
        .filter(|name| is_weights(name))
        .map(|name| dir.join(name));
    of_tokens
        .map(|name| dir.join(name))
        .into_iter()
        .chain(weights)
        .collect()
}

/// The vocabulary of a base folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// Rows of the embedding: every token id is below it.
    pub size: usize,
    /// From config.json and generation_config.json, ascending.
    pub eos_token_ids: Vec<u32>,
    pub fingerprint: Fingerprint,
}

impl Vocabulary {
    /// Reads config.json and generation_config.json, and hashes what else there is.
    pub fn open(dir: &Path) -> Result<Vocabulary, Error> {
        let config_path = dir.join("config.json");
        let config = read_json(&config_path)?.ok_or_else(|| Error::Io {
            path: config_path.clone(),
            source: ErrorKind::NotFound.into(),
        })?;
        // Multimodal configurations keep the language model's figures one level down.
        let text = config.get("text_config").unwrap_or(&config);
        let size = text
            .get("vocab_size")
            .or(config.get("vocab_size"))
            .and_then(Value::as_u64);
        let size = size
            .filter(|size| (1..=1 << 31).contains(size))
            .ok_or_else(|| Error::Base {
                path: config_path,
                reason: "vocab_size is missing or not a number above 0".into(),
            })?;
        let generation = read_json(&dir.join("generation_config.json"))?.unwrap_or_default();
        let sources = [
            config.get("eos_token_id"),
            text.get("eos_token_id"),
            generation.get("eos_token_id"),
        ];
        let eos: BTreeSet<u32> = sources.into_iter().flatten().flat_map(token_ids).collect();
        let tokenizer = read(&dir.join("tokenizer.json"))?.map(|bytes| sha256(&bytes));
        let template = TemplateSources::read(dir)?.map(|sources| sources.fingerprint());
        Ok(Vocabulary {
            size: size as usize,
            eos_token_ids: eos.into_iter().collect(),
            fingerprint: Fingerprint {
                tokenizer,
                template,
            },
        })
    }
}

/// The chat templates of a base folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TemplateSources {
    pub default: Source,
    /// Used instead when the conversation brings a list of tools.
    pub tool_use: Option<Source>,
}

/// A template as text, and the file it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub name: String,
    pub text: String,
}

impl TemplateSources {
    /// As in transformers, files go before `tokenizer_config.json`: `chat_template.jinja`, and those of
    /// `additional_chat_templates/` that it uses unasked.
    pub fn read(dir: &Path) -> Result<Option<TemplateSources>, Error> {
        let jinja = dir.join("chat_template.jinja");
        let additional =
            |name: &str| Source::read(&dir.join("additional_chat_templates").join(name));
        let tool_use = additional("tool_use.jinja")?;
        let default = match additional("default.jinja")? {
            None => Source::read(&jinja)?,
            default => default,
        };
        match (default, &tool_use) {
            (Some(default), _) => return Ok(Some(TemplateSources { default, tool_use })),
            (None, Some(tool_use)) => {
                return Err(Error::Base {
                    path: jinja,
                    reason: format!("is missing, and {} is for tools alone", tool_use.name),
                });
            }
            (None, None) => {}
        }
        let path = dir.join("tokenizer_config.json");
        let Some(config) = read_json(&path)? else {
            return Ok(None);
        };
        let source = |text: &str| Source {
            name: path.display().to_string(),
            text: text.to_owned(),
        };
        match config.get("chat_template") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(default)) => Ok(Some(TemplateSources {
                default: source(default),
                tool_use: None,
            })),
            Some(Value::Array(named)) => {
                let find = |wanted: &str| {
                    let entry = named.iter().find(|entry| entry["name"] == wanted)?;
                    Some(source(entry["template"].as_str()?))
                };
                let default = find("default").ok_or_else(|| Error::Base {
                    path: path.clone(),
                    reason: "chat_template is a list without a template named \"default\"".into(),
                })?;
                Ok(Some(TemplateSources {
                    default,
                    tool_use: find("tool_use"),
                }))
            }
            Some(_) => Err(Error::Base {
                path,
                reason: "chat_template is neither a text nor a list of named templates".into(),
            }),
        }
    }

    /// A template file given instead of the base's own.
    pub fn from_file(path: &Path) -> Result<TemplateSources, Error> {
        let default = Source::read(path)?.ok_or_else(|| Error::Io {
            path: path.to_owned(),
            source: ErrorKind::NotFound.into(),
        })?;
        Ok(TemplateSources {
            default,
            tool_use: None,
        })
    }

    pub fn fingerprint(&self) -> String {
        let default = &self.default.text;
        match &self.tool_use {
            None => sha256(default.as_bytes()),
            Some(tool_use) => sha256(format!("{default}\0{}", tool_use.text).as_bytes()),
        }
    }
}

impl Source {
    /// None where there is no such file.
    fn read(path: &Path) -> Result<Option<Source>, Error> {
        let Some(bytes) = read(path)? else {
            return Ok(None);
        };
        let text = String::from_utf8(bytes).map_err(|error| Error::Base {
            path: path.to_owned(),
            reason: format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to()),
        })?;
        let name = path.display().to_string();
        Ok(Some(Source { name, text }))
    }
}

/// `bos_token`, `eos_token` and the like by name, whether written as text or as an object.
pub(crate) fn special_tokens(dir: &Path) -> Result<Vec<(String, String)>, Error> {
    let mut tokens = Vec::new();
    for file in ["tokenizer_config.json", "special_tokens_map.json"] {
        let config = read_json(&dir.join(file))?.unwrap_or_default();
        for (name, value) in config.as_object().into_iter().flatten() {
            let text = value
                .as_str()
                .or_else(|| value.get("content").and_then(Value::as_str));
            let known = tokens
                .iter()
                .any(|(known, _): &(String, String)| known == name);
            if let (true, false, Some(text)) = (name.ends_with("_token"), known, text) {
                tokens.push((name.clone(), text.to_owned()));
            }
        }
    }
    Ok(tokens)
}

fn token_ids(value: &Value) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(ids) => ids.iter().filter_map(id).collect(),
        one => id(one).into_iter().collect(),
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

fn read_json(path: &Path) -> Result<Option<Value>, Error> {
    let Some(bytes) = read(path)? else {
        return Ok(None);
    };
    let broken = |error: serde_json::Error| Error::Base {
        path: path.to_owned(),
        reason: format!("broken JSON: {error}"),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(broken)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
