//! Who answered, and what did it say?

use dataset::Chat;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cases::{Case, Cases};
use crate::judge::Judge;
use crate::lookup::{self, Nearest};
use crate::metric::Metric;
use crate::shots::{self, Candidate, Selection};

/// What answers: no model, the base as it came, or the base with the adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Lookup,
    Base,
    Adapter,
}

/// One way of answering.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// The name for flags and files: `nearest`, `base-nf4-few-shot`.
    pub key: String,
    /// The name for people.
    pub title: String,
    pub kind: Kind,
    /// Examples in the prompt; none for lookups.
    pub shots: Option<usize>,
}

/// One answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// As generated, nothing trimmed, special tokens left out.
    pub output: String,
    /// Did the model end its turn, or did --max-new-tokens? None for lookups.
    pub finish: Option<Finish>,
    pub prompt_tokens: usize,
    pub generated_tokens: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    Stop,
    Length,
}

impl From<model::Finish> for Finish {
    fn from(finish: model::Finish) -> Finish {
        match finish {
            model::Finish::Stop => Finish::Stop,
            model::Finish::Length => Finish::Length,
        }
    }
}

impl From<Finish> for model::Finish {
    fn from(finish: Finish) -> model::Finish {
        match finish {
            Finish::Stop => model::Finish::Stop,
            Finish::Length => model::Finish::Length,
        }
    }
}

/// What a model is asked: a prompt for each case of a file, in their order.
pub struct Asked<'a> {
    pub cases: &'a Cases,
    /// Examples in each prompt.
    pub shots: usize,
    pub prompts: Vec<Chat>,
}

impl Asked<'_> {
    /// The cases as they are written.
    pub fn plainly(cases: &Cases) -> Asked<'_> {
        Asked {
            cases,
            shots: 0,
            prompts: cases.prompts().cloned().collect(),
        }
    }
}

/// A system with its answers to all cases, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub system: System,
    pub answers: Vec<Answer>,
}

/// One line of predictions.jsonl.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Prediction {
    pub system: String,
    pub id: String,
    pub prompt_sha256: String,
    pub reference: String,
    pub output: String,
    /// The output as JSON, when all of it is.
    pub parsed: Option<Value>,
    /// By metric, 0..=1.
    pub scores: serde_json::Map<String, Value>,
    pub finish: Option<Finish>,
    pub prompt_tokens: usize,
    pub generated_tokens: usize,
}

impl Run {
    /// The lines of predictions.jsonl.
    pub fn predictions(
        &self,
        cases: &Cases,
        metrics: &[Metric],
        judge: &Judge,
    ) -> anyhow::Result<Vec<Prediction>> {
        let scores = metrics.iter().map(|metric| {
            let scores = judge.scores(metric, cases, &self.answers)?;
            Ok((metric.to_string(), scores))
        });
        let scores: Vec<(String, Vec<f64>)> = scores.collect::<anyhow::Result<_>>()?;
        let predictions = cases.cases.iter().zip(&self.answers).enumerate();
        Ok(predictions
            .map(|(i, (case, answer))| Prediction {
                system: self.system.key.clone(),
                id: case.id.clone(),
                prompt_sha256: case.prompt_sha256.clone(),
                reference: case.reference.clone(),
                output: answer.output.clone(),
                parsed: metrics::json::parse(&answer.output),
                scores: scores
                    .iter()
                    .map(|(metric, scores)| (metric.clone(), Value::from(scores[i])))
                    .collect(),
                finish: answer.finish,
                prompt_tokens: answer.prompt_tokens,
                generated_tokens: answer.generated_tokens,
            })
            .collect())
    }
}

/// Always the commonest answer of the training file.
pub fn majority(cases: &Cases, train: &Cases, metric: &Metric) -> Run {
    let answer = lookup::majority(&train.cases, metric);
    let answers = cases.cases.iter().map(|_| said(answer)).collect();
    Run {
        system: lookup_system("majority", "always the commonest answer"),
        answers,
    }
}

/// The answer to the training question that shares most words.
pub fn nearest(cases: &Cases, train: &Cases) -> Run {
    let index = Nearest::new(&train.cases);
    let answer = |case: &Case| {
        index
            .find(&case.question())
            .map_or("", |found| &found.reference)
    };
    let answers = cases.cases.iter().map(|case| said(answer(case))).collect();
    Run {
        system: lookup_system("nearest", "nearest neighbour by shared words"),
        answers,
    }
}

fn said(output: &str) -> Answer {
    Answer {
        output: output.to_string(),
        ..Answer::default()
    }
}

fn lookup_system(key: &str, title: &str) -> System {
    System {
        key: key.into(),
        title: title.into(),
        kind: Kind::Lookup,
        shots: None,
    }
}

/// What to draw few-shot prompts from, and how to choose among them.
pub struct FewShot<'a> {
    pub train: &'a Cases,
    /// Numbers of shots to try.
    pub candidates: Vec<usize>,
    /// Where they are tried; not needed for a single candidate.
    pub select: Option<&'a Cases>,
    pub metric: &'a Metric,
    pub seed: u64,
    pub judge: &'a Judge,
}

