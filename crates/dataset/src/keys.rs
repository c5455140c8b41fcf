//! When do two examples ask the same, and what does a field of an example say?

use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use crate::{Chat, Example, Message, Role};

/// Two examples with the same key ask the same: all that is said before the last answer, but for
/// case, white space and the system prompt, which every example of a file tends to share.
pub fn prompt_key(example: &Example) -> u64 {
    xxh3_64(&prompt_bytes(example))
}

/// The prompt as text, for comparing how alike two are.
pub fn prompt_text(example: &Example) -> String {
    String::from_utf8_lossy(&prompt_bytes(example)).into_owned()
}

/// Two examples with the same key belong to the same split: all that is said before the first answer
/// that is learned, less what [`prompt_key`] passes over. Every answer of a conversation is learned, so a
/// conversation and its longer versions have one key. What was said before in messages of weight 0 (a
/// prompt's few shots, say) is part of the question.
pub fn first_question_key(example: &Example) -> u64 {
    xxh3_64(&first_question_bytes(example))
}

/// The first question as text, for comparing how alike two are.
pub fn first_question_text(example: &Example) -> String {
    String::from_utf8_lossy(&first_question_bytes(example)).into_owned()
}

fn first_question_bytes(example: &Example) -> Vec<u8> {
    match example {
        Example::Chat(chat) => said(&chat.messages[..first_question_length(chat)]),
        _ => prompt_bytes(example),
    }
}

/// The number of messages before the first answer that is learned. An assistant's greeting answers
/// nothing: were it an answer, all that are greeted alike would be one.
fn first_question_length(chat: &Chat) -> usize {
    let asked = |message: &Message| {
        !matches!(
            message.role,
            Role::System | Role::Developer | Role::Assistant
        )
    };
    let start = chat.messages.iter().position(asked).unwrap_or(0);
    let first = chat.messages[start..].iter().position(Message::is_learned);
    first.map_or_else(|| prompt_length(chat), |first| start + first)
}

/// What is asked right before each answer that is learned, as a key of its own, whatever was said
/// before it. Of a conversation of one question it is the [`prompt_key`].
pub fn question_keys(example: &Example) -> Vec<u64> {
    let Example::Chat(chat) = example else {
        return vec![prompt_key(example)];
    };
    let turns = chat
        .messages
        .chunk_by(|said, _| said.role != Role::Assistant);
    let learned = turns.filter(|turn| turn.last().is_some_and(Message::is_learned));
    let questions = learned.map(|turn| said(&turn[..turn.len() - 1]));
    let asked = questions.filter(|question| !question.is_empty());
    asked.map(|question| xxh3_64(&question)).collect()
}

fn prompt_bytes(example: &Example) -> Vec<u8> {
    let mut prompt = Vec::new();
    match example {
        Example::Chat(chat) => prompt = said(&chat.messages[..prompt_length(chat)]),
        Example::Completion { prompt: text, .. } => say(&mut prompt, Role::User, text.as_bytes()),
        Example::Text { text } => say(&mut prompt, Role::User, text.as_bytes()),
        Example::Tokens { input_ids, labels } => {
            let learned = |index: &usize| {
                labels
                    .as_ref()
                    .is_none_or(|labels| labels[*index].is_some())
            };
            let end = (0..input_ids.len())
                .find(learned)
                .filter(|end| *end > 0)
                .unwrap_or(input_ids.len());
            prompt.extend(input_ids[..end].iter().flat_map(|id| id.to_le_bytes()));
        }
    }
    prompt
}

/// Messages as they are hashed.
fn said(messages: &[Message]) -> Vec<u8> {
    let mut prompt = Vec::new();
    for message in messages {
        let content = message.content.as_deref().unwrap_or_default();
        say(&mut prompt, message.role, content.as_bytes());
    }
    prompt
}

/// Adds a message to a prompt that is to be hashed; the system prompt is no part of it.
pub(crate) fn say(prompt: &mut Vec<u8>, role: Role, content: &[u8]) {
    if !matches!(role, Role::System | Role::Developer) {
        prompt.extend_from_slice(role.name().as_bytes());
        prompt.push(0); // "ab" + "c" is not "a" + "bc"
        normalize_into(content, prompt);
        prompt.push(0);
    }
}

