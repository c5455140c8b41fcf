//! A list of messages in anybody's names becomes one in OpenAI's.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};

use super::{Record, Shape, is_empty, own};
use crate::Role;

/// The names of the list, of who speaks and of what is said: a file's own, or those of its shape.
struct Names<'a> {
    list: &'a str,
    role: &'a str,
    content: &'a str,
}

impl<'a> Names<'a> {
    fn of(record: &'a Record, shape: Shape) -> Names<'a> {
        let [list, role, content] = match shape {
            Shape::ShareGpt => ["conversations", "from", "value"],
            _ => ["messages", "role", "content"],
        };
        // A file may name its keys by our words or by ShareGPT's: --map role=from is --map from=from.
        let named = |ours: &str, theirs: &'static str| match record.names.get(ours) {
            Some(name) => name.as_str(),
            None => own(record.names, theirs),
        };
        Names {
            list: own(record.names, list),
            role: named("role", role),
            content: named("content", content),
        }
    }
}

/// The first message that says nothing and calls nothing.
pub(super) fn empty_content(record: &Record, shape: Shape) -> Option<String> {
    let names = Names::of(record, shape);
    let said = record.columns.get(names.list)?.as_array()?;
    let says_nothing = |message: &Value| {
        let (content, role) = (message.get(names.content), message.get(names.role));
        let is_result = content.is_some_and(Value::is_string)
            && role.and_then(Value::as_str).is_some_and(is_tool);
        content.is_some_and(is_empty) && message.get("tool_calls").is_none() && !is_result
    };
    let index = said.iter().position(says_nothing)?;
    Some(format!("{}[{index}].{}", names.list, names.content))
}

/// What a tool returns may be empty.
fn is_tool(role: &str) -> bool {
    matches!(role, "tool" | "function" | "observation")
}

/// A list of messages in anybody's names.
pub(super) fn messages(
    record: &Record,
    shape: Shape,
    system: Option<&str>,
) -> Result<Map<String, Value>, String> {
    let names = Names::of(record, shape);
    let said = match record.columns.get(names.list) {
        Some(Value::Array(said)) => said,
        Some(_) => return Err(format!("{} is no list", names.list)),
        None => return Err(record.missing(names.list)),
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
        let place = |what: String| format!("{}[{index}]{what}", names.list);
        let Value::Object(message) = message else {
            return Err(place(" is no object".into()));
        };
        messages.push(one_message(message, &names, &mut calls).map_err(place)?);
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
    for key in BESIDE_MESSAGES {
        if let Some(value) = record.get(key) {
            line.insert(key.to_owned(), value.clone());
        }
    }
    Ok(line)
}

/// What else a line may say about its conversation.
const BESIDE_MESSAGES: [&str; 3] = ["chat_template_kwargs", "parallel_tool_calls", "metadata"];

/// The calls that still wait for their answer.
#[derive(Default)]
struct Calls {
    made: usize,
    waiting: VecDeque<String>,
}

fn one_message(
    message: &Map<String, Value>,
    names: &Names,
    calls: &mut Calls,
) -> Result<Value, String> {
    let (role_key, content_key) = (names.role, names.content);
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
    // Whatever else there is (weight, tool_calls, reasoning_content, …) may be meant for the template.
    for (key, value) in message {
        if key != role_key && key != content_key && !written.contains_key(key) {
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
