//! What is wrong with one line, seen by itself?

use std::ops::Range;

use crate::answer::Answers;
use crate::bytes::{self, AT, BACKSLASH, DENSE_DIGITS, Kinds};
use crate::conversation::{self, Lists};
use crate::facts::{Facts, Gatherer};
use crate::finding::{Finding, Findings};
use crate::members::{self, NoValue};
use crate::other_shapes;
use crate::plain::Plain;
use crate::record::{List, Record};
use crate::rows::{self, not_utf8};
use crate::rules::{Rule, Severities, Severity};
use crate::secrets::Suspicions;
use crate::sound;
use crate::tools::Tools;
use crate::words::Words;
use crate::{BYTE_ORDER_MARK, Example};

/// What to look for.
#[derive(Debug, Default)]
pub struct Options {
    pub severities: Severities,
    /// Shorter user messages are remarked on, in characters.
    pub min_user_chars: usize,
    /// The last answer is JSON.
    pub assistant_json: bool,
    /// The last answer matches this.
    pub schema: Option<jsonschema::Validator>,
    /// The field that holds the label of an example.
    pub label: Option<String>,
    /// The similarity, 0 to 1, from which on two prompts are near duplicates.
    pub near_duplicates: Option<f64>,
}

/// What one line came to.
#[derive(Debug)]
pub struct Checked {
    pub findings: Vec<Finding>,
    /// `None` when the line is no example, or blank.
    pub facts: Option<Facts>,
    /// Blank lines are left out without being wrong.
    pub is_blank: bool,
    pub ends_in_crlf: bool,
}

impl Checked {
    /// Names the example by what it says, wherever it stands; `None` when it is no example.
    pub fn id(&self) -> Option<u64> {
        self.facts
            .as_ref()
            .map(|facts| (facts.example >> 64) as u64)
    }
}

/// Checks lines one by one; holds the buffers that are used again. One for each thread.
pub struct Checker<'o> {
    pub(crate) options: &'o Options,
    pub(crate) answers: Answers<'o>,
    pub(crate) tools: Tools,
    pub(crate) gatherer: Gatherer,
    pub(crate) plain: Plain,
}

