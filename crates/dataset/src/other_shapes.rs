//! What is wrong with a line that is no conversation: prompt and completion, plain text, token ids?

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::answer::Answer;
use crate::characters::Letters;
use crate::check::Checker;
use crate::facts::Facts;
use crate::finding::Findings;
use crate::keys;
use crate::language::Language;
use crate::rules::Rule;
use crate::words::Words;
use crate::{Example, Pretokenized};

/// Judges the line; `None` when it is no example.
pub(crate) fn check(
    checker: &mut Checker,
    line: &str,
    words: &Words,
    findings: &mut Findings,
) -> Option<Facts> {
    let example = match Example::from_json(line) {
        Ok(example) => example,
        Err(error) => {
            findings.add(Rule::of(&error), || error.to_string());
            return None;
        }
    };
    let mut letters = Letters::default();
    let mut part = |name: &'static str, text: &str, findings: &mut Findings| {
        let place = || name.to_owned();
        words.check(
            text,
            &place,
            name == "prompt",
            false,
            findings,
            &mut letters,
        );
    };
    let (mut asked, mut answer) = (None, None);
    match &example {
        Example::Completion { prompt, completion } => {
            part("prompt", prompt, findings);
            part("completion", completion, findings);
            (asked, answer) = (Some(prompt.as_str()), Some(completion.as_str()));
        }
        Example::Text { text } => part("text", text, findings),
        Example::Tokens { .. } => tokens(line, findings),
        // Read as a conversation before it comes here.
        Example::Chat(_) => {}
    }
    checker.gatherer.clear();
    let told = |text: Option<&str>| text.and_then(|text| Language::of(text.as_bytes()));
    let mut facts = Facts {
        example: identity(&example),
        prompt: keys::prompt_key(&example),
        answer: xxh3_64(answer.unwrap_or_default().as_bytes()),
        asked_in: told(asked),
        answered_in: told(answer),
        ..checker.gatherer.facts(&letters, false)
    };
    if checker.options.near_duplicates.is_some() && !matches!(example, Example::Tokens { .. }) {
        facts.more().signature = Some(crate::minhash::Signature::of(&keys::prompt_text(&example)));
    }
    let place = || "completion".to_owned();
    let answer = answer.map(|text| Answer {
        text,
        place: &place,
    });
    checker
        .answers
        .check(Some(line), answer, findings, &mut facts);
    Some(facts)
}

/// What an example says, however its line is written: escapes, the order of keys and what else stands
/// beside are no part of it.
fn identity(example: &Example) -> u128 {
    let mut said = Vec::new();
    match example {
        Example::Completion { prompt, completion } => {
            said.push(b'c');
            said.extend_from_slice(&(prompt.len() as u64).to_le_bytes()); // "ab" + "c" is not "a" + "bc"
            said.extend_from_slice(prompt.as_bytes());
            said.extend_from_slice(completion.as_bytes());
        }
        Example::Text { text } => {
            said.push(b't');
            said.extend_from_slice(text.as_bytes());
        }
        Example::Tokens { input_ids, labels } => {
            said.push(b'i');
            said.extend(input_ids.iter().flat_map(|id| id.to_le_bytes()));
            let labels = labels.iter().flatten();
            said.extend(labels.flat_map(|label| label.map_or(-1, i64::from).to_le_bytes()));
        }
        Example::Chat(_) => {} // read as a conversation before it comes here
    }
    xxh3_128(&said)
}

/// As tokenize-pack reads it.
fn tokens(line: &str, findings: &mut Findings) {
    let line = Pretokenized::parse(line.as_bytes());
    match line.and_then(|line| line.segments(None)) {
        Err(error) => findings.add(Rule::DataType, || error.to_string()),
        Ok(segments) => {
            if segments
                .iter()
                .all(|segment| segment.supervised_tokens() == 0)
            {
                findings.add(Rule::NothingToLearn, || "no label is learned".into());
            }
        }
    }
}
