//! What must the rules about the whole file know of one line?

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::Role;
use crate::characters::{Letters, Script};
use crate::keys;
use crate::language::Language;
use crate::minhash::Signature;

/// All that is kept of a line that was checked; small, since a file has many.
#[derive(Debug, Default, PartialEq)]
pub struct Facts {
    /// All that is said, and by whom.
    pub(crate) example: u128,
    /// What is asked.
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
    pub said: Vec<u8>,
    asked: Vec<u8>,
    answer: u64,
    asked_in: Option<Language>,
    answered_in: Option<Language>,
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
            _ => {}
        }
    }

    /// What all that came to.
    pub fn facts(&self, letters: &Letters, wants_signature: bool) -> Facts {
        let mut facts = Facts {
            example: xxh3_128(&self.said),
            prompt: xxh3_64(&self.asked),
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
