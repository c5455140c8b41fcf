//! How do the field's other shapes become chat JSONL? ShareGPT, Alpaca, prompt and completion.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::rows::Row;
use crate::{Error, Role};

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

/// The shape that the keys of a record tell, if they tell one.
pub fn shape_of(
    record: &Map<String, Value>,
    names: &NameMap,
    alpaca: Option<AlpacaPrompt>,
) -> Option<Shape> {
    let has = |name: &str| record.contains_key(own(names, name));
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

/// Converts one record; `system` is put before conversations that have none of their own.
pub fn convert(
    row: Row,
    shape: Shape,
    names: &NameMap,
    system: Option<&str>,
) -> Result<Map<String, Value>, Error> {
    let place = row.place;
    let record = Record {
        columns: row.columns,
        names,
    };
    let converted = match shape {
        Shape::Messages => messages(&record, "messages", ["role", "content"], system),
        Shape::ShareGpt => messages(&record, "conversations", ["from", "value"], system),
        Shape::Alpaca(prompt) => alpaca(&record, prompt, system),
        Shape::PromptCompletion => prompt_completion(&record, system),
        Shape::Text => record
            .text("text")
            .map(|text| Map::from_iter([("text".into(), text.into())])),
    };
    converted.map_err(|what| Error::at(place, what))
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

    fn text(&self, name: &str) -> Result<&str, String> {
        match self.get(name) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(format!("{} is no text", own(self.names, name))),
            None => Err(self.missing(name)),
        }
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

fn own<'a>(names: &'a NameMap, name: &'a str) -> &'a str {
    names.get(name).map_or(name, String::as_str)
}

/// A list of messages in anybody's names.
fn messages(
    record: &Record,
    list: &str,
    [role_key, content_key]: [&str; 2],
    system: Option<&str>,
) -> Result<Map<String, Value>, String> {
    // A file may name its keys by our words or by ShareGPT's: --map role=from is --map from=from.
    let named = |ours: &'static str, theirs: &str| match record.names.get(ours) {
        Some(name) => name.clone(),
        None => own(record.names, theirs).to_owned(),
    };
    let (role_key, content_key) = (named("role", role_key), named("content", content_key));
    let Some(Value::Array(said)) = record.get(list) else {
        return Err(match record.get(list) {
            Some(_) => format!("{} is no list", own(record.names, list)),
            None => record.missing(list),
        });
    };
    let own_system = record.text_or_empty("system")?;
    let system = if own_system.is_empty() {
        system
    } else {
        Some(own_system)
    };
    let mut messages = Vec::with_capacity(said.len() + 1);
    let mut calls = Calls::default();
    for (index, message) in said.iter().enumerate() {
        let place = |what: String| format!("{}[{index}]{what}", own(record.names, list));
        let Value::Object(message) = message else {
            return Err(place(" is no object".into()));
        };
        messages.push(one_message(message, &role_key, &content_key, &mut calls).map_err(place)?);
    }
    let has_system = messages
        .first()
        .is_some_and(|first| first["role"] == "system" || first["role"] == "developer");
    if let Some(system) = system.filter(|_| !has_system) {
        messages.insert(0, json!({"role": "system", "content": system}));
    }
    let mut line = Map::from_iter([("messages".to_owned(), Value::Array(messages))]);
    if let Some(tools) = record.get("tools") {
        line.insert("tools".to_owned(), wrapped_tools(tools)?);
    }
    Ok(line)
}

/// The calls that still wait for their answer.
#[derive(Default)]
struct Calls {
    made: usize,
    waiting: std::collections::VecDeque<String>,
}

fn one_message(
    message: &Map<String, Value>,
    role_key: &str,
    content_key: &str,
    calls: &mut Calls,
) -> Result<Value, String> {
    let role = match message.get(role_key) {
        Some(Value::String(role)) => role.as_str(),
        Some(_) => return Err(format!(".{role_key} is no text")),
        None => {
            let keys: Vec<&str> = message.keys().map(String::as_str).collect();
            return Err(format!(
                " has no {role_key:?}; its keys are {}",
                keys.join(", ")
            ));
        }
    };
    let content = message.get(content_key).cloned();
    let converted = match role {
        "function_call" => {
            let text = content.as_ref().and_then(Value::as_str).ok_or(format!(".{content_key} is no text"))?;
            return called(text, calls).map_err(|what| format!(".{content_key}{what}"));
        }
        "human" | "user" => "user",
        "gpt" | "assistant" | "model" | "bot" | "chatgpt" => "assistant",
        "observation" => "tool",
        other => Role::from_name(other).map(Role::name).ok_or_else(|| {
            format!(".{role_key} {other:?} is no known role; known are human, gpt, system, observation, function_call and OpenAI's")
        })?,
    };
    let mut written = Map::from_iter([("role".to_owned(), Value::from(converted))]);
    if let Some(content) = content {
        written.insert("content".to_owned(), content);
    } else if !message.contains_key("tool_calls") {
        return Err(format!(" has no {content_key:?}"));
    }
    for key in ["name", "weight", "tool_calls", "tool_call_id"] {
        if let Some(value) = message.get(key) {
            written.insert(key.to_owned(), value.clone());
        }
    }
    if converted == "tool"
        && !written.contains_key("tool_call_id")
        && let Some(id) = calls.waiting.pop_front()
    {
        written.insert("tool_call_id".to_owned(), id.into());
    }
    Ok(Value::Object(written))
}

/// ShareGPT writes a call as `{"name", "arguments"}`, or a list of these, in the text.
fn called(text: &str, calls: &mut Calls) -> Result<Value, String> {
    let value: Value =
        serde_json::from_str(text).map_err(|error| format!(" holds no JSON: {error}"))?;
    let list = match value {
        Value::Array(list) => list,
        one => vec![one],
    };
    let call = |call: Value| {
        let name = call
            .get("name")
            .and_then(Value::as_str)
            .ok_or(" names no function")?;
        let arguments = match call.get("arguments") {
            Some(Value::String(text)) => text.clone(),
            Some(arguments) => arguments.to_string(),
            None => "{}".to_owned(),
        };
        let id = format!("call_{}", calls.made);
        calls.made += 1;
        calls.waiting.push_back(id.clone());
        Ok(
            json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}),
        )
    };
    let list = list
        .into_iter()
        .map(call)
        .collect::<Result<Vec<Value>, String>>()?;
    Ok(json!({"role": "assistant", "tool_calls": list}))
}

