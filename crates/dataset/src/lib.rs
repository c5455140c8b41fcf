//! What is an example, as people write them? Chat JSONL and its neighbours, rules, splits.
//!
//! No tokenizer and no tensor lives here: an example is text until the `tokens` crate reads it.

mod answer;
mod bytes;
mod characters;
mod check;
mod conversation;
pub mod convert;
mod error;
mod example;
mod facts;
mod finding;
mod integers;
mod judge;
pub mod keys;
mod language;
mod language_words;
pub mod ledger;
mod members;
pub mod minhash;
mod minority;
mod other_shapes;
mod plain;
mod pretokenized;
pub mod python_json;
mod record;
pub mod rows;
mod rules;
mod secrets;
mod seen;
mod sound;
pub mod split;
pub mod template;
mod tools;
mod words;

/// UTF-8's, which Excel and PowerShell begin a file with.
pub const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

pub use check::{Checked, Checker, Options, worst};
pub use error::Error;
pub use example::{Chat, Example, IGNORED_LABEL, Message, Role};
pub use finding::{Finding, FindingMessage};
pub use judge::{Judge, Verdict};
pub use pretokenized::{Encoded, Pretokenized};
pub use rules::{Rule, Severities, Severity};
