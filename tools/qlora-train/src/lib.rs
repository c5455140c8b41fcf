//! qlora-train: a base and packed data in, a LoRA adapter out.

mod args;
mod available;
mod data;
mod doctor;
mod dry_run;
mod inputs;
mod memory;
mod prepared;
mod run_dir;
mod schedule;
mod state;
mod train;

use anyhow::Context;
use cli::{Hint, Outcome, Progress, Unit};
use model::{AdamW, AdamWConfig, Adapter, LoraConfig, Model};

pub use args::Args;
use prepared::Prepared;
use run_dir::{RunDir, read_moments};
use state::State;
use train::{End, Trainer};

/// The tool: trains, and says by its exit status whether it got better.
pub fn run(args: Args) -> anyhow::Result<Outcome> {
    model::device_memory_errors(|| train(args)).hint(
        "lower --batch-size and raise --gradient-accumulation-steps by as much, or give a smaller \
         --max-memory: more layers recompute then",
    )?
}

/// Prepare, load, train, publish.
fn train(args: Args) -> anyhow::Result<Outcome> {
    if let Some(device) = args.run.doctor {
        return doctor::run(device);
    }
    let prepared = Prepared::new(args)?;
    if prepared.args.run.dry_run {
        dry_run::print(&prepared)?;
        return Ok(Outcome::Done);
    }

    let run_dir = prepared.run_dir()?;
    let state = run_dir.restore()?;
    if prepared.ended(&state) && run_dir.is_published(result_step(&state)) {
        cli::note(format_args!(
            "{}: this run is finished",
            run_dir.adapter().display()
        ));
        return Ok(verdict(&state));
    }
    run_dir::check_result(&prepared.args.out_dir)?;
    let Prepared {
        args,
        base,
        train,
        eval,
        largest_batch,
        init,
        plan,
        schedule,
        recompute,
        ..
    } = prepared;
    let mut model = load(&base, &args)?;
    let adapter = adapter(&args, &model, &run_dir, init)?;
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
    if let Some(products) = args.engine.device.products() {
        cli::note(format_args!("products: {products}"));
    }
    Ok(model)
}

/// The adapter of the checkpoint that the run goes on from, or the given one, or a new one.
fn adapter(
    args: &Args,
    model: &Model,
    run_dir: &RunDir,
    init: Option<checkpoint::adapter::Adapter>,
) -> anyhow::Result<Adapter> {
    if let Some(checkpoint) = run_dir.resume_from() {
        let peft = checkpoint::adapter::read(checkpoint).hint(DAMAGED_CHECKPOINT)?;
        return Adapter::from_peft(model.decoder(), &peft).hint(DAMAGED_CHECKPOINT);
    }
    let base = args.base.to_string_lossy();
    if let Some(mut init) = init {
        init.config.lora_dropout = args.lora.dropout;
        init.config.base_model_name_or_path = Some(base.into());
        return Ok(Adapter::from_peft(model.decoder(), &init)?);
    }
    let config = LoraConfig {
        rank: args.lora.rank,
        alpha: args.lora.alpha,
        use_rslora: args.lora.use_rslora,
        dropout: args.lora.dropout,
        target_modules: args.lora.target_modules.clone(),
    };
    let seed = args.schedule.seed;
    Ok(Adapter::new(model.decoder(), &config, &base, seed)?)
}
