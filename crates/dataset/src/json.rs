//! How is JSON written for a model to learn? Like Python's json.dumps: `", "` and `": "` between.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};

/// Writes `value` as Python's `json.dumps(value, ensure_ascii=False)` does.
pub fn python_json(value: &Value) -> String {
    let mut text = Vec::new();
    value
        .serialize(&mut Serializer::with_formatter(&mut text, PythonFormatter))
        .expect("a JSON value can be written to memory");
    String::from_utf8(text).expect("JSON is UTF-8")
}

struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }
    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }
    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_spaced_as_python_spaces_it() {
        let value: Value =
            serde_json::from_str(r#"{"code":"B35","more":[1,{"a":null}],"ü":"\n"}"#).unwrap();
        assert_eq!(
            python_json(&value),
            r#"{"code": "B35", "more": [1, {"a": null}], "ü": "\n"}"#
        );
    }
}
