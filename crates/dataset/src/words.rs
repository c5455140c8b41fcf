//! Is what somebody says worth learning: not empty, not too short, honest characters, no secrets?

use crate::characters::{self, Letters};
use crate::check::Options;
use crate::finding::Findings;
use crate::rules::Rule;
use crate::secrets;

/// How the texts of a line are judged.
pub(crate) struct Words<'o> {
    pub options: &'o Options,
    /// The line might hold a secret or personal data; nearly none does, and that is cheap to see.
    pub is_suspect: bool,
}

impl Words<'_> {
    /// Judges one text and counts its letters.
    pub fn check(
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
}

fn is_shorter(text: &str, chars: usize) -> bool {
    // Fewer bytes than chars is certain; four times as many is impossible.
    text.len() < chars || (text.len() < 4 * chars && text.chars().count() < chars)
}
