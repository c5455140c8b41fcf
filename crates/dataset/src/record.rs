//! What does a line say, read without copying and without believing anything?
//!
//! Wrong types, unknown and repeated keys are kept as facts for the rules to judge; only text that
//! is no JSON at all is an error here.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::value::RawValue;

/// A line that may hold a conversation.
#[derive(Debug, Default)]
pub(crate) struct Record<'a> {
    pub messages: Option<List<'a>>,
    /// TRL's two lists of messages, or two texts; read where it is known which.
    pub prompt: Option<&'a RawValue>,
    pub completion: Option<&'a RawValue>,
    pub tools: Option<&'a RawValue>,
    pub has_input_ids: bool,
    /// One of `prompt`, `completion`, `text`, `input_ids` is there, and not null.
    pub has_other_shape: bool,
    pub unknown_keys: Keys<'a>,
    pub repeated_keys: Keys<'a>,
    /// Values that are not looked into here, under known keys and unknown ones.
    pub others: Vec<(Cow<'a, str>, &'a RawValue)>,
    /// The line is no object, but this.
    pub instead: Option<&'static str>,
}

/// What stands under `messages`.
#[derive(Debug)]
pub(crate) enum List<'a> {
    Messages(Vec<Message<'a>>),
    Other(&'static str),
}

/// One element of `messages`.
#[derive(Debug, Default)]
pub(crate) struct Message<'a> {
    pub role: Option<Written<'a>>,
    pub content: Option<Written<'a>>,
    pub weight: Option<Written<'a>>,
    /// `None` also for null and for an empty list: nothing is called.
    pub tool_calls: Option<&'a RawValue>,
    pub tool_call_id: Option<Written<'a>>,
    pub name: Option<Written<'a>>,
    /// OpenAI's way before tool calls.
    pub has_function_call: bool,
    /// What else a template may print: [`MORE_OF_A_MESSAGE`], and keys that nobody knows.
    pub more: Vec<(Cow<'a, str>, &'a RawValue)>,
    pub unknown_keys: Keys<'a>,
    pub repeated_keys: Keys<'a>,
    pub instead: Option<&'static str>,
}

/// Keys, each of them once; a line may have thousands, of which the first are told.
#[derive(Debug, Default)]
pub(crate) struct Keys<'a> {
    first: Vec<Cow<'a, str>>,
    all: HashSet<Cow<'a, str>>,
}

/// Keys told of an object.
const TOLD: usize = 5;

impl<'a> Keys<'a> {
    /// False when it was there already.
    fn insert(&mut self, key: Cow<'a, str>) -> bool {
        if self.all.contains(&key) {
            return false;
        }
        if self.first.len() < TOLD {
            self.first.push(key.clone());
        }
        self.all.insert(key)
    }

    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// What is said of each of the first, and of how many more it could be said.
    pub fn told(&self, say: impl Fn(&str) -> String) -> impl Iterator<Item = String> {
        let more = match self.all.len() - self.first.len() {
            0 => None,
            more => Some(format!("… and of {more} more keys")),
        };
        self.first.iter().map(move |key| say(key)).chain(more)
    }
}

/// A value where text is expected.
#[derive(Debug, PartialEq)]
pub(crate) enum Written<'a> {
    Text(Cow<'a, str>),
    /// A list of parts, their texts joined; `None` when a part is no text.
    Parts(Option<String>),
    Null,
    Number(f64),
    Other(&'static str),
}

impl Written<'_> {
    /// What it is, for a message.
    pub fn kind(&self) -> &'static str {
        match self {
            Written::Text(_) => "text",
            Written::Parts(_) => "a list",
            Written::Null => "null",
            Written::Number(_) => "a number",
            Written::Other(kind) => kind,
        }
    }

    /// Its text, when it has one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Written::Text(text) => Some(text),
            Written::Parts(text) => text.as_deref(),
            _ => None,
        }
    }
}

impl<'a> Record<'a> {
    /// Reads a line.
    pub fn parse(line: &'a str) -> Result<Record<'a>, serde_json::Error> {
        serde_json::from_str(line)
    }

    /// The value of a key that is not looked into here, unless it is null.
    pub fn other(&self, name: &str) -> Option<&'a RawValue> {
        let (_, value) = self.others.iter().find(|(key, _)| key == name)?;
        Some(*value).filter(|value| value.get() != "null")
    }

