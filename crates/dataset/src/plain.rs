//! How is the commonest line read fastest? `{"messages": [{"role": "…", "content": "…"}, …]}`.
//!
//! Nearly every line of a training file has this shape, and a parser that expects nothing else
//! reads it at many times the speed, into buffers that are used again. Whatever it does not expect,
//! sound or not, it leaves to [`Record`](crate::record::Record)'s own parser, whose slow twin it is
//! tested against.

use std::ops::Range;

use memchr::memchr2;

use crate::Role;

/// A plain conversation, as long as the line that it was read from is at hand.
#[derive(Debug, Default)]
pub(crate) struct Plain {
    pub messages: Vec<Said>,
    /// What was written with escapes, one text after the other.
    unescaped: Vec<u8>,
}

/// One message: who speaks, and where the words stand.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub role: Role,
    range: Range<usize>,
    is_unescaped: bool,
    /// A `\u` has made characters that cannot be seen in the line itself.
    pub has_code_points: bool,
}

impl Plain {
    /// Reads a line without raw control characters, valid UTF-8 or not; false says nothing but that
    /// the line is not plain.
    pub fn read(&mut self, line: &[u8]) -> bool {
        self.messages.clear();
        self.unescaped.clear();
        let mut reader = Reader { line, at: 0 };
        reader.conversation(self).is_some() && reader.rest_is_space()
    }

    /// The words of a message of the line that was read last.
    pub fn content<'a>(&'a self, line: &'a [u8], said: &Said) -> &'a [u8] {
        let from = if said.is_unescaped {
            &self.unescaped
        } else {
            line
        };
        &from[said.range.clone()]
    }
}

