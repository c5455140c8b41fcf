//! What is wrong with a conversation: its messages, their roles and order, what is learned?

use std::borrow::Cow;

use crate::Role;
use crate::answer::Answer;
use crate::characters::Letters;
use crate::check::Checker;
use crate::facts::Facts;
use crate::finding::Findings;
use crate::record::{Message, Record, Written};
use crate::rules::Rule;
use crate::words::Words;

/// Where the messages of a line stand.
#[derive(Clone, Copy)]
pub(crate) enum Lists {
    /// All of them under `messages`.
    Messages,
    /// TRL's two lists, of which the second is learned; so many are the first's.
    PromptAndCompletion(usize),
}

impl Lists {
    /// What a message is called there.
    pub fn place(self, index: usize) -> String {
        match self {
            Lists::Messages => format!("messages[{index}]"),
            Lists::PromptAndCompletion(prompt) if index < prompt => format!("prompt[{index}]"),
            Lists::PromptAndCompletion(prompt) => format!("completion[{}]", index - prompt),
        }
    }

    /// The number of messages that are never learned, whatever their weight.
    fn context(self) -> usize {
        match self {
            Lists::Messages => 0,
            Lists::PromptAndCompletion(prompt) => prompt,
        }
    }
}

/// Judges the messages of a line, and gathers its facts.
pub(crate) fn check(
    checker: &mut Checker,
    line: &str,
    messages: &[Message],
    lists: Lists,
    record: &Record,
    words: &Words,
    findings: &mut Findings,
) -> Facts {
    let mut letters = Letters::default();
    let mut order = Order::default();
    checker.gatherer.clear();
    let context = lists.context();
    let last = messages[context..]
        .iter()
        .rposition(|message| role_of(message) == Some(Role::Assistant))
        .map(|last| context + last);
    for (index, message) in messages.iter().enumerate() {
        if let Some(kind) = message.instead {
            findings.add(Rule::DataType, || {
                format!("{} is {kind}, not an object", lists.place(index))
            });
            continue;
        }
        let place = || lists.place(index);
        keys_of(&place, message, findings);
        let role = known_role(&place, message, findings);
        let text = content(&place, message, role, words, findings, &mut letters);
        weight(&place, message, role, findings);
        if message.has_function_call && !text.is_empty() {
            findings.add(Rule::BadToolCall, || {
                format!(
                    "{}.function_call is not read, tool_calls is; jsonl-import converts it",
                    place()
                )
            });
        }
        if let Some(role) = role {
            order.next(&place, role, message, findings);
            let is_asked = last.is_none_or(|last| index < last);
            checker.gatherer.message(role, text.as_bytes(), is_asked);
            let is_context = index < context || is_weightless(message);
            checker.gatherer.beside(role, message, is_context, is_asked);
        }
    }
    checker
        .gatherer
        .around(record.tools, record.other("chat_template_kwargs"));
    if record.tools.is_some()
        || messages
            .iter()
            .any(|message| message.tool_calls.is_some() || is_tool(message))
    {
        checker.tools.check(record.tools, messages, lists, findings);
    }
    learned(messages, lists, last, findings);
    let place = || format!("{}.content", lists.place(last.unwrap_or_default()));
    let answer = last.and_then(|last| {
        Some(Answer {
            text: messages[last].content.as_ref()?.text()?,
            place: &place,
        })
    });
    let mut facts = checker
        .gatherer
        .facts(&letters, checker.options.near_duplicates.is_some());
    checker
        .answers
        .check(Some(line), answer, findings, &mut facts);
    facts
}

fn known_role(
    place: &dyn Fn() -> String,
    message: &Message,
    findings: &mut Findings,
) -> Option<Role> {
    match &message.role {
        None => findings.add(Rule::MessageMissingKey, || format!("{} has no role", place())),
        Some(Written::Text(name)) => match Role::from_name(name) {
            Some(role) => return Some(role),
            None => findings.add(Rule::UnrecognizedRole, || {
                format!("{}.role {name:?} is none of system, developer, user, assistant, tool, function", place())
            }),
        },
        Some(other) => {
            findings.add(Rule::DataType, || format!("{}.role is {}, not text", place(), other.kind()));
        }
    }
    None
}