    /// The keys of a shape that are passed over for another, and what is read instead, as
    /// [`Example`](crate::Example) does. Token ids allow no other shape.
    pub fn second_shape(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let read = match (&self.messages, self.prompt, self.completion) {
            _ if self.has_input_ids => None,
            (Some(_), ..) => Some("messages"),
            (None, Some(_), Some(_)) => Some("prompt and completion"),
            _ => None,
        };
        let is_second = |key| match key {
            "prompt" => self.messages.is_some() && self.prompt.is_some(),
            "completion" => self.messages.is_some() && self.completion.is_some(),
            _ => self.other(key).is_some(),
        };
        let keys = ["prompt", "completion", "text"]
            .into_iter()
            .filter(move |key| is_second(key));
        read.into_iter()
            .flat_map(move |read| keys.clone().map(move |key| (key, read)))
    }

    /// The messages of TRL's `{"prompt": […], "completion": […]}`, and how many are the prompt's.
    pub fn prompt_and_completion(&self) -> Option<(Vec<Message<'a>>, usize)> {
        let list = |value: Option<&'a RawValue>| match serde_json::from_str(value?.get()) {
            Ok(List::Messages(messages)) => Some(messages),
            _ => None, // a text, most of the time
        };
        let (mut messages, completion) = (list(self.prompt)?, list(self.completion)?);
        let prompt = messages.len();
        messages.extend(completion);
        Some((messages, prompt))
    }
}

/// Defines the visits of values that are not the one expected.
macro_rules! otherwise {
    ($make:expr; $($visit:ident $type:ty => $kind:literal),*) => {
        $(fn $visit<E: de::Error>(self, _: $type) -> Result<Self::Value, E> { Ok($make($kind)) })*
        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> { Ok($make("null")) }
    };
}

struct RecordVisitor;

impl<'de> Visitor<'de> for RecordVisitor {
    type Value = Record<'de>;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }
    otherwise!(|kind| Record { instead: Some(kind), ..Record::default() };
        visit_bool bool => "true or false", visit_i64 i64 => "a number", visit_u64 u64 => "a number",
        visit_f64 f64 => "a number", visit_str &str => "text");

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Record {
            instead: Some("a list"),
            ..Record::default()
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut record = Record::default();
        let mut seen = 0u32;
        while let Some(Key(key)) = map.next_key()? {
            let bit = match key.as_ref() {
                "messages" => {
                    let messages = Some(map.next_value()?);
                    record.messages = messages.filter(|list| !matches!(list, List::Other("null")));
                    1
                }
                "tools" => {
                    let tools: &RawValue = map.next_value()?;
                    record.tools = Some(tools).filter(|tools| tools.get() != "null");
                    2
                }
                known => {
                    let index = OTHER_KEYS.iter().position(|other| *other == known);
                    let value: &RawValue = map.next_value()?;
                    let there = Some(value).filter(|value| value.get() != "null");
                    match known {
                        "prompt" => record.prompt = there,
                        "completion" => record.completion = there,
                        "input_ids" => record.has_input_ids = there.is_some(),
                        _ => record.others.push((key.clone(), value)),
                    }
                    match index {
                        Some(index) => {
                            record.has_other_shape |= index < SHAPES && there.is_some();
                            4 << index
                        }
                        None => {
                            if !record.unknown_keys.insert(key.clone()) {
                                record.repeated_keys.insert(key);
                            }
                            continue;
                        }
                    }
                }
            };
            if seen & bit != 0 {
                record.repeated_keys.insert(key);
            }
            seen |= bit;
        }
        Ok(record)
    }
}

/// The first of these are shapes of their own.
const OTHER_KEYS: [&str; 15] = [
    "prompt",
    "completion",
    "text",
    "input_ids",
    "labels",
    "attention_mask",
    "seq_lengths",
    "position_ids",
    "token_type_ids",
    "functions",
    "parallel_tool_calls",
    "chat_template_kwargs",
    "metadata",
    "id",
    "source",
];
const SHAPES: usize = 4;

impl<'de> Deserialize<'de> for Record<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RecordVisitor)
    }
}

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = List<'de>;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }
    otherwise!(List::Other; visit_bool bool => "true or false", visit_i64 i64 => "a number",
        visit_u64 u64 => "a number", visit_f64 f64 => "a number", visit_str &str => "text");

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(List::Other("an object"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut messages = Vec::with_capacity(4);
        while let Some(message) = seq.next_element()? {
            messages.push(message);
        }
        Ok(List::Messages(messages))
    }
}

impl<'de> Deserialize<'de> for List<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor)
    }
}

struct MessageVisitor;

