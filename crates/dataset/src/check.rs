//! What is wrong with one line, seen by itself?

use std::borrow::Cow;

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::answer::Answers;
use crate::characters::{self, Letters, Script};
use crate::finding::{Finding, Findings};
use crate::keys;
use crate::minhash::Signature;
use crate::plain;
use crate::record::{List, Message, Record, Written};
use crate::rows::not_utf8;
use crate::rules::{Rule, Severities, Severity};
use crate::secrets;
use crate::tools::Tools;
use crate::{Example, Role};

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

/// What the rules about the whole file need to know of one line.
#[derive(Debug, Default)]
pub struct Facts {
    /// All that is said, and by whom.
    pub(crate) example: u128,
    /// What is asked.
    pub(crate) prompt: u64,
    /// What is answered last.
    pub(crate) answer: u64,
    /// The keys of the answer: as a set, and in their order.
    pub(crate) answer_keys: Option<(u64, u64)>,
    pub(crate) label: Option<String>,
    pub(crate) script: Script,
    pub(crate) signature: Option<Box<Signature>>,
}

/// Checks lines one by one; holds the buffers that are used again. One for each thread.
pub struct Checker<'o> {
    options: &'o Options,
    answers: Answers<'o>,
    tools: Tools,
    said: Vec<u8>,
    asked: Vec<u8>,
    is_suspect: bool,
}

impl<'o> Checker<'o> {
    pub fn new(options: &'o Options) -> Checker<'o> {
        Checker {
            options,
            answers: Answers::new(options),
            tools: Tools::default(),
            said: Vec::new(),
            asked: Vec::new(),
            is_suspect: true,
        }
    }

    /// Checks a line; `bytes` may include its end. `number` is what its findings say.
    pub fn check(&mut self, number: u64, bytes: &[u8], is_first_of_file: bool) -> Checked {
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let (bytes, ends_in_crlf) = match bytes.strip_suffix(b"\r") {
            Some(bytes) => (bytes, true),
            None => (bytes, false),
        };
        let mut findings = Findings::new(&self.options.severities, number);
        if bytes.trim_ascii().is_empty() {
            findings.add(Rule::BlankLine, || "is blank".into());
            return Checked {
                findings: findings.list,
                facts: None,
                is_blank: true,
                ends_in_crlf,
            };
        }
        let facts = self.check_text(is_first_of_file, bytes, &mut findings);
        Checked {
            findings: findings.list,
            facts,
            is_blank: false,
            ends_in_crlf,
        }
    }

    fn check_text(
        &mut self,
        is_first_of_file: bool,
        bytes: &[u8],
        findings: &mut Findings,
    ) -> Option<Facts> {
        let bytes = match bytes.strip_prefix(b"\xEF\xBB\xBF") {
            Some(bytes) if is_first_of_file => {
                findings.add(Rule::ByteOrderMark, || {
                    "begins with a byte order mark".into()
                });
                bytes
            }
            _ => bytes,
        };
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let column = Some(error.valid_up_to() as u64 + 1);
                findings.at_column(Rule::BrokenUtf8, column, || not_utf8(bytes, error));
                return None;
            }
        };
        self.is_suspect = secrets::is_suspect(text);
        if let Some(record) = plain::read(text) {
            return self.check_record(text, &record, findings);
        }
        match Record::parse(text) {
            Ok(record) => self.check_record(text, &record, findings),
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
        findings: &mut Findings,
    ) -> Option<Facts> {
        if let Some(kind) = record.instead {
            findings.add(Rule::DataType, || {
                format!("the line is {kind}, not an object")
            });
            return None;
        }
        for key in &record.repeated_keys {
            findings.add(Rule::DuplicateKey, || format!("key {key:?} is there twice"));
        }
        for key in &record.unknown_keys {
            findings.add(Rule::UnknownKey, || {
                format!("key {key:?} is read by no trainer")
            });
        }
        match &record.messages {
            Some(List::Messages(messages)) if messages.is_empty() => {
                findings.add(Rule::MissingMessagesList, || "messages is empty".into());
                None
            }
            Some(List::Messages(messages)) => {
                Some(self.check_chat(text, messages, record, findings))
            }
            Some(List::Other(kind)) => {
                findings.add(Rule::DataType, || format!("messages is {kind}, not a list"));
                None
            }
            None if record.has_other_shape => self.check_other_shape(text, findings),
            None => {
                let what = "none of messages, prompt and completion, text, input_ids is there";
                findings.add(Rule::MissingMessagesList, || what.into());
                None
            }
        }
    }

