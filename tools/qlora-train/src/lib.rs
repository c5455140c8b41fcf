//! qlora-train: a base and packed data in, a LoRA adapter out.

mod args;
mod available;
mod data;
mod doctor;
mod dry_run;
mod inputs;
mod memory;
mod run_dir;
mod schedule;
mod state;
mod train;

use std::path::Path;

use anyhow::Context;
use cli::{Hint, Outcome, Progress, Unit};
use model::{AdamW, AdamWConfig, Adapter, LoraConfig, Model};

pub use args::Args;
use data::{Plan, Rows};
use memory::{AdapterSize, Estimate, FrozenSize};
use run_dir::{RunDir, Start, read_moments};
use schedule::Schedule;
use state::State;
use tokens::{Fingerprint, Prompting};
use train::{End, Trainer};

/// The tool: trains, and says by its exit status whether it got better.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    model::device_memory_errors(|| train(args)).hint(
        "lower --batch-size and raise --gradient-accumulation-steps by as much, or give a smaller \
         --max-memory: more layers recompute then",
    )?
}

/// Open, check, load, train, publish.
fn train(args: Args) -> anyhow::Result<Outcome> {
    let args = Args {
        lora: args.lora.resolved(),
        engine: args.engine.resolved(),
        ..args
    };
    if let Some(device) = args.run.doctor {
        return doctor::run(device);
    }
    let patience = args.schedule.early_stopping_patience;
    let evaluates = [
        ("--early-stopping-patience", patience > 0),
        ("--eval-steps", args.run.eval_steps.is_some()),
    ];
    let evaluates = evaluates.into_iter().find(|(_, given)| *given);
    if let Some((flag, _)) = evaluates.filter(|_| args.eval.is_empty()) {
        return Err(anyhow::anyhow!("{flag}: there is nothing to evaluate on"))
            .hint("--eval FILE takes packed rows that are not trained on");
    }
    args.engine.check()?;
    args.schedule.check()?;
    run_dir::files(&args).check()?;
    model::tune_heap();
    model::use_threads(args.engine.threads)?;
    let base = checkpoint::Base::open(&args.base)
        .hint("make a base folder with model-import, or name a Hugging Face folder")?;
    args.engine
        .load_options()
        .check(&base)
        .hint("it trains as it is: without --quantize none and --no-double-quant")?;
    let fingerprint = inputs::fingerprint(base.dir())?;
    let vocab_size = base.config().vocab_size;
    let train = Rows::open(&args.train, &fingerprint, vocab_size)?;
    let eval = Rows::open(&args.eval, &fingerprint, vocab_size)?;
    let (longest, positions) = (
        train.longest_sequence().max(eval.longest_sequence()),
        base.config().max_position_embeddings,
    );
    if longest > positions {
        cli::note(format_args!(
            "warning: sequences of up to {longest} tokens, and the base knows {positions} positions"
        ));
    }
    let mut prompting = data::prompting(&train, &eval)?;
    if prompting.date.is_none() {
        prompting.date = Prompting::read(base.dir())?.date;
    }
    for target in &args.lora.target_modules {
        model::Projection::by_name(target)?;
    }
    let init = args
        .lora
        .init_adapter
        .as_deref()
        .map(checkpoint::adapter::read)
        .transpose()?;
    if let (Some(init), Some(dir)) = (&init, &args.lora.init_adapter) {
        warn_of_another_base(init, dir, &args.base, &fingerprint)?;
    }
    let plan = Plan::new(
        train.len(),
        args.schedule.batch_size,
        args.schedule.gradient_accumulation_steps,
        args.schedule.epochs,
        args.schedule.max_steps,
    );
    let plan = match eval.len() {
        0 => plan,
        _ => plan.with_evaluations(args.run.eval_steps),
    };
    let schedule = Schedule::new(
        args.schedule.shape()?,
        args.schedule.learning_rate,
        args.schedule.warmup(),
        plan.total_steps,
    );
    if schedule.warmup_steps >= plan.total_steps {
        let error = anyhow::anyhow!(
            "nothing would be learned: warm-up from a rate of 0 takes all of the run's {} steps",
            plan.total_steps
        );
        return Err(error).hint(
            "smaller --batch-size and --gradient-accumulation-steps or more --epochs make more \
             steps, --warmup-ratio 0 begins at the full rate",
        );
    }
    let size = AdapterSize::new(&args, base.config(), init.as_ref());
    let largest_batch = train.largest_batch(plan.batch_size);
    let tokens = memory::Tokens {
        trained: largest_batch,
        evaluated: match eval.len() {
            0 => 0,
            _ => largest_batch.max(eval.longest_row()),
        },
    };
    let frozen = FrozenSize::new(&args, &base);
    let estimate = Estimate::new(&args, base.config(), frozen, size, tokens);
    let recompute = estimate.plan(&args)?;
    let attention = args.engine.attention;
    attention
        .check(args.engine.load_options().device)
        .with_context(|| format!("--attention {attention}"))
        .hint("--attention auto takes what there is")?;
    let inputs = inputs::describe(&args, &base)?;
    if let Some(shard) = inputs::shared_shard(&args, &inputs) {
        cli::note(format_args!(
            "warning: {}: is trained on and evaluated on: its loss does not show overfitting",
            shard.display()
        ));
    }
    if args.run.dry_run {
        let state = Start::find(&args, &inputs)?.state()?;
        let ended = state.ended(&plan, &schedule, patience);
        if !ended {
            run_dir::check_result(&args.out_dir)?;
        }
        let (run, done) = match state.step {
            _ if ended => ("is finished".to_owned(), plan.total_steps),
            0 => ("begins".to_owned(), 0),
            step => (format!("resumes after step {step}"), step),
        };
        let report = dry_run::Report {
            args: &args,
            config: base.config(),
            plan: &plan,
            train: &train,
            estimate,
            recompute,
            run,
            steps_done: done,
        };
        report.print()?;
        return Ok(Outcome::Done);
    }

    let run_dir = RunDir::open(&args, &inputs, plan.total_steps, prompting)?;
    let state = run_dir.restore()?;
    let ended = state.ended(&plan, &schedule, patience);
    if ended && run_dir.is_published(result_step(&state)) {
        cli::note(format_args!(
            "{}: this run is finished",
            run_dir.adapter().display()
        ));
        return Ok(verdict(&state));
    }
    run_dir::check_result(&args.out_dir)?;
    let mut model = load(&base, &args)?;
    let adapter = match (run_dir.resume_from(), init) {
        (Some(checkpoint), _) => {
            let peft = checkpoint::adapter::read(checkpoint).hint(DAMAGED_CHECKPOINT)?;
            Adapter::from_peft(model.decoder(), &peft).hint(DAMAGED_CHECKPOINT)?
        }
        (None, Some(mut init)) => {
            init.config.lora_dropout = args.lora.dropout;
            init.config.base_model_name_or_path = Some(args.base.to_string_lossy().into());
            Adapter::from_peft(model.decoder(), &init)?
        }
        (None, None) => new_adapter(&model, &args)?,
    };
    let (trainable, all) = (
        adapter.parameters(),
        base.config().parameters() + adapter.parameters(),
    );
    drop(base); // and with it the mapped files, which count as resident
    cli::note(format_args!(
        "Trainable: {trainable} / {all} ({:.4}%)",
        100.0 * trainable as f64 / all as f64
    ));
    let config = AdamWConfig {
        weight_decay: args.schedule.weight_decay,
        ..AdamWConfig::default()
    };
    let mut optimizer = AdamW::new(&adapter, config);
    if let Some(checkpoint) = run_dir.resume_from() {
        read_moments(checkpoint, state.step, &mut optimizer, &adapter).hint(DAMAGED_CHECKPOINT)?;
        cli::note(format_args!(
            "going on after step {} of {}",
            state.step, plan.total_steps
        ));
    }
    model.set_adapter(adapter);

    let mut trainer = Trainer {
        args: &args,
        schedule,
        plan,
        train: &train,
        eval: &eval,
        largest_batch,
        recompute,
        model,
        optimizer,
        state,
        run_dir: &run_dir,
    };
    match trainer.run()? {
        End::Interrupted(signal) => {
            cli::reason(match trainer.state.step {
                0 => "stopped before the first step; the same command begins again".to_owned(),
                step => {
                    format!("stopped after step {step}, saved; the same command goes on from there")
                }
            });
            Ok(Outcome::Interrupted(signal))
        }
        End::EarlyStop => {
            cli::note("the evaluation loss has stopped improving: stopped early");
            publish(&run_dir, &trainer.state)
        }
        End::Finished => publish(&run_dir, &trainer.state),
    }
}

