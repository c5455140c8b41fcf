//! Which columns does a template ask for, and does it say what to do without them?
//!
//! Read off its words: minijinja tells the free variables of a template, but of `row["a column"]` only
//! that it asks for `row`, and nothing of what is tested.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use minijinja::Error;
use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;

/// What a template asks of a row.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub columns: BTreeMap<String, Without>,
    /// It says `row`, and not which column of it.
    pub whole_row: bool,
    /// Columns whose null it writes as JSON or compares; anywhere else a null is an empty text.
    pub nulls: BTreeSet<String>,
    /// Functions of Jinja's that it calls; a column of that name is not meant.
    pub called: BTreeSet<String>,
}

/// Does the template say what to do where a column is missing, or a cell is empty?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Without {
    pub missing: bool,
    pub empty: bool,
}

impl Asked {
    /// Of the `free` variables those are columns that are neither `row` nor a function that is called.
    pub fn by(
        source: &str,
        syntax: SyntaxConfig,
        free: &HashSet<String>,
        functions: &BTreeSet<&str>,
    ) -> Result<Asked, Error> {
        let words = words(source, syntax)?;
        let words: Vec<&str> = words.iter().map(|word| &**word).collect();
        let mut asked = Asked::default();
        let mut condition = Condition::default();
        for (at, word) in words.iter().enumerate() {
            condition.pass(word);
            let (before, rest) = (&words[..at], &words[at + 1..]);
            if !free.contains(*word) || is_of_another(before, rest) {
                continue;
            }
            let (column, length) = match (*word, rest) {
                ("row", rest) => match column_of_row(rest) {
                    Some(found) => found,
                    None => {
                        asked.whole_row = true;
                        continue;
                    }
                },
                (name, ["(", ..]) if functions.contains(name) => {
                    asked.called.insert(name.to_owned());
                    continue;
                }
                (name, _) => (name, 0),
            };
            let without = without(before, rest, length, condition.is_open());
            if wants_null(&rest[length..]) {
                asked.nulls.insert(column.to_owned());
            }
            let known = asked.columns.entry(column.to_owned()).or_default();
            known.missing |= without.missing;
            known.empty |= without.empty;
        }
        let Asked {
            columns, called, ..
        } = &mut asked;
        called.retain(|name| !columns.contains_key(name));
        Ok(asked)
    }
}

/// The words of a template's tags: names, marks, and texts behind a quote.
fn words(source: &str, syntax: SyntaxConfig) -> Result<Vec<Cow<'_, str>>, Error> {
    let word = |token| -> Cow<str> {
        match token {
            Token::Ident(name) => name.into(),
            Token::Str(text) => format!("\"{text}").into(),
            Token::String(text) => format!("\"{text}").into(),
            Token::Dot => ".".into(),
            Token::Comma => ",".into(),
            Token::Pipe => "|".into(),
            Token::Assign => "=".into(),
            Token::ParenOpen => "(".into(),
            Token::ParenClose => ")".into(),
            Token::BracketOpen | Token::BraceOpen => "[".into(),
            Token::BracketClose | Token::BraceClose => "]".into(),
            Token::VariableEnd | Token::BlockEnd => END.into(),
            _ => OTHER.into(),
        }
    };
    tokenize(source, false, syntax)
        .map(|read| read.map(|(token, _)| word(token)))
        .collect()
}

/// The end of a tag.
const END: &str = "}}";
/// A word that says nothing of columns.
const OTHER: &str = "?";

/// An attribute, a filter, a test, or the name of an argument.
fn is_of_another(before: &[&str], rest: &[&str]) -> bool {
    let is_part = matches!(before, [.., "." | "|" | "is"] | [.., "is", "not"]);
    is_part || matches!(rest, ["=", ..])
}

/// The column in what follows `row`, and how many words name it.
fn column_of_row<'w>(rest: &[&'w str]) -> Option<(&'w str, usize)> {
    match rest {
        ["[", name, "]", ..] => Some((name.strip_prefix('"')?, 3)),
        [".", "get", "(", name, ..] => Some((name.strip_prefix('"')?, 4)),
        [".", _, "(", ..] => None, // row.items()
        [".", name, ..] => Some((name, 2)),
        _ => None,
    }
}

/// What is said of a column whose name ends `length` words into `rest`.
fn without(before: &[&str], rest: &[&str], length: usize, is_in_condition: bool) -> Without {
    let (name, rest) = rest.split_at(length);
    let asks_presence = matches!(
        rest,
        ["is", "defined" | "undefined", ..] | ["is", "not", "defined" | "undefined", ..]
    );
    let is_operand = matches!(rest, ["or" | "and", ..]) || matches!(before, [.., "not"]);
    let mut without = Without {
        missing: asks_presence || name.get(1..3) == Some(&["get", "("]), // which gives None
        empty: (is_in_condition && !asks_presence) || is_operand,
    };
    let mut rest = rest;
    let mut is_first = true;
    while let ["|", filter, more @ ..] = rest {
        let (arguments, after) = arguments(more);
        if matches!(*filter, "default" | "d") {
            without.missing |= is_first;
            without.empty |= matches!(arguments, [.., ",", "true" | "True"]);
        }
        (rest, is_first) = (after, false);
    }
    without
}

