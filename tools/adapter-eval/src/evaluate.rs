//! What is done, in order: open everything, check that it fits together, ask, compare.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use checkpoint::Base;
use checkpoint::adapter::{self, Adapter};
use cli::{Hint, Input};

use crate::against::{self, Earlier};
use crate::answer::{self, Answerer, Prompter};
use crate::args::{Args, SystemName};
use crate::cases::Cases;
use crate::fit::{self, hinted};
use crate::judge::Judge;
use crate::loss::{self, DataLoss};
use crate::metric::{self, Metric, TextMetric};
use crate::report::{self, Question, Report, Settings};
use crate::shots;
use crate::system::{self, Asked, FewShot, Kind, Run, System};
use crate::verdict::is_named;

/// Loss and perplexity of packed data.
pub fn loss(args: &Args, data: &Path) -> anyhow::Result<DataLoss> {
    let dir = base_dir(args)?;
    let base = Base::open(dir)?;
    let shard = loss::open(data, dir)?;
    let mut warnings = Vec::new();
    let adapter = open_adapter(args, &mut warnings)?;
    for warning in warnings {
        cli::note(format_args!("warning: {warning}"));
    }
    let model = answer::load(&base, adapter.as_ref(), &args.model)?;
    let (nats, targets) = loss::sum(&model, &shard, args.model.batch_size)?;
    let mean = nats / targets as f64;
    let counts = &shard.meta().counts;
    Ok(DataLoss {
        loss: mean,
        perplexity: mean.exp(),
        nats,
        targets,
        tokens: counts.tokens,
        sequences: counts.sequences,
        rows: counts.rows,
        data: data.display().to_string(),
        base: dir.display().to_string(),
        adapter: args.adapter.as_ref().map(|dir| dir.display().to_string()),
        quantize: args.model.precision().to_string(),
        compute_dtype: args.model.load_options().compute_dtype.to_string(),
    })
}

/// What came of it.
pub struct Evaluation {
    pub report: Report,
    /// What the report was made of, in the same order.
    pub runs: Vec<Run>,
    pub cases: Cases,
    /// It has scored them.
    pub judge: Judge,
}

/// All systems on all cases.
pub fn cases(args: &Args) -> anyhow::Result<Evaluation> {
    let judge = open_judge(args)?;
    let inputs = Inputs::read(args)?;
    let mut runs = Vec::new();
    let mut selections = Vec::new();
    for dir in &args.against {
        let earlier = Earlier::read(dir, &inputs.cases)?;
        check_judged(args, dir, &earlier)?;
        against::merge(&mut runs, earlier.runs)?;
        selections.extend(earlier.selections);
    }
    check_names(args, &runs)?;

    let mut warnings = inputs.warnings(&args.metric)?;
    warnings.extend(unused(args));
    // What takes no time first: a name that clashes is then told before anything is generated.
    let mut own: Vec<Option<Run>> = Vec::new();
    for name in args.systems() {
        let run = lookup(args, name, &inputs)?;
        if let Some(run) = &run {
            against::is_known(&runs, run)?;
        }
        own.push(run);
    }
    let few_shot = few_shot(args, &inputs, &judge, &mut warnings)?;
    let mut answerer = open_answerer(args, &inputs, few_shot.as_ref(), &mut warnings)?;
    for (name, run) in args.systems().into_iter().zip(&mut own) {
        if run.is_none() {
            let (few_shot, answerer) = (few_shot.as_ref(), answerer.as_mut());
            let asked = ask(args, name, &inputs, few_shot, answerer, &mut selections)?;
            against::is_known(&runs, &asked)?;
            *run = Some(asked);
        }
    }
    let own: Vec<Run> = own.into_iter().flatten().collect();
    let selections = distinct(selections);
    let count = own.len();
    runs.retain(|earlier| !own.contains(earlier));
    against::merge(&mut runs, own)?;

    let question = Question {
        cases: &inputs.cases,
        metric: &args.metric,
        judge: &judge,
        seed: args.generation.seed,
        min_accuracy: args.min_accuracy,
        must_beat: &args.must_beat,
        must_beat_clearly: &args.must_beat_clearly,
        confidence_field: args.confidence_field.as_deref(),
    };
    let mut report = report::report(&question, &runs, count)?;
    warnings.extend(judge.warnings());
    warnings.extend(report.warnings(args.confidence_field.as_deref()));
    report.selections = selections;
    report.warnings = warnings;
    report.settings = settings(args, &judge);
    Ok(Evaluation {
        report,
        runs,
        cases: inputs.cases,
        judge,
    })
}

