//! What was found, and where?

use serde::Serialize;

use crate::rules::{Rule, Severities};

/// One breach of one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Counted from 1; `None` when it is about the whole file.
    pub line: Option<u64>,
    /// In bytes, counted from 1; `None` when the message names the place.
    pub column: Option<u64>,
    pub rule: Rule,
    pub message: String,
    /// The earlier line that this one is compared with.
    pub other_line: Option<u64>,
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
                message: message(),
                other_line: None,
            });
        }
    }
}
