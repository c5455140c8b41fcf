//! What is a run made of? All of it read and checked, before anything is written or loaded onto a device.

use std::path::Path;

use anyhow::{Context, anyhow};
use checkpoint::{Base, adapter};
use cli::Hint;
use model::{Projection, Recompute};
use serde_json::Value;
use tokens::{Fingerprint, Prompting};

use crate::{
    args::Args,
    data::{self, Plan, Rows},
    inputs,
    memory::{AdapterSize, Estimate, FrozenSize, Tokens},
    run_dir::{self, RunDir},
    schedule::Schedule,
    state::State,
};

/// A run that can begin or go on.
pub struct Prepared {
    /// With every `auto` that the base does not decide replaced by what it comes to.
    pub args: Args,
    pub base: Base,
    pub train: Rows,
    pub eval: Rows,
    /// Tokens of the largest micro-batch that is trained on.
    pub largest_batch: usize,
    /// What --init-adapter names.
    pub init: Option<adapter::Adapter>,
    pub plan: Plan,
    pub schedule: Schedule,
    pub estimate: Estimate,
    pub recompute: Recompute,
    /// The files that the run reads, by their hashes.
    pub inputs: Value,
    prompting: Prompting,
}

impl Prepared {
    /// Reads and checks, and warns of what is odd.
    pub fn new(args: Args) -> anyhow::Result<Self> {
        let args = Args {
            lora: args.lora.resolved(),
            engine: args.engine.resolved(),
            ..args
        };
        check_flags(&args)?;
        run_dir::files(&args).check()?;
        model::tune_heap();
        model::use_threads(args.engine.threads)?;
        let base = Base::open(&args.base)
            .hint("make a base folder with model-import, or name a Hugging Face folder")?;
        args.engine
            .load_options()
            .check(&base)
            .hint("it trains as it is: without --quantize none and --no-double-quant")?;
        let fingerprint = inputs::fingerprint(base.dir())?;
        let vocab_size = base.config().vocab_size;
        let train = Rows::open(&args.train, &fingerprint, vocab_size)?;
        let eval = Rows::open(&args.eval, &fingerprint, vocab_size)?;
        let longest = train.longest_sequence().max(eval.longest_sequence());
        let positions = base.config().max_position_embeddings;
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
            Projection::by_name(target)?;
        }
        let init = args.lora.init_adapter.as_deref();
        let init = init
            .map(|dir| init_adapter(dir, &args.base, &fingerprint))
            .transpose()?;
        let plan = plan(&args, &train, &eval);
        let schedule = schedule(&args, &plan)?;
        let largest_batch = train.largest_batch(plan.batch_size);
        let estimate = Estimate::new(
            &args,
            base.config(),
            FrozenSize::new(&args, &base),
            AdapterSize::new(&args, base.config(), init.as_ref()),
            Tokens {
                trained: largest_batch,
                evaluated: match eval.len() {
                    0 => 0,
                    _ => largest_batch.max(eval.longest_row()),
                },
            },
        );
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
        Ok(Self {
            args,
            base,
            train,
            eval,
            largest_batch,
            init,
            plan,
            schedule,
            estimate,
            recompute,
            inputs,
            prompting,
        })
    }

    /// Whether a run in this state has nothing left to do.
    pub fn ended(&self, state: &State) -> bool {
        let patience = self.args.schedule.early_stopping_patience;
        state.ended(&self.plan, &self.schedule, patience)
    }

    /// The run's folder, locked.
    pub fn run_dir(&self) -> anyhow::Result<RunDir> {
        let (steps, prompting) = (self.plan.total_steps, self.prompting.clone());
        RunDir::open(&self.args, &self.inputs, steps, prompting)
    }
}

/// Refuses flags that cannot go together.
fn check_flags(args: &Args) -> anyhow::Result<()> {
    let evaluates = [
        (
            "--early-stopping-patience",
            args.schedule.early_stopping_patience > 0,
        ),
        ("--eval-steps", args.run.eval_steps.is_some()),
    ];
    let evaluates = evaluates.into_iter().find(|(_, given)| *given);
    if let Some((flag, _)) = evaluates.filter(|_| args.eval.is_empty()) {
        return Err(anyhow!("{flag}: there is nothing to evaluate on"))
            .hint("--eval FILE takes packed rows that are not trained on");
    }
    args.engine.check()?;
    args.schedule.check()
}

/// Reads the adapter to go on with, and says where it was trained otherwise than it will be here.
fn init_adapter(
    dir: &Path,
    base: &Path,
    fingerprint: &Fingerprint,
) -> anyhow::Result<adapter::Adapter> {
    let init = adapter::read(dir)?;
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
    Ok(init)
}

fn plan(args: &Args, train: &Rows, eval: &Rows) -> Plan {
    let plan = Plan::new(
        train.len(),
        args.schedule.batch_size,
        args.schedule.gradient_accumulation_steps,
        args.schedule.epochs,
        args.schedule.max_steps,
    );
    match eval.len() {
        0 => plan,
        _ => plan.with_evaluations(args.run.eval_steps),
    }
}

fn schedule(args: &Args, plan: &Plan) -> anyhow::Result<Schedule> {
    let schedule = Schedule::new(
        args.schedule.shape()?,
        args.schedule.learning_rate,
        args.schedule.warmup(),
        plan.total_steps,
    );
    if schedule.warmup_steps >= plan.total_steps {
        let error = anyhow!(
            "nothing would be learned: warm-up from a rate of 0 takes all of the run's {} steps",
            plan.total_steps
        );
        return Err(error).hint(
            "smaller --batch-size and --gradient-accumulation-steps or more --epochs make more \
             steps, --warmup-ratio 0 begins at the full rate",
        );
    }
    Ok(schedule)
}
