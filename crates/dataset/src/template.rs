//! How does a row become a conversation? By three small Jinja templates over its columns.

use std::collections::BTreeSet;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value as Jinja, ValueKind};
use minijinja::{Environment, UndefinedBehavior, context, escape_formatter};
use serde_json::{Map, Value};

use crate::python_json::{float, tojson};
use crate::rows::{Place, Row};
use crate::{Error, Message, Role};

/// What to do with a row one of whose named cells is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnEmpty {
    /// Stop, and name the place.
    #[default]
    Error,
    /// Leave the row out.
    Skip,
    /// Render it all the same.
    Keep,
}

/// The templates of one import. Columns are variables by name; `row` holds them all, for names
/// that are no identifiers. `tojson` prints like Python's `json.dumps`, and a fraction like its repr.
#[derive(Debug)]
pub struct Templates {
    environment: Environment<'static>,
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    role: Role,
    columns: BTreeSet<String>,
    /// Of these columns, what the template says what to do without.
    optional: BTreeSet<String>,
}

/// Is there a `name | default(…)` or `name is defined` in the template?
fn is_optional(source: &str, name: &str) -> bool {
    let name = regex::escape(name);
    let pattern = format!(
        r#"(?:^|[^\w])(?:row\.|row\[\s*["'])?{name}(?:["']\s*\])?\s*(?:\|\s*(?:default|d)\b|is\s+(?:not\s+)?(?:un)?defined\b)"#
    );
    regex::Regex::new(&pattern).is_ok_and(|pattern| pattern.is_match(source))
}

impl Templates {
    /// Compiles the templates; `system` is optional.
    pub fn new(system: Option<&str>, user: &str, assistant: &str) -> Result<Templates, Error> {
        let syntax = SyntaxConfig::builder()
            .keep_trailing_newline(true)
            .build()
            .map_err(|error| Error::Template(described(&error)))?;
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_syntax(syntax);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_formatter(|out, state, value| match f64::try_from(value.clone()) {
            Ok(number) if value.kind() == ValueKind::Number && !value.is_integer() => {
                Ok(out.write_str(&float(number))?)
            }
            _ => escape_formatter(out, state, value),
        });
        environment.add_filter("tojson", tojson);
        let mut templates = Templates {
            environment,
            parts: Vec::new(),
        };
        for (role, source) in [
            (Role::System, system),
            (Role::User, Some(user)),
            (Role::Assistant, Some(assistant)),
        ] {
            if let Some(source) = source {
                templates.add(role, source)?;
            }
        }
        Ok(templates)
    }

    fn add(&mut self, role: Role, source: &str) -> Result<(), Error> {
        let describe =
            |error: minijinja::Error| Error::Template(format!("--{role}: {}", described(&error)));
        self.environment
            .add_template_owned(role.name(), source.to_owned())
            .map_err(describe)?;
        let template = self
            .environment
            .get_template(role.name())
            .map_err(describe)?;
        let globals: BTreeSet<String> = self
            .environment
            .globals()
            .map(|(name, _)| name.to_owned())
            .collect();
        let columns: BTreeSet<String> = template
            .undeclared_variables(true)
            .into_iter()
            .map(|name| match name.split_once('.') {
                Some(("row", column)) => column.to_owned(),
                Some((name, _)) => name.to_owned(),
                None => name,
            })
            .filter(|name| name != "row" && !globals.contains(name))
            .collect();
        let optional = columns
            .iter()
            .filter(|name| is_optional(template.source(), name));
        self.parts.push(Part {
            role,
            optional: optional.cloned().collect(),
            columns,
        });
        Ok(())
    }

    /// Checks the header of a table before its first row is read.
    pub fn check_header(&self, header: &[String]) -> Result<(), Error> {
        match self
            .parts
            .iter()
            .flat_map(|part| part.columns.difference(&part.optional))
            .find(|column| !header.contains(column))
        {
            Some(column) => Err(Error::MissingColumn {
                place: Place::Line(1),
                column: column.clone(),
                columns: header.to_vec(),
            }),
            None => Ok(()),
        }
    }

