//! What do values, tests and methods in a chat template mean in Python, where minijinja has them otherwise?

use dataset::python_json::float;
use minijinja::value::{Kwargs, Tuple, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, escape_formatter};
use minijinja_contrib::pycompat::unknown_method_callback;

/// Gives an environment Python's manners.
pub(crate) fn add_to(environment: &mut Environment) {
    environment.set_formatter(|out, state, value| match with_floats(value) {
        Some(text) => Ok(out.write_str(&text)?),
        None => escape_formatter(out, state, value),
    });
    environment.add_filter("string", |state: &State, value: &Value| {
        match with_floats(value) {
            Some(text) => Ok(Value::from(text)),
            None => minijinja::filters::string(state, value),
        }
    });
    environment.add_test("sequence", |value: &Value| {
        // What has a length and takes an index, text and mappings too.
        let kind = value.kind();
        value.is_undefined() || matches!(kind, ValueKind::Seq | ValueKind::String | ValueKind::Map)
    });
    environment.set_unknown_method_callback(|state, value, method, args| {
        match value
            .as_str()
            .and_then(|text| string_method(text, method, args))
        {
            Some(result) => result,
            None => unknown_method_callback(state, value, method, args),
        }
    });
}

/// `str(value)` of a float, or of what holds one; minijinja has the rest right.
fn with_floats(value: &Value) -> Option<String> {
    holds_float(value).then(|| {
        let mut text = String::new();
        write_repr(value, &mut text);
        text
    })
}

fn holds_float(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Number => !value.is_integer(),
        ValueKind::Seq => items(value).iter().any(holds_float),
        ValueKind::Map => pairs(value)
            .iter()
            .any(|(key, item)| holds_float(key) || holds_float(item)),
        _ => false,
    }
}

fn write_repr(value: &Value, out: &mut String) {
    let number = f64::try_from(value.clone());
    match (value.kind(), number) {
        (ValueKind::Number, Ok(number)) if !value.is_integer() => match number {
            number if number.is_nan() => out.push_str("nan"),
            f64::INFINITY => out.push_str("inf"),
            f64::NEG_INFINITY => out.push_str("-inf"),
            number => out.push_str(&float(number)),
        },
        (ValueKind::Seq, _) => {
            let items = items(value);
            let is_tuple = value.downcast_object_ref::<Tuple>().is_some();
            out.push(if is_tuple { '(' } else { '[' });
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                write_repr(item, out);
            }
            out.push_str(match (is_tuple, items.len()) {
                (true, 1) => ",)",
                (true, _) => ")",
                (false, _) => "]",
            });
        }
        (ValueKind::Map, _) => {
            out.push('{');
            for (index, (key, item)) in pairs(value).iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                write_repr(key, out);
                out.push_str(": ");
                write_repr(item, out);
            }
            out.push('}');
        }
        _ => out.push_str(&format!("{value:?}")),
    }
}

fn items(value: &Value) -> Vec<Value> {
    value.try_iter().into_iter().flatten().collect()
}

fn pairs(value: &Value) -> Vec<(Value, Value)> {
    let pair = |key: Value| {
        let item = value.get_item(&key).unwrap_or_default();
        (key, item)
    };
    items(value).into_iter().map(pair).collect()
}

/// The methods of Python's `str` that minijinja does not bring along; none for any other.
fn string_method(text: &str, method: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    Some(match method {
        "rsplit" => rsplit(text, args),
        "partition" => partition(text, args, |part| text.find(part), [text, "", ""]),
        "rpartition" => partition(text, args, |part| text.rfind(part), ["", "", text]),
        "removeprefix" => from_args(args)
            .map(|(prefix,): (&str,)| text.strip_prefix(prefix).unwrap_or(text).into()),
        "removesuffix" => from_args(args)
            .map(|(suffix,): (&str,)| text.strip_suffix(suffix).unwrap_or(text).into()),
        "index" => from_args(args).and_then(|(part,): (&str,)| index(text, text.find(part))),
        "rindex" => from_args(args).and_then(|(part,): (&str,)| index(text, text.rfind(part))),
        "zfill" => from_args(args).map(|(width,): (usize,)| {
            let digits = text.trim_start_matches(['+', '-']);
            let (sign, digits) = match text.len() - digits.len() {
                0 => ("", text),
                _ => text.split_at(1),
            };
            format!("{sign}{}{digits}", fill(text, width, '0')).into()
        }),
        "ljust" => justify(text, args, |text, fill| format!("{text}{fill}")),
        "rjust" => justify(text, args, |text, fill| format!("{fill}{text}")),
        _ => return None,
    })
}

