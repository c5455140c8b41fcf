//! How does a row become a conversation? By three small Jinja templates over its columns.

mod asked;

use std::collections::BTreeSet;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value as Jinja, ValueKind};
use minijinja::{Environment, UndefinedBehavior, context, escape_formatter};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::{Map, Value};

use asked::Asked;

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
/// that are no identifiers. `tojson` prints like Python's `json.dumps`, a fraction like its repr, null as
/// nothing; text has Python's methods.
#[derive(Debug)]
pub struct Templates {
    environment: Environment<'static>,
    syntax: SyntaxConfig,
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    role: Role,
    asked: Asked,
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
        environment.set_syntax(syntax.clone());
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_formatter(|out, state, value| match f64::try_from(value.clone()) {
            Ok(number) if value.kind() == ValueKind::Number && !value.is_integer() => {
                Ok(out.write_str(&float(number))?)
            }
            _ if value.is_none() => Ok(()), // Python's None is no word to learn
            _ => escape_formatter(out, state, value),
        });
        environment.add_filter("tojson", tojson);
        let mut templates = Templates {
            environment,
            syntax,
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
        let globals: BTreeSet<&str> = self.environment.globals().map(|(name, _)| name).collect();
        let free = template.undeclared_variables(false);
        let asked = Asked::by(source, self.syntax.clone(), &free, &globals).map_err(describe)?;
        self.parts.push(Part { role, asked });
        Ok(())
    }

    /// Checks the header of a table before its first row is read.
    pub fn check_header(&self, header: &[String]) -> Result<(), Error> {
        let place = Place::Line(1);
        let is_there = |column: &str| header.iter().any(|name| name == column);
        self.check_columns(place, &is_there, &|| header.to_vec())
    }

    /// Is every column there that a template cannot do without?
    fn check_columns(
        &self,
        place: Place,
        is_there: &dyn Fn(&str) -> bool,
        columns: &dyn Fn() -> Vec<String>,
    ) -> Result<(), Error> {
        for Part { role, asked } in &self.parts {
            if asked.whole_row && is_there("row") {
                return Err(Error::WholeRow { place, role: *role });
            }
            let mut needed = asked.columns.iter().filter(|(_, without)| !without.missing);
            if let Some((column, _)) = needed.find(|(column, _)| !is_there(column)) {
                return Err(Error::MissingColumn {
                    place,
                    column: column.clone(),
                    columns: columns(),
                });
            }
        }
        Ok(())
    }

    /// The messages of a row, or `None` when it is skipped for an empty cell.
    pub fn render(&self, row: &Row, on_empty: OnEmpty) -> Result<Option<Vec<Message>>, Error> {
        let names = || row.columns.keys().cloned().collect();
        self.check_columns(
            row.place,
            &|column| row.columns.contains_key(column),
            &names,
        )?;
        if on_empty != OnEmpty::Keep
            && let Some(column) = self.empty_cell(&row.columns)
        {
            return match on_empty {
                OnEmpty::Skip => Ok(None),
                _ => Err(Error::EmptyCell {
                    place: row.place,
                    column: column.to_owned(),
                }),
            };
        }
        let mut messages = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let text = self.text(part, row)?;
            let is_blank = text.trim().is_empty();
            match part.role {
                Role::System if is_blank => continue, // as of a record without one
                _ if !is_blank || on_empty == OnEmpty::Keep => {}
                _ if on_empty == OnEmpty::Skip => return Ok(None),
                role => {
                    let place = row.place;
                    return Err(Error::EmptyMessage { place, role });
                }
            }
            messages.push(Message::new(part.role, text));
        }
        Ok(Some(messages))
    }

    /// The first cell that has to say something and does not.
    fn empty_cell(&self, columns: &Map<String, Value>) -> Option<&str> {
        let asked = self.parts.iter().flat_map(|part| &part.asked.columns);
        let mut needed = asked.filter(|(_, without)| !without.empty);
        let is_empty = |column: &str| columns.get(column).is_some_and(is_empty);
        let (column, _) = needed.find(|(column, _)| is_empty(column))?;
        Some(column)
    }

    fn text(&self, part: &Part, row: &Row) -> Result<String, Error> {
        let template = self
            .environment
            .get_template(part.role.name())
            .expect("added in new");
        template
            .render(variables(&row.columns, &part.asked))
            .map_err(|error| {
                Error::at(row.place, format!("--{}: {}", part.role, described(&error)))
            })
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        _ => false,
    }
}

