//! What is an example, as people write them? Chat JSONL and its neighbours, rules, splits.
//!
//! No tokenizer and no tensor lives here: an example is text until the `tokens` crate reads it.

mod answer;
mod characters;
mod check;
pub mod convert;
mod error;
mod example;
mod finding;
mod json;
mod judge;
pub mod keys;
pub mod ledger;
mod line_counter;
pub mod minhash;
mod plain;
mod record;
pub mod rows;
mod rules;
mod secrets;
pub mod split;
pub mod template;
mod tools;

pub use check::{Checked, Checker, Options, worst};
pub use error::Error;
pub use example::{Chat, Example, IGNORED_LABEL, Message, Role};
pub use finding::Finding;
pub use json::python_json;
pub use judge::{Judge, Verdict};
pub use rules::{Rule, Severities, Severity};
