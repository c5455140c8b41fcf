//! What files of questions are there, and are they what the systems and the metric need?

use anyhow::{Context, anyhow};
use cli::{Hint, Input};

use crate::args::{Args, SystemName};
use crate::cases::Cases;
use crate::metric::{self, Metric, TextMetric};
use crate::names::key;
use crate::shots;

/// The files of questions.
pub struct Inputs {
    pub cases: Cases,
    pub train: Option<Cases>,
    pub select: Option<Cases>,
}

impl Inputs {
    pub fn read(args: &Args) -> anyhow::Result<Inputs> {
        let read = |input: &Option<Input>, limit| {
            let cases = input.as_ref().map(|input| Cases::read(input, limit));
            cases.transpose()
        };
        let cases = read(&args.cases, args.limit)?.context("no --cases")?;
        // A trial tries the number of shots on as many.
        let (train, select) = (read(&args.train, None)?, read(&args.select, args.limit)?);
        let systems = args.systems();
        if let Some(system) = systems
            .iter()
            .find(|system| system.needs_train())
            .filter(|_| train.is_none())
        {
            return Err(anyhow!("{} needs --train", key(args, *system)))
                .hint("--train takes the training examples as chat JSONL");
        }
        match (&args.adapter, systems.contains(&SystemName::Adapter)) {
            (None, true) => {
                return Err(anyhow!("the system adapter needs --adapter DIR"))
                    .hint("or leave it out of --systems");
            }
            (Some(_), false) => {
                return Err(anyhow!("--adapter is given, and --systems leaves it out"))
                    .hint("add adapter to --systems, or leave out --adapter");
            }
            _ => {}
        }
        if systems.contains(&SystemName::FewShot) {
            match &select {
                Some(select) => shots::refuse_test_cases(select, &cases)?,
                None if args.shots.len() == 1 => {}
                None => {
                    return Err(anyhow!("several --shots and no file to choose among them"))
                        .hint("--select valid.jsonl, or one number of --shots");
                }
            }
        }
        Ok(Inputs {
            cases,
            train,
            select,
        })
    }

    pub fn train(&self) -> anyhow::Result<&Cases> {
        self.train.as_ref().context("no --train")
    }

    /// What makes the figures worth less.
    pub fn warnings(&self, metric: &Metric) -> anyhow::Result<Vec<String>> {
        let mut warnings = Vec::new();
        let others = [&self.train, &self.select].into_iter().flatten();
        for cases in std::iter::once(&self.cases).chain(others) {
            warnings.extend(check_references(metric, cases)?);
        }
        if let Some(train) = &self.train {
            let known = self.cases.also_in(train);
            if known > 0 {
                warnings.push(format!(
                    "{known} of {} questions of {} are in {} too: their answers may be remembered, not learned",
                    self.cases.len(),
                    self.cases.name,
                    train.name
                ));
            }
        }
        if self.cases.len() < 30 {
            warnings.push(format!(
                "{} cases are few: the intervals are wide",
                self.cases.len()
            ));
        }
        Ok(warnings)
    }
}

/// A reference that is not right itself makes every answer wrong: some are told, and where all are so, the metric was
/// meant for others.
fn check_references(metric: &Metric, cases: &Cases) -> anyhow::Result<Option<String>> {
    let text = match metric {
        Metric::Text(TextMetric::JsonValid) | Metric::BertScore(_) => return Ok(None),
        Metric::Text(text) => text,
    };
    let is_wrong = |reference: &&str| text.score(reference, reference) == 0.0;
    let wrong = cases.references().filter(is_wrong).count();
    if wrong < cases.len() {
        return Ok((wrong > 0).then(|| {
            format!(
                "{wrong} of {} references of {} are not right by {metric} themselves: no answer to them is",
                cases.len(),
                cases.name
            )
        }));
    }
    let fields = metric::fields(cases.references());
    let refusal = anyhow!("{}: no reference is right by --metric {metric}", cases.path);
    Err(refusal).hint(match text {
        _ if fields.is_empty() => "exact and chrf compare texts of any kind".into(),
        _ => format!("the fields there are {}", fields.join(", ")),
    })
}