/// `text.rsplit(sep=None, maxsplit=-1)`
fn rsplit(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, most, named): (Option<&Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = match separator {
        None => named.get::<Option<&Value>>("sep")?,
        given => given,
    };
    let separator = separator.filter(|value| !value.is_none() && !value.is_undefined());
    let most = match most {
        None => named.get::<Option<i64>>("maxsplit")?,
        given => given,
    };
    named.assert_all_used()?;
    let pieces = usize::try_from(most.unwrap_or(-1)).map_or(usize::MAX, |most| most + 1);
    let mut parts: Vec<&str> = match separator {
        Some(separator) => {
            let separator = separator.as_str().filter(|separator| !separator.is_empty());
            let separator = separator
                .ok_or_else(|| invalid("rsplit takes a separator that is text and not empty"))?;
            text.rsplitn(pieces, separator).collect()
        }
        None => rsplit_whitespace(text, pieces),
    };
    parts.reverse();
    Ok(parts.into_iter().map(Value::from).collect())
}

/// The last words first; the piece that no more is cut from keeps its inner spaces.
fn rsplit_whitespace(text: &str, pieces: usize) -> Vec<&str> {
    let (mut parts, mut rest) = (Vec::new(), text.trim_end());
    while !rest.is_empty() {
        let start = rest
            .rfind(char::is_whitespace)
            .filter(|_| parts.len() + 1 < pieces);
        let start = start.map_or(0, |at| {
            at + rest[at..].chars().next().map_or(0, char::len_utf8)
        });
        parts.push(&rest[start..]);
        rest = rest[..start].trim_end();
    }
    parts
}

/// What stands before a separator, it, and what stands after it; `unsplit` where it is not there.
fn partition(
    text: &str,
    args: &[Value],
    find: impl Fn(&str) -> Option<usize>,
    unsplit: [&str; 3],
) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(args)?;
    if separator.is_empty() {
        return Err(invalid("the separator is empty"));
    }
    let parts = find(separator).map_or(unsplit, |at| {
        [&text[..at], separator, &text[at + separator.len()..]]
    });
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

/// Bytes to Python's characters.
fn index(text: &str, at: Option<usize>) -> Result<Value, Error> {
    match at {
        Some(at) => Ok(text[..at].chars().count().into()),
        None => Err(invalid("substring not found")),
    }
}

fn justify(
    text: &str,
    args: &[Value],
    join: impl Fn(&str, &str) -> String,
) -> Result<Value, Error> {
    let (width, character): (usize, Option<char>) = from_args(args)?;
    Ok(join(text, &fill(text, width, character.unwrap_or(' '))).into())
}

/// What `text` lacks of a width.
fn fill(text: &str, width: usize, character: char) -> String {
    const WIDEST: usize = 1 << 16; // a template is a stranger's, and memory is ours
    let lacking = width.min(WIDEST).saturating_sub(text.chars().count());
    character.to_string().repeat(lacking)
}

fn invalid(reason: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> String {
        let mut environment = Environment::new();
        add_to(&mut environment);
        environment.render_str(source, ()).unwrap()
    }

    /// Each with what Python 3.11 and Jinja2 3.1.6 print.
    #[test]
    fn values_tests_and_methods_are_pythons() {
        for (expression, printed) in [
            ("1e-5", "1e-05"),
            ("1e16", "1e+16"),
            ("0.5", "0.5"),
            ("[1e-5, 'a', none, 2]", "[1e-05, 'a', None, 2]"),
            ("{'x': [1e22]}", "{'x': [1e+22]}"),
            ("(1e-5, 1)", "(1e-05, 1)"),
            ("(1e16|string) ~ '!'", "1e+16!"),
            ("'a' is sequence", "True"),
            ("{} is sequence", "True"),
            ("[] is sequence", "True"),
            ("1 is sequence", "False"),
            ("none is sequence", "False"),
            ("'a,b,c'.rsplit(',', 1)", "['a,b', 'c']"),
            ("'a,b,c'.rsplit(',')", "['a', 'b', 'c']"),
            ("'a,b,c'.rsplit(',', maxsplit=1)", "['a,b', 'c']"),
            ("' a  b c '.rsplit()", "['a', 'b', 'c']"),
            ("' a  b c '.rsplit(none, 1)", "[' a  b', 'c']"),
            ("'a=b=c'.partition('=')", "('a', '=', 'b=c')"),
            ("'abc'.partition('=')", "('abc', '', '')"),
            ("'a=b=c'.rpartition('=')", "('a=b', '=', 'c')"),
            ("'abc'.rpartition('=')", "('', '', 'abc')"),
            ("'abcab'.removeprefix('ab')", "cab"),
            ("'abcab'.removesuffix('ab')", "abc"),
            ("'abc'.removesuffix('x')", "abc"),
            ("'äbc'.index('c')", "2"),
            ("'abcb'.rindex('b')", "3"),
            ("'7'.zfill(3)", "007"),
            ("'-7'.zfill(4)", "-007"),
            ("'abcd'.zfill(3)", "abcd"),
            ("'ab'.ljust(4) ~ '|'", "ab  |"),
            ("'ab'.rjust(4, '.')", "..ab"),
            ("'a b'.split(' ')[-1]", "b"),
        ] {
            assert_eq!(
                render(&format!("{{{{ {expression} }}}}")),
                printed,
                "{expression}"
            );
        }
    }
}
