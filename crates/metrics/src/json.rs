//! Does the answer parse as JSON, and do its fields hold what the reference's hold?

use serde_json::Value;

/// The whole text as one JSON value, as a program reading the answer would parse it: no prose around it, no code
/// fence. `None` when it is anything else. An integer beyond 64 bits becomes a string of its digits.
pub fn parse(text: &str) -> Option<Value> {
    let text = text.trim();
    let value = serde_json::from_str(text).ok()?;
    match long_integers_quoted(text) {
        Some(quoted) => serde_json::from_str(&quoted).ok(),
        None => Some(value),
    }
}

/// serde_json would round these to an f64, in which neighbours are the same.
fn long_integers_quoted(text: &str) -> Option<String> {
    let mut quoted = String::new();
    let (mut copied, mut at, mut in_string) = (0, 0, false);
    while let Some(byte) = text.as_bytes().get(at) {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => at += 1,
            b'-' | b'0'..=b'9' if !in_string => {
                let of_number =
                    |b: &u8| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
                let length = text.as_bytes()[at..].iter().take_while(|b| of_number(b));
                let end = at + length.count();
                let number = &text[at..end];
                let is_integer = !number.contains(['.', 'e', 'E']);
                if is_integer && number.parse::<i64>().is_err() && number.parse::<u64>().is_err() {
                    quoted.extend([&text[copied..at], "\"", number, "\""]);
                    copied = end;
                }
                at = end - 1;
            }
            _ => {}
        }
        at += 1;
    }
    (copied > 0).then(|| quoted + &text[copied..])
}

/// The first JSON object anywhere in the text: what a forgiving reader could still fish out of prose.
pub fn find_object(text: &str) -> Option<Value> {
    text.match_indices('{').find_map(|(start, _)| {
        let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>();
        values.next()?.ok()?;
        parse(&text[start..start + values.byte_offset()])
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

/// Same JSON value: key order is irrelevant, 1 and 1.0 are the same number. Integers are the same by their digits, of
/// which an f64 holds 15.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => {
            a.as_f64() == b.as_f64()
        }
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

/// F1 of two lists as sets, in 0..=1: order and repetition do not count, what is no list is a set of one. Two empty
/// sets agree.
pub fn set_f1(reference: &Value, prediction: &Value) -> f64 {
    let (reference, prediction) = (distinct(reference), distinct(prediction));
    let is_shared = |value: &&&Value| prediction.iter().any(|other| same(value, other));
    let shared = reference.iter().filter(is_shared).count();
    match reference.len() + prediction.len() {
        0 => 1.0,
        all => 2.0 * shared as f64 / all as f64,
    }
}

fn distinct(value: &Value) -> Vec<&Value> {
    let values = match value {
        Value::Array(values) => values.as_slice(),
        one => std::slice::from_ref(one),
    };
    let mut distinct: Vec<&Value> = Vec::new();
    for value in values {
        if !distinct.iter().any(|known| same(known, value)) {
            distinct.push(value);
        }
    }
    distinct
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
    fn neighbouring_integers_are_different_however_long() {
        for (a, b, expected) in [
            ("73211009000000101", "73211009000000102", false),
            ("18446744073709551615", "18446744073709551614", false),
            ("-9223372036854775808", "-9223372036854775807", false),
            ("73211009000000101", "73211009000000101", true),
            ("123456789012345678901", "123456789012345678902", false),
            ("-123456789012345678901", "-123456789012345678901", true),
            ("6.02214076e23", "602214076000000000000000.0", true),
            ("3", "3.0", true),
        ] {
            let of = |number: &str| parse(&format!(r#"{{"\"7":[{number}]}}"#)).unwrap();
            assert_eq!(same(&of(a), &of(b)), expected, "{a} {b}");
            let found = find_object(&format!("so {{\"n\": {a}}}.")).unwrap();
            assert_eq!(same(&found["n"], &of(b)["\"7"][0]), expected, "{a} {b}");
        }
        assert!(parse("{123456789012345678901: 1}").is_none());
        assert!(parse("0123456789012345678901").is_none());
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