/// The files of questions.
struct Inputs {
    cases: Cases,
    train: Option<Cases>,
    select: Option<Cases>,
}

impl Inputs {
    fn read(args: &Args) -> anyhow::Result<Inputs> {
        let read = |input: &Option<Input>, limit| {
            let cases = input.as_ref().map(|input| Cases::read(input, limit));
            cases.transpose()
        };
        let cases = read(&args.cases, args.limit)?.context("no --cases")?;
        let (train, select) = (read(&args.train, None)?, read(&args.select, None)?);
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

    fn train(&self) -> anyhow::Result<&Cases> {
        self.train.as_ref().context("no --train")
    }

    /// What makes the figures worth less.
    fn warnings(&self, metric: &Metric) -> anyhow::Result<Vec<String>> {
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
    let (fields, _) = metric::fields(cases.references());
    let refusal = anyhow!("{}: no reference is right by --metric {metric}", cases.path);
    Err(refusal).hint(match text {
        _ if fields.is_empty() => "exact and chrf compare texts of any kind".into(),
        _ => format!("the fields there are {}", fields.join(", ")),
    })
}

/// Flags that this evaluation has no use for.
fn unused(args: &Args) -> Vec<String> {
    let systems = args.systems();
    let few_shot = systems.contains(&SystemName::FewShot);
    let generates = systems.into_iter().any(SystemName::needs_model);
    let drawn = args.generation.temperature > 0.0;
    [
        (!args.shots.is_empty() && !few_shot)
            .then_some("--shots is for few-shot, which is not asked"),
        (args.select.is_some() && !few_shot)
            .then_some("--select is for few-shot, which is not asked"),
        (args.generation.top_p < 1.0 && !drawn)
            .then_some("--top-p is for drawn answers, which --temperature 0 does not give"),
        (drawn && !generates).then_some("--temperature is for models, and none is asked"),
    ]
    .into_iter()
    .flatten()
    .map(str::to_owned)
    .collect()
}

/// The run of a system that needs no model.
fn lookup(args: &Args, name: SystemName, inputs: &Inputs) -> anyhow::Result<Option<Run>> {
    Ok(match name {
        SystemName::Majority => {
            let train = inputs.train()?;
            Some(system::majority(&inputs.cases, train, &args.metric))
        }
        SystemName::Nearest => Some(system::nearest(&inputs.cases, inputs.train()?)),
        _ => None,
    })
}

fn ask(
    args: &Args,
    name: SystemName,
    inputs: &Inputs,
    few_shot: Option<&FewShot<'_>>,
    answerer: Option<&mut Answerer>,
    selections: &mut Vec<shots::Selection>,
) -> anyhow::Result<Run> {
    let cases = &inputs.cases;
    let key = key(args, name);
    let answerer = answerer
        .context(format!("{key} needs --base"))?
        .with_adapter(name == SystemName::Adapter);
    let precision = match args.model.precision() {
        "nf4" => "base in NF4",
        _ => "base in full precision",
    };
    let system = |title: String, kind, shots| System {
        key: key.clone(),
        title,
        kind,
        shots,
    };
    Ok(match (name, few_shot) {
        (SystemName::Adapter, _) => Run {
            system: system(args.name.clone(), Kind::Adapter, Some(0)),
            answers: answerer.answer(&Asked::plainly(cases), &key)?,
        },
        (SystemName::FewShot, Some(options)) => {
            let system = system(precision.to_string(), Kind::Base, None);
            let answer = |asked: &Asked<'_>| answerer.answer(asked, &key);
            let (run, selection) = system::few_shot(system, cases, options, answer)?;
            selections.extend(selection);
            run
        }
        _ => Run {
            system: system(format!("{precision}, zero-shot"), Kind::Base, Some(0)),
            answers: answerer.answer(&Asked::plainly(cases), &key)?,
        },
    })
}

/// A system's name for flags and files.
fn key(args: &Args, name: SystemName) -> String {
    match name {
        SystemName::Majority => "majority".into(),
        SystemName::Nearest => "nearest".into(),
        SystemName::ZeroShot => format!("base-{}-zero-shot", args.model.precision()),
        SystemName::FewShot => format!("base-{}-few-shot", args.model.precision()),
        SystemName::Adapter => args.name.clone(),
    }
}

/// One name must mean one system. A --must-beat that names none, or none but the one that is judged, would be a gate
/// that is always open, or always shut.
fn check_names(args: &Args, earlier: &[Run]) -> anyhow::Result<()> {
    let own = Vec::from_iter(args.systems().into_iter().map(|name| key(args, name)));
    for (i, key) in own.iter().enumerate() {
        if own[..i].contains(key) {
            return Err(anyhow!("two systems would be named {key}")).hint(against::OWN_NAME);
        }
    }
    let earlier = earlier.iter().map(|run| run.system.key.clone());
    let keys = distinct(earlier.chain(own).collect());
    let judged = judged(args);
    let by_mean = args.must_beat.iter().map(|name| ("--must-beat", name));
    let clearly = args.must_beat_clearly.iter();
    let clearly = clearly.map(|name| ("--must-beat-clearly", name));
    for (flag, name) in by_mean.chain(clearly) {
        let mut named = keys.iter().filter(|key| is_named(key, name)).peekable();
        if named.peek().is_none() {
            return Err(anyhow!("{flag} {name}: no such system"))
                .hint(format!("the systems here are {}", keys.join(", ")));
        }
        if named.all(|key| Some(key) == judged.as_ref()) {
            let others = Vec::from_iter(
                keys.iter()
                    .filter(|key| Some(*key) != judged.as_ref())
                    .cloned(),
            );
            return Err(match others.is_empty() {
                true => anyhow!("{flag} {name}: it is the judged system, and there is no other")
                    .hint("--adapter names one to judge, --against an evaluation to compare with"),
                false => anyhow!("{flag} {name}: it is the judged system itself")
                    .hint(format!("the others here are {}", others.join(", "))),
            });
        }
    }
    Ok(())
}

/// The system that will be judged, where that does not hang on the scores.
fn judged(args: &Args) -> Option<String> {
    let systems = args.systems();
    let mut candidates = Vec::from_iter(systems.iter().filter(|name| name.needs_model()));
    if systems.contains(&SystemName::Adapter) {
        candidates.retain(|name| **name == SystemName::Adapter);
    }
    if candidates.is_empty() {
        candidates.extend(&systems);
    }
    match candidates[..] {
        [one] => Some(key(args, *one)),
        _ => None,
    }
}

/// An earlier evaluation's own system of the same name must be of the same base and adapter: that the answers differ
/// would be told when all are generated.
fn check_judged(args: &Args, dir: &Path, earlier: &Earlier) -> anyhow::Result<()> {
    let judged = |name: &SystemName| name.needs_model() && key(args, *name) == earlier.judged;
    let Some(name) = args.systems().into_iter().find(judged) else {
        return Ok(());
    };
    let adapter = args.adapter.as_deref();
    let adapter = adapter.filter(|_| name == SystemName::Adapter);
    let whole = |dir: &Path| dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    for (theirs, ours) in [
        (earlier.adapter.as_deref(), adapter),
        (earlier.base.as_deref(), args.base.as_deref()),
    ] {
        if theirs.map(whole) != ours.map(whole) {
            let said = |dir: Option<&Path>| match dir {
                Some(dir) => dir.display().to_string(),
                None => "none".into(),
            };
            return Err(anyhow!(
                "{}: the system {} is of {} there and of {} here",
                dir.display(),
                earlier.judged,
                said(theirs),
                said(ours)
            ))
            .hint(against::OWN_NAME);
        }
    }
    Ok(())
}

/// Each once, in their order.
fn distinct<T: PartialEq>(all: Vec<T>) -> Vec<T> {
    let mut distinct = Vec::new();
    for one in all {
        if !distinct.contains(&one) {
            distinct.push(one);
        }
    }
    distinct
}

/// How the few-shot prompt is made, if there is to be one.
fn few_shot<'a>(
    args: &'a Args,
    inputs: &'a Inputs,
    judge: &'a Judge,
    warnings: &mut Vec<String>,
) -> anyhow::Result<Option<FewShot<'a>>> {
    if !args.systems().contains(&SystemName::FewShot) {
        return Ok(None);
    }
    let few_shot = FewShot {
        train: inputs.train()?,
        candidates: args.shots(),
        select: inputs.select.as_ref(),
        metric: &args.metric,
        seed: args.generation.seed,
        judge,
    };
    let most = args.shots().iter().copied().max().unwrap_or(0);
    let available = few_shot.available(&inputs.cases);
    let train = &few_shot.train;
    if available == 0 && most > 0 {
        return Err(anyhow!("{}: no example is left to show", train.path))
            .hint("an example whose question is asked is not shown: --train takes other questions than --cases");
    }
    if available < most {
        warnings.push(format!(
            "{} has only {available} examples for {most} shots",
            train.name
        ));
    }
    Ok(Some(few_shot))
}

