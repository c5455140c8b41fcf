//! What came out, as data: report.json. The table, the page and the exit status are read off it.

use metrics::classification;
use metrics::paired::Estimate;
use metrics::{bleu, chrf};
use serde::Serialize;

use crate::cases::Cases;
use crate::compare::{self, Comparison};
use crate::confidence::{self, Confidence};
use crate::judge::{EncoderInfo, Judge};
use crate::metric::{EMPTY_LABEL, Metric, NO_LABEL, NO_REFERENCE, OTHER_LABEL, TextMetric};
use crate::shots::Selection;
use crate::system::{Finish, Kind, Run, System};
use crate::verdict;

/// The form of report.json; a reader refuses another.
pub const VERSION: u32 = 1;

/// Everything report.json holds. Keys are a contract: added at the end, never renamed.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub version: u32,
    /// The measure that decides.
    pub metric: Metric,
    pub cases: CasesInfo,
    pub systems: Vec<Scored>,
    /// The system the comparisons and gates are about.
    pub judged: String,
    pub comparisons: Vec<Comparison>,
    pub selections: Vec<Selection>,
    pub gates: Vec<Gate>,
    /// The outcome in sentences.
    pub conclusion: Vec<String>,
    pub warnings: Vec<String>,
    pub settings: Settings,
}

#[derive(Clone, Debug, Serialize)]
pub struct CasesInfo {
    pub file: String,
    pub count: usize,
    pub sha256: String,
    /// More than `count` where --limit left some out.
    pub in_file: usize,
}

/// How answers were generated.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Settings {
    pub base: Option<String>,
    pub adapter: Option<String>,
    pub quantize: Option<String>,
    pub max_new_tokens: usize,
    pub temperature: f32,
    pub top_p: f32,
    pub seed: u64,
    pub compute_dtype: Option<String>,
    /// What BERTScore is measured by.
    pub bertscore: Option<EncoderInfo>,
}

/// One system's figures.
#[derive(Clone, Debug, Serialize)]
pub struct Scored {
    #[serde(flatten)]
    pub system: System,
    /// Mean and 95 % interval by metric, the primary one first.
    #[serde(serialize_with = "as_map")]
    pub scores: Vec<(Metric, Estimate)>,
    /// Over all cases together, 0..=100.
    pub corpus_bleu: f64,
    pub corpus_chrf: f64,
    /// Where answers are classes: precision, recall and F1, label by label.
    pub labels: Option<classification::Report>,
    /// Mean a case.
    pub prompt_tokens: f64,
    pub generated_tokens: f64,
    /// Answers cut by --max-new-tokens.
    pub truncated: usize,
    /// Where answers state how sure they are.
    pub confidence: Option<Confidence>,
}

impl Scored {
    /// The primary metric's estimate.
    pub fn primary(&self) -> Estimate {
        self.scores[0].1
    }

    pub fn score(&self, metric: &Metric) -> Option<Estimate> {
        self.scores
            .iter()
            .find(|(other, _)| other == metric)
            .map(|(_, estimate)| *estimate)
    }
}

impl Report {
    /// Where in `systems` the judged one is.
    pub fn judged_position(&self) -> usize {
        let judged = |scored: &Scored| scored.system.key == self.judged;
        self.systems.iter().position(judged).unwrap_or(0)
    }

    /// What the answers themselves say against the figures; `confidence_field` is what they were to state.
    pub fn warnings(&self, confidence_field: Option<&str>) -> Vec<String> {
        let cut = self.systems.iter().filter(|scored| scored.truncated > 0);
        let mut warnings = Vec::from_iter(cut.map(|scored| {
            format!(
                "{} of {} answers of {} were cut by --max-new-tokens",
                scored.truncated, self.cases.count, scored.system.key
            )
        }));
        let silent = self
            .systems
            .iter()
            .filter(|scored| scored.confidence.is_none());
        let silent = Vec::from_iter(silent.map(|scored| scored.system.key.as_str()));
        if let Some(field) = confidence_field.filter(|_| !silent.is_empty()) {
            warnings.push(format!("no answer of {} states {field}", silent.join(", ")));
        }
        warnings
    }
}

