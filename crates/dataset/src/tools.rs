//! Are tools declared, called and answered as they should be?

use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;

use serde_json::Value;
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64;

use crate::conversation::Lists;
use crate::finding::Findings;
use crate::members::{self, NoValue};
use crate::record::{Message, Written};
use crate::rules::Rule;

/// Judges tools; keeps compiled schemas, since the tools of a file repeat on every line.
#[derive(Default)]
pub(crate) struct Tools {
    compiled: HashMap<u64, Rc<Declared>>,
}

/// The functions of one line, by name, and what is wrong with the list.
#[derive(Default)]
struct Declared {
    functions: HashMap<String, Option<jsonschema::Validator>>,
    wrong: Vec<(Rule, String)>,
}

/// Compiled lists kept at a time; a file with more is compiled anew now and then.
const KEPT: usize = 256;

impl Tools {
    /// Judges what is declared, called and answered.
    pub fn check(
        &mut self,
        tools: Option<&RawValue>,
        messages: &[Message],
        lists: Lists,
        findings: &mut Findings,
    ) {
        let declared = tools.map(|tools| self.declared(tools.get()));
        for (rule, what) in declared.iter().flat_map(|declared| &declared.wrong) {
            findings.add(*rule, || what.clone());
        }
        let calls: Vec<_> = (messages.iter().enumerate())
            .map(|(index, message)| read_calls(&lists.place(index), message, findings))
            .collect();
        let has_ids = calls.iter().flatten().any(has_id)
            || messages
                .iter()
                .any(|message| is_result(message) && names_call(message));
        let mut made = if has_ids {
            Made::ById(HashSet::new())
        } else {
            Made::InOrder(VecDeque::new())
        };
        for (index, (message, calls)) in messages.iter().zip(&calls).enumerate() {
            let place = || lists.place(index);
            for (number, call) in calls.iter().enumerate() {
                let place = || format!("{}.tool_calls[{number}]", place());
                made.note(&place, call, findings);
                check_call(&place, call, declared.as_deref(), findings);
            }
            if is_result(message) {
                made.answer(&place, message, findings);
            }
        }
    }

    fn declared(&mut self, text: &str) -> Rc<Declared> {
        if self.compiled.len() >= KEPT {
            self.compiled.clear();
        }
        self.compiled
            .entry(xxh3_64(text.as_bytes()))
            .or_insert_with(|| Rc::new(Declared::read(text)))
            .clone()
    }
}

impl Declared {
    fn read(text: &str) -> Declared {
        let mut declared = Declared::default();
        let value = match members::value(text, "tools") {
            Ok(Value::String(text)) => members::value(&text, "tools"), // a list in a string is TRL's way
            value => value,
        };
        match value {
            Ok(Value::Array(tools)) => {
                for (index, tool) in tools.iter().enumerate() {
                    declared.add(index, tool);
                }
            }
            Ok(Value::Null) => {}
            Err(NoValue::Twice(what)) => declared.wrong.push((Rule::DuplicateKey, what)),
            _ => declared.wrong("tools is no list".into()),
        }
        declared
    }

    fn add(&mut self, index: usize, tool: &Value) {
        let Some(name) = tool.pointer("/function/name").and_then(Value::as_str) else {
            return self.wrong(format!("tools[{index}] has no function.name"));
        };
        let schema = match tool.pointer("/function/parameters") {
            None | Some(Value::Null) => None,
            Some(parameters) => match jsonschema::validator_for(parameters) {
                Ok(schema) => Some(schema),
                Err(error) => {
                    self.wrong(format!(
                        "tools[{index}].function.parameters is no JSON schema: {error}"
                    ));
                    None
                }
            },
        };
        self.functions.insert(name.to_owned(), schema);
    }

    fn wrong(&mut self, what: String) {
        self.wrong.push((Rule::BadTools, what));
    }
}

