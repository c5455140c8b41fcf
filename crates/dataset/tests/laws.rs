//! Which laws hold for any input at all?

use dataset::split::{Ratios, Split, assign};
use dataset::{Checker, Example, Judge, Options, Rule, Verdict};
use proptest::prelude::*;

fn options() -> Options {
    let schema = serde_json::json!({"required": ["code"]});
    Options {
        min_user_chars: 10,
        assistant_json: true,
        schema: Some(jsonschema::validator_for(&schema).unwrap()),
        label: Some("code".into()),
        near_duplicates: Some(0.8),
        ..Options::default()
    }
}

/// How many lines are kept and how many dropped, and the rules that were broken.
fn judged(options: &Options, bytes: &[u8]) -> (usize, usize, Vec<Rule>) {
    let (mut checker, mut judge) = (Checker::new(options), Judge::new(options, 2));
    let (mut kept, mut dropped, mut rules) = (0, 0, Vec::new());
    for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let mut checked = checker.check(index as u64 + 1, line, index == 0);
        match judge.judge(index as u64 + 1, &mut checked) {
            Verdict::Keep => kept += 1,
            Verdict::Drop(_) => dropped += 1,
        }
        rules.extend(checked.findings.iter().map(|finding| finding.rule));
    }
    rules.extend(judge.finish().iter().map(|finding| finding.rule));
    (kept, dropped, rules)
}

/// The rules that need a tokenizer or a review sheet; jsonl-validate's tests break those.
const ELSEWHERE: [Rule; 8] = [
    Rule::RejectedByReviewer,
    Rule::ChatTemplate,
    Rule::OverMaxSeqLength,
    Rule::ZeroSupervisedTokens,
    Rule::SpecialToken,
    Rule::SpecialTokenInAnswer,
    Rule::MissingEndOfTurn,
    Rule::DoubleBos,
];

#[test]
fn the_example_of_every_rule_breaks_it() {
    let mut options = options();
    for rule in Rule::ALL {
        assert!(!rule.example().is_empty(), "{rule} has no example");
        options.assistant_json = matches!(
            rule,
            Rule::AssistantNotJson
                | Rule::AssistantSchema
                | Rule::InconsistentKeys
                | Rule::KeyOrder
        );
        if rule == Rule::InconsistentKeys || rule == Rule::KeyOrder {
            options.schema = None;
        }
        let (_, _, rules) = judged(&options, &bytes_of(rule.example()));
        let is_broken = rules.contains(&rule) || ELSEWHERE.contains(&rule);
        assert!(is_broken, "{rule}: {rules:?}");
    }
}

/// The bytes that an example means: `<E9>` is one.
fn bytes_of(example: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = example;
    while let Some((before, after)) = rest.split_once('<') {
        bytes.extend_from_slice(before.as_bytes());
        let (number, after) = after.split_once('>').unwrap();
        bytes.push(u8::from_str_radix(number, 16).unwrap());
        rest = after;
    }
    bytes.extend_from_slice(rest.as_bytes());
    if bytes.ends_with(b"\r") {
        bytes.push(b'\n');
    }
    bytes
}

const LINE: &str = r#"{"messages": [{"role": "user", "content": "a question \n"}, {"role": "assistant", "content": "{\"code\": \"B35\"}", "weight": 1}], "tools": [], "id": 7}"#;

/// A conversation of which the line, the question and the answer hold something more.
fn odd(line: &str, question: &str, answer: &str) -> String {
    format!(
        r#"{{"messages": [{{"role": "user", "content": "a question of some length"{question}}}, {{"role": "assistant"{answer}}}]{line}}}"#
    )
}