/// The model, if one is asked. A prompt that is too long is told before its weights are read.
fn open_answerer(
    args: &Args,
    inputs: &Inputs,
    few_shot: Option<&FewShot<'_>>,
    warnings: &mut Vec<String>,
) -> anyhow::Result<Option<Answerer>> {
    if !args.systems().into_iter().any(SystemName::needs_model) {
        return Ok(None);
    }
    let dir = base_dir(args)?;
    let base = Base::open(dir)?;
    let date = fit::date(args.model.date, args.adapter.as_deref(), dir)?;
    let chat = tokens::Chat::open_with(dir, &args.model.chat_options(date)).map_err(hinted)?;
    let adapter = open_adapter(args, warnings)?;
    let options = args.generation.options(args.model.batch_size);
    let prompter = Prompter::new(&base, chat, options.max_new_tokens);
    let plainly = (args.systems().into_iter())
        .any(|name| matches!(name, SystemName::ZeroShot | SystemName::Adapter))
        .then(|| Asked::plainly(&inputs.cases));
    let with_shots = few_shot.into_iter();
    let with_shots = with_shots.flat_map(|options| options.all_asked(&inputs.cases));
    for asked in plainly.into_iter().chain(with_shots) {
        prompter.token_ids(&asked)?;
    }
    let model = answer::load(&base, adapter.as_ref(), &args.model)?;
    Ok(Some(Answerer::new(&base, model, prompter, options)))
}