struct Reader<'a> {
    line: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn conversation(&mut self, plain: &mut Plain) -> Option<()> {
        self.expect(b'{')?;
        self.key(b"\"messages\"")?;
        self.expect(b'[')?;
        loop {
            let said = self.message(&mut plain.unescaped)?;
            plain.messages.push(said);
            match self.next()? {
                b',' => {}
                b']' => break,
                _ => return None,
            }
        }
        self.expect(b'}')
    }

    /// `{"role": "…", "content": "…"}`, in this order.
    fn message(&mut self, unescaped: &mut Vec<u8>) -> Option<Said> {
        self.expect(b'{')?;
        self.key(b"\"role\"")?;
        self.expect(b'"')?;
        let role = self.role()?;
        self.expect(b',')?;
        self.key(b"\"content\"")?;
        self.expect(b'"')?;
        let said = self.string(role, unescaped)?;
        self.expect(b'}')?;
        Some(said)
    }

    /// A role through its closing quote.
    fn role(&mut self) -> Option<Role> {
        let rest = &self.line[self.at..];
        let role = match rest.first()? {
            b'u' => Role::User,
            b'a' => Role::Assistant,
            b's' => Role::System,
            b'd' => Role::Developer,
            _ => return None, // tools and functions need more than role and content
        };
        let name = role.name().as_bytes();
        if !rest.starts_with(name) || *rest.get(name.len())? != b'"' {
            return None;
        }
        self.at += name.len() + 1;
        Some(role)
    }

    /// A text through its closing quote.
    fn string(&mut self, role: Role, unescaped: &mut Vec<u8>) -> Option<Said> {
        let start = self.at;
        let end = start + memchr2(b'"', b'\\', &self.line[start..])?;
        self.at = end + 1;
        let mut said = Said {
            role,
            range: start..end,
            is_unescaped: false,
            has_code_points: false,
        };
        if self.line[end] == b'\\' {
            let from = unescaped.len();
            unescaped.extend_from_slice(&self.line[start..end]);
            said.has_code_points = self.escaped(unescaped)?;
            said.is_unescaped = true;
            said.range = from..unescaped.len();
        }
        Some(said)
    }

    /// Goes on after the first backslash; tells whether there were code points.
    fn escaped(&mut self, text: &mut Vec<u8>) -> Option<bool> {
        let mut has_code_points = false;
        loop {
            let escape = *self.line.get(self.at)?;
            self.at += 1;
            match escape {
                b'"' | b'\\' | b'/' => text.push(escape),
                b'n' => text.push(b'\n'),
                b't' => text.push(b'\t'),
                b'r' => text.push(b'\r'),
                b'u' => {
                    has_code_points = true;
                    let letter = self.code_point()?;
                    text.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                }
                _ => return None, // control characters, and what is no escape
            }
            self.piece(text)?;
            if self.line[self.at - 1] == b'"' {
                return Some(has_code_points);
            }
        }
    }

    /// Copies what comes before the next quote or backslash, and passes that.
    fn piece(&mut self, text: &mut Vec<u8>) -> Option<()> {
        let rest = &self.line[self.at..];
        // Escapes often follow one another closely, and a call is dearer than a few bytes.
        let near = rest
            .iter()
            .take(16)
            .position(|byte| matches!(byte, b'"' | b'\\'));
        let length = match near {
            Some(length) => length,
            None => memchr2(b'"', b'\\', rest)?,
        };
        text.extend_from_slice(&rest[..length]);
        self.at += length + 1;
        Some(())
    }

    /// Four hexadecimal digits, or twice four with a `\u` between for what lies beyond U+FFFF.
    fn code_point(&mut self) -> Option<char> {
        let first = self.hex()?;
        if !(0xD800..0xDC00).contains(&first) {
            return char::from_u32(first);
        }
        if !self.line[self.at..].starts_with(b"\\u") {
            return None;
        }
        self.at += 2;
        let second = self.hex()?.checked_sub(0xDC00).filter(|low| *low < 0x400)?;
        char::from_u32(0x10000 + ((first - 0xD800) << 10) + second)
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.line.get(self.at..self.at + 4)?;
        self.at += 4;
        digits.iter().try_fold(0, |value, digit| {
            Some(value << 4 | char::from(*digit).to_digit(16)?)
        })
    }

    /// A key with its quotes, and the colon.
    fn key(&mut self, key: &[u8]) -> Option<()> {
        self.skip_space();
        if !self.line[self.at..].starts_with(key) {
            return None;
        }
        self.at += key.len();
        self.expect(b':')
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    fn next(&mut self) -> Option<u8> {
        self.skip_space();
        let byte = *self.line.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn skip_space(&mut self) {
        while self.line.get(self.at) == Some(&b' ') {
            self.at += 1;
        }
    }

    fn rest_is_space(&mut self) -> bool {
        self.skip_space();
        self.at == self.line.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{List, Record};
    use proptest::prelude::*;

    const LINE: &str = r#" {"messages": [{"role":"user","content":"a \"b\"\n\\ü\u00e9\ud83d\ude00"} , {"role": "assistant", "content": ""}]} "#;

    fn reads(line: &str) -> bool {
        Plain::default().read(line.as_bytes())
    }

    fn agrees(line: &str) {
        let mut plain = Plain::default();
        if line.bytes().any(|byte| byte < 0x20) || !plain.read(line.as_bytes()) {
            return;
        }
        let slow = Record::parse(line).expect("what the fast parser reads is JSON");
        assert!(
            slow.tools.is_none() && slow.unknown_keys.is_empty() && slow.repeated_keys.is_empty()
        );
        let Some(List::Messages(messages)) = slow.messages else {
            panic!("{line}: no list")
        };
        assert_eq!(messages.len(), plain.messages.len());
        for (slow, said) in messages.iter().zip(&plain.messages) {
            let text = |written: &Option<crate::record::Written>| {
                written
                    .as_ref()
                    .and_then(|written| written.text().map(str::to_owned))
            };
            assert_eq!(text(&slow.role).as_deref(), Some(said.role.name()));
            let words = std::str::from_utf8(plain.content(line.as_bytes(), said)).unwrap();
            assert_eq!(text(&slow.content).as_deref(), Some(words));
            assert!(slow.weight.is_none() && slow.tool_calls.is_none());
            assert!(slow.unknown_keys.is_empty() && slow.repeated_keys.is_empty());
        }
    }

    #[test]
    fn a_plain_line_is_read_as_the_slow_parser_reads_it() {
        assert!(reads(LINE));
        agrees(LINE);
    }

    #[test]
    fn what_is_not_plain_is_left_to_the_slow_parser() {
        for line in [
            r#"{"messages":[]}"#,
            r#"{"messages":[{"role":"user","content":"\ud83d"}]}"#,
            r#"{"messages":[{"role":"user","content":"\ud83d\u0041"}]}"#,
            r#"{"messages":[{"role":"user","content":"\b"}]}"#,
            r#"{"messages":[{"role":"userx","content":"a"}]}"#,
            r#"{"messages":[{"role":"user"#,
            r#"{"messages":[{"role":"user","content":"\"#,
            r#"{"messages":[{"role":"user","content":"\u00"#,
            r#"{"a":1}"#,
            "[]",
            "",
            r#"{"messages":[{"role":"user","content":"x","name":"n"}]}"#,
            r#"{"messages":[{"role":"user","content":"x"}]} x"#,
            r#"{"messages":[{"role":"user","content":"x"}],"tools":[]}"#,
        ] {
            assert!(!reads(line), "{line}");
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