    fn check_chat(
        &mut self,
        line: &str,
        messages: &[Message],
        record: &Record,
        findings: &mut Findings,
    ) -> Facts {
        let mut letters = Letters::default();
        let mut order = Order::default();
        self.said.clear();
        self.asked.clear();
        let last = messages
            .iter()
            .rposition(|message| role_of(message) == Some(Role::Assistant));
        for (index, message) in messages.iter().enumerate() {
            if let Some(kind) = message.instead {
                findings.add(Rule::DataType, || {
                    format!("messages[{index}] is {kind}, not an object")
                });
                continue;
            }
            keys_of(index, message, findings);
            let role = self.role(index, message, findings);
            let content = self.content(index, message, role, findings, &mut letters);
            weight(index, message, role, findings);
            if let Some(role) = role {
                order.next(index, role, message, findings);
                self.said.push(role as u8);
                self.said.extend_from_slice(content.as_bytes());
                self.said.push(0xFF);
                if last.is_none_or(|last| index < last) {
                    keys::say(&mut self.asked, role, &content);
                }
            }
        }
        if record.tools.is_some()
            || messages
                .iter()
                .any(|message| message.tool_calls.is_some() || is_tool(message))
        {
            self.tools
                .check(record.tools, messages, findings, &mut self.said);
        }
        learned(messages, last, findings);
        let answer = last
            .and_then(|last| messages[last].content.as_ref())
            .and_then(Written::text);
        let mut facts = self.facts(&letters);
        facts.answer = xxh3_64(answer.unwrap_or_default().as_bytes());
        self.answers.check(
            line,
            answer.map(|answer| (last.unwrap_or(0), answer)),
            findings,
            &mut facts,
        );
        facts
    }

    fn role(&self, index: usize, message: &Message, findings: &mut Findings) -> Option<Role> {
        match &message.role {
            None => findings.add(Rule::MessageMissingKey, || format!("messages[{index}] has no role")),
            Some(Written::Text(name)) => match Role::from_name(name) {
                Some(role) => return Some(role),
                None => findings.add(Rule::UnrecognizedRole, || {
                    format!("messages[{index}].role {name:?} is none of system, developer, user, assistant, tool, function")
                }),
            },
            Some(other) => {
                findings.add(Rule::DataType, || format!("messages[{index}].role is {}, not text", other.kind()));
            }
        }
        None
    }

