//! How is an example written down? A line of JSON in any of the field's shapes, read into one of ours.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::{Chat, Example, IGNORED_LABEL, Message, Role};
use crate::{Error, integers, members};

impl Example {
    /// Reads one line of JSONL.
    pub fn from_json(text: &str) -> Result<Example, Error> {
        let mut line: Line = serde_json::from_str(text)?;
        if let Some(what) = preference(line.rejected.is_some(), line.label.as_ref()) {
            return Err(Error::Preference(what));
        }
        if let Some(input_ids) = line.input_ids {
            return tokens(input_ids, line.labels);
        }
        if line.values().any(integers::may_differ) || integers::has_long_number(text) {
            line = exact(text)?;
        }
        if let Some(messages) = line.messages {
            return Ok(Example::Chat(Chat {
                messages: all_messages(messages, "messages")?,
                tools: tools(line.tools)?,
                chat_template_kwargs: template_variables(line.chat_template_kwargs)?,
            }));
        }
        match (line.prompt, line.completion, line.text) {
            (Some(Said::Text(prompt)), Some(Said::Text(completion)), _) => {
                Ok(Example::Completion { prompt, completion })
            }
            (Some(Said::Messages(prompt)), Some(Said::Messages(completion)), _) => {
                let mut messages = all_messages(prompt, "prompt")?;
                for message in messages
                    .iter_mut()
                    .filter(|message| message.role == Role::Assistant)
                {
                    message.weight = Some(0); // only the completion is learned
                }
                messages.extend(all_messages(completion, "completion")?);
                let chat_template_kwargs = template_variables(line.chat_template_kwargs)?;
                Ok(Example::Chat(Chat {
                    messages,
                    tools: tools(line.tools)?,
                    chat_template_kwargs,
                }))
            }
            (Some(_), Some(_), _) => Err(Error::shape(
                "prompt and completion are both text or both lists of messages",
            )),
            (Some(_), None, _) => Err(Error::shape("prompt has no completion beside it")),
            (None, Some(_), _) => Err(Error::shape("completion has no prompt beside it")),
            (None, None, Some(text)) => Ok(Example::Text { text }),
            (None, None, None) => Err(Error::shape(
                "none of the keys messages, prompt and completion, text, input_ids is there",
            )),
        }
    }
}

/// What a line may hold; other keys are the writer's own.
#[derive(Deserialize)]
struct Line {
    messages: Option<Vec<WrittenMessage>>,
    prompt: Option<Said>,
    completion: Option<Said>,
    text: Option<String>,
    input_ids: Option<Vec<u32>>,
    labels: Option<Vec<i64>>,
    rejected: Option<IgnoredAny>,
    label: Option<Value>,
    tools: Option<Value>,
    chat_template_kwargs: Option<Map<String, Value>>,
}

impl Line {
    /// What templates print.
    fn values(&self) -> impl Iterator<Item = &Value> {
        let said = [&self.prompt, &self.completion].into_iter().flatten();
        let said = said.filter_map(|said| match said {
            Said::Messages(messages) => Some(messages),
            Said::Text(_) => None,
        });
        let messages = self.messages.iter().chain(said).flatten();
        let kwargs = self.chat_template_kwargs.iter().flat_map(Map::values);
        let beside = self.tools.iter().chain(kwargs);
        messages.flat_map(WrittenMessage::values).chain(beside)
    }
}

impl WrittenMessage {
    fn values(&self) -> impl Iterator<Item = &Value> {
        self.tool_calls.iter().flatten().chain(self.more.values())
    }
}

/// The same line with every integer as it was written.
fn exact(text: &str) -> Result<Line, Error> {
    const PRINTED: [&str; 6] = [
        "messages",
        "prompt",
        "completion",
        "text",
        "tools",
        "chat_template_kwargs",
    ];
    let mut columns: Map<String, Value> = serde_json::from_str(text)?;
    columns.retain(|name, _| PRINTED.contains(&name.as_str()));
    integers::keep_columns_exact(&mut columns, text)
        .map_err(|(path, what)| Error::Shape(format!("{path} {what}")))?;
    Ok(serde_json::from_value(Value::Object(columns))?)
}

/// What in a line is an answer not to give, if anything is.
pub(crate) fn preference(has_rejected: bool, label: Option<&Value>) -> Option<&'static str> {
    if has_rejected {
        Some("rejected is an answer not to give: this is preference data, as for DPO")
    } else if label == Some(&Value::Bool(false)) {
        Some("label is false, the answer is one not to give: this is preference data, as for KTO")
    } else {
        None
    }
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "prompt or completion is neither text nor a list of messages"
)]
enum Said {
    Text(String),
    Messages(Vec<WrittenMessage>),
}

