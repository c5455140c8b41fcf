//! What is an example, as people write them? Chat JSONL and its neighbours, rules, splits.
//!
//! No tokenizer and no tensor lives here: an example is text until the `tokens` crate reads it.

mod error;
mod example;

pub use error::Error;
pub use example::{Chat, Example, IGNORED_LABEL, Message, Role};
