//! What is an example, as people write them? Chat JSONL and its neighbours, rules, splits.
//!
//! No tokenizer and no tensor lives here: an example is text until the `tokens` crate reads it.

pub mod convert;
mod error;
mod example;
mod json;
pub mod keys;
pub mod ledger;
mod line_counter;
pub mod rows;
pub mod split;
pub mod template;

pub use error::Error;
pub use example::{Chat, Example, IGNORED_LABEL, Message, Role};
pub use json::python_json;