/// Is a column written as JSON or compared with none in the tag that goes on so, and not made a text first?
fn wants_null(rest: &[&str]) -> bool {
    let is_text =
        matches!(rest, ["|", filter, ..] if !matches!(*filter, "tojson" | "default" | "d"));
    let mut tag = rest.iter().take_while(|word| **word != END);
    !is_text && tag.any(|word| matches!(*word, "tojson" | "none" | "None"))
}

/// The words between the parentheses that follow, if any do, and those after them.
fn arguments<'s, 'w>(words: &'s [&'w str]) -> (&'s [&'w str], &'s [&'w str]) {
    if words.first() != Some(&"(") {
        return (&[], words);
    }
    let mut depth = 0;
    for (at, word) in words.iter().enumerate() {
        match *word {
            "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return (&words[1..at], &words[at + 1..]);
        }
    }
    (&[], &[])
}

/// Are we between `if` and what is done then? `{% if … %}`, and `… if … else …`.
#[derive(Default)]
struct Condition {
    depth: i32,
    /// The depth of the `if`.
    open: Option<i32>,
}

impl Condition {
    fn pass(&mut self, word: &str) {
        match word {
            "if" | "elif" => self.open = Some(self.depth),
            "else" | END => self.open = None,
            "(" | "[" => self.depth += 1,
            ")" | "]" => self.depth -= 1,
            "," if self.open == Some(self.depth) => self.open = None,
            _ => {}
        }
        if self.open.is_some_and(|open| self.depth < open) {
            self.open = None;
        }
    }

    fn is_open(&self) -> bool {
        self.open.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(source: &str) -> Asked {
        let mut environment = minijinja::Environment::new();
        environment.add_template("t", source).unwrap();
        let template = environment.get_template("t").unwrap();
        let functions = environment.globals().map(|(name, _)| name).collect();
        let free = template.undeclared_variables(false);
        Asked::by(source, SyntaxConfig::default(), &free, &functions).unwrap()
    }

    #[test]
    fn a_column_is_found_and_what_is_said_of_it() {
        for (source, column, missing, empty) in [
            ("{{ a }}", "a", false, false),
            ("{{ row.a | trim }}", "a", false, false),
            ("{{ row['a b'] }}", "a b", false, false),
            (r#"{{ row["a \"b\""] }}"#, "a \"b\"", false, false),
            ("{{ row.get('a b') }}", "a b", true, false),
            ("{{ f(x=a) }}", "a", false, false),
            ("{{ {'b': a} | tojson }}", "a", false, false),
            ("{{ row['a b'] | default('') }}", "a b", true, false),
            ("{{ a | d('x, true') }}", "a", true, false),
            ("{{ a | default(f(1), true) }}", "a", true, true),
            ("{{ row['a'] | trim | d('', True) }}", "a", false, true),
            ("{% if a is defined %}{{ a }}{% endif %}", "a", true, false),
            ("{% if a is not undefined %}x{% endif %}", "a", true, false),
            ("{% if a %}\n{{ a }}{% endif %}", "a", false, true),
            ("{% if f(row['a'] | trim) %}x{% endif %}", "a", false, true),
            ("{{ 'x' if a else 'y' }}", "a", false, true),
            ("{{ ['x' if b, a] }}", "a", false, false),
            ("{{ f('x' if b) ~ a }}", "a", false, false),
            ("{{ 'x' if b else a }}", "a", false, false),
            ("{% if b %}{{ a }}{% endif %}", "a", false, false),
            ("{{ a or 'x' }}", "a", false, true),
            ("{{ not a }}", "a", false, true),
        ] {
            let asked = asked(source);
            let want = Some(&Without { missing, empty });
            assert_eq!(asked.columns.get(column), want, "{source}");
            assert!(!asked.whole_row, "{source}");
        }
    }

    #[test]
    fn what_is_no_column_is_none() {
        for source in [
            "row a {# {{ b }} #} {% raw %}{{ c }}{% endraw %}",
            "{% for a in range(3) %}{{ a.b | join }}{% endfor %}",
            "{% set a = namespace(b=1) %}{{ a.b is odd }}",
        ] {
            let asked = asked(source);
            assert!(asked.columns.is_empty() && !asked.whole_row, "{source}");
        }
        assert!(asked("{{ row | tojson }}").whole_row);
        assert!(asked("{% for k, v in row.items() %}{{ k }}{% endfor %}").whole_row);
        assert!(asked("{{ range(3) }}").called.contains("range"));
        assert!(asked("{{ range }}").columns.contains_key("range"));
    }
}