    /// Judges the content of a message and gives its text.
    fn content<'m>(
        &self,
        index: usize,
        message: &'m Message,
        role: Option<Role>,
        findings: &mut Findings,
        letters: &mut Letters,
    ) -> Cow<'m, str> {
        let may_lack = role == Some(Role::Assistant)
            && (message.tool_calls.is_some() || message.has_function_call);
        let place = || format!("messages[{index}].content");
        match &message.content {
            None | Some(Written::Null) if may_lack => Cow::Borrowed(""),
            None | Some(Written::Null) => {
                findings.add(Rule::MissingContent, || {
                    format!("messages[{index}] has no content")
                });
                Cow::Borrowed("")
            }
            Some(Written::Parts(None)) => {
                findings.add(Rule::DataType, || {
                    format!("{} holds a part that is no text", place())
                });
                Cow::Borrowed("")
            }
            Some(content) => match content.text() {
                Some(text) => {
                    let is_user = role == Some(Role::User);
                    let may_be_empty = may_lack || role == Some(Role::Tool);
                    self.check_words(text, &place, is_user, may_be_empty, findings, letters);
                    Cow::Borrowed(text)
                }
                None => {
                    findings.add(Rule::DataType, || {
                        format!("{} is {}, not text", place(), content.kind())
                    });
                    Cow::Borrowed("")
                }
            },
        }
    }

    fn check_words(
        &self,
        text: &str,
        place: &dyn Fn() -> String,
        is_user: bool,
        may_be_empty: bool,
        findings: &mut Findings,
        letters: &mut Letters,
    ) {
        let trimmed = text.trim();
        if trimmed.is_empty() {
            if !may_be_empty {
                let what = if text.is_empty() {
                    "is empty"
                } else {
                    "is only white space"
                };
                findings.add(Rule::EmptyContent, || format!("{} {what}", place()));
            }
            return;
        }
        if is_user && is_shorter(trimmed, self.options.min_user_chars) {
            let length = trimmed.chars().count();
            findings.add(Rule::ShortUserMessage, || {
                format!("{} has {length} characters: {trimmed:?}", place())
            });
        }
        characters::check(text, place, findings, letters);
        if self.is_suspect {
            secrets::check(text, place, findings);
        }
    }

    /// Prompt and completion, plain text, token ids.
    fn check_other_shape(&mut self, line: &str, findings: &mut Findings) -> Option<Facts> {
        let example = match Example::from_json(line) {
            Ok(example) => example,
            Err(error) => {
                findings.add(Rule::DataType, || error.to_string());
                return None;
            }
        };
        let mut letters = Letters::default();
        self.said.clear();
        self.asked.clear();
        let mut answer = None;
        let mut part = |name: &'static str, text: &str, is_user: bool, findings: &mut Findings| {
            self.check_words(
                text,
                &|| name.to_owned(),
                is_user,
                false,
                findings,
                &mut letters,
            );
        };
        match &example {
            Example::Completion { prompt, completion } => {
                part("prompt", prompt, true, findings);
                part("completion", completion, false, findings);
                answer = Some((0, completion.as_str()));
            }
            Example::Text { text } => part("text", text, false, findings),
            Example::Tokens { input_ids, labels } => {
                let learned =
                    |labels: &Vec<Option<u32>>| labels.iter().skip(1).any(Option::is_some);
                if input_ids.len() < 2 || labels.as_ref().is_some_and(|labels| !learned(labels)) {
                    findings.add(Rule::NothingToLearn, || "no label is learned".into());
                }
            }
            Example::Chat(chat) => {
                for (index, message) in chat.messages.iter().enumerate() {
                    let text = message.content.as_deref().unwrap_or_default();
                    let place = || format!("message {index} of prompt and completion");
                    self.check_words(
                        text,
                        &place,
                        message.role == Role::User,
                        text.is_empty(),
                        findings,
                        &mut letters,
                    );
                }
                if !chat.messages.iter().any(crate::Message::is_learned) {
                    findings.add(Rule::MissingAssistant, || {
                        "the completion has no assistant message".into()
                    });
                }
            }
        }
        let mut facts = self.facts(&letters);
        facts.prompt = keys::prompt_key(&example);
        facts.example = xxh3_128(line.trim().as_bytes());
        facts.answer = xxh3_64(answer.map_or("", |(_, answer)| answer).as_bytes());
        self.answers.check(line, answer, findings, &mut facts);
        Some(facts)
    }

    fn facts(&self, letters: &Letters) -> Facts {
        let most = Script::ALL
            .into_iter()
            .rev()
            .max_by_key(|script| letters[*script as usize]);
        let wants_signature = self.options.near_duplicates.is_some() && !self.asked.is_empty();
        Facts {
            example: xxh3_128(&self.said),
            prompt: xxh3_64(&self.asked),
            script: most.unwrap_or_default(),
            signature: wants_signature
                .then(|| Box::new(Signature::of(&String::from_utf8_lossy(&self.asked)))),
            ..Facts::default()
        }
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

fn role_of(message: &Message) -> Option<Role> {
    match &message.role {
        Some(Written::Text(name)) => Role::from_name(name),
        _ => None,
    }
}

fn is_tool(message: &Message) -> bool {
    role_of(message) == Some(Role::Tool)
}

fn is_shorter(text: &str, chars: usize) -> bool {
    // Fewer bytes than chars is certain; four times as many is impossible.
    text.len() < chars || (text.len() < 4 * chars && text.chars().count() < chars)
}

fn keys_of(index: usize, message: &Message, findings: &mut Findings) {
    for key in &message.repeated_keys {
        findings.add(Rule::DuplicateKey, || {
            format!("messages[{index}]: key {key:?} is there twice")
        });
    }
    for key in &message.unknown_keys {
        findings.add(Rule::MessageUnrecognizedKey, || {
            format!("messages[{index}] has the unknown key {key:?}")
        });
    }
}

fn weight(index: usize, message: &Message, role: Option<Role>, findings: &mut Findings) {
    match &message.weight {
        None | Some(Written::Null) => {}
        Some(Written::Number(number)) if *number == 0.0 || *number == 1.0 => {
            if role != Some(Role::Assistant) {
                let role = role.map_or("no one", Role::name);
                findings.add(Rule::BadWeight, || {
                    format!("messages[{index}] has a weight and is {role}'s")
                });
            }
        }
        Some(Written::Number(number)) => {
            findings.add(Rule::BadWeight, || {
                format!("messages[{index}].weight is {number}; it is 0 or 1")
            });
        }
        Some(other) => findings.add(Rule::BadWeight, || {
            format!("messages[{index}].weight is {}", other.kind())
        }),
    }
}

/// Is there anything to learn, and is it last?
fn learned(messages: &[Message], last: Option<usize>, findings: &mut Findings) {
    if messages.len() < 2 {
        findings.add(Rule::TooFewMessages, || "has one message".into());
    }
    let Some(last) = last else {
        findings.add(Rule::MissingAssistant, || "has no assistant message".into());
        return;
    };
    let is_ignored = |message: &&Message| matches!(message.weight, Some(Written::Number(0.0)));
    let mut assistant = messages
        .iter()
        .filter(|message| role_of(message) == Some(Role::Assistant));
    if assistant.all(|message| is_ignored(&message)) {
        findings.add(Rule::NothingToLearn, || {
            "every assistant message has weight 0".into()
        });
    }
    match messages.len() - 1 - last {
        0 => {}
        more => findings.add(Rule::NotEndingWithAssistant, || {
            format!("{more} messages follow the last answer")
        }),
    }
}

/// The roles so far.
#[derive(Default)]
struct Order {
    previous: Option<Role>,
    has_open_call: bool,
}

impl Order {
    fn next(&mut self, index: usize, role: Role, message: &Message, findings: &mut Findings) {
        let wrong = match (role, self.previous) {
            (Role::System | Role::Developer, Some(_)) => Some("is not the first message"),
            (Role::User, Some(Role::User)) => Some("follows another user message"),
            (Role::Assistant, None | Some(Role::System | Role::Developer)) => {
                Some("answers no one")
            }
            (Role::Assistant, Some(Role::Assistant)) => Some("follows another assistant message"),
            (Role::Tool | Role::Function, _) if !self.has_open_call => Some("follows no call"),
            _ => None,
        };
        if let Some(wrong) = wrong {
            findings.add(Rule::RoleOrder, || {
                format!("messages[{index}] ({role}) {wrong}")
            });
        }
        self.has_open_call = match role {
            Role::Assistant => message.tool_calls.is_some() || message.has_function_call,
            Role::Tool | Role::Function => self.has_open_call,
            _ => false,
        };
        self.previous = Some(role);
    }
}