/// Judges the content of a message and gives its text.
fn content<'m>(
    message_place: &dyn Fn() -> String,
    message: &'m Message,
    role: Option<Role>,
    words: &Words,
    findings: &mut Findings,
    letters: &mut Letters,
) -> Cow<'m, str> {
    let may_lack = role == Some(Role::Assistant) && message.tool_calls.is_some();
    let place = || format!("{}.content", message_place());
    match &message.content {
        None | Some(Written::Null) if may_lack => Cow::Borrowed(""),
        None | Some(Written::Null) => {
            findings.add(Rule::MissingContent, || {
                let instead = if message.has_function_call {
                    "; function_call is not read, tool_calls is"
                } else {
                    ""
                };
                format!("{} has no content{instead}", message_place())
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
                words.check(text, &place, is_user, may_be_empty, findings, letters);
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

/// Have the rules looked at all that is read of a line with these messages? `Example` reads some more.
pub(crate) fn is_settled(record: &Record, messages: &[Message]) -> bool {
    const READ: [&str; 5] = [
        "chat_template_kwargs",
        "text",
        "labels",
        "label",
        "rejected",
    ];
    let has_read = record
        .others
        .iter()
        .any(|(key, _)| READ.contains(&key.as_ref()));
    let is_alone = record.tools.is_none() && record.prompt.is_none() && record.completion.is_none();
    let is_plain = |message: &Message| {
        let is_weight = match message.weight {
            None | Some(Written::Null) => true,
            Some(Written::Number(weight)) => weight == 0.0 || weight == 1.0,
            _ => false,
        };
        let has_text = matches!(&message.content, Some(content) if content.text().is_some());
        let calls = message.tool_calls.is_some() || message.tool_call_id.is_some();
        let has_more = !message.more.is_empty() || message.name.is_some() || calls;
        let is_known = message.unknown_keys.is_empty() && message.repeated_keys.is_empty();
        role_of(message).is_some() && has_text && is_weight && is_known && !has_more
    };
    is_alone && !has_read && record.repeated_keys.is_empty() && messages.iter().all(is_plain)
}

fn role_of(message: &Message) -> Option<Role> {
    match &message.role {
        Some(Written::Text(name)) => Role::from_name(name),
        _ => None,
    }
}

/// It is context, and not learned.
fn is_weightless(message: &Message) -> bool {
    matches!(message.weight, Some(Written::Number(0.0)))
}

fn is_tool(message: &Message) -> bool {
    role_of(message) == Some(Role::Tool)
}

fn keys_of(place: &dyn Fn() -> String, message: &Message, findings: &mut Findings) {
    let twice = |key: &str| format!("{}: key {key:?} is there twice", place());
    for what in message.repeated_keys.told(twice) {
        findings.add(Rule::DuplicateKey, || what);
    }
    let unknown = |key: &str| format!("{} has the unknown key {key:?}", place());
    for what in message.unknown_keys.told(unknown) {
        findings.add(Rule::MessageUnrecognizedKey, || what);
    }
    for (key, value) in [
        ("name", &message.name),
        ("tool_call_id", &message.tool_call_id),
    ] {
        match value {
            None | Some(Written::Null | Written::Text(_)) => {}
            Some(other) => findings.add(Rule::DataType, || {
                format!("{}.{key} is {}, not text", place(), other.kind())
            }),
        }
    }
}

fn weight(
    place: &dyn Fn() -> String,
    message: &Message,
    role: Option<Role>,
    findings: &mut Findings,
) {
    match &message.weight {
        None | Some(Written::Null) => {}
        Some(Written::Number(number)) if *number == 0.0 || *number == 1.0 => {
            if role != Some(Role::Assistant) {
                let role = role.map_or("no one", Role::name);
                findings.add(Rule::BadWeight, || {
                    format!("{} has a weight and is {role}'s", place())
                });
            }
        }
        Some(Written::Number(number)) => {
            findings.add(Rule::BadWeight, || {
                format!("{}.weight is {number}; it is 0 or 1", place())
            });
        }
        Some(other) => findings.add(Rule::BadWeight, || {
            format!("{}.weight is {}", place(), other.kind())
        }),
    }
}

/// Is there anything to learn, and is it last?
fn learned(messages: &[Message], lists: Lists, last: Option<usize>, findings: &mut Findings) {
    if messages.len() < 2 {
        findings.add(Rule::TooFewMessages, || "has one message".into());
    }
    let Some(last) = last else {
        findings.add(Rule::MissingAssistant, || match lists {
            Lists::Messages => "has no assistant message".into(),
            Lists::PromptAndCompletion(_) => "the completion has no assistant message".into(),
        });
        return;
    };
    let mut assistant = messages[lists.context()..]
        .iter()
        .filter(|message| role_of(message) == Some(Role::Assistant));
    if assistant.all(is_weightless) {
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
    fn next(
        &mut self,
        place: &dyn Fn() -> String,
        role: Role,
        message: &Message,
        findings: &mut Findings,
    ) {
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
            findings.add(Rule::RoleOrder, || format!("{} ({role}) {wrong}", place()));
        }
        self.has_open_call = match role {
            Role::Assistant => message.tool_calls.is_some() || message.has_function_call,
            Role::Tool | Role::Function => self.has_open_call,
            _ => false,
        };
        self.previous = Some(role);
    }
}