/// The way out where a file of a checkpoint cannot be read.
const DAMAGED_CHECKPOINT: &str = "remove that checkpoint folder to go on from the one before it";

/// The way out where numbers have grown beyond what f32 holds.
const DIVERGED: &str = "lower --learning-rate or raise --warmup-steps";

/// The best evaluated checkpoint, or the last one, becomes the result.
fn result_step(state: &State) -> u64 {
    state.best_trained().map_or(state.step, |best| best.step)
}

/// Puts the result in its place; the answer is no when no epoch was better than the start.
fn publish(run_dir: &RunDir, state: &State) -> anyhow::Result<Outcome> {
    run_dir.publish(result_step(state))?;
    let target = run_dir.adapter();
    let Some(best) = state.best_trained() else {
        cli::note(format_args!(
            "{}: the adapter after step {}",
            target.display(),
            state.step
        ));
        return Ok(Outcome::Done);
    };
    cli::note(format_args!(
        "{}: the adapter after step {}, eval loss {:.4}",
        target.display(),
        best.step,
        best.loss
    ));
    Ok(verdict(state))
}

fn verdict(state: &State) -> Outcome {
    let (Some(best), Some(trained)) = (state.best(), state.best_trained()) else {
        return Outcome::Done;
    };
    if best.step > 0 {
        return Outcome::Done;
    }
    cli::reason(format_args!(
        "no evaluation was better than the start on the evaluation rows: eval loss {:.4} before, {:.4} at best \
         after",
        best.loss, trained.loss
    ));
    Outcome::No
}

