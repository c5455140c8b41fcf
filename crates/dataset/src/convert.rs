//! How do the field's other shapes become chat JSONL? ShareGPT, Alpaca, prompt and completion.

mod messages;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::rows::{Place, Row};
use crate::template::OnEmpty;
use crate::{Error, example, members};
use messages::{messages, wrapped_tools};

/// The shape of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `{"messages": [{"role", "content"}]}`.
    Messages,
    /// `{"conversations": [{"from", "value"}]}`, with `system` and `tools` beside it.
    ShareGpt,
    /// `{"instruction", "input", "output"}`, with `system` and `history` beside it.
    Alpaca(AlpacaPrompt),
    /// `{"prompt", "completion"}`.
    PromptCompletion,
    /// `{"text"}`: kept as it is, all of it is learned.
    Text,
}

/// How Alpaca's instruction and input become one prompt. Two conventions are in use, and a model
/// tuned with one answers badly to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlpacaPrompt {
    /// `instruction\ninput`, as LLaMA-Factory does.
    Plain,
    /// Stanford's preamble with `### Instruction:`, `### Input:` and `### Response:`.
    Stanford,
}

/// Names that a file uses for the names we know: `role` → `from`.
pub type NameMap = BTreeMap<String, String>;

impl Shape {
    /// The keys of its own.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Shape::Messages => &["messages"],
            Shape::ShareGpt => &["conversations"],
            Shape::Alpaca(_) => &["instruction", "output", "input", "history"],
            Shape::PromptCompletion => &["prompt", "completion"],
            Shape::Text => &["text"],
        }
    }
}

/// The shape that the keys of a record tell, if they tell one.
pub fn shape_of(
    record: &Map<String, Value>,
    names: &NameMap,
    alpaca: Option<AlpacaPrompt>,
) -> Option<Shape> {
    let is_said = |name: &str| {
        record
            .get(own(names, name))
            .is_some_and(|value| !is_empty(value))
    };
    let is_there = |name: &str| record.contains_key(own(names, name));
    // A table of several shapes leaves the cells of the others empty; a shape's own may be, too.
    shape_by(&is_said, alpaca).or_else(|| shape_by(&is_there, alpaca))
}

fn shape_by(has: &dyn Fn(&str) -> bool, alpaca: Option<AlpacaPrompt>) -> Option<Shape> {
    if has("messages") {
        Some(Shape::Messages)
    } else if has("conversations") {
        Some(Shape::ShareGpt)
    } else if has("instruction") && has("output") {
        alpaca.map(Shape::Alpaca)
    } else if has("prompt") && has("completion") {
        Some(Shape::PromptCompletion)
    } else if has("text") {
        Some(Shape::Text)
    } else {
        None
    }
}

/// Refuses a record that holds an answer not to give; a name that the file gives to one of our keys is
/// meant, and what stands beside `chosen` then is meant to be lost. What is `kept` is somebody's own.
pub fn refuse_preference(
    record: &Map<String, Value>,
    names: &NameMap,
    kept: &[String],
    place: Place,
) -> Result<(), Error> {
    let is_meant = |key: &str| names.values().any(|own| own == key);
    let found = |key: &str| {
        let value = record.get(key).filter(|value| !value.is_null());
        value.filter(|_| !is_meant(key) && !is_meant("chosen"))
    };
    // In the shapes that preference data has; a text with a label is a classifier's.
    let is_judged = || {
        let is_judged = match shape_of(record, names, None) {
            Some(Shape::Messages | Shape::ShareGpt | Shape::PromptCompletion) => true,
            Some(Shape::Alpaca(_) | Shape::Text) | None => false,
        };
        is_judged && !kept.iter().any(|kept| kept == "label")
    };
    let what = match example::preference(found("rejected").is_some(), found("label")) {
        None if found("label").is_some_and(says_no) && is_judged() => Some(LABEL_SAYS_NO),
        what => what,
    };
    match what {
        Some(what) => Err(Error::PreferenceAt { place, what }),
        None => Ok(()),
    }
}

/// What is said of a label that is no JSON `false`, and may be another thing.
pub const LABEL_SAYS_NO: &str =
    "label says no: if the answer is one not to give, this is preference data, as for KTO";

/// `false` as tables write it.
fn says_no(label: &Value) -> bool {
    match label {
        Value::String(text) => {
            let text = text.trim().to_ascii_lowercase();
            matches!(&*text, "false" | "f" | "no" | "n" | "0")
        }
        label => label.as_f64() == Some(0.0),
    }
}

