//! What is done, in order: open everything, check that it fits together, ask, compare.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use checkpoint::Base;
use checkpoint::adapter::{self, Adapter};
use cli::{AtomicDir, Hint};

use crate::against::{self, Earlier};
use crate::answer::{self, Answerer, Prompter};
use crate::args::{Args, SystemName};
use crate::cases::Cases;
use crate::fit::{self, hinted};
use crate::inputs::Inputs;
use crate::judge::Judge;
use crate::kept::{self, Kept};
use crate::loss::{self, DataLoss};
use crate::names::{self, distinct, key};
use crate::report::{self, Question, Report, Settings};
use crate::shots;
use crate::system::{self, Asked, FewShot, Kind, Run, System};

/// Loss and perplexity of packed data.
pub fn loss(args: &Args, data: &Path) -> anyhow::Result<DataLoss> {
    let dir = base_dir(args)?;
    let base = open_base(args)?;
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
    /// The answers, until all of this is written.
    pub kept: Option<Kept>,
}

/// All systems on all cases. What models answer is kept beside `out_dir`.
pub fn cases(args: &Args, out_dir: Option<&AtomicDir>) -> anyhow::Result<Evaluation> {
    let judge = open_judge(args)?;
    let inputs = Inputs::read(args)?;
    let mut runs = Vec::new();
    let mut selections = Vec::new();
    let mut otherwise = Vec::new();
    for dir in &args.against {
        let earlier = Earlier::read(dir, &inputs.cases)?;
        names::check_judged(args, dir, &earlier)?;
        otherwise.extend(earlier.asked_otherwise(dir, args));
        against::merge(&mut runs, earlier.runs)?;
        selections.extend(earlier.selections);
    }
    names::check_names(args, &runs)?;

    let mut warnings = otherwise;
    warnings.extend(inputs.warnings(&args.metric)?);
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
    let mut answerer = open_answerer(args, &inputs, few_shot.as_ref(), out_dir, &mut warnings)?;
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
        kept: answerer.and_then(Answerer::into_kept),
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
    out_dir: Option<&AtomicDir>,
    warnings: &mut Vec<String>,
) -> anyhow::Result<Option<Answerer>> {
    if !args.systems().into_iter().any(SystemName::needs_model) {
        return Ok(None);
    }
    let dir = base_dir(args)?;
    let base = open_base(args)?;
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
    let options = prompter.with_stops(&base, options);
    let kept = match out_dir {
        Some(dir) => {
            let name = kept::file_name(base.dir(), &args.model, &options)?;
            Some(Kept::open(&dir.beside(&name))?)
        }
        None => None,
    };
    // What takes hours is not to be warned of after them.
    for warning in warnings.iter() {
        cli::note(format_args!("warning: {warning}"));
    }
    let model = answer::load(&base, adapter.as_ref(), &args.model)?;
    let mut answerer = Answerer::new(model, prompter, options);
    if let Some(kept) = kept {
        let adapter = args.adapter.as_deref().map(kept::adapter_hash);
        answerer.keep(kept, adapter.transpose()?);
    }
    Ok(Some(answerer))
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

/// The base, refused what it has lost where it is stored in 4 bits.
fn open_base(args: &Args) -> anyhow::Result<Base> {
    let base = Base::open(base_dir(args)?)?;
    args.model
        .load_options()
        .check(&base)
        .hint("it is judged as it is: without --quantize none and --no-double-quant")?;
    Ok(base)
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
