//! Does a text hold what must not be learned: credentials, personal data?
//!
//! Patterns with few false alarms only: a card number must pass its checksum, a token must have its
//! vendor's prefix. A cheap look at the bytes comes first, since nearly every text is innocent.

use std::sync::LazyLock;

use regex::bytes::Regex;

use crate::bytes::{self, AT, DENSE_DIGITS};
use crate::finding::Findings;
use crate::rules::Rule;

/// What begins a credential, as vendors document it.
static PREFIX: LazyLock<Regex> = LazyLock::new(|| {
    compiled(
        r"-----BEGIN|AKIA|ASIA|ghp_|gho_|ghs_|ghu_|github_pat_|sk-|sk_live_|rk_live_|xox[abpros]-|AIza|glpat-|hf_|npm_|eyJ|pypi-",
    )
});

static SECRETS: LazyLock<[(&str, Regex); 9]> = LazyLock::new(|| {
    [
        (
            "a private key",
            compiled(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
        ),
        (
            "an AWS access key",
            compiled(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
        ),
        (
            "a GitHub token",
            compiled(r"\b(?:gh[posu]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60,})"),
        ),
        (
            "an API key",
            compiled(r"\b(?:sk-(?:ant-|proj-)?[A-Za-z0-9_-]{32,}|[sr]k_live_[A-Za-z0-9]{20,})"),
        ),
        (
            "a Slack token",
            compiled(r"\bxox[abpros]-[A-Za-z0-9-]{10,}"),
        ),
        ("a Google API key", compiled(r"\bAIza[A-Za-z0-9_-]{35}")),
        ("a GitLab token", compiled(r"\bglpat-[A-Za-z0-9_-]{20,}")),
        (
            "a registry token",
            compiled(r"\b(?:hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,})"),
        ),
        (
            "a JSON web token",
            compiled(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
        ),
    ]
});

static EMAIL: LazyLock<Regex> = LazyLock::new(|| {
    compiled(
        r"[A-Za-z0-9._%+-]+@[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}",
    )
});
static SOCIAL_SECURITY: LazyLock<Regex> = LazyLock::new(|| compiled(r"\b\d{3}-\d{2}-\d{4}\b"));
static CARD: LazyLock<Regex> = LazyLock::new(|| compiled(r"\b\d(?:[ -]?\d){12,18}\b"));
static IBAN: LazyLock<Regex> =
    LazyLock::new(|| compiled(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b"));

/// Where the texts of a block might begin a credential. One search for the whole block costs far less
/// than one for each line.
pub(crate) struct Suspicions<'b> {
    found: regex::bytes::Matches<'static, 'b>,
    next: Option<usize>,
}

impl<'b> Suspicions<'b> {
    pub fn of(block: &'b [u8]) -> Suspicions<'b> {
        let mut found = PREFIX.find_iter(block);
        let next = found.next().map(|found| found.start());
        Suspicions { found, next }
    }

    /// Is there any before `end`? Ends come in ascending order, and each is asked about what lies
    /// between the one before and itself.
    pub fn before(&mut self, end: usize) -> bool {
        let is_any = self.next.is_some_and(|next| next < end);
        while self.next.is_some_and(|next| next < end) {
            self.next = self.found.next().map(|found| found.start());
        }
        is_any
    }
}

/// Looks for credentials and personal data in one text.
pub(crate) fn check(text: &str, place: &dyn Fn() -> String, findings: &mut Findings) {
    let bytes = text.as_bytes();
    if PREFIX.is_match(bytes) {
        for (what, pattern) in SECRETS.iter() {
            if let Some(found) = pattern.find(bytes) {
                findings.add(Rule::Secret, || {
                    format!(
                        "{} seems to hold {what}, at byte {}",
                        place(),
                        found.start() + 1
                    )
                });
            }
        }
    }
    let kinds = bytes::kinds(bytes);
    if kinds & AT != 0 && EMAIL.is_match(bytes) {
        findings.add(Rule::PersonalData, || {
            format!("{} holds an e-mail address", place())
        });
    }
    if kinds & DENSE_DIGITS != 0 {
        numbers(bytes, place, findings);
    }
}

fn numbers(bytes: &[u8], place: &dyn Fn() -> String, findings: &mut Findings) {
    if SOCIAL_SECURITY
        .find_iter(bytes)
        .any(|found| is_social_security(found.as_bytes()))
    {
        findings.add(Rule::PersonalData, || {
            format!("{} holds what looks like a social security number", place())
        });
    }
    if CARD
        .find_iter(bytes)
        .any(|found| passes_luhn(found.as_bytes()))
    {
        findings.add(Rule::PersonalData, || {
            format!("{} holds what looks like a card number", place())
        });
    }
    if IBAN
        .find_iter(bytes)
        .any(|found| passes_iban(found.as_bytes()))
    {
        findings.add(Rule::PersonalData, || format!("{} holds an IBAN", place()));
    }
}

/// No area 000, 666 or 9xx, no group 00, no serial 0000: such numbers are never given out.
fn is_social_security(text: &[u8]) -> bool {
    let (area, group, serial) = (&text[..3], &text[4..6], &text[7..]);
    area != b"000" && area != b"666" && area[0] != b'9' && group != b"00" && serial != b"0000"
}

fn passes_luhn(text: &[u8]) -> bool {
    let digits: Vec<u32> = text
        .iter()
        .filter(|byte| byte.is_ascii_digit())
        .map(|byte| u32::from(byte - b'0'))
        .collect();
    let double = |digit: u32| if digit > 4 { 2 * digit - 9 } else { 2 * digit };
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(index, digit)| {
            if index % 2 == 1 {
                double(*digit)
            } else {
                *digit
            }
        })
        .sum();
    // Card numbers begin with 2 to 6, and a row of one digit is a placeholder.
    sum.is_multiple_of(10)
        && (2..=6).contains(&digits[0])
        && digits.iter().any(|digit| *digit != digits[0])
}

/// ISO 13616: the rearranged number is 1 modulo 97.
fn passes_iban(text: &[u8]) -> bool {
    let compact: Vec<u8> = text.iter().copied().filter(|byte| *byte != b' ').collect();
    if !(15..=34).contains(&compact.len()) {
        return false;
    }
    let rearranged = compact[4..].iter().chain(&compact[..4]);
    let remainder = rearranged.fold(0u32, |remainder, byte| match byte {
        b'0'..=b'9' => (remainder * 10 + u32::from(byte - b'0')) % 97,
        letter => (remainder * 100 + u32::from(letter - b'A') + 10) % 97,
    });
    remainder == 1
}

fn compiled(pattern: &str) -> Regex {
    regex::bytes::RegexBuilder::new(pattern)
        .unicode(false)
        .build()
        .expect("the patterns above are well formed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Severities;

    fn found(text: &str) -> Vec<String> {
        let severities = Severities::default();
        let mut findings = Findings::new(&severities, 1);
        check(text, &|| "it".into(), &mut findings);
        findings
            .list
            .into_iter()
            .map(|finding| finding.message.to_string())
            .collect()
    }

    #[test]
    fn credentials_and_personal_data_are_seen() {
        assert_eq!(
            found("key AKIAIOSFODNN7EXAMPLE."),
            ["it seems to hold an AWS access key, at byte 5"]
        );
        assert_eq!(
            found("-----BEGIN RSA PRIVATE KEY-----"),
            ["it seems to hold a private key, at byte 1"]
        );
        assert_eq!(
            found("jane.doe@example.org"),
            ["it holds an e-mail address"]
        );
        assert_eq!(
            found("4111 1111 1111 1111"),
            ["it holds what looks like a card number"]
        );
        assert_eq!(
            found("SSN 078-05-1120"),
            ["it holds what looks like a social security number"]
        );
        assert_eq!(found("DE89 3704 0044 0532 0130 00"), ["it holds an IBAN"]);
    }

    #[test]
    fn suspicions_are_told_by_line() {
        let block = b"a sound line\nAKIA ghp_ and so on\n\nhf_ at the last\n";
        let mut suspicions = Suspicions::of(block);
        let ends = memchr::memchr_iter(b'\n', block);
        let told: Vec<bool> = ends.map(|end| suspicions.before(end)).collect();
        assert_eq!(told, [false, true, false, true]);
    }

    #[test]
    fn innocent_text_is_not_suspected() {
        for text in [
            "disk-sk-a task-based ghp",
            "@home 5@3",
            "1234567890123456",
            "call 555-12-34567 now",
            "0000-00-0000 E11.9",
            "2026-11-23 12:34:56.789012",
            "eyJust a word",
            "000-12-3456",
        ] {
            assert_eq!(found(text), Vec::<String>::new(), "{text}");
        }
    }
}
