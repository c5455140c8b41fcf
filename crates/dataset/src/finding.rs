//! What was found, and where?

use std::fmt::{self, Display};

use serde::{Serialize, Serializer};

use crate::rules::{Rule, Severities};

/// One breach of one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Counted from 1; `None` when it is about the whole file.
    pub line: Option<u64>,
    /// In bytes, counted from 1; `None` when the message names the place.
    pub column: Option<u64>,
    pub rule: Rule,
    pub message: FindingMessage,
    /// The earlier line that this one is compared with.
    pub other_line: Option<u64>,
}

/// What is said about a line. Where thousands say the same, the words are only put together for
/// those that somebody reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FindingMessage {
    Text(String),
    /// `before`, the number of another line, `after`.
    Compared {
        before: &'static str,
        line: u64,
        after: &'static str,
    },
}

impl From<String> for FindingMessage {
    fn from(text: String) -> FindingMessage {
        FindingMessage::Text(text)
    }
}

impl Display for FindingMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FindingMessage::Text(text) => f.write_str(text),
            FindingMessage::Compared {
                before,
                line,
                after,
            } => write!(f, "{before}{line}{after}"),
        }
    }
}

impl Serialize for FindingMessage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The findings about one line, as they are made.
pub(crate) struct Findings<'a> {
    severities: &'a Severities,
    line: u64,
    pub list: Vec<Finding>,
}

impl<'a> Findings<'a> {
    pub fn new(severities: &'a Severities, line: u64) -> Findings<'a> {
        Findings {
            severities,
            line,
            list: Vec::new(),
        }
    }

    /// Notes a finding, unless its rule is off; the message is only made when it is wanted.
    pub fn add(&mut self, rule: Rule, message: impl FnOnce() -> String) {
        self.at_column(rule, None, message);
    }

    pub fn at_column(&mut self, rule: Rule, column: Option<u64>, message: impl FnOnce() -> String) {
        if self.severities.is_on(rule) {
            let line = Some(self.line);
            self.list.push(Finding {
                line,
                column,
                rule,
                message: FindingMessage::Text(message()),
                other_line: None,
            });
        }
    }
}
