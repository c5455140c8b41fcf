//! What must the rules about the whole file know of one line?

use serde_json::Value;
use serde_json::value::RawValue;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::Role;
use crate::characters::{Letters, Script};
use crate::keys;
use crate::language::Language;
use crate::minhash::Signature;
use crate::record::{Message, Written};

/// All that is kept of a line that was checked; small, since a file has many.
#[derive(Debug, Default, PartialEq)]
pub struct Facts {
    /// All that is said and by whom, what templates print besides, and what of it is learned.
    pub(crate) example: u128,
    /// What is asked, and under which system prompt.
    pub(crate) prompt: u64,
    /// What is answered last.
    pub(crate) answer: u64,
    pub(crate) script: Script,
    pub(crate) asked_in: Option<Language>,
    pub(crate) answered_in: Option<Language>,
    pub(crate) more: Option<Box<More>>,
}

/// What only some rules ask for.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct More {
    /// The keys of the answer: as a set, and in their order.
    pub answer_keys: Option<(u64, u64)>,
    pub label: Option<String>,
    pub signature: Option<Signature>,
}

impl Facts {
    pub(crate) fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }
}

/// Gathers the facts of a conversation, message by message; its buffers are used again.
#[derive(Debug, Default)]
pub(crate) struct Gatherer {
    /// A hash of each message, and what else is part of the example.
    said: Vec<u8>,
    asked: Vec<u8>,
    /// What the question stands in: the system prompt, tools, calls. 0 where there is nothing of it.
    around: u64,
    answer: u64,
    asked_in: Option<Language>,
    answered_in: Option<Language>,
}

/// What stands in `said` before the hash of something that nearly no message has; roles are smaller.
#[derive(Clone, Copy)]
enum Beside {
    /// An answer that is not learned, by its weight or its place.
    Context = 16,
    Name,
    Calls,
    /// `reasoning_content`, `thinking`, and the like.
    More,
    Tools,
    Kwargs,
}

impl Gatherer {
    pub fn clear(&mut self) {
        let Gatherer { said, asked, .. } = std::mem::take(self);
        self.said = said;
        self.asked = asked;
        self.said.clear();
        self.asked.clear();
    }

    /// Takes a message in. `is_asked`: it comes before the last answer.
    pub fn message(&mut self, role: Role, words: &[u8], is_asked: bool) {
        let hash = xxh3_128(words);
        self.said.push(role as u8);
        self.said.extend_from_slice(&hash.to_le_bytes());
        if is_asked {
            keys::say(&mut self.asked, role, words);
        }
        match role {
            Role::User => self.asked_in = Language::of(words),
            Role::Assistant => {
                self.answered_in = Language::of(words);
                self.answer = hash as u64;
            }
            Role::System | Role::Developer => self.around = keys::rank(self.around, hash as u64),
            _ => {}
        }
    }

    /// Takes in what stands beside the words of the message that was taken in last. Nothing of it is in
    /// a plain line, which is not brought here.
    pub fn beside(&mut self, role: Role, message: &Message, is_context: bool, is_asked: bool) {
        if role == Role::Assistant && is_context {
            self.add(Beside::Context, b"");
        }
        if let Some(Written::Text(name)) = &message.name {
            self.add(Beside::Name, name.as_bytes());
        }
        if let Some(calls) = message.tool_calls {
            self.add(Beside::Calls, &canonical(calls));
            let calls = xxh3_64(&without_ids(calls));
            let is_answer = role == Role::Assistant && !is_asked;
            let of = if is_answer {
                &mut self.answer
            } else {
                &mut self.around
            };
            *of = keys::rank(*of, calls);
        }
        let mut more: Vec<_> = message.more.iter().collect();
        more.retain(|(_, value)| value.get() != "null");
        more.sort_by_key(|(key, _)| key);
        for (key, value) in more {
            self.add(Beside::More, key.as_bytes());
            self.add(Beside::More, &canonical(value));
        }
    }

    /// Takes in what stands beside the messages.
    pub fn around(&mut self, tools: Option<&RawValue>, kwargs: Option<&RawValue>) {
        for (kind, value) in [(Beside::Tools, tools), (Beside::Kwargs, kwargs)] {
            let Some(value) = value.map(canonical) else {
                continue;
            };
            if !matches!(&value[..], b"null" | b"[]" | b"{}") {
                self.add(kind, &value);
                self.around = keys::rank(self.around, xxh3_64(&value));
            }
        }
    }

    fn add(&mut self, kind: Beside, value: &[u8]) {
        self.said.push(kind as u8);
        self.said.extend_from_slice(&xxh3_128(value).to_le_bytes());
    }

    /// What all that came to.
    pub fn facts(&self, letters: &Letters, wants_signature: bool) -> Facts {
        let asked = xxh3_64(&self.asked);
        let mut facts = Facts {
            example: xxh3_128(&self.said),
            prompt: match self.around {
                0 => asked,
                around => keys::rank(asked, around),
            },
            answer: self.answer,
            script: Script::of_most(letters),
            asked_in: self.asked_in,
            answered_in: self.answered_in,
            more: None,
        };
        if wants_signature && !self.asked.is_empty() {
            facts.more().signature = Some(Signature::of(&String::from_utf8_lossy(&self.asked)));
        }
        facts
    }
}

/// The value, however its escapes and spaces are written.
fn canonical(written: &RawValue) -> Vec<u8> {
    match serde_json::from_str::<Value>(written.get()) {
        Ok(value) => value.to_string().into_bytes(),
        Err(_) => written.get().as_bytes().to_vec(), // somebody else's finding
    }
}

/// What is called, by whatever id, and with its arguments in whatever order.
fn without_ids(calls: &RawValue) -> Vec<u8> {
    let Ok(Value::Array(mut calls)) = serde_json::from_str(calls.get()) else {
        return canonical(calls);
    };
    for call in &mut calls {
        if let Value::Object(call) = call {
            call.remove("id");
        }
        if let Some(arguments) = call.pointer_mut("/function/arguments")
            && let Value::String(text) = arguments
            && let Ok(opened) = serde_json::from_str(text)
        {
            *arguments = opened;
        }
        call.sort_all_objects();
    }
    Value::Array(calls).to_string().into_bytes()
}