/// The number of messages before the last answer.
fn prompt_length(chat: &Chat) -> usize {
    let last = chat
        .messages
        .iter()
        .rposition(|message| message.role == Role::Assistant);
    last.unwrap_or(chat.messages.len())
}

/// Lower case, and one space where there was any white space.
fn normalize_into(text: &[u8], out: &mut Vec<u8>) {
    if text.is_ascii() {
        return normalize_ascii(text.trim_ascii(), out);
    }
    let text = String::from_utf8_lossy(text);
    let mut letter_bytes = [0; 4];
    for (index, word) in text.split_whitespace().enumerate() {
        if index > 0 {
            out.push(b' ');
        }
        for letter in word.chars().flat_map(char::to_lowercase) {
            out.extend_from_slice(letter.encode_utf8(&mut letter_bytes).as_bytes());
        }
    }
}

fn normalize_ascii(text: &[u8], out: &mut Vec<u8>) {
    if is_evenly_spaced(text) {
        out.extend(text.iter().map(u8::to_ascii_lowercase));
        return;
    }
    let start = out.len();
    for byte in text {
        let is_space = matches!(byte, b'\t'..=b'\r' | b' '); // with \v, as Unicode has it
        if !is_space {
            out.push(byte.to_ascii_lowercase());
        } else if out.len() > start && out.last() != Some(&b' ') {
            out.push(b' ');
        }
    }
    if out.len() > start && out.last() == Some(&b' ') {
        out.pop(); // a \v at the end
    }
}

/// Only single spaces between words. Without an early exit the loop is vectorised.
fn is_evenly_spaced(text: &[u8]) -> bool {
    let following = text.get(1..).unwrap_or_default();
    let has_other = text.iter().fold(false, |any, byte| any | (*byte < b' '));
    let has_two = text
        .iter()
        .zip(following)
        .fold(false, |any, (a, b)| any | ((*a == b' ') & (*b == b' ')));
    !has_other && !has_two
}

/// The text of a field: `metadata.patient` walks into the line; a plain `code` is a key of the
/// line or else of the JSON that the last assistant message holds.
pub fn field(line: &Value, path: &str) -> Option<String> {
    walk(line, path)
        .or_else(|| walk(&answer(line)?, path))
        .map(written)
}

/// The text of a field of the JSON that an answer holds.
pub(crate) fn field_of_answer(answer: &str, path: &str) -> Option<String> {
    walk(&serde_json::from_str(answer).ok()?, path).map(written)
}

