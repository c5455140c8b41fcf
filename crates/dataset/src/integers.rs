//! Is every number what was written? Beyond 64 bits the parser rounds, integers and decimals alike, and
//! makes -0 a fraction.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// 2⁶³: whatever the parser has rounded is at least as large.
const LARGE: f64 = 9_223_372_036_854_775_808.0;

/// A decimal of fewer digits comes back as it was written.
const SAFE_DIGITS: usize = 15;

/// Where a rounded number stands, and what is said about it.
type Rounded = (String, String);

/// Makes -0 the integer 0, as Python reads it, and refuses numbers that were rounded. `text` is what
/// the columns were read from.
pub(crate) fn keep_columns_exact(
    columns: &mut Map<String, Value>,
    text: &str,
) -> Result<(), Rounded> {
    if !columns.values().any(may_differ) && !has_long_number(text) {
        return Ok(());
    }
    let mut written: HashMap<String, &RawValue> = read(text);
    for (name, value) in columns {
        if let Some(written) = written.remove(name) {
            restore(value, written.get(), name)?;
        }
    }
    Ok(())
}

/// The same for a value that stands at `place`.
pub(crate) fn keep_exact(value: &mut Value, text: &str, place: &str) -> Result<(), Rounded> {
    if may_differ(value) || has_long_number(text) {
        restore(value, text.trim(), place)
    } else {
        Ok(())
    }
}

/// Nearly no row holds such a number, and its text is only looked at if one does.
pub(crate) fn may_differ(value: &Value) -> bool {
    match value {
        Value::Number(number) if number.is_f64() => number.as_f64().is_some_and(|number| {
            number.abs() >= LARGE || (number == 0.0 && number.is_sign_negative())
        }),
        Value::Array(values) => values.iter().any(may_differ),
        Value::Object(members) => members.values().any(may_differ),
        _ => false,
    }
}

/// Are there more digits in a row, with a point perhaps, than every decimal of so many is kept with?
pub(crate) fn has_long_number(text: &str) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
    let mut runs = text.as_bytes().split(|byte| !is_part(byte));
    runs.any(|run| run.len() > SAFE_DIGITS + 1)
}

/// The digits of a decimal and the power of ten of the first; 1.10 and 11e-1 are the same.
fn digits(text: &str) -> (String, i64) {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i64 = exponent.parse().unwrap_or(i64::MAX / 2);
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = whole.trim_start_matches('-').to_owned() + fraction;
    let digits = all.trim_start_matches('0');
    let first = whole.trim_start_matches('-').len() as i64 - (all.len() - digits.len()) as i64;
    match digits.trim_end_matches('0') {
        "" => (String::new(), 0),
        digits => (digits.to_owned(), first + exponent),
    }
}

fn restore(value: &mut Value, text: &str, path: &str) -> Result<(), Rounded> {
    match value {
        Value::Number(number) if number.is_f64() && !text.contains(['.', 'e', 'E']) => {
            if text != "-0" {
                let what = "an integer beyond 64 bits that would be rounded; quote it as a string";
                return Err((path.to_owned(), format!("is {text}, {what}")));
            }
            *value = 0.into();
        }
        Value::Number(number) if number.is_f64() => {
            let kept = format!("{:e}", number.as_f64().unwrap_or_default());
            if digits(&kept) != digits(text) {
                let what = "a decimal of more digits than are kept; quote it as a string";
                return Err((path.to_owned(), format!("is {text}, {what}")));
            }
        }
        Value::Array(values) => {
            let written: Vec<&RawValue> = read(text);
            for (index, (value, written)) in values.iter_mut().zip(written).enumerate() {
                restore(value, written.get(), &format!("{path}[{index}]"))?;
            }
        }
        Value::Object(values) => {
            let mut written: HashMap<String, &RawValue> = read(text);
            for (name, value) in values {
                if let Some(written) = written.remove(name) {
                    restore(value, written.get(), &format!("{path}.{name}"))?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn read<'t, T: Deserialize<'t>>(text: &'t str) -> T {
    serde_json::from_str(text).expect("the value was read from this text")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(text: &str) -> Result<String, String> {
        let mut columns = serde_json::from_str(text).unwrap();
        keep_columns_exact(&mut columns, text)
            .map_err(|(path, what)| format!("{path:?} {what}"))?;
        Ok(Value::Object(columns).to_string())
    }

    #[test]
    fn a_decimal_that_is_kept_is_written_as_it_may_be() {
        for text in [
            "1.10",
            "0.30000000000000004",
            "1234567890123456.50",
            "-1.7976931348623157E+308",
            "0.000000000000000000001",
            "100000000000000000000000e-3",
            "0.00000000000000000000",
            "1e22",
        ] {
            exact(&format!(r#"{{"a":{text},"b":"12345678901234567.89"}}"#)).unwrap();
        }
    }

    #[test]
    fn an_integer_is_kept_or_refused_and_a_fraction_is_left_alone() {
        for text in [
            r#"{"a":18446744073709551615,"b":-9223372036854775808}"#,
            r#"{"a":1e+22,"b":[-0.0,1.5]}"#,
        ] {
            assert_eq!(exact(text).unwrap(), text);
        }
        assert_eq!(
            exact(r#"{"a":-0,"b":{"c":[1,-0]}}"#).unwrap(),
            r#"{"a":0,"b":{"c":[1,0]}}"#
        );
        for (text, path) in [
            (r#"{"a":18446744073709551616}"#, "a"),
            (r#"{"a":-9223372036854775809}"#, "a"),
            (r#"{"a":{"b":[1,12345678901234567890123]}}"#, "a.b[1]"),
            (r#"{"a":12345678901234567.89}"#, "a"),
            (r#"{"a":{"b":[-0.12345678901234567890]}}"#, "a.b[0]"),
            (r#"{"a":9007199254740993.5}"#, "a"),
        ] {
            let error = exact(text).unwrap_err();
            assert!(error.starts_with(&format!("{path:?} is ")), "{error}");
        }
    }
}
