//! Which examples stand in a few-shot prompt, and how many of them serve best?

use std::collections::{BTreeMap, HashSet};

use anyhow::anyhow;
use cli::Hint;
use dataset::Chat;
use serde::{Deserialize, Serialize};

use crate::cases::{Case, hash, is_instruction};
use crate::metric::Metric;

/// Draws `count` examples, labels in turn so that each is shown before any is shown twice. The draw is keyed by `seed`
/// and the example's own text: the order of the training file does not matter. Examples whose question is in `asked` are
/// never shown.
pub fn draw<'a>(
    train: &'a [Case],
    count: usize,
    metric: &Metric,
    seed: u64,
    asked: &HashSet<&str>,
) -> Vec<&'a Case> {
    let seed = seed.to_string();
    let mut by_label: BTreeMap<(String, String), Vec<(String, &Case)>> = BTreeMap::new();
    for case in train
        .iter()
        .filter(|case| !asked.contains(case.question_sha256.as_str()))
    {
        let label = metric.label(&case.reference).unwrap_or_default();
        let turn = hash(["few-shot label", &seed, &label]);
        let place = hash([
            "few-shot example",
            &seed,
            &case.prompt_sha256,
            &case.reference,
        ]);
        by_label
            .entry((turn, label))
            .or_default()
            .push((place, case));
    }
    let mut labels: Vec<Vec<(String, &Case)>> = by_label.into_values().collect();
    for examples in &mut labels {
        examples.sort_by(|a, b| b.0.cmp(&a.0)); // taken from the end
    }
    let mut drawn = Vec::new();
    while drawn.len() < count && !labels.is_empty() {
        for examples in &mut labels {
            drawn.extend(examples.pop().map(|(_, case)| case));
        }
        labels.retain(|examples| !examples.is_empty());
    }
    drawn.truncate(count);
    drawn
}

/// The case's instructions, then the examples as earlier turns, then what the case asks. All cases with the same
/// instructions share everything but the end, which is computed once.
pub fn prompt(case: &Chat, shots: &[&Case]) -> Chat {
    let spoken = case
        .messages
        .iter()
        .position(|message| !is_instruction(message.role));
    let (instructions, asked) = case
        .messages
        .split_at(spoken.unwrap_or(case.messages.len()));
    let turns = shots.iter().flat_map(|shot| {
        let asked = shot
            .prompt
            .messages
            .iter()
            .filter(|message| !is_instruction(message.role))
            .cloned();
        asked.chain([dataset::Message::new(
            dataset::Role::Assistant,
            shot.reference.clone(),
        )])
    });
    let messages = instructions
        .iter()
        .cloned()
        .chain(turns)
        .chain(asked.iter().cloned())
        .collect();
    Chat {
        messages,
        ..case.clone()
    }
}

/// How the number of shots was chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// The system this was chosen for.
    pub system: String,
    /// The file it was chosen on.
    pub file: String,
    pub cases: usize,
    pub candidates: Vec<Candidate>,
    pub chosen: usize,
}

/// One candidate and its mean score on the selection file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    pub shots: usize,
    pub score: f64,
}

/// The best-scoring candidate; of equals, the one with the fewest shots, which costs least.
pub fn best(candidates: &[Candidate]) -> Option<usize> {
    let better =
        |a: &&Candidate, b: &&Candidate| a.score.total_cmp(&b.score).then(b.shots.cmp(&a.shots));
    candidates
        .iter()
        .max_by(better)
        .map(|candidate| candidate.shots)
}

/// `1 shot`, `8 shots`.
pub fn count(shots: usize) -> String {
    format!("{shots} {}", if shots == 1 { "shot" } else { "shots" })
}