fn written(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

fn walk(value: &Value, path: &str) -> Option<Value> {
    let mut value = value;
    for step in path.split('.') {
        value = match value {
            Value::Object(keys) => keys.get(step)?,
            Value::Array(values) => values.get(step.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    (!value.is_null()).then(|| value.clone())
}

fn answer(line: &Value) -> Option<Value> {
    let said = line.get("messages").or_else(|| line.get("completion"))?;
    let content = match said {
        Value::Array(messages) => messages
            .iter()
            .rev()
            .find(|message| message["role"] == "assistant")?
            .get("content")?,
        text => text,
    };
    match content {
        Value::String(text) => serde_json::from_str(text).ok(),
        Value::Array(parts) => {
            let texts = parts.iter().map(|part| part.get("text")?.as_str());
            serde_json::from_str(&texts.collect::<Option<String>>()?).ok()
        }
        _ => None,
    }
}

/// A number in [0, 1) for a group under a seed: the same today and when the file has grown.
pub(crate) fn unit_interval(group: u64, seed: u64) -> f64 {
    (rank(group, seed) >> 11) as f64 / (1u64 << 53) as f64
}

/// A group's place in the order that a seed gives.
pub fn rank(group: u64, seed: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..].copy_from_slice(&group.to_le_bytes());
    xxh3_64(&bytes)
}

/// The group of everything that has this field.
pub fn field_key(text: &str) -> u64 {
    xxh3_64(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(line: &str) -> u64 {
        prompt_key(&Example::from_json(line).unwrap())
    }

    #[test]
    fn the_same_question_has_the_same_key_whatever_surrounds_it() {
        let a = key(
            r#"{"messages":[{"role":"system","content":"S"},{"role":"user","content":"Dhobi  itch"},{"role":"assistant","content":"x"}]}"#,
        );
        let b = key(
            r#"{"messages":[{"role":"user","content":" dhobi itch\n"},{"role":"assistant","content":"y"}]}"#,
        );
        let c = key(r#"{"prompt":"DHOBI ITCH","completion":"z"}"#);
        let d = key(r#"{"prompt":"dhobi itches","completion":"z"}"#);
        assert_eq!((a, b), (b, c));
        assert_ne!(c, d);
    }

    fn chat(turns: &[(&str, &str, u8)]) -> Example {
        let messages = turns.iter().map(|(role, content, weight)| {
            let mut message = Message::new(Role::from_name(role).unwrap(), *content);
            message.weight = (*role == "assistant").then_some(*weight);
            message
        });
        Example::Chat(Chat {
            messages: messages.collect(),
            ..Chat::default()
        })
    }

    #[test]
    fn a_conversation_and_its_longer_versions_have_one_first_question() {
        let long = [
            ("system", "S", 1),
            ("user", "Q1", 1),
            ("assistant", "A1", 1),
            ("user", "Q2", 1),
            ("assistant", "A2", 1),
        ];
        let keys = [2, 3, 5].map(|length| first_question_key(&chat(&long[..length])));
        assert_eq!(keys, [keys[0]; 3]);
        assert_eq!(keys[0], prompt_key(&chat(&[("user", "q1", 1)])));
        assert_eq!(first_question_text(&chat(&long)), "user\0q1\0");
    }

    #[test]
    fn neither_a_greeting_nor_a_shot_that_is_not_learned_is_a_first_answer() {
        let greeted = |question: &str| {
            first_question_key(&chat(&[
                ("assistant", "Hello!", 1),
                ("user", question, 1),
                ("assistant", "A", 1),
            ]))
        };
        assert_ne!(greeted("Q1"), greeted("Q2"));
        let shown = |question: &str| {
            first_question_key(&chat(&[
                ("user", "shot", 1),
                ("assistant", "A", 0),
                ("user", question, 1),
                ("assistant", "A", 1),
            ]))
        };
        assert_ne!(shown("Q1"), shown("Q2"));
    }

    #[test]
    fn every_learned_answer_has_its_question() {
        let example = chat(&[
            ("user", "hi", 1),
            ("assistant", "hello", 0),
            ("user", "Q1", 1),
            ("assistant", "A1", 1),
            ("assistant", "more", 1),
            ("user", " q2", 1),
            ("assistant", "A2", 1),
            ("user", "left alone", 1),
        ]);
        let alone = ["q1", "q2"].map(|question| prompt_key(&chat(&[("user", question, 1)])));
        assert_eq!(question_keys(&example), alone);
    }

    #[test]
    fn the_short_way_of_normalizing_equals_the_long_one() {
        for text in [
            "A  b",
            " a B ",
            "a\tb",
            "Ä b",
            "a b c",
            "",
            " ",
            "a\u{a0}b",
            "a\r\n\n B\n",
            "\u{b}a \u{b}b\u{b}",
            " \u{b}",
        ] {
            let mut short = Vec::new();
            normalize_into(text.as_bytes(), &mut short);
            let long = text
                .to_lowercase()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ");
            assert_eq!(String::from_utf8(short).unwrap(), long);
        }
    }

    #[test]
    fn a_field_is_found_in_the_line_or_in_the_answer() {
        let line = serde_json::json!({"metadata": {"patient": 7}, "messages": [
            {"role": "assistant", "content": "{\"code\": \"B35\", \"confidence\": 0.5}"}]});
        assert_eq!(field(&line, "code").as_deref(), Some("B35"));
        assert_eq!(field(&line, "metadata.patient").as_deref(), Some("7"));
        assert_eq!(field(&line, "confidence").as_deref(), Some("0.5"));
        assert_eq!(
            field(&line, "messages.0.role").as_deref(),
            Some("assistant")
        );
        assert_eq!(field(&line, "absent"), None);
        for answer in [
            serde_json::json!("{\"code\": \"B35\"}"),
            serde_json::json!([{"role": "assistant", "content": "{\"code\": \"B35\"}"}]),
            serde_json::json!([{"role": "assistant", "content": [
                {"type": "text", "text": "{\"code\":"}, {"type": "text", "text": " \"B35\"}"}]}]),
        ] {
            let line = serde_json::json!({"prompt": "q", "completion": answer});
            assert_eq!(field(&line, "code").as_deref(), Some("B35"), "{line}");
        }
    }
}