/// A condition asked for on the command line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gate {
    pub gate: String,
    pub met: bool,
    /// Why, in figures.
    pub because: String,
}

/// What is judged, and by what.
pub struct Question<'a> {
    pub cases: &'a Cases,
    pub metric: &'a Metric,
    pub judge: &'a Judge,
    pub seed: u64,
    pub min_accuracy: Option<f64>,
    pub must_beat: &'a [String],
    pub must_beat_clearly: &'a [String],
    /// The JSON field in which answers state how sure they are.
    pub confidence_field: Option<&'a str>,
}

/// Scores and compares. `runs` are all systems in table order, `own` how many of them (the last ones) were made by
/// this invocation: the judged one is among these.
pub fn report(question: &Question<'_>, runs: &[Run], own: usize) -> anyhow::Result<Report> {
    let Question {
        cases,
        metric,
        judge,
        seed,
        ..
    } = *question;
    let mut metrics = metric.beside(cases.references());
    let more = judge.beside().iter().filter(|other| *other != metric);
    metrics.extend(more.cloned());
    judge.read_ahead(cases, runs)?;
    let systems: Vec<Scored> = runs
        .iter()
        .map(|run| scored(run, question, &metrics))
        .collect::<anyhow::Result<_>>()?;
    let judged = judged(&systems[systems.len() - own..]);
    let per_case: Vec<Vec<f64>> = runs
        .iter()
        .map(|run| judge.scores(metric, cases, &run.answers))
        .collect::<anyhow::Result<_>>()?;
    let position = systems
        .iter()
        .position(|scored| scored.system.key == judged)
        .unwrap_or(0);
    let comparisons: Vec<Comparison> = (0..systems.len())
        .filter(|other| *other != position)
        .map(|other| {
            let named = |i: usize| (systems[i].system.key.as_str(), per_case[i].as_slice());
            compare::compare(named(position), named(other), metric.is_binary(), seed)
        })
        .collect();
    let gates = verdict::gates(question, &systems, &judged, &comparisons);
    let conclusion = verdict::conclusion(metric, cases, &systems, &judged, &comparisons);
    Ok(Report {
        version: VERSION,
        metric: metric.clone(),
        cases: CasesInfo {
            file: cases.name.clone(),
            count: cases.len(),
            sha256: cases.sha256.clone(),
            in_file: cases.in_file,
        },
        systems,
        judged,
        comparisons,
        selections: Vec::new(),
        gates,
        conclusion,
        warnings: Vec::new(),
        settings: Settings::default(),
    })
}

/// The adapter if there is one, else the best of the bases, else the best of the lookups.
fn judged(own: &[Scored]) -> String {
    let rank = |scored: &&Scored| match scored.system.kind {
        Kind::Adapter => 2,
        Kind::Base => 1,
        Kind::Lookup => 0,
    };
    let best = own.iter().max_by(|a, b| {
        let by_score = a.primary().mean.total_cmp(&b.primary().mean);
        rank(a).cmp(&rank(b)).then(by_score)
    });
    best.map(|scored| scored.system.key.clone())
        .unwrap_or_default()
}

fn scored(run: &Run, question: &Question<'_>, metrics: &[Metric]) -> anyhow::Result<Scored> {
    let Question {
        cases,
        metric,
        judge,
        seed,
        ..
    } = *question;
    let scores = metrics.iter().map(|metric| {
        let scores = judge.scores(metric, cases, &run.answers)?;
        let estimate = compare::estimate(&scores, metric.is_binary(), seed);
        Ok((metric.clone(), estimate))
    });
    let texts = || {
        cases
            .references()
            .zip(run.answers.iter().map(|answer| answer.output.as_str()))
    };
    let mean = |count: fn(&crate::system::Answer) -> usize| {
        run.answers.iter().map(count).sum::<usize>() as f64 / run.answers.len().max(1) as f64
    };
    Ok(Scored {
        system: run.system.clone(),
        scores: scores.collect::<anyhow::Result<_>>()?,
        corpus_bleu: bleu::corpus(texts()).score,
        corpus_chrf: chrf::corpus(texts()),
        labels: labels(run, cases, metric),
        prompt_tokens: mean(|answer| answer.prompt_tokens),
        generated_tokens: mean(|answer| answer.generated_tokens),
        truncated: run
            .answers
            .iter()
            .filter(|answer| answer.finish == Some(Finish::Length))
            .count(),
        confidence: question
            .confidence_field
            .and_then(|field| confidence::confidence(run, cases, metric, field)),
    })
}

