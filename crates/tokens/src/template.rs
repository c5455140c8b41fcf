//! Chat templates: messages to text, with the meaning transformers gives them, and which text the
//! assistant generated.
//!
//! `{% generation %}` is no tag minijinja knows. The source is rewritten so that the block becomes a
//! filter block whose filter brackets its text with two noncharacters; they are taken out of the
//! rendering again and leave the spans behind. Text that holds those characters is refused. A `with`
//! block inside keeps what is set there from the rest of the template, as transformers' block does.

use std::ops::Range;
use std::sync::Arc;

use dataset::Message;
use dataset::python_json::tojson;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, ErrorKind};

use crate::{Date, Error, python};

const OPEN: char = '\u{FDD0}';
const CLOSE: char = '\u{FDD1}';
const NAME: &str = "chat_template";

/// A compiled chat template.
pub struct Template {
    environment: Environment<'static>,
    name: Arc<str>,
    marks_generation: bool,
    prints_date: bool,
}

/// A conversation as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    pub text: String,
    /// Byte ranges of `text` inside `{% generation %}` blocks.
    pub generation: Vec<Range<usize>>,
}

impl Template {
    /// Compiles `source`; `name` is what errors call it. Without a date `strftime_now` is not
    /// defined, and templates that look for it take the fixed date they carry.
    pub fn new(name: &str, source: &str, date: Option<Date>) -> Result<Template, Error> {
        let source = source.replace("\r\n", "\n");
        let (source, marks_generation) = generation_blocks_to_filters(&source);
        let syntax_error = |error: minijinja::Error| Error::TemplateSyntax {
            template: name.to_owned(),
            reason: reason(&error),
        };
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build();
        environment.set_syntax(syntax.map_err(syntax_error)?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        python::add_to(&mut environment);
        environment.add_filter("tojson", tojson);
        environment.add_filter("__generation", |body: String| {
            format!("{OPEN}{body}{CLOSE}")
        });
        environment.add_function("raise_exception", |message: String| -> Result<Value, _> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        if let Some(date) = date {
            environment.add_function("strftime_now", move |format: String| {
                date.strftime(&format).ok_or_else(|| {
                    let detail = format!("strftime_now does not know the format {format:?}");
                    minijinja::Error::new(ErrorKind::InvalidOperation, detail)
                })
            });
        }
        let prints_date = date.is_some() && source.contains("strftime_now");
        environment
            .add_template_owned(NAME, source)
            .map_err(syntax_error)?;
        Ok(Template {
            environment,
            name: name.into(),
            marks_generation,
            prints_date,
        })
    }

    /// What errors call this template.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Does the template mark what the assistant generates?
    pub fn marks_generation(&self) -> bool {
        self.marks_generation
    }

    /// Does the template ask for the date that it was given?
    pub fn prints_date(&self) -> bool {
        self.prints_date
    }

    /// Renders with these variables (`messages`, `add_generation_prompt`, `bos_token`, …).
    pub fn render(&self, variables: &Value) -> Result<Rendered, Error> {
        let text = self
            .environment
            .get_template(NAME)
            .and_then(|template| template.render(variables))
            .map_err(|error| Error::Render {
                template: self.name.to_string(),
                reason: reason(&error),
            })?;
        if self.marks_generation {
            take_out_marks(&text)
        } else {
            Ok(Rendered {
                text,
                generation: Vec::new(),
            })
        }
    }
}

/// Refuses messages that hold the marks themselves; needed where the template marks generation.
pub(crate) fn refuse_marks(messages: &[Message]) -> Result<(), Error> {
    let mark = |text: &str| {
        text.chars()
            .find(|character| matches!(*character, OPEN | CLOSE))
    };
    for message in messages {
        let texts = [&message.content, &message.name, &message.tool_call_id];
        let said = texts.into_iter().flatten().find_map(|text| mark(text));
        let called = || {
            message
                .tool_calls
                .iter()
                .find_map(|call| mark(&call.to_string()))
        };
        let more = || {
            let mut values = message.more.values();
            values.find_map(|value| mark(&value.to_string()))
        };
        if let Some(character) = said.or_else(called).or_else(more) {
            return Err(Error::ReservedCharacter { character });
        }
    }
    Ok(())
}

fn take_out_marks(marked: &str) -> Result<Rendered, Error> {
    let mut text = String::with_capacity(marked.len());
    let (mut generation, mut open) = (Vec::<Range<usize>>::new(), Vec::new());
    for part in marked.split_inclusive([OPEN, CLOSE]) {
        let plain = part.trim_end_matches([OPEN, CLOSE]);
        text.push_str(plain);
        if part.ends_with(OPEN) {
            open.push(text.len());
        } else if part.ends_with(CLOSE)
            && let Some(start) = open.pop()
            && open.is_empty()
        {
            match generation.last_mut() {
                // Blocks that touch are one turn: its text, then what the template always adds.
                Some(Range { end, .. }) if *end == start => *end = text.len(),
                _ => generation.push(start..text.len()),
            }
        }
    }
    Ok(Rendered { text, generation })
}

/// `{%- generation -%}` to `{%- filter __generation %}{% with -%}`, whitespace marks kept.
fn generation_blocks_to_filters(source: &str) -> (String, bool) {
    let (mut rewritten, mut rest, mut found) = (String::with_capacity(source.len()), source, false);
    while let Some(start) = rest
        .find("{%")
        .into_iter()
        .chain(rest.find("{{"))
        .chain(rest.find("{#"))
        .min()
    {
        let Some(end) = tag_end(rest, start) else {
            break;
        };
        let tag = &rest[start..end];
        rewritten.push_str(&rest[..start]);
        rest = &rest[end..];
        match name_of(tag) {
            "generation" => rewritten.push_str(&two_tags(tag, "filter __generation", "with")),
            "endgeneration" => rewritten.push_str(&two_tags(tag, "endwith", "endfilter")),
            "raw" => {
                let length = raw_length(rest);
                rewritten.push_str(tag);
                rewritten.push_str(&rest[..length]);
                rest = &rest[length..];
            }
            _ => rewritten.push_str(tag),
        }
        found |= name_of(tag) == "generation";
    }
    rewritten.push_str(rest);
    (rewritten, found)
}

/// Where the comment, expression or statement that begins at `start` ends; what is quoted ends nothing.
fn tag_end(source: &str, start: usize) -> Option<usize> {
    let close = match &source[start..start + 2] {
        "{#" => return Some(source[start..].find("#}")? + start + 2),
        "{{" => "}}",
        _ => "%}",
    };
    let (mut quote, mut is_escaped) = (None, false);
    for (at, character) in source[start..].char_indices().skip(2) {
        match quote {
            Some(_) if is_escaped => is_escaped = false,
            Some(_) if character == '\\' => is_escaped = true,
            Some(open) if character == open => quote = None,
            Some(_) => {}
            None if matches!(character, '"' | '\'') => quote = Some(character),
            None if source[start + at..].starts_with(close) => return Some(start + at + 2),
            None => {}
        }
    }
    None
}

/// What stands in a tag that is nothing but a word: `generation` of `{%- generation %}`.
fn name_of(tag: &str) -> &str {
    let inner = tag
        .strip_prefix("{%")
        .and_then(|tag| tag.strip_suffix("%}"));
    inner
        .unwrap_or_default()
        .trim_start_matches(['-', '+'])
        .trim_end_matches(['-', '+'])
        .trim()
}

/// Two tags for one, which share its whitespace marks.
fn two_tags(tag: &str, first: &str, second: &str) -> String {
    let before = tag[2..].starts_with(['-', '+']).then_some(&tag[2..3]);
    let after = tag[..tag.len() - 2]
        .ends_with(['-', '+'])
        .then(|| &tag[tag.len() - 3..tag.len() - 2]);
    let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
    format!("{{%{before} {first} %}}{{% {second} {after}%}}")
}

/// As far as the `{% endraw %}`, or all.
fn raw_length(source: &str) -> usize {
    let mut starts = source.match_indices("{%").map(|(start, _)| start);
    let is_end = |start: &usize| {
        let length = source[*start..].find("%}");
        length.is_some_and(|length| name_of(&source[*start..start + length + 2]) == "endraw")
    };
    starts.find(is_end).unwrap_or(source.len())
}

fn reason(error: &minijinja::Error) -> String {
    let what = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("{what} (line {line} of the template)"),
        None => what,
    }
}

/// The variables transformers passes: special tokens, then the example's own arguments, `documents`
/// perhaps among them, then the three it always sets.
///
/// A long conversation is rendered twice for every turn: what is the same each time (schemas of tools can
/// be longer than the messages) is made a template's value once.
pub struct Variables {
    constant: Vec<(String, Value)>,
}

impl Variables {
    pub fn new(
        special_tokens: &[(String, String)],
        arguments: &serde_json::Map<String, serde_json::Value>,
        tools: Value,
    ) -> Variables {
        let special = special_tokens
            .iter()
            .map(|(name, token)| (name.clone(), Value::from(token.as_str())));
        let arguments = arguments
            .iter()
            .map(|(name, value)| (name.clone(), Value::from(minijinja::value::Serde(value))));
        let documents = [("documents".to_owned(), Value::from(()))];
        let tools = [("tools".to_owned(), tools)];
        Variables {
            constant: special
                .chain(documents)
                .chain(arguments)
                .chain(tools)
                .collect(),
        }
    }

    /// For these messages.
    pub fn of(&self, messages: Value, add_generation_prompt: bool) -> Value {
        let fixed = [
            ("messages", messages),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
        ];
        let fixed = fixed
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        Value::from_pairs(self.constant.iter().cloned().chain(fixed))
    }
}
