//! Is the answer the JSON that was asked for, and always of the same make?

use serde::de::DeserializeSeed;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use crate::check::Options;
use crate::facts::Facts;
use crate::finding::Findings;
use crate::keys;
use crate::members::{self, NoValue};
use crate::record::AnswerKeys;
use crate::rules::Rule;

/// The last answer of an example.
#[derive(Clone, Copy)]
pub(crate) struct Answer<'a> {
    pub text: &'a str,
    /// Where it stands, for a message.
    pub place: &'a dyn Fn() -> String,
}

/// Judges last answers.
pub(crate) struct Answers<'o> {
    options: &'o Options,
    read: AnswerKeys,
}

impl<'o> Answers<'o> {
    pub fn new(options: &'o Options) -> Answers<'o> {
        Answers {
            options,
            read: AnswerKeys::default(),
        }
    }

    /// Is there any rule to judge by?
    pub fn are_asked_for(&self) -> bool {
        self.options.assistant_json || self.options.label.is_some()
    }

    /// Is the label of an example somewhere below this key of the line?
    pub fn label_is_in(&self, key: &str) -> bool {
        let label = self.options.label.as_deref();
        label.is_some_and(|path| path.split('.').next() == Some(key))
    }

    /// Without `line` the label can only be in the answer.
    pub fn check(
        &mut self,
        line: Option<&str>,
        answer: Option<Answer>,
        findings: &mut Findings,
        facts: &mut Facts,
    ) {
        match answer {
            _ if !self.options.assistant_json => {}
            Some(answer) => self.json(answer, findings, facts),
            None => findings.add(Rule::AssistantNotJson, || {
                "has no answer in words that could be JSON".into()
            }),
        }
        if let Some(path) = &self.options.label {
            let label = match line {
                Some(line) => serde_json::from_str(line)
                    .ok()
                    .and_then(|line| keys::field(&line, path)),
                None => answer.and_then(|answer| keys::field_of_answer(answer.text, path)),
            };
            if label.is_some() {
                facts.more().label = label;
            }
        }
    }

    fn json(&mut self, answer: Answer, findings: &mut Findings, facts: &mut Facts) {
        let Answer { text, place } = answer;
        self.read.keys.clear();
        self.read.has_twice = false;
        let mut parser = serde_json::Deserializer::from_str(text);
        let parsed = (&mut self.read)
            .deserialize(&mut parser)
            .and_then(|()| parser.end());
        if let Err(error) = parsed {
            let error = crate::Error::from(error);
            findings.add(Rule::AssistantNotJson, || {
                format!("{} is not JSON: {error}", place())
            });
            return;
        }
        if self.read.has_twice
            && let Err(NoValue::Twice(what)) = members::value(text, &place())
        {
            findings.add(Rule::DuplicateKey, || what);
        }
        if !self.read.keys.is_empty() {
            facts.more().answer_keys = Some(self.key_hashes());
        }
        if let Some(schema) = &self.options.schema {
            match serde_json::from_str(text) {
                Ok(value) => matches(schema, &value, place, findings),
                Err(error) => {
                    findings.add(Rule::AssistantNotJson, || {
                        format!("{} is not JSON: {error}", place())
                    });
                }
            }
        }
    }

    /// Of the keys as a set, and of the keys in their order.
    fn key_hashes(&mut self) -> (u64, u64) {
        let hash = |keys: &[u64]| {
            keys.iter()
                .fold(0, |hash: u64, key| xxh3_64(&(hash ^ key).to_le_bytes()))
        };
        let keys = &mut self.read.keys;
        let order = hash(keys);
        keys.sort_unstable();
        (hash(keys), order)
    }
}

/// Every breach of a schema is a finding.
fn matches(
    schema: &jsonschema::Validator,
    value: &Value,
    place: &dyn Fn() -> String,
    findings: &mut Findings,
) {
    if schema.is_valid(value) {
        return;
    }
    for error in schema.iter_errors(value) {
        findings.add(Rule::AssistantSchema, || {
            format!("{}{}: {error}", place(), error.instance_path())
        });
    }
}