/// The keys of a record that its conversion does not read.
pub fn left_behind<'r>(
    record: &'r Map<String, Value>,
    shape: Shape,
    names: &NameMap,
) -> impl Iterator<Item = &'r str> {
    let is_read = move |key: &str| {
        let mut read = shape.keys().iter().chain(&BESIDE);
        read.any(|ours| own(names, ours) == key)
    };
    let is_left = move |(key, value): &(&String, &Value)| !value.is_null() && !is_read(key);
    record.iter().filter(is_left).map(|(key, _)| key.as_str())
}

/// What a record of any shape may say about its conversation: the system prompt, the tools, and what is
/// kept as it is.
const BESIDE: [&str; 6] = [
    "system",
    "tools",
    "functions",
    "chat_template_kwargs",
    "parallel_tool_calls",
    "metadata",
];

/// Converts one record; `system` is put before conversations that have none of their own. `None`
/// when the record is skipped for an empty cell.
pub fn convert(
    row: Row,
    shape: Shape,
    names: &NameMap,
    system: Option<&str>,
    on_empty: OnEmpty,
) -> Result<Option<Map<String, Value>>, Error> {
    let place = row.place;
    let mut columns = row.columns;
    open_json(&mut columns, names).map_err(|what| Error::at(place, what))?;
    let record = Record { columns, names };
    if let Some(column) = record.empty_cell(shape) {
        match on_empty {
            OnEmpty::Error => return Err(Error::EmptyCell { place, column }),
            OnEmpty::Skip => return Ok(None),
            OnEmpty::Keep => {}
        }
    }
    let converted = || -> Result<Map<String, Value>, String> {
        let system = record.system(system)?;
        let mut line = match shape {
            Shape::Text if system.is_some() => {
                return Err(
                    "a text has no messages that a system prompt could stand before".into(),
                );
            }
            Shape::Text => Map::from_iter([("text".to_owned(), record.text("text")?.into())]),
            _ => {
                let mut messages = match shape {
                    Shape::Alpaca(prompt) => alpaca(&record, prompt)?,
                    Shape::PromptCompletion => prompt_completion(&record)?,
                    _ => messages(&record, shape)?,
                };
                let has_system = messages
                    .first()
                    .is_some_and(|first| first["role"] == "system" || first["role"] == "developer");
                if let Some(system) = system.filter(|_| !has_system) {
                    messages.insert(0, json!({"role": "system", "content": system}));
                }
                Map::from_iter([("messages".to_owned(), Value::Array(messages))])
            }
        };
        for key in BESIDE {
            let Some(value) = record.get(key).filter(|value| !is_empty(value)) else {
                continue;
            };
            match key {
                "system" => {}
                "tools" => drop(line.insert(key.to_owned(), wrapped_tools(value, key)?)),
                // OpenAI's way before tools.
                "functions" if line.contains_key("tools") => {
                    return Err("has both tools and functions".into());
                }
                "functions" => drop(line.insert("tools".to_owned(), wrapped_tools(value, key)?)),
                _ => drop(line.insert(key.to_owned(), value.clone())),
            }
        }
        Ok(line)
    };
    converted().map(Some).map_err(|what| Error::at(place, what))
}

/// What is no text in any shape; a table has to write it as text.
const NO_TEXT: [&str; 5] = [
    "messages",
    "conversations",
    "history",
    "chat_template_kwargs",
    "parallel_tool_calls",
];

/// Reads the JSON that a table, which knows nothing but text, holds in its cells.
fn open_json(columns: &mut Map<String, Value>, names: &NameMap) -> Result<(), String> {
    for name in NO_TEXT.into_iter().chain(["metadata"]) {
        let column = own(names, name);
        let Some(value) = columns.get_mut(column) else {
            continue;
        };
        if let Value::String(text) = value
            && !text.trim().is_empty()
            // Somebody's own may be text.
            && (name != "metadata" || text.trim_start().starts_with('{'))
        {
            *value = members::exact(text, column)?;
        }
    }
    Ok(())
}

struct Record<'a> {
    columns: Map<String, Value>,
    names: &'a NameMap,
}