impl<'de> Visitor<'de> for MessageVisitor {
    type Value = Message<'de>;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }
    otherwise!(|kind| Message { instead: Some(kind), ..Message::default() };
        visit_bool bool => "true or false", visit_i64 i64 => "a number", visit_u64 u64 => "a number",
        visit_f64 f64 => "a number", visit_str &str => "text");

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Message {
            instead: Some("a list"),
            ..Message::default()
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut message = Message::default();
        let mut seen = 0u32;
        while let Some(Key(key)) = map.next_key()? {
            let bit = match key.as_ref() {
                "role" => (message.role = Some(map.next_value()?), 1).1,
                "content" => (message.content = Some(map.next_value()?), 2).1,
                "weight" => (message.weight = Some(map.next_value()?), 4).1,
                "tool_calls" => (message.tool_calls = calls(map.next_value()?), 8).1,
                "tool_call_id" => (message.tool_call_id = Some(map.next_value()?), 16).1,
                "function_call" => {
                    message.has_function_call = map.next_value::<Option<IgnoredAny>>()?.is_some();
                    32
                }
                "name" => (message.name = Some(map.next_value()?), 64).1,
                other => {
                    let index = MORE_OF_A_MESSAGE.iter().position(|known| *known == other);
                    message.more.push((key.clone(), map.next_value()?));
                    match index {
                        Some(index) => 128 << index,
                        None => {
                            if !message.unknown_keys.insert(key.clone()) {
                                message.repeated_keys.insert(key);
                            }
                            continue;
                        }
                    }
                }
            };
            if seen & bit != 0 {
                message.repeated_keys.insert(key);
            }
            seen |= bit;
        }
        Ok(message)
    }
}

/// What models and vendors' APIs write besides, and templates may read.
const MORE_OF_A_MESSAGE: [&str; 6] = [
    "refusal",
    "reasoning_content",
    "reasoning",
    "thinking",
    "audio",
    "annotations",
];

/// Exports of tables write null or an empty list where nothing is called.
fn calls(written: &RawValue) -> Option<&RawValue> {
    let text = written.get();
    let inner = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let is_none = text == "null" || inner.is_some_and(|inner| inner.trim().is_empty());
    (!is_none).then_some(written)
}

impl<'de> Deserialize<'de> for Message<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MessageVisitor)
    }
}

struct WrittenVisitor;

impl<'de> Visitor<'de> for WrittenVisitor {
    type Value = Written<'de>;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Written::Text(Cow::Borrowed(text)))
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Written::Text(Cow::Owned(text.to_owned())))
    }
    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(Written::Null)
    }
    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Written::Other("true or false"))
    }
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Written::Number(number as f64))
    }
    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Written::Number(number as f64))
    }
    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Written::Number(number))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Written::Other("an object"))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut joined = Some(String::new());
        while let Some(part) = seq.next_element::<serde_json::Value>()? {
            match (
                &mut joined,
                part.get("text").and_then(serde_json::Value::as_str),
            ) {
                (Some(joined), Some(text)) => joined.push_str(text),
                _ => joined = None,
            }
        }
        Ok(Written::Parts(joined))
    }
}

impl<'de> Deserialize<'de> for Written<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WrittenVisitor)
    }
}

/// A key, borrowed when it holds no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

/// The keys of a JSON object in their order, when the text is one, and whether the text is JSON.
#[derive(Debug, Default)]
pub(crate) struct AnswerKeys {
    /// By hash; those of an object below only as long as it is read.
    pub keys: Vec<u64>,
    /// An object, or one below, has a key twice.
    pub has_twice: bool,
}

impl<'de> DeserializeSeed<'de> for &mut AnswerKeys {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut AnswerKeys {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }
    otherwise!(|_: &str| (); visit_bool bool => "", visit_i64 i64 => "", visit_u64 u64 => "",
        visit_f64 f64 => "", visit_str &str => "");
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let start = self.keys.len();
        while seq.next_element_seed(&mut *self)?.is_some() {
            self.keys.truncate(start); // those of an element
        }
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let start = self.keys.len();
        while let Some(Key(key)) = map.next_key()? {
            self.keys.push(xxhash_rust::xxh3::xxh3_64(key.as_bytes()));
            let end = self.keys.len();
            map.next_value_seed(&mut *self)?;
            self.keys.truncate(end);
        }
        self.has_twice |= has_twice(&self.keys[start..]);
        Ok(())
    }
}

fn has_twice(keys: &[u64]) -> bool {
    if keys.len() <= 16 {
        return (1..keys.len()).any(|at| keys[..at].contains(&keys[at]));
    }
    let mut sorted = keys.to_vec();
    sorted.sort_unstable();
    sorted.windows(2).any(|pair| pair[0] == pair[1])
}