#[derive(Deserialize)]
struct WrittenMessage {
    role: String,
    content: Option<Content>,
    weight: Option<f64>,
    name: Option<String>,
    tool_calls: Option<Vec<Value>>,
    tool_call_id: Option<String>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Map<String, Value>>),
}

fn all_messages(written: Vec<WrittenMessage>, list: &str) -> Result<Vec<Message>, Error> {
    let place = |index: usize| move |what: String| Error::Shape(format!("{list}[{index}]{what}"));
    written
        .into_iter()
        .enumerate()
        .map(|(index, message)| one_message(message).map_err(place(index)))
        .collect()
}

fn one_message(written: WrittenMessage) -> Result<Message, String> {
    let WrittenMessage {
        role,
        content,
        weight,
        name,
        tool_calls,
        tool_call_id,
        more,
    } = written;
    let role =
        Role::from_name(&role).ok_or_else(|| format!(".role {role:?} is none of {}", names()))?;
    let content = match content {
        Some(Content::Text(text)) => Some(text),
        Some(Content::Parts(parts)) => Some(joined(&parts)?),
        None => None,
    };
    let weight = match weight {
        None => None,
        Some(0.0) => Some(0),
        Some(1.0) => Some(1),
        Some(other) => return Err(format!(".weight is {other}; it is 0 or 1")),
    };
    let mut tool_calls = tool_calls.unwrap_or_default();
    for (index, call) in tool_calls.iter_mut().enumerate() {
        open_arguments(call, &format!(".tool_calls[{index}].function.arguments"))?;
    }
    if content.is_none() && tool_calls.is_empty() {
        return Err(" has neither content nor tool_calls".into());
    }
    Ok(Message {
        role,
        content,
        weight,
        name,
        tool_calls,
        tool_call_id,
        more,
    })
}

/// OpenAI writes the arguments of a call as a string that holds JSON; templates want the object.
fn open_arguments(call: &mut Value, place: &str) -> Result<(), String> {
    let Some(arguments) = call.pointer_mut("/function/arguments") else {
        return Ok(());
    };
    if let Value::String(text) = arguments {
        *arguments = members::exact(text, place)?;
    }
    Ok(())
}

fn joined(parts: &[Map<String, Value>]) -> Result<String, String> {
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        match part.get("text") {
            Some(Value::String(part)) => text.push_str(part),
            _ => {
                return Err(format!(
                    ".content[{index}] is no text part; only text can be learned here"
                ));
            }
        }
    }
    Ok(text)
}

/// A list, or a string that holds one, as some writers do to keep a column of one type.
fn tools(written: Option<Value>) -> Result<Option<Vec<Value>>, Error> {
    match written {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(tools)) => Ok(Some(tools)),
        Some(Value::String(text)) => match members::exact(&text, "tools") {
            Ok(Value::Array(tools)) => Ok(Some(tools)),
            Ok(_) => Err(Error::shape("tools holds no list")),
            Err(what) => Err(Error::Shape(what)),
        },
        Some(_) => Err(Error::shape("tools is no list")),
    }
}

/// The variables of a conversation's own; to transformers one of these names given twice is an error, too.
fn template_variables(written: Option<Map<String, Value>>) -> Result<Map<String, Value>, Error> {
    const GIVEN: [&str; 3] = ["messages", "tools", "add_generation_prompt"];
    let variables = written.unwrap_or_default();
    match GIVEN.iter().find(|name| variables.contains_key(**name)) {
        Some(name) => Err(Error::Shape(format!(
            "chat_template_kwargs.{name} is what every template is given anyway"
        ))),
        None => Ok(variables),
    }
}

fn tokens(input_ids: Vec<u32>, labels: Option<Vec<i64>>) -> Result<Example, Error> {
    let Some(labels) = labels else {
        return Ok(Example::Tokens {
            input_ids,
            labels: None,
        });
    };
    if labels.len() != input_ids.len() {
        return Err(Error::Shape(format!(
            "{} labels for {} input_ids",
            labels.len(),
            input_ids.len()
        )));
    }
    let label = |label: i64| match label {
        IGNORED_LABEL => Ok(None),
        id => u32::try_from(id)
            .map(Some)
            .map_err(|_| Error::Shape(format!("label {id} is no token and not -100"))),
    };
    let labels = labels.into_iter().map(label).collect::<Result<_, _>>()?;
    Ok(Example::Tokens {
        input_ids,
        labels: Some(labels),
    })
}

fn names() -> String {
    Role::ALL.map(Role::name).join(", ")
}