/// More classes than this are no table that anybody reads, and theirs grows with their square.
const MOST_CLASSES: usize = 500;

/// Answers are classes when the primary metric compares them as wholes and references repeat, twice or more on average.
fn labels(run: &Run, cases: &Cases, metric: &Metric) -> Option<classification::Report> {
    let by = match metric {
        Metric::Text(TextMetric::JsonValid | TextMetric::JsonMatch) => return None,
        Metric::Text(text) if text.is_binary() => text,
        _ => return None,
    };
    let truth: Vec<Option<String>> = cases
        .references()
        .map(|reference| metric.label(reference))
        .collect();
    let truth: Vec<&str> = truth
        .iter()
        .map(|label| match label.as_deref() {
            None => NO_REFERENCE,
            Some("") => EMPTY_LABEL,
            Some(label) => label,
        })
        .collect();
    let known: std::collections::BTreeSet<&str> = truth.iter().copied().collect();
    if 2 * known.len() > truth.len() || known.len() > MOST_CLASSES {
        return None;
    }
    let answered = |(i, reference): (usize, &str)| {
        let output = &run.answers[i].output;
        if by.score(reference, output) == 1.0 {
            return truth[i];
        }
        let label = metric.label(output).unwrap_or_default();
        match known.get(label.as_str()) {
            _ if label.is_empty() => NO_LABEL,
            Some(label) if *label != truth[i] => label,
            _ => OTHER_LABEL,
        }
    };
    let answered = cases.references().enumerate().map(answered);
    Some(classification::report(truth.iter().copied().zip(answered)))
}

fn as_map<S: serde::Serializer>(
    scores: &[(Metric, Estimate)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(scores.iter().map(|(metric, estimate)| (metric, estimate)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::tests::cases;
    use crate::system::Answer;

    #[test]
    fn a_case_is_on_the_diagonal_when_its_answer_is_right_and_never_else() {
        let code = || Metric::from(TextMetric::JsonField("code".into()));
        let (a, one) = (r#"{"code":"A"}"#, r#"{"code":1}"#);
        for (metric, reference, answer, expected) in [
            (TextMetric::Exact.into(), "A", "A", ["A", "A"]),
            (TextMetric::Exact.into(), "A", "", ["A", NO_LABEL]),
            (TextMetric::Exact.into(), "", "", [EMPTY_LABEL, EMPTY_LABEL]),
            (TextMetric::Normalised.into(), "A", "", ["a", NO_LABEL]),
            (TextMetric::Normalised.into(), "A", "b", ["a", OTHER_LABEL]),
            (code(), a, "A", ["A", NO_LABEL]),
            (code(), one, r#"{"code":1.0}"#, ["1", "1"]),
            (code(), one, r#"{"code":"1"}"#, ["1", OTHER_LABEL]),
            (code(), "{}", "A", [NO_REFERENCE, NO_LABEL]),
            (code(), "{}", "{}", [NO_REFERENCE, NO_LABEL]),
        ] {
            let cases = cases(&[("q1", reference), ("q2", reference)]);
            let answer = Answer {
                output: answer.into(),
                ..Answer::default()
            };
            let system = System {
                key: "k".into(),
                title: "t".into(),
                kind: Kind::Base,
                shots: None,
            };
            let answers = vec![answer; 2];
            let found = labels(&Run { system, answers }, &cases, &metric).unwrap();
            let name = |i: usize| found.labels[i].label.as_str();
            let n = found.labels.len();
            let pairs = (0..n).flat_map(|t| (0..n).map(move |p| (t, p)));
            let told: Vec<[&str; 2]> = pairs
                .filter(|(t, p)| found.confusion[*t][*p] == 2)
                .map(|(t, p)| [name(t), name(p)])
                .collect();
            assert_eq!(told, [expected], "{metric}: {reference:?} {:?}", cases.name);
        }
    }
}