/// Refuses a selection file that holds questions of the test: the best prompt would be chosen on the answers.
pub fn refuse_test_cases(
    select: &crate::cases::Cases,
    cases: &crate::cases::Cases,
) -> anyhow::Result<()> {
    let shared = cases.also_in(select);
    if shared > 0 {
        let refusal = anyhow!(
            "{shared} of the {} questions of {} are in {} too",
            cases.len(),
            cases.name,
            select.name
        );
        return Err(refusal.context("choosing the number of shots"))
            .hint("--select takes a validation file that shares no question with --cases; jsonl-split makes one");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::tests::cases;
    use crate::metric::TextMetric;

    fn code() -> Metric {
        TextMetric::JsonField("code".into()).into()
    }

    #[test]
    fn each_label_is_shown_before_any_is_shown_twice() {
        let pairs: Vec<(String, String)> = (0..30)
            .map(|i| {
                (
                    format!("q{i}"),
                    format!(r#"{{"code":"{}"}}"#, if i < 24 { 0 } else { i % 3 }),
                )
            })
            .collect();
        let pairs: Vec<(&str, &str)> = pairs
            .iter()
            .map(|(q, a)| (q.as_str(), a.as_str()))
            .collect();
        let train = cases(&pairs);
        let shown = draw(&train.cases, 3, &code(), 0, &HashSet::new());
        let labels: HashSet<Option<String>> = shown
            .iter()
            .map(|case| code().label(&case.reference))
            .collect();
        assert_eq!(labels.len(), 3);
        assert_eq!(
            draw(&train.cases, 100, &code(), 0, &HashSet::new()).len(),
            30
        );
    }

    #[test]
    fn the_draw_depends_on_the_seed_and_not_on_the_order_of_the_file() {
        let pairs: Vec<(String, String)> = (0..20)
            .map(|i| (format!("q{i}"), format!(r#"{{"code":{}}}"#, i % 4)))
            .collect();
        let forward: Vec<(&str, &str)> = pairs
            .iter()
            .map(|(q, a)| (q.as_str(), a.as_str()))
            .collect();
        let backward: Vec<(&str, &str)> = forward.iter().rev().copied().collect();
        let drawn = |pairs: &[(&str, &str)], seed| -> Vec<String> {
            let train = cases(pairs);
            draw(&train.cases, 6, &code(), seed, &HashSet::new())
                .iter()
                .map(|case| case.question())
                .collect()
        };
        assert_eq!(drawn(&forward, 0), drawn(&backward, 0));
        assert_ne!(drawn(&forward, 0), drawn(&forward, 1));
    }

    #[test]
    fn a_question_that_is_asked_is_never_shown() {
        let train = cases(&[("q1", r#"{"code":1}"#), ("q2", r#"{"code":2}"#)]);
        let asked = cases(&[("q1", r#"{"code":1}"#)]);
        let shown = draw(&train.cases, 2, &code(), 0, &asked.questions());
        assert_eq!(shown.len(), 1);
        assert_eq!(shown[0].question(), "q2");
    }

    #[test]
    fn examples_stand_between_the_instructions_and_the_question() {
        let train = cases(&[("q1", "a1"), ("q2", "a2")]);
        let shots: Vec<&Case> = train.cases.iter().collect();
        let asked = cases(&[("q3", "a3")]);
        let prompt = prompt(&asked.cases[0].prompt, &shots);
        let said: Vec<(&str, &str)> = prompt
            .messages
            .iter()
            .map(|m| (m.role.name(), m.content.as_deref().unwrap()))
            .collect();
        assert_eq!(
            said,
            [
                ("system", "Answer with JSON."),
                ("user", "q1"),
                ("assistant", "a1"),
                ("user", "q2"),
                ("assistant", "a2"),
                ("user", "q3"),
            ]
        );
    }

    #[test]
    fn of_equally_good_prompts_the_shorter_is_chosen() {
        let candidate = |shots, score| Candidate { shots, score };
        assert_eq!(
            best(&[candidate(32, 0.5), candidate(8, 0.5), candidate(4, 0.2)]),
            Some(8)
        );
        assert_eq!(best(&[]), None);
    }
}
