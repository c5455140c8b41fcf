//! How are fields of a hand-made JSON file read so that a mistake is named, not guessed over?

use crate::Error;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// A JSON object together with the file, and the place in it, that it came from.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    path: PathBuf,
    prefix: String,
    fields: Map<String, Value>,
}

impl Object {
    pub fn new(path: &Path, fields: Map<String, Value>) -> Object {
        Object {
            path: path.to_owned(),
            prefix: String::new(),
            fields,
        }
    }

    pub fn read(path: &Path) -> Result<Object, Error> {
        let text = std::fs::read(path).map_err(Error::io(path))?;
        match serde_json::from_slice(&text) {
            Ok(Value::Object(fields)) => Ok(Object::new(path, fields)),
            Ok(_) => Err(Error::file(path, "is not a JSON object")),
            Err(error) => Err(Error::file(path, format!("is not JSON: {error}"))),
        }
    }

    /// The same, or `None` if there is no such file.
    pub fn read_if_there(path: &Path) -> Result<Option<Object>, Error> {
        match path.exists() {
            true => Object::read(path).map(Some),
            false => Ok(None),
        }
    }

    pub fn value(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// A field that is neither absent nor null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    fn parse<T>(
        &self,
        key: &str,
        expected: &str,
        parse: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match parse(value) {
            Some(value) => Ok(Some(value)),
            None => Err(self.error(key, format!("is {value}, not {expected}"))),
        }
    }

    /// A count; sizes beyond 2^40 are refused so that products of them cannot overflow unseen.
    pub fn size(&self, key: &str) -> Result<Option<usize>, Error> {
        self.parse(key, "a positive whole number", |value| {
            let size = value.as_u64().filter(|n| (1..1 << 40).contains(n))?;
            usize::try_from(size).ok()
        })
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>, Error> {
        self.parse(key, "a number", Value::as_f64)
    }

    pub fn boolean(&self, key: &str) -> Result<Option<bool>, Error> {
        self.parse(key, "true or false", Value::as_bool)
    }

    pub fn string(&self, key: &str) -> Result<Option<String>, Error> {
        self.parse(key, "a string", |value| value.as_str().map(str::to_owned))
    }

    pub fn token_id(&self, key: &str) -> Result<Option<u32>, Error> {
        self.parse(key, "a token id", token_id)
    }

    /// One token id, or a list of them.
    pub fn token_ids(&self, key: &str) -> Result<Vec<u32>, Error> {
        let ids = self.parse(key, "a token id or a list of them", |value| match value {
            Value::Array(ids) => ids.iter().map(token_id).collect(),
            id => token_id(id).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default())
    }

    pub fn object(&self, key: &str) -> Result<Option<Object>, Error> {
        let fields = self.parse(key, "an object", |value| value.as_object().cloned())?;
        Ok(fields.map(|fields| Object {
            path: self.path.clone(),
            prefix: format!("{}{key}.", self.prefix),
            fields,
        }))
    }

    pub fn error(&self, key: &str, message: impl Into<String>) -> Error {
        Error::file(
            &self.path,
            format!("{}{key} {}", self.prefix, message.into()),
        )
    }
}

fn token_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}
