//! What did earlier evaluations of the same cases find? Their answers, to be scored again beside the new ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use cli::Hint;
use serde::Deserialize;

use crate::args::{Args, SystemName};
use crate::cases::Cases;
use crate::report::VERSION;
use crate::shots::Selection;
use crate::system::{Answer, Kind, Prediction, Run, System};

/// An earlier evaluation folder.
pub struct Earlier {
    pub runs: Vec<Run>,
    pub selections: Vec<Selection>,
    /// The system whose base and adapter the settings have.
    pub judged: String,
    pub settings: SettingsHead,
}

#[derive(Deserialize)]
struct Head {
    version: u32,
    cases: CasesHead,
    systems: Vec<System>,
    judged: String,
    selections: Vec<Selection>,
    settings: SettingsHead,
}

#[derive(Deserialize)]
pub struct SettingsHead {
    pub base: Option<PathBuf>,
    pub adapter: Option<PathBuf>,
    max_new_tokens: usize,
    temperature: f32,
    top_p: f32,
    compute_dtype: Option<String>,
}

#[derive(Deserialize)]
struct CasesHead {
    file: String,
    count: usize,
    sha256: String,
}

impl Earlier {
    /// Reads report.json and predictions.jsonl; refuses other cases than `cases`.
    pub fn read(dir: &Path, cases: &Cases) -> anyhow::Result<Earlier> {
        let path = dir.join("report.json");
        let text = fs::read_to_string(&path)
            .with_context(|| path.display().to_string())
            .hint("--against takes folders that adapter-eval --out-dir wrote")?;
        let head: Head = serde_json::from_str(&text)
            .with_context(|| format!("{}: not a report of adapter-eval", path.display()))?;
        if head.version != VERSION {
            bail!(
                "{}: report version {}, and this build reads {VERSION}",
                path.display(),
                head.version
            );
        }
        if head.cases.sha256 != cases.sha256 {
            let refusal = anyhow!(
                "{}: evaluated {} cases of {}, which are others than the {} of {} here",
                dir.display(),
                head.cases.count,
                head.cases.file,
                cases.len(),
                cases.name
            );
            return Err(refusal)
                .hint("run that evaluation again on these cases: only the same ones compare");
        }
        let mut answers = read_answers(&dir.join("predictions.jsonl"), cases)?;
        let runs = head.systems.into_iter().map(|system| {
            let answers = answers.remove(&system.key).unwrap_or_default();
            if answers.len() != cases.len() {
                bail!(
                    "{}: {} of {} answers of {}",
                    dir.display(),
                    answers.len(),
                    cases.len(),
                    system.key
                );
            }
            Ok(Run { system, answers })
        });
        Ok(Earlier {
            runs: runs.collect::<Result<_, _>>()?,
            selections: head.selections,
            judged: head.judged,
            settings: head.settings,
        })
    }

    /// What its models were asked otherwise with than those of `args`, as a warning: the systems then differ by that,
    /// too.
    pub fn asked_otherwise(&self, dir: &Path, args: &Args) -> Option<String> {
        let asks = args.systems().into_iter().any(SystemName::needs_model);
        let asked = self.runs.iter().any(|run| run.system.kind != Kind::Lookup);
        let (Some(theirs), Some(ours)) = (&self.settings.base, &args.base) else {
            return None;
        };
        if !asks || !asked {
            return None;
        }
        let (there, here) = (&self.settings, &args.generation);
        let dtype = args.model.load_options().compute_dtype.to_string();
        let there_dtype = there.compute_dtype.clone().unwrap_or_default();
        let pair = |name: &str, there: String, here: String| {
            (there != here).then(|| format!("{name} {there} there and {here} here"))
        };
        let differences = [
            (whole(theirs) != whole(ours)).then(|| {
                format!(
                    "the base is {} there and {} here",
                    theirs.display(),
                    ours.display()
                )
            }),
            pair(
                "--max-new-tokens",
                there.max_new_tokens.to_string(),
                here.max_new_tokens.to_string(),
            ),
            pair(
                "--temperature",
                there.temperature.to_string(),
                here.temperature.to_string(),
            ),
            pair("--top-p", there.top_p.to_string(), here.top_p.to_string()),
            pair("--compute-dtype", there_dtype, dtype),
        ];
        let differences = Vec::from_iter(differences.into_iter().flatten());
        (!differences.is_empty()).then(|| format!("{}: {}", dir.display(), differences.join(", ")))
    }
}

/// A folder by its one name: `base`, `./base` and a link to it are the same.
pub fn whole(dir: &Path) -> PathBuf {
    dir.canonicalize().unwrap_or_else(|_| dir.to_owned())
}

fn read_answers(path: &Path, cases: &Cases) -> anyhow::Result<BTreeMap<String, Vec<Answer>>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut answers: BTreeMap<String, Vec<Answer>> = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let place = || format!("{}:{}", path.display(), number + 1);
        let line: Prediction = serde_json::from_str(line).with_context(place)?;
        let of_system = answers.entry(line.system).or_default();
        let asked = cases
            .cases
            .get(of_system.len())
            .map(|case| case.prompt_sha256.as_str());
        if asked != Some(line.prompt_sha256.as_str()) {
            bail!(
                "{}: the cases are in another order than in {}",
                place(),
                cases.name
            );
        }
        of_system.push(Answer {
            output: line.output,
            finish: line.finish,
            prompt_tokens: line.prompt_tokens,
            generated_tokens: line.generated_tokens,
        });
    }
    Ok(answers)
}

/// The way out where one name would mean two things.
pub const OWN_NAME: &str = "leave one of them out, or give the adapter its own --name";

/// Adds runs to others. The same system with the same answers is kept once; with other answers it is refused, for one
/// name would mean two things.
pub fn merge(runs: &mut Vec<Run>, more: Vec<Run>) -> anyhow::Result<()> {
    for run in more {
        if !is_known(runs, &run)? {
            runs.push(run);
        }
    }
    Ok(())
}

/// Whether it is among them; refused where another is by its name.
pub fn is_known(runs: &[Run], run: &Run) -> anyhow::Result<bool> {
    let key = &run.system.key;
    match runs.iter().find(|known| known.system.key == *key) {
        None => Ok(false),
        Some(known) if known == run => Ok(true),
        Some(_) => Err(anyhow!("two evaluations name a system {key} and differ")).hint(OWN_NAME),
    }
}
