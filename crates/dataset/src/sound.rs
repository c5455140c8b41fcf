//! Can a line be proven sound at once? Nearly every line of a training file can.
//!
//! One look at its bytes ([`bytes::kinds`](crate::bytes::kinds)) and one plain reading settle what
//! the rules would otherwise look for one by one. Whatever is not settled, sound or not, is left to
//! the rules themselves, which this never contradicts: a test compares the two.

use crate::Role;
use crate::answer::Answer;
use crate::bytes::{AT, CONTROL, DENSE_DIGITS, Kinds, NOT_ASCII};
use crate::characters::{Letters, Script};
use crate::check::Checker;
use crate::facts::Facts;
use crate::finding::Findings;
use crate::plain::{Plain, Said};
use crate::words::Words;

/// The facts of a line that breaks no rule about conversations; what its answer breaks is added to
/// the findings. `None` says nothing but that the rules have to look.
pub(crate) fn prove(
    checker: &mut Checker,
    line: &[u8],
    kinds: Kinds,
    is_suspect: bool,
    findings: &mut Findings,
) -> Option<Facts> {
    if kinds & CONTROL != 0 || !checker.plain.read(line) {
        return None;
    }
    let is_ascii = kinds & NOT_ASCII == 0;
    if !is_ascii {
        std::str::from_utf8(line).ok()?;
    }
    let messages = &checker.plain.messages;
    if !is_in_order(messages) {
        return None;
    }
    let has_code_points = messages.iter().any(|said| said.has_code_points);
    let words = Words {
        options: checker.options,
        is_suspect: is_suspect || kinds & (AT | DENSE_DIGITS) != 0 || has_code_points,
    };
    let mut letters = Letters::default();
    checker.gatherer.clear();
    for (index, said) in messages.iter().enumerate() {
        let content = checker.plain.content(line, said);
        let is_plain =
            (is_ascii || content.is_ascii()) && !said.has_code_points && !words.is_suspect;
        if !is_plain || !is_long_enough(said.role, content, checker.options.min_user_chars) {
            let text = std::str::from_utf8(content).ok()?;
            let mut broken = Findings::new(&checker.options.severities, 0);
            words.check(
                text,
                &String::new,
                said.role == Role::User,
                false,
                &mut broken,
                &mut letters,
            );
            if !broken.list.is_empty() {
                return None;
            }
        } else {
            letters[Script::Latin as usize] += 1; // as `characters::check` counts ASCII
        }
        checker
            .gatherer
            .message(said.role, content, index + 1 < messages.len());
    }
    let mut facts = checker
        .gatherer
        .facts(&letters, checker.options.near_duplicates.is_some());
    check_answer(checker, line, findings, &mut facts)?;
    Some(facts)
}

/// User and assistant in turn, after a system prompt or none.
fn is_in_order(messages: &[Said]) -> bool {
    let turns = match messages {
        [first, turns @ ..] if matches!(first.role, Role::System | Role::Developer) => turns,
        turns => turns,
    };
    let (pairs, rest) = turns.as_chunks::<2>();
    let alternate = |[asked, answered]: &[Said; 2]| {
        (asked.role, answered.role) == (Role::User, Role::Assistant)
    };
    !pairs.is_empty() && rest.is_empty() && pairs.iter().all(alternate)
}

/// Not blank, and no shorter than a user's message should be, as far as ASCII goes.
fn is_long_enough(role: Role, content: &[u8], min_user_chars: usize) -> bool {
    let least = if role == Role::User {
        min_user_chars
    } else {
        0
    };
    content.trim_ascii().len() >= least.max(1)
}