#[test]
fn what_passes_is_read_by_every_tool() {
    let said = r#", "content": "b""#;
    let deep = |levels| "[".repeat(levels) + &"]".repeat(levels);
    let of_line = [
        r#""chat_template_kwargs": "k""#.to_owned(),
        r#""chat_template_kwargs": {"a": 1e999}"#.into(),
        r#""text": 5"#.into(),
        r#""prompt": 5"#.into(),
        r#""labels": [0.5]"#.into(),
        r#""input_ids": [1, 5, 2]"#.into(),
        r#""input_ids": [1, 5, 2], "labels": [-100, 5]"#.into(),
        r#""input_ids": [1, 5, 2], "labels": [-100, 5, 3]"#.into(),
        r#""metadata": 1e999"#.into(),
        r#""metadata": {"a": [-1e999]}"#.into(),
        r#""metadata": {"a": "\ud800"}"#.into(),
        r#""mine": "\udc00""#.into(),
        format!(r#""mine": {}"#, deep(200)),
        format!(r#""metadata": {}"#, deep(127)),
        r#""tools": "[{\"function\": {\"name\": \"f\", \"n\": 123456789012345678901}}]""#.into(),
        r#""tools": [{"function": {"name": "f", "n": 123456789012345678901}}]"#.into(),
        r#""chat_template_kwargs": {"n": -123456789012345678901}"#.into(),
        r#""label": false"#.into(),
        r#""rejected": "c""#.into(),
    ];
    let of_question = [
        r#""name": 7"#,
        r#""tool_call_id": 7"#,
        r#""thinking": 1e999"#,
        r#""thinking": 123456789012345678901"#,
    ];
    let call = |arguments: &str| {
        format!(
            r#", "tool_calls": [{{"id": "1", "function": {{"name": "f", "arguments": {arguments}}}}}]"#
        )
    };
    let of_answer = [
        String::new(),
        r#", "content": null, "tool_calls": null"#.into(),
        r#", "content": null, "tool_calls": [ ]"#.into(),
        r#", "content": null, "function_call": null"#.into(),
        r#", "content": null, "function_call": {"name": "f", "arguments": "{}"}"#.into(),
        format!(r#"{said}, "audio": "\ud800""#),
        call(r#""{\"n\": 123456789012345678901}""#),
        call(r#"{"n": [123456789012345678901]}"#),
    ];
    let wrong = (of_line
        .iter()
        .map(|more| odd(&format!(", {more}"), "", said)))
    .chain(of_question.map(|more| odd("", &format!(", {more}"), said)))
    .chain(of_answer.iter().map(|answer| odd("", "", answer)));
    let options = Options::default();
    for line in wrong {
        let (kept, _, rules) = judged(&options, line.as_bytes());
        assert_eq!(kept, 0, "{line}: {rules:?}");
    }
    let sound = [
        odd("", "", said),
        odd(
            "",
            r#", "name": null"#,
            &format!(r#"{said}, "tool_calls": null"#),
        ),
        odd(
            "",
            "",
            &format!(r#"{said}, "tool_calls": [], "reasoning_content": "so""#),
        ),
        odd(
            "",
            "",
            &format!(r#"{said}, "thinking": null, "audio": null, "annotations": []"#),
        ),
        odd("", "", &call(r#""{\"n\": -0}""#)),
        odd(&format!(r#", "metadata": {}"#, deep(126)), "", said),
        odd(
            r#", "mine": "a", "label": true, "rejected": null"#,
            "",
            said,
        ),
        r#"{"input_ids": [1, 5, 2], "labels": [-100, 5, 2], "seq_lengths": [3]}"#.into(),
    ];
    for line in sound {
        let (kept, _, rules) = judged(&options, line.as_bytes());
        assert_eq!(kept, 1, "{line}: {rules:?}");
        Example::from_json(&line).unwrap();
        serde_json::from_str::<serde_json::Value>(&line).unwrap();
    }
}

proptest! {
    #[test]
    fn any_bytes_are_kept_or_dropped_and_nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let lines = bytes.split_inclusive(|byte| *byte == b'\n').count();
        let (kept, dropped, _) = judged(&options(), &bytes);
        prop_assert_eq!(kept + dropped, lines);
    }

    #[test]
    fn a_changed_line_is_kept_or_dropped_and_nothing_panics(
        changes in proptest::collection::vec((0..LINE.len(), any::<u8>()), 1..4)
    ) {
        let mut bytes = LINE.as_bytes().to_vec();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        let lines = bytes.split_inclusive(|byte| *byte == b'\n').count();
        let (kept, dropped, _) = judged(&options(), &bytes);
        prop_assert_eq!(kept + dropped, lines);
        if let (1, 1, Ok(text)) = (lines, kept, std::str::from_utf8(&bytes)) {
            prop_assert!(Example::from_json(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_larger_test_share_only_adds_to_the_test_set(group in any::<u64>(), seed in any::<u64>(), small in 0u32..50, more in 0u32..50) {
        let ratios = |test: u32| format!("{},0,{test}", 100 - test).parse::<Ratios>().unwrap();
        if assign(group, seed, &ratios(small)) == Split::Test {
            prop_assert_eq!(assign(group, seed, &ratios(small + more)), Split::Test);
        }
    }
}
