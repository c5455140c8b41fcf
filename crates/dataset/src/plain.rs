//! How is the commonest line read fastest? `{"messages": [{"role": "…", "content": "…"}, …]}`.
//!
//! Nearly every line of a training file has this shape, and a parser that expects nothing else
//! reads it at several times the speed. Whatever it does not expect, sound or not, it leaves to
//! [`Record`](crate::record::Record)'s own parser, whose slow twin it is tested against.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use crate::record::{List, Message, Record, Written};

/// Reads a plain conversation; `None` says nothing but that the line is not plain.
pub(crate) fn read(line: &str) -> Option<Record<'_>> {
    let mut reader = Reader { line, at: 0 };
    reader.expect(b'{')?;
    reader.key("\"messages\"")?;
    reader.expect(b'[')?;
    let mut messages = Vec::with_capacity(4);
    loop {
        messages.push(reader.message()?);
        match reader.next()? {
            b',' => {}
            b']' => break,
            _ => return None,
        }
    }
    reader.expect(b'}')?;
    reader.skip_space();
    (reader.at == line.len()).then(|| Record {
        messages: Some(List::Messages(messages)),
        ..Record::default()
    })
}

struct Reader<'a> {
    line: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn skip_space(&mut self) {
        while matches!(
            self.line.as_bytes().get(self.at),
            Some(b' ' | b'\t' | b'\r' | b'\n')
        ) {
            self.at += 1;
        }
    }

    fn next(&mut self) -> Option<u8> {
        self.skip_space();
        let byte = *self.line.as_bytes().get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    /// A key with its quotes, and the colon.
    fn key(&mut self, key: &str) -> Option<()> {
        self.skip_space();
        if !self.line.as_bytes()[self.at..].starts_with(key.as_bytes()) {
            return None;
        }
        self.at += key.len();
        self.expect(b':')
    }

    /// `{"role": "…", "content": "…"}`, in this order.
    fn message(&mut self) -> Option<Message<'a>> {
        self.expect(b'{')?;
        self.key("\"role\"")?;
        let role = self.string()?;
        self.expect(b',')?;
        self.key("\"content\"")?;
        let content = self.string()?;
        self.expect(b'}')?;
        let (role, content) = (Some(Written::Text(role)), Some(Written::Text(content)));
        Some(Message {
            role,
            content,
            ..Message::default()
        })
    }

    fn string(&mut self) -> Option<Cow<'a, str>> {
        self.expect(b'"')?;
        let start = self.at;
        let end = start + memchr2(b'"', b'\\', &self.line.as_bytes()[start..])?;
        let text = &self.line[start..end];
        if has_control(text) {
            return None;
        }
        self.at = end + 1;
        if self.line.as_bytes()[end] == b'"' {
            Some(Cow::Borrowed(text))
        } else {
            self.escaped(text)
        }
    }

    /// Goes on after the first backslash.
    fn escaped(&mut self, start: &str) -> Option<Cow<'a, str>> {
        let bytes = self.line.as_bytes();
        let rest = memchr(b'"', &bytes[self.at..])?;
        let mut text = String::with_capacity(start.len() + 2 * rest + 32);
        text.push_str(start);
        loop {
            text.push(match bytes.get(self.at)? {
                b'"' => '"',
                b'\\' => '\\',
                b'/' => '/',
                b'n' => '\n',
                b't' => '\t',
                b'r' => '\r',
                _ => return None, // \u and what is no escape
            });
            self.at += 1;
            let end = self.at
                + bytes[self.at..]
                    .iter()
                    .position(|byte| matches!(byte, b'"' | b'\\'))?;
            let piece = &self.line[self.at..end];
            if has_control(piece) {
                return None;
            }
            text.push_str(piece);
            self.at = end + 1;
            if bytes[end] == b'"' {
                return Some(Cow::Owned(text));
            }
        }
    }
}

/// A raw control character is no JSON. Without an early exit the loop is vectorised.
fn has_control(text: &str) -> bool {
    text.bytes().fold(false, |any, byte| any | (byte < 0x20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINE: &str = r#" {"messages": [{"role":"user","content":"a \"b\"\n\\ü"} , {"role": "assistant", "content": ""}]} "#;

    fn agrees(line: &str) {
        if let Some(plain) = read(line) {
            let slow = Record::parse(line).expect("what the fast parser reads is JSON");
            assert_eq!(format!("{plain:?}"), format!("{slow:?}"));
        }
    }

    #[test]
    fn a_plain_line_is_read_as_the_slow_parser_reads_it() {
        assert!(read(LINE).is_some());
        agrees(LINE);
    }

    #[test]
    fn what_is_not_plain_is_left_to_the_slow_parser() {
        for line in [
            r#"{"messages":[]}"#,
            r#"{"messages":[{"role":"user","content":"\u00e9"}]}"#,
            r#"{"a":1}"#,
            "[]",
            "",
            r#"{"messages":[{"role":"user","content":"x","name":"n"}]}"#,
            "{\"messages\":[{\"role\":\"user\",\"content\":\"\t\"}]}",
            r#"{"messages":[{"role":"user","content":"x"}]} x"#,
            r#"{"messages":[{"role":"user","content":"x"}],"tools":[]}"#,
        ] {
            assert!(read(line).is_none(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn a_changed_line_is_read_as_the_slow_parser_reads_it(at in 0..LINE.len(), to in any::<char>(), cut in 0..LINE.len()) {
            let mut line: Vec<char> = LINE.chars().collect();
            let index = at % line.len();
            line[index] = to;
            agrees(&line.iter().collect::<String>());
            line.remove(cut % line.len());
            agrees(&line.iter().collect::<String>());
        }
    }
}