impl Record<'_> {
    fn get(&self, name: &str) -> Option<&Value> {
        self.columns
            .get(own(self.names, name))
            .filter(|value| !value.is_null())
    }

    /// The first cell that has to say something and does not, by the file's name for it.
    fn empty_cell(&self, shape: Shape) -> Option<String> {
        let named: &[&str] = match shape {
            Shape::Alpaca(_) => &["instruction", "output"],
            Shape::PromptCompletion => &["prompt", "completion"],
            Shape::Text => &["text"],
            Shape::Messages | Shape::ShareGpt => return messages::empty_content(self, shape),
        };
        let names = named.iter().map(|name| own(self.names, name));
        let mut empty = names.filter(|name| self.columns.get(*name).is_some_and(is_empty));
        empty.next().map(str::to_owned)
    }

    fn text(&self, name: &str) -> Result<&str, String> {
        match self.get(name) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(format!("{} is no text", own(self.names, name))),
            // Only --on-empty keep comes here with a cell that is there and null.
            None if self.columns.contains_key(own(self.names, name)) => Ok(""),
            None => Err(self.missing(name)),
        }
    }

    /// Its own system prompt, or else the one for all.
    fn system<'a>(&'a self, for_all: Option<&'a str>) -> Result<Option<&'a str>, String> {
        let own = self.text_or_empty("system")?;
        Ok(Some(own).filter(|own| !own.is_empty()).or(for_all))
    }

    fn text_or_empty(&self, name: &str) -> Result<&str, String> {
        if self.get(name).is_none() {
            Ok("")
        } else {
            self.text(name)
        }
    }

    fn missing(&self, name: &str) -> String {
        let keys: Vec<&str> = self.columns.keys().map(String::as_str).collect();
        format!(
            "no column {:?}; the columns are {}",
            own(self.names, name),
            keys.join(", ")
        )
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        _ => false,
    }
}

fn own<'a>(names: &'a NameMap, name: &'a str) -> &'a str {
    names.get(name).map_or(name, String::as_str)
}

fn alpaca(record: &Record, prompt: AlpacaPrompt) -> Result<Vec<Value>, String> {
    let instruction = record.text("instruction")?;
    let input = record.text_or_empty("input")?;
    let input = if input.trim().is_empty() { "" } else { input };
    let mut messages = Vec::new();
    if let Some(history) = record.get("history") {
        let pairs: Vec<[String; 2]> = serde_json::from_value(history.clone())
            .map_err(|_| "history is no list of pairs of text")?;
        for [question, answer] in pairs {
            messages.push(json!({"role": "user", "content": question}));
            messages.push(json!({"role": "assistant", "content": answer}));
        }
    }
    messages.push(json!({"role": "user", "content": alpaca_prompt(prompt, instruction, input)}));
    messages.push(json!({"role": "assistant", "content": record.text("output")?}));
    Ok(messages)
}

/// The prompt of tatsu-lab/stanford_alpaca, or of LLaMA-Factory.
fn alpaca_prompt(prompt: AlpacaPrompt, instruction: &str, input: &str) -> String {
    match (prompt, input.is_empty()) {
        (AlpacaPrompt::Plain, true) => instruction.to_owned(),
        (AlpacaPrompt::Plain, false) => format!("{instruction}\n{input}"),
        (AlpacaPrompt::Stanford, true) => format!(
            "Below is an instruction that describes a task. Write a response that appropriately completes the \
             request.\n\n### Instruction:\n{instruction}\n\n### Response:"
        ),
        (AlpacaPrompt::Stanford, false) => format!(
            "Below is an instruction that describes a task, paired with an input that provides further context. \
             Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n\
             ### Input:\n{input}\n\n### Response:"
        ),
    }
}

