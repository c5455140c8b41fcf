//! A list of messages in anybody's names becomes one in OpenAI's.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};

use super::{Record, Shape, is_empty, own};
use crate::{Role, members};

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
        let list = own(record.names, list);
        // Some files have ShareGPT's name for the list, and OpenAI's for what is in it.
        let first = record.columns.get(list).and_then(|list| list.get(0));
        let has = |key: &str| first.is_some_and(|first| first.get(key).is_some());
        let said = |key: &'static str, openai: &'static str| {
            if has(openai) && !has(key) {
                openai
            } else {
                key
            }
        };
        Names {
            list,
            role: named("role", said(role, "role")),
            content: named("content", said(content, "content")),
        }
    }
}

/// The list itself, or the first message that says nothing and calls nothing.
pub(super) fn empty_content(record: &Record, shape: Shape) -> Option<String> {
    let names = Names::of(record, shape);
    let list = record.columns.get(names.list)?;
    if is_empty(list) {
        return Some(names.list.to_owned());
    }
    let said = list.as_array()?;
    let says_nothing = |message: &Value| {
        let (content, role) = (message.get(names.content), message.get(names.role));
        let is_result = content.is_some_and(Value::is_string)
            && role.and_then(Value::as_str).is_some_and(is_tool);
        let calls = is_call(message.get("tool_calls")) || is_call(message.get("function_call"));
        content.is_some_and(is_empty) && !calls && !is_result
    };
    let index = said.iter().position(says_nothing)?;
    Some(format!("{}[{index}].{}", names.list, names.content))
}

/// Is a function called? Exports of tables write null or an empty list where none is.
fn is_call(written: Option<&Value>) -> bool {
    match written {
        None | Some(Value::Null) => false,
        Some(Value::Array(calls)) => !calls.is_empty(),
        Some(_) => true,
    }
}

/// What a tool returns may be empty.
fn is_tool(role: &str) -> bool {
    matches!(
        &*role.to_ascii_lowercase(),
        "tool" | "function" | "observation" | "tool_response"
    )
}

/// A list of messages in anybody's names.
pub(super) fn messages(record: &Record, shape: Shape) -> Result<Vec<Value>, String> {
    let names = Names::of(record, shape);
    let said = match record.columns.get(names.list) {
        Some(Value::Array(said)) => said,
        Some(_) => return Err(format!("{} is no list", names.list)),
        None => return Err(record.missing(names.list)),
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
    Ok(messages)
}

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
    let converted = match &*role.to_ascii_lowercase() {
        "function_call" | "tool_call" => {
            let text = content.as_ref().and_then(Value::as_str).ok_or(format!(".{content_key} is no text"))?;
            let place = format!(".{content_key}");
            let calls = called(members::exact(text, &place)?, &place, calls)?;
            return Ok(json!({"role": "assistant", "tool_calls": calls}));
        }
        "human" | "user" | "prompter" => "user",
        "gpt" | "assistant" | "model" | "bot" | "chatgpt" | "ai" => "assistant",
        "observation" | "tool_response" => "tool",
        "function" if !calls.waiting.is_empty() => "tool",
        other => Role::from_name(other).map(Role::name).ok_or_else(|| {
            format!(".{role_key} {role:?} is no known role; known are human, gpt, system, observation, function_call and OpenAI's")
        })?,
    };
    let mut written = Map::from_iter([("role".to_owned(), Value::from(converted))]);
    if let Some(content) = content {
        written.insert("content".to_owned(), content);
    } else if !message.contains_key("tool_calls") && !message.contains_key("function_call") {
        return Err(format!(" has no {content_key:?}"));
    }
    // Whatever else there is (weight, tool_calls, reasoning_content, …) may be meant for the template.
    for (key, value) in message {
        if key != role_key && key != content_key && !written.contains_key(key) {
            written.insert(key.to_owned(), value.clone());
        }
    }
    // OpenAI's way before tool calls.
    if let Some(call) = written.get("function_call").filter(|call| call.is_object())
        && !is_call(written.get("tool_calls"))
    {
        let call = called(call.clone(), ".function_call", calls)?;
        written.remove("function_call");
        written.insert("tool_calls".to_owned(), call);
    }
    if converted == "tool"
        && !written.contains_key("tool_call_id")
        && let Some(id) = calls.waiting.pop_front()
    {
        written.insert("tool_call_id".to_owned(), id.into());
    }
    Ok(Value::Object(written))
}

/// Tool calls of what is written as `{"name", "arguments"}`, or as a list of these.
fn called(written: Value, place: &str, calls: &mut Calls) -> Result<Value, String> {
    let list = match written {
        Value::Array(list) => list,
        one => vec![one],
    };
    let call = |call: Value| {
        let name = call
            .get("name")
            .and_then(Value::as_str)
            .ok_or_else(|| format!("{place} names no function"))?;
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
    list.into_iter().map(call).collect()
}

/// Tools as OpenAI has them; ShareGPT's are bare functions, often in a string.
pub(super) fn wrapped_tools(tools: &Value, key: &str) -> Result<Value, String> {
    let list = match tools {
        Value::String(text) => match members::exact(text, key)? {
            Value::Array(list) => list,
            _ => return Err(format!("{key} holds no list")),
        },
        Value::Array(list) => list.clone(),
        _ => return Err(format!("{key} is no list")),
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