impl<'o> Checker<'o> {
    pub fn new(options: &'o Options) -> Checker<'o> {
        Checker {
            options,
            answers: Answers::new(options),
            tools: Tools::default(),
            gatherer: Gatherer::default(),
            plain: Plain::default(),
        }
    }

    /// Checks every line of a block of whole lines, counted from 1. Whoever knows how many came
    /// before adds that.
    pub fn check_block(
        &mut self,
        block: &[u8],
        is_first_of_file: bool,
        each: &mut dyn FnMut(u64, Range<usize>, Checked),
    ) {
        let mut suspicions = Suspicions::of(block);
        let mut start = 0;
        for number in 1.. {
            if start == block.len() {
                return;
            }
            let end =
                memchr::memchr(b'\n', &block[start..]).map_or(block.len(), |at| start + at + 1);
            let is_suspect = suspicions.before(end);
            let is_first = is_first_of_file && number == 1;
            each(
                number,
                start..end,
                self.check_line(number, &block[start..end], is_first, is_suspect),
            );
            start = end;
        }
    }

    /// Checks a line; `bytes` may include its end. `number` is what its findings say.
    pub fn check(&mut self, number: u64, bytes: &[u8], is_first_of_file: bool) -> Checked {
        let is_suspect = Suspicions::of(bytes).before(bytes.len());
        self.check_line(number, bytes, is_first_of_file, is_suspect)
    }

    /// `is_suspect`: something in the line looks like the beginning of a credential.
    fn check_line(
        &mut self,
        number: u64,
        bytes: &[u8],
        is_first_of_file: bool,
        is_suspect: bool,
    ) -> Checked {
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let (bytes, ends_in_crlf) = match bytes.strip_suffix(b"\r") {
            Some(bytes) => (bytes, true),
            None => (bytes, false),
        };
        let mut findings = Findings::new(&self.options.severities, number);
        let kinds = bytes::kinds(bytes);
        let mut is_blank = false;
        let facts = match sound::prove(self, bytes, kinds, is_suspect, &mut findings) {
            Some(facts) => Some(facts),
            None if bytes.trim_ascii().is_empty() => {
                is_blank = true;
                findings.add(Rule::BlankLine, || "is blank".into());
                None
            }
            None => self.check_text(is_first_of_file, bytes, kinds, is_suspect, &mut findings),
        };
        Checked {
            findings: findings.list,
            facts,
            is_blank,
            ends_in_crlf,
        }
    }

    fn check_text(
        &mut self,
        is_first_of_file: bool,
        bytes: &[u8],
        kinds: Kinds,
        is_suspect: bool,
        findings: &mut Findings,
    ) -> Option<Facts> {
        let bytes = match bytes.strip_prefix(BYTE_ORDER_MARK) {
            Some(bytes) if is_first_of_file => {
                findings.add(Rule::ByteOrderMark, || {
                    "begins with a byte order mark".into()
                });
                bytes
            }
            _ => bytes,
        };
        if let Some(what) = rows::no_text(bytes).filter(|_| is_first_of_file) {
            findings.add(Rule::BrokenUtf8, || what);
            return None;
        }
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let column = Some(error.valid_up_to() as u64 + 1);
                findings.at_column(Rule::BrokenUtf8, column, || not_utf8(bytes, error));
                return None;
            }
        };
        // An escape may hide a letter.
        let has_code_points =
            kinds & BACKSLASH != 0 && memchr::memmem::find(bytes, b"\\u").is_some();
        let words = Words {
            options: self.options,
            is_suspect: is_suspect || kinds & (AT | DENSE_DIGITS) != 0 || has_code_points,
        };
        match Record::parse(text) {
            Ok(record) => self.check_record(text, &record, &words, findings),
            Err(error) => {
                let column = Some(error.column() as u64);
                findings.at_column(Rule::BrokenJson, column, || {
                    crate::Error::from(error).to_string()
                });
                None
            }
        }
    }

    fn check_record(
        &mut self,
        text: &str,
        record: &Record,
        words: &Words,
        findings: &mut Findings,
    ) -> Option<Facts> {
        if let Some(kind) = record.instead {
            findings.add(Rule::DataType, || {
                format!("the line is {kind}, not an object")
            });
            return None;
        }
        for what in record
            .repeated_keys
            .told(|key| format!("key {key:?} is there twice"))
        {
            findings.add(Rule::DuplicateKey, || what);
        }
        for (key, value) in &record.others {
            match members::member(key, value) {
                Ok(()) => {}
                Err(NoValue::Twice(what)) => findings.add(Rule::DuplicateKey, || what),
                Err(NoValue::NoJson(what)) => {
                    findings.add(Rule::BrokenJson, || format!("{key}: {what}"));
                }
            }
        }
        for what in record
            .unknown_keys
            .told(|key| format!("key {key:?} is not read"))
        {
            findings.add(Rule::UnknownKey, || what);
        }
        for (key, read) in record.second_shape() {
            findings.add(Rule::UnknownKey, || {
                format!("key {key:?} is not read beside {read}")
            });
        }
        if let Some(functions) = record.other("functions")
            && !functions.get().trim_matches(['[', ']', ' ']).is_empty()
        {
            findings.add(Rule::BadTools, || {
                "functions is not read, tools is; jsonl-import converts it".into()
            });
        }
        let of_two_lists;
        let (messages, lists) = match &record.messages {
            _ if record.has_input_ids => return other_shapes::check(self, text, words, findings),
            Some(List::Messages(messages)) => (messages, Lists::Messages),
            Some(List::Other(kind)) => {
                findings.add(Rule::DataType, || format!("messages is {kind}, not a list"));
                return None;
            }
            None if record.has_other_shape => match record.prompt_and_completion() {
                Some((messages, prompt)) => {
                    of_two_lists = messages;
                    (&of_two_lists, Lists::PromptAndCompletion(prompt))
                }
                None => return other_shapes::check(self, text, words, findings),
            },
            None => {
                let what = "none of messages, prompt and completion, text, input_ids is there";
                findings.add(Rule::MissingMessagesList, || what.into());
                return None;
            }
        };
        if messages.is_empty() {
            findings.add(Rule::MissingMessagesList, || match lists {
                Lists::Messages => "messages is empty".into(),
                Lists::PromptAndCompletion(_) => "prompt and completion are empty".into(),
            });
            return None;
        }
        let facts = conversation::check(self, text, messages, lists, record, words, findings);
        // What passes, the other tools can read.
        let severities = &self.options.severities;
        if !conversation::is_settled(record, messages)
            && !matches!(
                worst(&findings.list, severities),
                Some((Severity::Error, _))
            )
            && let Err(error) = Example::from_json(text)
        {
            findings.add(Rule::of(&error), || error.to_string());
        }
        Some(facts)
    }
}

/// The graver of the findings decides about the line.
pub fn worst(findings: &[Finding], severities: &Severities) -> Option<(Severity, Rule)> {
    // The first of the gravest, so that the reason given is the first that is reported.
    findings
        .iter()
        .map(|finding| (severities.of(finding.rule), finding.rule))
        .rev()
        .max_by_key(|(severity, _)| *severity)
}