fn prompt_completion(record: &Record) -> Result<Vec<Value>, String> {
    if let (Some(Value::Array(prompt)), Some(Value::Array(completion))) =
        (record.get("prompt"), record.get("completion"))
    {
        let list = [&prompt[..], completion].concat();
        let record = Record {
            columns: Map::from_iter([(own(record.names, "messages").to_owned(), list.into())]),
            names: record.names,
        };
        let mut messages = messages(&record, Shape::Messages)?;
        for message in &mut messages[..prompt.len()] {
            if message["role"] == "assistant" {
                message["weight"] = 0.into(); // only the completion is learned
            }
        }
        return Ok(messages);
    }
    Ok(vec![
        json!({"role": "user", "content": record.text("prompt")?}),
        json!({"role": "assistant", "content": record.text("completion")?}),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::Place;

    fn converted(record: Value, shape: Shape, names: &[(&str, &str)]) -> Result<Value, String> {
        let Value::Object(columns) = record else {
            panic!("the tests write objects")
        };
        let names = names
            .iter()
            .map(|(ours, theirs)| (ours.to_string(), theirs.to_string()))
            .collect();
        let row = Row {
            place: Place::Line(3),
            columns,
        };
        convert(row, shape, &names, None, OnEmpty::Error)
            .map(|line| Value::Object(line.expect("nothing is skipped")))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn sharegpt_with_a_call_becomes_openai_messages() {
        let record = json!({"system": "S", "tools": "[{\"name\":\"f\",\"parameters\":{}}]", "conversations": [
            {"from": "human", "value": "q"},
            {"from": "function_call", "value": "{\"name\":\"f\",\"arguments\":{\"a\":1}}"},
            {"from": "observation", "value": "7"},
            {"from": "gpt", "value": "seven"}]});
        let want = json!({"messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "q"},
            {"role": "assistant", "tool_calls": [
                {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}]},
            {"role": "tool", "content": "7", "tool_call_id": "call_0"},
            {"role": "assistant", "content": "seven"}],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]});
        assert_eq!(converted(record, Shape::ShareGpt, &[]).unwrap(), want);
    }

    #[test]
    fn alpaca_has_two_conventions_for_its_prompt() {
        let record =
            json!({"instruction": "Add.", "input": "1 2", "output": "3", "history": [["a", "b"]]});
        let plain = converted(record.clone(), Shape::Alpaca(AlpacaPrompt::Plain), &[]).unwrap();
        assert_eq!(plain["messages"][2]["content"], "Add.\n1 2");
        let stanford = converted(record, Shape::Alpaca(AlpacaPrompt::Stanford), &[]).unwrap();
        let prompt = stanford["messages"][2]["content"].as_str().unwrap();
        assert!(
            prompt.ends_with("### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:"),
            "{prompt}"
        );
    }

    #[test]
    fn a_map_renames_the_keys_of_a_file() {
        let record =
            json!({"dialog": [{"speaker": "user", "says": "q"}, {"speaker": "bot", "says": "a"}]});
        let names = [
            ("messages", "dialog"),
            ("role", "speaker"),
            ("content", "says"),
        ];
        let want = json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]});
        assert_eq!(converted(record, Shape::Messages, &names).unwrap(), want);
    }

    #[test]
    fn an_empty_cell_names_row_and_column_in_every_shape() {
        let alpaca = Shape::Alpaca(AlpacaPrompt::Plain);
        for (record, shape, column) in [
            (
                json!({"prompt": "q", "completion": " "}),
                Shape::PromptCompletion,
                "completion",
            ),
            (
                json!({"instruction": null, "output": "a"}),
                alpaca,
                "instruction",
            ),
            (json!({"text": ""}), Shape::Text, "text"),
            (
                json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": ""}]}),
                Shape::Messages,
                "messages[1].content",
            ),
            (
                json!({"conversations": [{"from": "human", "value": null}]}),
                Shape::ShareGpt,
                "conversations[0].value",
            ),
        ] {
            let error = converted(record, shape, &[]).unwrap_err();
            assert_eq!(error, format!("3: column {column:?} is empty"));
        }
    }

    #[test]
    fn a_tool_may_answer_with_nothing() {
        for shape in [
            json!({"messages": [{"role": "tool", "content": ""}]}),
            json!({"messages": [{"role": "function", "name": "f", "content": ""}]}),
        ] {
            assert!(converted(shape, Shape::Messages, &[]).is_ok());
        }
        let observed = json!({"conversations": [{"from": "observation", "value": ""}]});
        assert!(converted(observed, Shape::ShareGpt, &[]).is_ok());
        let absent = json!({"messages": [{"role": "tool", "content": null}]});
        assert!(converted(absent, Shape::Messages, &[]).is_err());
    }

    #[test]
    fn a_system_prompt_is_not_left_out_in_silence() {
        let row = Row {
            place: Place::Line(3),
            columns: Map::from_iter([("text".to_owned(), json!("t"))]),
        };
        let names = NameMap::new();
        let error = convert(row, Shape::Text, &names, Some("S"), OnEmpty::Error).unwrap_err();
        let want = "3: a text has no messages that a system prompt could stand before";
        assert_eq!(error.to_string(), want);
    }

    #[test]
    fn what_a_conversation_brings_besides_stays_with_it() {
        let line = json!({"messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a", "reasoning_content": "because"}],
            "chat_template_kwargs": {"enable_thinking": true}, "parallel_tool_calls": false});
        assert_eq!(converted(line.clone(), Shape::Messages, &[]).unwrap(), line);
        let tools = json!([{"type": "function", "function": {"name": "f"}}]);
        let split = json!({"prompt": [{"role": "user", "content": "q"}],
            "completion": [{"role": "assistant", "content": "a"}], "tools": tools});
        let joined = converted(split, Shape::PromptCompletion, &[]).unwrap();
        assert_eq!(joined["tools"], tools);
    }

    #[test]
    fn a_missing_column_names_the_place_and_the_columns_there_are() {
        let error = converted(
            json!({"prompt": "q", "answer": "a"}),
            Shape::PromptCompletion,
            &[],
        )
        .unwrap_err();
        assert_eq!(
            error,
            "3: no column \"completion\"; the columns are prompt, answer"
        );
        let error = converted(
            json!({"conversations": [{"from": "cat", "value": "miau"}]}),
            Shape::ShareGpt,
            &[],
        );
        assert!(
            error
                .unwrap_err()
                .starts_with("3: conversations[0].from \"cat\" is no known role")
        );
    }
}
