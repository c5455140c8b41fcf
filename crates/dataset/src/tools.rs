//! Are tools declared, called and answered as they should be?

use std::collections::{HashMap, HashSet};
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
        let mut made = HashSet::new();
        for (index, message) in messages.iter().enumerate() {
            let place = || lists.place(index);
            if let Some(calls) = message.tool_calls {
                check_calls(
                    &place,
                    calls.get(),
                    declared.as_deref(),
                    findings,
                    &mut made,
                );
            }
            if matches!(&message.role, Some(Written::Text(role)) if role == "tool") {
                check_result(&place, message, &made, findings);
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

fn check_calls(
    message_place: &dyn Fn() -> String,
    calls: &str,
    declared: Option<&Declared>,
    findings: &mut Findings,
    made: &mut HashSet<String>,
) {
    let calls = match members::value(calls, &format!("{}.tool_calls", message_place())) {
        Ok(Value::Array(calls)) => calls,
        Ok(Value::Null) => return,
        Err(NoValue::Twice(what)) => return findings.add(Rule::DuplicateKey, || what),
        _ => {
            return findings.add(Rule::BadToolCall, || {
                format!("{}.tool_calls is no list", message_place())
            });
        }
    };
    for (number, call) in calls.iter().enumerate() {
        let place = || format!("{}.tool_calls[{number}]", message_place());
        match call.get("id").and_then(Value::as_str) {
            Some(id) => drop(made.insert(id.to_owned())),
            None => findings.add(Rule::BadToolCall, || format!("{} has no id", place())),
        }
        let Some(name) = call.pointer("/function/name").and_then(Value::as_str) else {
            findings.add(Rule::BadToolCall, || {
                format!("{} has no function.name", place())
            });
            continue;
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
                findings.add(Rule::DuplicateKey, || what);
                continue;
            }
            _ => {
                findings.add(Rule::BadToolCall, || {
                    format!("{}.function.arguments is no JSON object", place())
                });
                continue;
            }
        };
        let Some(declared) = declared else { continue };
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
}

fn check_result(
    place: &dyn Fn() -> String,
    message: &Message,
    made: &HashSet<String>,
    findings: &mut Findings,
) {
    match &message.tool_call_id {
        Some(Written::Text(id)) if made.contains(id.as_ref()) => {}
        Some(Written::Text(id)) => {
            findings.add(Rule::ToolResult, || {
                format!("{} answers the call {id:?}, which was not made", place())
            });
        }
        _ => findings.add(Rule::ToolResult, || {
            format!("{} has no tool_call_id", place())
        }),
    }
}