/// Says where the adapter that is gone on with was trained otherwise than it will be here.
fn warn_of_another_base(
    init: &checkpoint::adapter::Adapter,
    dir: &Path,
    base: &Path,
    fingerprint: &Fingerprint,
) -> anyhow::Result<()> {
    if let Some(trained_on) = init.other_base(base) {
        cli::note(format_args!(
            "warning: the adapter was trained on {trained_on}, and this base is {}",
            base.display()
        ));
    }
    if let Some(what) = Prompting::read(dir)?.fingerprint.difference(fingerprint) {
        cli::note(format_args!(
            "warning: {}: was trained {what}",
            dir.display()
        ));
    }
    Ok(())
}

fn load(base: &checkpoint::Base, args: &Args) -> anyhow::Result<Model> {
    let layers = base.config().num_hidden_layers as u64;
    let progress = Progress::new("load", Some(layers), Unit::Items("layers"));
    let mut model = Model::load(base, &args.engine.load_options(), &mut |done, _| {
        progress.set(done as u64);
    })
    .with_context(|| format!("loading {}", args.base.display()))?;
    progress.finish();
    let attention = args.engine.attention;
    let chosen = model
        .choose_attention(attention)
        .with_context(|| format!("--attention {attention}"))
        .hint("--attention auto takes what there is")?;
    if let Some(chosen) = chosen {
        cli::note(format_args!("attention: {chosen}"));
    }
    Ok(model)
}

fn new_adapter(model: &Model, args: &Args) -> anyhow::Result<Adapter> {
    let config = LoraConfig {
        rank: args.lora.rank,
        alpha: args.lora.alpha,
        use_rslora: args.lora.use_rslora,
        dropout: args.lora.dropout,
        target_modules: args.lora.target_modules.clone(),
    };
    let base = args.base.to_string_lossy();
    Ok(Adapter::new(
        model.decoder(),
        &config,
        &base,
        args.schedule.seed,
    )?)
}