/// A null is an empty text, and no word None for filters to work on, unless the template knows it; a column
/// by the name of a function that the template calls is not in its way.
fn variables(columns: &Map<String, Value>, asked: &Asked) -> Jinja {
    let is_in_the_way = |(name, value): (&String, &Value)| {
        asked.called.contains(name) || (value.is_null() && !asked.nulls.contains(name))
    };
    let row = Jinja::from(Serde(columns));
    if !columns.iter().any(is_in_the_way) {
        return context! { row => row.clone(), ..row };
    }
    let mut texts = columns.clone();
    for (name, value) in &mut texts {
        if value.is_null() && !asked.nulls.contains(name) {
            *value = "".into();
        }
    }
    let row = if asked.whole_row {
        row
    } else {
        Jinja::from(Serde(&texts))
    };
    texts.retain(|name, _| !asked.called.contains(name));
    context! { row => row, ..Jinja::from(Serde(&texts)) }
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

    fn rendered(user: &str, columns: Value) -> Result<String, String> {
        let templates = Templates::new(None, user, "x").unwrap();
        let rendered = templates.render(&row(columns), OnEmpty::Error);
        let mut messages = rendered.map_err(|error| error.to_string())?.unwrap();
        Ok(messages.remove(0).content.unwrap())
    }

    #[test]
    fn a_column_in_brackets_is_held_to_what_any_other_is() {
        let user = r#"q {{ row["the text"] }}"#;
        assert_eq!(rendered(user, json!({"the text": "t"})).unwrap(), "q t");
        let empty = rendered(user, json!({"the text": " "})).unwrap_err();
        assert_eq!(empty, "7: column \"the text\" is empty");
        let missing = rendered(user, json!({"text": "t"})).unwrap_err();
        assert_eq!(missing, "7: no column \"the text\"");
        let optional = r#"q {{ row["the text"] | default("t") }}"#;
        assert_eq!(rendered(optional, json!({"a": 1})).unwrap(), "q t");
        let templates = Templates::new(None, user, "x").unwrap();
        assert!(templates.check_header(&["text".to_owned()]).is_err());
    }

    #[test]
    fn where_a_template_tests_a_column_an_empty_cell_is_what_it_says() {
        let tested = "{{ q }}{% if input %}\n{{ input }}{% endif %}";
        let lax = r#"{{ q }}{{ input | default("", true) }}"#;
        for user in [tested, lax] {
            for empty in [json!(""), json!(null)] {
                let said = rendered(user, json!({"q": "q", "input": empty})).unwrap();
                assert_eq!(said, "q", "{user}");
            }
            assert!(rendered(user, json!({"q": "", "input": "i"})).is_err());
        }
        let strict = rendered(
            r#"{{ q }}{{ input | default("") }}"#,
            json!({"q": "q", "input": ""}),
        );
        assert_eq!(strict.unwrap_err(), "7: column \"input\" is empty");
        let nothing = rendered(r#"{{ q | default("", true) }}"#, json!({"q": ""}));
        assert_eq!(nothing.unwrap_err(), "7: --user says nothing");
        let system = Templates::new(Some("{% if s %}{{ s }}{% endif %}"), "q", "a").unwrap();
        let messages = system.render(&row(json!({"s": ""})), OnEmpty::Error);
        assert_eq!(messages.unwrap().unwrap()[0].role, Role::User);
    }

    #[test]
    fn null_is_written_as_nothing() {
        let templates = Templates::new(None, "q {{ a }}{{ b.c }}", "{{ [a] | tojson }}").unwrap();
        let row = row(json!({"a": null, "b": {"c": null}}));
        let messages = templates.render(&row, OnEmpty::Keep).unwrap().unwrap();
        assert_eq!(messages[0].content.as_deref(), Some("q "));
        assert_eq!(messages[1].content.as_deref(), Some("[null]"));
        for (user, want) in [
            ("q {{ a | trim }}{{ 'x' ~ row['a'] }}{{ a.strip() }}", "q x"),
            ("q {{ a | trim | default('x', true) }}", "q x"),
            ("q {% if a is none %}x{% endif %}{{ a == none }}", "q xTrue"),
            (
                "q {{ {'a': a, 'b': a | default('x')} | tojson }}",
                r#"q {"a": null, "b": null}"#,
            ),
            ("q {{ {'a': a | trim} | tojson }}", r#"q {"a": ""}"#),
            ("q {{ row | tojson }}", r#"q {"a": null, "b": {"c": null}}"#),
        ] {
            let templates = Templates::new(None, user, "x").unwrap();
            let messages = templates.render(&row, OnEmpty::Keep).unwrap().unwrap();
            assert_eq!(messages[0].content.as_deref(), Some(want), "{user}");
        }
    }

    #[test]
    fn a_column_may_have_the_name_of_a_function_or_of_the_row() {
        let all = json!({"range": "1 km", "debug": "no", "row": "r"});
        assert_eq!(
            rendered("{{ range }} {{ debug }}", all.clone()).unwrap(),
            "1 km no"
        );
        let called = "{% for n in range(2) %}{{ n }}{% endfor %}{{ row['range'] }}";
        let error = rendered(called, all.clone()).unwrap_err();
        assert!(error.contains("--user"), "{error}");
        let called = "{% for n in range(2) %}{{ n }}{% endfor %}";
        assert_eq!(rendered(called, all.clone()).unwrap(), "01");
        let missing = rendered("{{ dict }}", all.clone()).unwrap_err();
        assert_eq!(missing, "7: no column \"dict\"");
        let whole = rendered("{{ row }}", all.clone()).unwrap_err();
        assert_eq!(
            whole,
            "7: --user: row is the whole row, and also one of its columns"
        );
        assert_eq!(rendered("{{ row['row'] }}", all).unwrap(), "r");
    }

    #[test]
    fn text_has_pythons_methods() {
        let user = "{{ a.strip() }}{{ row['a'].split()[0] }}";
        assert_eq!(rendered(user, json!({"a": " x y "})).unwrap(), "x yx");
    }

    #[test]
    fn a_template_that_does_not_parse_names_its_flag() {
        let error = Templates::new(None, "{{ note", "x")
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("--user: syntax error"), "{error}");
    }
}