/// The rules about answers, where any are asked for.
fn check_answer(
    checker: &mut Checker,
    line: &[u8],
    findings: &mut Findings,
    facts: &mut Facts,
) -> Option<()> {
    if !checker.answers.are_asked_for() {
        return Some(());
    }
    let Plain { messages, .. } = &checker.plain;
    let last = messages.last()?;
    let answer = std::str::from_utf8(checker.plain.content(line, last)).ok()?;
    // The line holds nothing but messages; a label is in there only when its path says so.
    let whole = if checker.answers.label_is_in("messages") {
        Some(std::str::from_utf8(line).ok()?)
    } else {
        None
    };
    let place = || format!("messages[{}].content", messages.len() - 1);
    let answer = Answer {
        text: answer,
        place: &place,
    };
    checker.answers.check(whole, Some(answer), findings, facts);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Options;
    use proptest::prelude::*;

    /// What the rules say when nothing is proven beforehand.
    fn slowly(options: &Options, line: &str) -> (Vec<crate::Finding>, Option<Facts>) {
        // A key that everybody knows and nobody judges makes a line too much for the plain reader.
        let with_key = line.replacen('{', "{\"id\": 0, ", 1);
        let checked = Checker::new(options).check(1, with_key.as_bytes(), false);
        (checked.findings, checked.facts)
    }

    fn proven(options: &Options, line: &str) -> Option<(Vec<crate::Finding>, Facts)> {
        let mut checker = Checker::new(options);
        let mut findings = Findings::new(&options.severities, 1);
        let kinds = crate::bytes::kinds(line.as_bytes());
        let is_suspect = crate::secrets::Suspicions::of(line.as_bytes()).before(line.len());
        let facts = prove(
            &mut checker,
            line.as_bytes(),
            kinds,
            is_suspect,
            &mut findings,
        )?;
        Some((findings.list, facts))
    }

    fn agrees(line: &str) {
        let strict = Options {
            min_user_chars: 10,
            assistant_json: true,
            label: Some("code".into()),
            near_duplicates: Some(0.8),
            ..Options::default()
        };
        for options in [
            Options {
                min_user_chars: 10,
                ..Options::default()
            },
            strict,
        ] {
            if let Some((findings, facts)) = proven(&options, line) {
                assert_eq!(slowly(&options, line), (findings, Some(facts)), "{line}");
            }
        }
    }

    const LINES: [&str; 5] = [
        r#"{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which code has dhobi itch?"}, {"role": "assistant", "content": "{\"code\": \"B35\"}"}]}"#,
        r#"{"messages":[{"role":"user","content":"Wie heißt das auf Deutsch?"},{"role":"assistant","content":"Das ist die Flechte, und sie ist in der Haut.\n"},{"role":"user","content":"  and in   English\n\u00e9?"},{"role":"assistant","content":"\ud83d\ude00"}]}"#,
        r#"{"messages": [{"role": "user", "content": "write to a.b@c.example, 078-05-1120"}, {"role": "assistant", "content": "x"}]}"#,
        r#"{"messages": [{"role": "user", "content": "at home@night 1234567890 and \tno more"}, {"role": "assistant", "content": "AKIA"}]}"#,
        r#"{"messages": [{"role": "user", "content": "short"}, {"role": "assistant", "content": " "}]}"#,
    ];

    #[test]
    fn what_is_sound_is_proven_and_what_is_not_is_not() {
        let is_proven = LINES.map(|line| {
            proven(
                &Options {
                    min_user_chars: 10,
                    ..Options::default()
                },
                line,
            )
            .is_some()
        });
        assert_eq!(is_proven, [true, true, false, true, false]);
        LINES.into_iter().for_each(agrees);
    }

    proptest! {
        #[test]
        fn the_proof_and_the_rules_agree_on_changed_lines(
            line in 0..LINES.len(), at in 0..400usize, to in any::<char>(), cut in 0..400usize, put in "[ -~]{1,3}"
        ) {
            let mut letters: Vec<char> = LINES[line].chars().collect();
            let length = letters.len();
            letters[at % length] = to;
            agrees(&letters.iter().collect::<String>());
            letters.remove(cut % length);
            agrees(&letters.iter().collect::<String>());
            agrees(&LINES[line].replacen(['a', 'e'], &put, 1 + at % 5));
        }
    }
}