    /// The messages of a row, or `None` when it is skipped for an empty cell.
    pub fn render(&self, row: &Row, on_empty: OnEmpty) -> Result<Option<Vec<Message>>, Error> {
        let named = |part| {
            let Part {
                columns, optional, ..
            }: &Part = part;
            columns
                .iter()
                .map(|column| (column, optional.contains(column)))
        };
        for (column, is_optional) in self.parts.iter().flat_map(named) {
            let Some(value) = row.columns.get(column) else {
                if is_optional {
                    continue;
                }
                let columns = row.columns.keys().cloned().collect();
                return Err(Error::MissingColumn {
                    place: row.place,
                    column: column.clone(),
                    columns,
                });
            };
            if is_empty(value) {
                match on_empty {
                    OnEmpty::Error => {
                        return Err(Error::EmptyCell {
                            place: row.place,
                            column: column.clone(),
                        });
                    }
                    OnEmpty::Skip => return Ok(None),
                    OnEmpty::Keep => {}
                }
            }
        }
        let variables = variables(&row.columns);
        let message = |part: &Part| {
            let template = self
                .environment
                .get_template(part.role.name())
                .expect("added in new");
            let text = template.render(&variables).map_err(|error| {
                Error::at(row.place, format!("--{}: {}", part.role, described(&error)))
            })?;
            Ok(Message::new(part.role, text))
        };
        self.parts
            .iter()
            .map(message)
            .collect::<Result<_, _>>()
            .map(Some)
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        _ => false,
    }
}

fn variables(columns: &Map<String, Value>) -> Jinja {
    let row = Jinja::from(Serde(columns));
    context! { row => row.clone(), ..row }
}

/// One line for what minijinja reports in several.
fn described(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(columns: Value) -> Row {
        let Value::Object(columns) = columns else {
            panic!("the tests write objects")
        };
        Row {
            place: Place::Line(7),
            columns,
        }
    }

    const ASSISTANT: &str = r#"{{ {"code": code, "description": row["the text"]} | tojson }}"#;

    #[test]
    fn a_row_becomes_a_conversation() {
        let templates =
            Templates::new(Some("Answer.\n"), "Note: {{ note | trim }}", ASSISTANT).unwrap();
        let row = row(json!({"note": " Dhobi itch ", "code": "B35", "the text": "\"Tinea\" & co"}));
        let messages = templates.render(&row, OnEmpty::Error).unwrap().unwrap();
        assert_eq!(messages[0], Message::new(Role::System, "Answer.\n"));
        assert_eq!(messages[1], Message::new(Role::User, "Note: Dhobi itch"));
        let answer = r#"{"code": "B35", "description": "\"Tinea\" & co"}"#;
        assert_eq!(messages[2], Message::new(Role::Assistant, answer));
    }

    #[test]
    fn a_missing_column_names_the_columns_there_are() {
        let templates = Templates::new(None, "{{ nte }}", "x").unwrap();
        let header = ["note".to_owned(), "code".to_owned()];
        let Err(Error::MissingColumn {
            column, columns, ..
        }) = templates.check_header(&header)
        else {
            panic!()
        };
        assert_eq!((column.as_str(), columns.len()), ("nte", 2));
    }

    #[test]
    fn what_a_template_says_is_written_as_python_writes_it() {
        let row = row(json!({"a": 1e-7, "b": [5e-324, 1e16, 2], "c": -0.0, "ü": "\n"}));
        for (source, want) in [
            (
                "{{ a }} {{ b[0] }} {{ b[1] }} {{ b[2] }} {{ c }}",
                "1e-07 5e-324 1e+16 2 -0.0",
            ),
            (
                "{{ row | tojson }}",
                r#"{"a": 1e-07, "b": [5e-324, 1e+16, 2], "c": -0.0, "ü": "\n"}"#,
            ),
            ("{{ b | tojson(indent=1) }}", "[\n 5e-324,\n 1e+16,\n 2\n]"),
            ("{{ z | default('d') }}{{ row['z z']|d('e') }}", "de"),
            ("{% if row.z is defined %}{{ z }}{% endif %}x", "x"),
        ] {
            let templates = Templates::new(None, source, "x").unwrap();
            templates
                .check_header(&["a", "b", "c", "ü"].map(str::to_owned))
                .unwrap();
            let messages = templates.render(&row, OnEmpty::Error).unwrap().unwrap();
            assert_eq!(messages[0].content.as_deref(), Some(want), "{source}");
        }
        let error = Templates::new(None, "{{ z }}", "{{ zz | default('') }}").unwrap();
        assert!(error.render(&row, OnEmpty::Error).is_err());
    }

    #[test]
    fn an_empty_cell_names_line_and_column_or_is_skipped() {
        let templates = Templates::new(None, "{{ note }}", "x").unwrap();
        let row = row(json!({"note": " ", "code": "B35"}));
        let error = templates.render(&row, OnEmpty::Error).unwrap_err();
        assert_eq!(error.to_string(), "7: column \"note\" is empty");
        assert!(templates.render(&row, OnEmpty::Skip).unwrap().is_none());
    }

    #[test]
    fn a_template_that_does_not_parse_names_its_flag() {
        let error = Templates::new(None, "{{ note", "x")
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("--user: syntax error"), "{error}");
    }
}