/// The calls of a message; none where they cannot be read, which is a finding.
fn read_calls(message_place: &str, message: &Message, findings: &mut Findings) -> Vec<Value> {
    let Some(calls) = message.tool_calls else {
        return Vec::new();
    };
    let place = format!("{message_place}.tool_calls");
    match members::value(calls.get(), &place) {
        Ok(Value::Array(calls)) => return calls,
        Ok(Value::Null) => {}
        Err(NoValue::Twice(what)) => findings.add(Rule::DuplicateKey, || what),
        _ => findings.add(Rule::BadToolCall, || format!("{place} is no list")),
    }
    Vec::new()
}

fn has_id(call: &Value) -> bool {
    call.get("id").is_some_and(|id| !id.is_null())
}

fn is_result(message: &Message) -> bool {
    matches!(&message.role, Some(Written::Text(role)) if role == "tool")
}

fn names_call(message: &Message) -> bool {
    !matches!(message.tool_call_id, None | Some(Written::Null))
}

/// The calls so far, as results name them.
enum Made {
    ById(HashSet<String>),
    /// TRL's way: no call of the line has an id, and results come in the order of the calls, or name the
    /// function. These are the functions whose results are still to come.
    InOrder(VecDeque<String>),
}

impl Made {
    fn note(&mut self, place: &dyn Fn() -> String, call: &Value, findings: &mut Findings) {
        match self {
            Made::ById(made) => match call.get("id").and_then(Value::as_str) {
                Some(id) => drop(made.insert(id.to_owned())),
                None => findings.add(Rule::BadToolCall, || format!("{} has no id", place())),
            },
            Made::InOrder(open) => {
                let name = call.pointer("/function/name").and_then(Value::as_str);
                open.push_back(name.unwrap_or_default().to_owned());
            }
        }
    }

    fn answer(&mut self, place: &dyn Fn() -> String, message: &Message, findings: &mut Findings) {
        let wrong = match (self, &message.tool_call_id, &message.name) {
            (Made::ById(made), Some(Written::Text(id)), _) if made.contains(id.as_ref()) => return,
            (Made::ById(_), Some(Written::Text(id)), _) => {
                format!("answers the call {id:?}, which was not made")
            }
            (Made::ById(_), ..) => "has no tool_call_id".to_owned(),
            (Made::InOrder(open), _, Some(Written::Text(name))) => {
                let called = open.iter().position(|function| function == name);
                match called.and_then(|at| open.remove(at)) {
                    Some(_) => return,
                    None => format!("answers {name:?}, of which no call is open"),
                }
            }
            (Made::InOrder(open), ..) => match open.pop_front() {
                Some(_) => return,
                None => "answers no call that is open".to_owned(),
            },
        };
        findings.add(Rule::ToolResult, || format!("{} {wrong}", place()));
    }
}

fn check_call(
    place: &dyn Fn() -> String,
    call: &Value,
    declared: Option<&Declared>,
    findings: &mut Findings,
) {
    let Some(name) = call.pointer("/function/name").and_then(Value::as_str) else {
        return findings.add(Rule::BadToolCall, || {
            format!("{} has no function.name", place())
        });
    };
    let arguments = match call.pointer("/function/arguments") {
        Some(Value::String(text)) => Some(members::value(
            text,
            &format!("{}.function.arguments", place()),
        )),
        value => value.cloned().map(Ok),
    };
    let arguments = match arguments {
        Some(Ok(arguments @ Value::Object(_))) => arguments,
        Some(Err(NoValue::Twice(what))) => {
            return findings.add(Rule::DuplicateKey, || what);
        }
        _ => {
            return findings.add(Rule::BadToolCall, || {
                format!("{}.function.arguments is no JSON object", place())
            });
        }
    };
    let Some(declared) = declared else { return };
    match declared.functions.get(name) {
        None => findings.add(Rule::UnknownTool, || {
            format!("{} calls {name:?}, which tools does not declare", place())
        }),
        Some(None) => {}
        Some(Some(schema)) => {
            for error in schema.iter_errors(&arguments) {
                let path = error.instance_path();
                findings.add(Rule::ToolSchema, || {
                    format!("{}.function.arguments{path}: {error}", place())
                });
            }
        }
    }
}
