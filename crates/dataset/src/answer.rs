//! Is the answer the JSON that was asked for, and always of the same make?

use serde::de::DeserializeSeed;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use crate::check::Options;
use crate::facts::Facts;
use crate::finding::Findings;
use crate::keys;
use crate::record::AnswerKeys;
use crate::rules::Rule;

/// Judges last answers.
pub(crate) struct Answers<'o> {
    options: &'o Options,
    keys: Vec<u64>,
}

impl<'o> Answers<'o> {
    pub fn new(options: &'o Options) -> Answers<'o> {
        Answers {
            options,
            keys: Vec::new(),
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

    /// `answer` is the last one, and the index of its message. Without `line` the label can only be
    /// in the answer.
    pub fn check(
        &mut self,
        line: Option<&str>,
        answer: Option<(usize, &str)>,
        findings: &mut Findings,
        facts: &mut Facts,
    ) {
        if let (true, Some((index, answer))) = (self.options.assistant_json, answer) {
            self.json(index, answer, findings, facts);
        }
        if let Some(path) = &self.options.label {
            let label = match line {
                Some(line) => serde_json::from_str(line)
                    .ok()
                    .and_then(|line| keys::field(&line, path)),
                None => answer.and_then(|(_, answer)| keys::field_of_answer(answer, path)),
            };
            if label.is_some() {
                facts.more().label = label;
            }
        }
    }

    fn json(&mut self, index: usize, answer: &str, findings: &mut Findings, facts: &mut Facts) {
        self.keys.clear();
        let mut parser = serde_json::Deserializer::from_str(answer);
        let parsed = AnswerKeys(&mut self.keys)
            .deserialize(&mut parser)
            .and_then(|()| parser.end());
        if let Err(error) = parsed {
            let error = crate::Error::from(error);
            findings.add(Rule::AssistantNotJson, || {
                format!("messages[{index}].content is not JSON: {error}")
            });
            return;
        }
        if !self.keys.is_empty() {
            facts.more().answer_keys = Some(self.key_hashes());
        }
        if let Some(schema) = &self.options.schema {
            match serde_json::from_str(answer) {
                Ok(value) => matches(schema, &value, index, findings),
                Err(error) => {
                    findings.add(Rule::AssistantNotJson, || {
                        format!("messages[{index}].content is not JSON: {error}")
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
        let order = hash(&self.keys);
        self.keys.sort_unstable();
        (hash(&self.keys), order)
    }
}

/// Every breach of a schema is a finding.
fn matches(schema: &jsonschema::Validator, value: &Value, index: usize, findings: &mut Findings) {
    if schema.is_valid(value) {
        return;
    }
    for error in schema.iter_errors(value) {
        findings.add(Rule::AssistantSchema, || {
            format!(
                "messages[{index}].content{}: {error}",
                error.instance_path()
            )
        });
    }
}