/// Tools as OpenAI has them; ShareGPT's are bare functions, often in a string.
fn wrapped_tools(tools: &Value) -> Result<Value, String> {
    let list = match tools {
        Value::String(text) if text.trim().is_empty() => Vec::new(),
        Value::String(text) => serde_json::from_str(text)
            .map_err(|error| format!("tools holds no JSON list: {error}"))?,
        Value::Array(list) => list.clone(),
        _ => return Err("tools is no list".into()),
    };
    let wrap = |tool: Value| {
        if tool.get("function").is_some() {
            tool
        } else {
            json!({"type": "function", "function": tool})
        }
    };
    Ok(Value::Array(list.into_iter().map(wrap).collect()))
}

fn alpaca(
    record: &Record,
    prompt: AlpacaPrompt,
    system: Option<&str>,
) -> Result<Map<String, Value>, String> {
    let instruction = record.text("instruction")?;
    let input = record.text_or_empty("input")?;
    let own_system = record.text_or_empty("system")?;
    let system = if own_system.is_empty() {
        system
    } else {
        Some(own_system)
    };
    let mut messages = Vec::new();
    if let Some(system) = system {
        messages.push(json!({"role": "system", "content": system}));
    }
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
    Ok(Map::from_iter([(
        "messages".to_owned(),
        Value::Array(messages),
    )]))
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

fn prompt_completion(record: &Record, system: Option<&str>) -> Result<Map<String, Value>, String> {
    if let (Some(Value::Array(prompt)), Some(Value::Array(completion))) =
        (record.get("prompt"), record.get("completion"))
    {
        let mut messages = prompt.clone();
        for message in &mut messages {
            if message.get("role").is_some_and(|role| role == "assistant") {
                message["weight"] = 0.into(); // only the completion is learned
            }
        }
        messages.extend(completion.iter().cloned());
        let columns = Map::from_iter([("messages".to_owned(), Value::Array(messages))]);
        let record = Record {
            columns,
            names: &NameMap::new(),
        };
        return self::messages(&record, "messages", ["role", "content"], system);
    }
    let mut messages = Vec::new();
    if let Some(system) = system {
        messages.push(json!({"role": "system", "content": system}));
    }
    messages.push(json!({"role": "user", "content": record.text("prompt")?}));
    messages.push(json!({"role": "assistant", "content": record.text("completion")?}));
    Ok(Map::from_iter([(
        "messages".to_owned(),
        Value::Array(messages),
    )]))
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
        convert(row, shape, &names, None)
            .map(Value::Object)
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