impl<'a> FewShot<'a> {
    /// Prompts of `count` shots for the cases `of` a file; none of these and none of the `test` cases is shown.
    fn asked(&self, test: &Cases, of: &'a Cases, count: usize) -> Asked<'a> {
        let shown = self.shown(test, of, count);
        let prompts = of.prompts().map(|case| shots::prompt(case, &shown));
        Asked {
            cases: of,
            shots: shown.len(),
            prompts: prompts.collect(),
        }
    }

    fn shown(&self, test: &Cases, of: &Cases, count: usize) -> Vec<&'a Case> {
        let mut hidden = test.questions();
        hidden.extend(of.questions());
        shots::draw(&self.train.cases, count, self.metric, self.seed, &hidden)
    }

    /// How many examples there are to show in every prompt.
    pub fn available(&self, test: &Cases) -> usize {
        let files = self.select.into_iter().chain([test]);
        let available = files.map(|of| self.shown(test, of, usize::MAX).len());
        available.min().unwrap_or(0)
    }

    /// The file that decides, where there is something to decide.
    fn tried_on(&self) -> Option<&'a Cases> {
        self.select.filter(|_| self.candidates.len() > 1)
    }

    /// All that may be asked, whichever candidate is chosen.
    pub fn all_asked(&self, test: &'a Cases) -> impl Iterator<Item = Asked<'a>> {
        let files = self.tried_on().into_iter().chain([test]);
        let candidates = self.candidates.iter();
        candidates.flat_map(move |count| files.clone().map(|of| self.asked(test, of, *count)))
    }
}

/// The base with the number of shots that served best on the selection file; the test cases are asked once, after
/// the choice. `answer` answers prompts in order.
pub fn few_shot(
    system: System,
    cases: &Cases,
    options: &FewShot<'_>,
    mut answer: impl FnMut(&Asked<'_>) -> anyhow::Result<Vec<Answer>>,
) -> anyhow::Result<(Run, Option<Selection>)> {
    let metric = options.metric;
    let mut chosen = options.candidates[0];
    let mut selection = None;
    if let Some(select) = options.tried_on() {
        let mut candidates = Vec::new();
        for &shots in &options.candidates {
            let run = Run {
                system: system.clone(),
                answers: answer(&options.asked(cases, select, shots))?,
            };
            let scores = options.judge.scores(metric, select, &run.answers)?;
            let score = scores.iter().sum::<f64>() / scores.len() as f64;
            candidates.push(Candidate { shots, score });
        }
        chosen = shots::best(&candidates).unwrap_or(chosen);
        selection = Some(Selection {
            system: system.key.clone(),
            file: select.name.clone(),
            cases: select.len(),
            candidates,
            chosen,
        });
    }
    let asked = options.asked(cases, cases, chosen);
    let system = System {
        title: format!("{}, {}", system.title, shots::count(asked.shots)),
        shots: Some(asked.shots),
        ..system
    };
    let answers = answer(&asked)?;
    Ok((Run { system, answers }, selection))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::tests::cases;
    use crate::metric::TextMetric;

    #[test]
    fn the_test_cases_are_asked_once_and_only_after_the_prompt_is_chosen() {
        let train = cases(&[
            ("t1", "a"),
            ("t2", "b"),
            ("t3", "a"),
            ("test1", "a"),
            ("valid1", "b"),
        ]);
        let select = cases(&[("valid1", "b"), ("valid2", "a")]);
        let test = cases(&[("test1", "a")]);
        let mut asked: Vec<Vec<String>> = Vec::new();
        let answer = |now: &Asked<'_>| {
            let prompts = &now.prompts;
            let said = |chat: &Chat| {
                chat.messages
                    .iter()
                    .filter_map(|m| m.content.clone())
                    .collect::<Vec<_>>()
                    .join("|")
            };
            asked.push(prompts.iter().map(said).collect());
            // two shots help, one does not
            let right = prompts[0].messages.len() > 4;
            let text = |chat: &Chat| {
                if said(chat).ends_with("valid1") && right {
                    "b"
                } else {
                    "x"
                }
            };
            Ok(prompts
                .iter()
                .map(|chat| Answer {
                    output: text(chat).into(),
                    ..Answer::default()
                })
                .collect())
        };
        let system = System {
            key: "k".into(),
            title: "base".into(),
            kind: Kind::Base,
            shots: None,
        };
        let options = FewShot {
            train: &train,
            candidates: vec![1, 2],
            select: Some(&select),
            metric: &TextMetric::Exact.into(),
            seed: 0,
            judge: &Judge::default(),
        };
        let (run, selection) = few_shot(system, &test, &options, answer).unwrap();
        let selection = selection.unwrap();
        assert_eq!((selection.chosen, selection.candidates[1].score), (2, 0.5));
        assert_eq!(
            (run.system.title.as_str(), run.system.shots),
            ("base, 2 shots", Some(2))
        );
        assert_eq!(asked.len(), 3);
        assert!(
            asked[..2]
                .iter()
                .flatten()
                .all(|prompt| !prompt.contains("test1")),
            "{asked:?}"
        );
        assert!(
            asked[2]
                .iter()
                .all(|prompt| prompt.matches("test1").count() == 1),
            "{asked:?}"
        );
        assert!(
            asked[..2]
                .iter()
                .flatten()
                .all(|prompt| prompt.matches("valid1").count() <= 1),
            "{asked:?}"
        );
    }
}