/// What scores; a metric that it lacks the means for is refused before anybody is asked.
fn open_judge(args: &Args) -> anyhow::Result<Judge> {
    let judge = match &args.bertscore_model {
        Some(dir) => Judge::with_encoder(
            dir,
            args.bertscore_layer,
            args.bertscore_idf,
            args.bertscore_baseline.as_deref(),
        )?,
        None => Judge::default(),
    };
    judge.check(&args.metric)?;
    if args.confidence_field.is_some() && !args.metric.is_binary() {
        let refusal = anyhow!(
            "--confidence-field: by {} no answer is right or wrong",
            args.metric
        );
        return Err(refusal)
            .hint("--metric exact or json-field:NAME, among others, says which are right");
    }
    Ok(judge)
}

fn base_dir(args: &Args) -> anyhow::Result<&Path> {
    let Some(dir) = &args.base else {
        return Err(anyhow!("no --base")).hint("--base takes the folder that model-import wrote");
    };
    Ok(dir)
}

/// The adapter and its folder, if one was named; refused beside a base that it does not belong to.
fn open_adapter(
    args: &Args,
    warnings: &mut Vec<String>,
) -> anyhow::Result<Option<(PathBuf, Adapter)>> {
    let Some(dir) = &args.adapter else {
        return Ok(None);
    };
    let base = base_dir(args)?;
    fit::check(dir, base)?;
    let adapter = adapter::read(dir)?;
    warnings.extend(fit::other_base(&adapter, base));
    Ok(Some((dir.clone(), adapter)))
}

fn settings(args: &Args, judge: &Judge) -> Settings {
    let folder = |dir: &Option<PathBuf>| dir.as_ref().map(|dir| dir.display().to_string());
    Settings {
        base: folder(&args.base),
        adapter: folder(&args.adapter),
        quantize: args
            .base
            .is_some()
            .then(|| args.model.precision().to_string()),
        max_new_tokens: args.generation.max_new_tokens,
        temperature: args.generation.temperature,
        top_p: args.generation.top_p,
        seed: args.generation.seed,
        compute_dtype: args
            .base
            .is_some()
            .then(|| args.model.load_options().compute_dtype.to_string()),
        bertscore: judge.encoder().cloned(),
    }
}
