//! Does the answer parse as JSON, and do its fields hold what the reference's hold?

use serde_json::Value;

/// The whole text as one JSON value, as a program reading the answer would parse it: no prose around it, no code
/// fence. `None` when it is anything else.
pub fn parse(text: &str) -> Option<Value> {
    serde_json::from_str(text.trim()).ok()
}

/// The first JSON object anywhere in the text: what a forgiving reader could still fish out of prose.
pub fn find_object(text: &str) -> Option<Value> {
    text.match_indices('{').find_map(|(start, _)| {
        let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>();
        values.next().and_then(Result::ok)
    })
}

/// The value at a dotted path, `patient.code`; a key that itself contains dots is tried first.
pub fn field<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    if let Some(found) = value.get(path) {
        return Some(found);
    }
    let (head, tail) = path.split_once('.')?;
    field(value.get(head)?, tail)
}

/// Same JSON value: key order is irrelevant, 1 and 1.0 are the same number.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, value)| b.get(key).is_some_and(|other| same(value, other)))
        }
        _ => a == b,
    }
}

/// True when both hold the field and it is the [`same`]. A field missing on either side is no match.
pub fn field_matches(reference: &Value, prediction: &Value, path: &str) -> bool {
    match (field(reference, path), field(prediction, path)) {
        (Some(reference), Some(prediction)) => same(reference, prediction),
        _ => false,
    }
}

/// A value as a class label: strings without their quotes, everything else as compact JSON.
pub fn label(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_in_prose_is_not_valid_json_but_its_object_is_found() {
        let answer = "Sure! {not this} but ```json\n{\"code\": \"I10\"}\n``` as {asked}";
        assert!(parse(answer).is_none());
        assert_eq!(find_object(answer), Some(json!({"code": "I10"})));
        assert_eq!(find_object("no braces"), None);
        assert_eq!(find_object("{\"code\": \"I1"), None);
    }

    #[test]
    fn key_order_is_irrelevant_and_array_order_is_not() {
        let a = parse(r#"{"code":"I10","n":1,"x":{"p":1,"q":2}}"#).unwrap();
        let b = parse(r#"{"x":{"q":2,"p":1.0},"n":1.0,"code":"I10"}"#).unwrap();
        assert!(same(&a, &b));
        assert!(!same(&json!([1, 2]), &json!([2, 1])));
        assert!(!same(&json!({"a": 1}), &json!({"a": 1, "b": 2})));
    }

    #[test]
    fn a_field_is_found_by_dotted_path_and_a_missing_one_never_matches() {
        let a = json!({"patient": {"code": "I10"}, "a.b": 1});
        assert_eq!(field(&a, "patient.code"), Some(&json!("I10")));
        assert_eq!(field(&a, "a.b"), Some(&json!(1)));
        assert!(!field_matches(&a, &json!({}), "patient.code"));
        assert!(!field_matches(&json!({}), &json!({}), "code"));
        assert_eq!(label(&json!("I10")), "I10");
        assert_eq!(label(&json!(3)), "3");
    }
}
