//! The members of a JSON object, down to the innermost, where no key may be there twice.
//!
//! The parser would take the last of two, and nobody knows which is meant.

use std::fmt::{self, Display};

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::integers;

/// Why a text gives no value.
#[derive(Debug, PartialEq)]
pub(crate) enum NoValue {
    /// What the parser says.
    NoJson(String),
    /// Which key is there twice, and where.
    Twice(String),
}

/// Reads the value that stands at a place, such as `messages[0].tool_calls`.
pub(crate) fn value(text: &str, place: &str) -> Result<Value, NoValue> {
    let mut read = serde_json::Deserializer::from_str(text);
    let value = At(Path::Column(place)).deserialize(&mut read);
    value
        .and_then(|value| read.end().map(|()| value))
        .map_err(NoValue::from)
}

/// Can this member of a line be read, at the depth where it stands?
pub(crate) fn member(name: &str, value: &RawValue) -> Result<(), NoValue> {
    let object = format!("{{{}:{value}}}", Value::from(name));
    let Columns(_) = serde_json::from_str(&object)?;
    Ok(())
}

/// As [`value`], with every integer as it was written.
pub(crate) fn exact(text: &str, place: &str) -> Result<Value, String> {
    let mut value = value(text, place).map_err(|error| match error {
        NoValue::Twice(what) => what,
        NoValue::NoJson(what) => format!("{place} holds no JSON: {what}"),
    })?;
    integers::keep_exact(&mut value, text, place)
        .map_err(|(path, what)| format!("{path} {what}"))?;
    Ok(value)
}

impl From<serde_json::Error> for NoValue {
    fn from(error: serde_json::Error) -> NoValue {
        let said = error.to_string();
        let what = said
            .rsplit_once(" at line ")
            .map_or(&*said, |(what, _)| what)
            .to_owned();
        if error.is_data() {
            NoValue::Twice(what)
        } else {
            NoValue::NoJson(what)
        }
    }
}

/// The columns of a row.
pub(crate) struct Columns(pub Map<String, Value>);

impl<'de> Deserialize<'de> for Columns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Columns, D::Error> {
        deserializer.deserialize_map(ColumnsVisitor).map(Columns)
    }
}

/// Where a value stands in its row, and is told in messages: `messages[0].content`.
#[derive(Clone, Copy)]
enum Path<'a> {
    Column(&'a str),
    Member(&'a Path<'a>, &'a str),
    Element(&'a Path<'a>, usize),
}

impl Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Column(name) => f.write_str(name),
            Path::Member(object, name) => write!(f, "{object}.{name}"),
            Path::Element(list, index) => write!(f, "{list}[{index}]"),
        }
    }
}

/// The members of an object, which stands there, or is a row.
fn members<'de, A: MapAccess<'de>>(
    mut read: A,
    object: Option<&Path<'_>>,
) -> Result<Map<String, Value>, A::Error> {
    let mut members = Map::new();
    while let Some(name) = read.next_key::<String>()? {
        match members.entry(name) {
            Entry::Vacant(member) => {
                let name = member.key();
                let path = object.map_or(Path::Column(name), |path| Path::Member(path, name));
                let value = read.next_value_seed(At(path))?;
                member.insert(value);
            }
            Entry::Occupied(member) => {
                let name = member.key();
                return Err(de::Error::custom(match object {
                    None => format!("column {name:?} is there twice"),
                    Some(path) => format!("{path}: key {name:?} is there twice"),
                }));
            }
        }
    }
    Ok(members)
}

struct ColumnsVisitor;

impl<'de> Visitor<'de> for ColumnsVisitor {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, read: A) -> Result<Self::Value, A::Error> {
        members(read, None)
    }
}

/// Reads the value that stands there.
struct At<'a>(Path<'a>);

impl<'de> DeserializeSeed<'de> for At<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for At<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }
    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }
    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(number.into())
    }
    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }
    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut read: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = read.next_element_seed(At(Path::Element(&self.0, values.len())))? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, read: A) -> Result<Value, A::Error> {
        members(read, Some(&self.0)).map(Value::Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_there_twice_is_told_with_its_place_however_deep() {
        for (text, want) in [
            (r#"{"a":1,"b":{},"a":2}"#, "column \"a\" is there twice at "),
            (
                r#"{"messages":[{"role":"user"},{"role":"user","role":"assistant"}]}"#,
                "messages[1]: key \"role\" is there twice at ",
            ),
            (
                r#"{"a":[[{"b":{"c":1,"\u0063":{}}}]]}"#,
                "a[0][0].b: key \"c\" is there twice at ",
            ),
        ] {
            let error = serde_json::from_str::<Columns>(text).map(|_| ());
            let said = error.unwrap_err().to_string();
            assert!(said.starts_with(want), "{said}");
        }
    }

    #[test]
    fn a_value_is_read_where_it_stands() {
        let read = |text| value(text, "tools");
        assert_eq!(read(r#"[{"a": 1}]"#), Ok(serde_json::json!([{"a": 1}])));
        let twice = NoValue::Twice("tools[0]: key \"a\" is there twice".into());
        assert_eq!(read(r#"[{"a": 1, "a": 1}]"#), Err(twice));
        for text in ["[", "[] []", &"[".repeat(1000)] {
            let read = read(text);
            assert!(matches!(read, Err(NoValue::NoJson(_))), "{text}: {read:?}");
        }
    }

    #[test]
    fn any_other_object_is_read_as_the_parser_reads_it() {
        let text = r#"{"a":[{"x":1},{"x":-2.5e300}],"b":{"a":{"a":"é\n"}},"c":null,"d":[true,-7,
            18446744073709551615,12345678901234567890123,-0,-0.0,[],{}],"":""}"#;
        let Columns(read) = serde_json::from_str(text).unwrap();
        let parsed: Value = serde_json::from_str(text).unwrap();
        assert_eq!(Value::Object(read).to_string(), parsed.to_string());
    }
}
