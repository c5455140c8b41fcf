//! The training loop: learning rate, micro-steps, clipping, step, log, evaluate, save.

use std::time::Instant;

use anyhow::{Context, anyhow};
use cli::{Hint, Progress};
use model::{AdamW, Dropout, Gradients, Loss, Model, Recompute};

use crate::{
    DIVERGED,
    args::Args,
    data::{Plan, Rows, epoch_order},
    run_dir::RunDir,
    schedule::Schedule,
    state::{Eval, State, Step},
};

/// Everything the loop needs, opened and checked.
pub struct Trainer<'a> {
    pub args: &'a Args,
    pub plan: Plan,
    pub schedule: Schedule,
    pub train: &'a Rows,
    pub eval: &'a Rows,
    /// Tokens of the largest micro-batch that is trained on.
    pub largest_batch: usize,
    pub recompute: Recompute,
    pub model: Model,
    pub optimizer: AdamW,
    pub state: State,
    pub run_dir: &'a RunDir,
}

/// Why the loop ended.
pub enum End {
    Finished,
    /// The evaluation loss had not improved for the patience given.
    EarlyStop,
    /// A signal; the state is saved.
    Interrupted(i32),
}

impl Trainer<'_> {
    /// Runs to the end of the plan, or to a signal after saving.
    pub fn run(&mut self) -> anyhow::Result<End> {
        // Asked once, a signal waits until the run can save; before the first step nothing is lost.
        cli::interrupted();
        // Of the start, or of the step whose evaluation a signal stopped.
        if self.state.owes_evaluation(&self.plan) {
            if let Some(standing) = self.evaluate_and_save()? {
                cli::note(standing);
            }
            if let Some(signal) = self.stopped() {
                return Ok(End::Interrupted(signal));
            }
        }
        let progress = Progress::going_on(
            "train",
            self.state.step,
            Some(self.plan.total_steps),
            cli::Unit::Items("steps"),
        );
        let mut order = (u64::MAX, Vec::new());
        while !self.ended() {
            let started = Instant::now();
            let epoch = self.plan.epoch_of(self.state.step);
            if order.0 != epoch {
                let shuffle_seed =
                    (!self.args.schedule.no_shuffle).then_some(self.args.schedule.seed);
                order = (epoch, epoch_order(self.train.len(), epoch, shuffle_seed));
            }
            let step = self.step(&order.1)?;
            let seconds = started.elapsed().as_secs_f64();
            progress.set(step.number);
            progress.message(format_args!(
                "loss {:.4}, {:.0} tokens/s",
                step.loss.mean(),
                step.tokens as f64 / seconds
            ));
            self.run_dir
                .write_timing(step.number, step.tokens, seconds)?;

            let pauses = self.plan.pauses_after(step.number);
            let saves = self.args.run.save_steps;
            let saves = saves.is_some_and(|n| step.number.is_multiple_of(n));
            if self
                .state
                .log_step(step, self.args.run.logging_steps, pauses)
            {
                self.run_dir.write_metrics(&self.state)?;
            }
            if pauses {
                if let Some(standing) = self.evaluate_and_save()? {
                    progress.note(standing);
                }
            } else if saves {
                self.save()?;
            }
            if let Some(signal) = self.stopped() {
                if !pauses && !saves {
                    self.save()?;
                }
                return Ok(End::Interrupted(signal));
            }
        }
        Ok(if self.state.step < self.plan.total_steps {
            End::EarlyStop
        } else {
            End::Finished
        })
    }

    fn ended(&self) -> bool {
        let patience = self.args.schedule.early_stopping_patience;
        self.state.ended(&self.plan, &self.schedule, patience)
    }

    /// The signal that stops the run. Where nothing is left to do but to publish, none does.
    fn stopped(&self) -> Option<i32> {
        cli::interrupted().filter(|_| !self.ended())
    }

    /// One optimizer step over the rows that the plan gives it.
    fn step(&mut self, order: &[usize]) -> anyhow::Result<Step> {
        let rows = &order[self.plan.rows_of(self.state.step)];
        let targets: usize = rows.iter().map(|&row| self.train.targets(row)).sum();
        let number = self.state.step + 1;
        let adapter = self.model.adapter().expect("training has an adapter");
        let mut gradients = Gradients::new(adapter);
        let mut loss = Loss::default();
        let mut tokens = 0;
        for (micro, rows) in rows.chunks(self.plan.batch_size).enumerate() {
            let batch = self.train.batch(rows);
            tokens += batch.len();
            let dropout = self.dropout(number, micro);
            loss += self
                .model
                .accumulate_gradients(
                    &batch,
                    1.0 / targets as f64,
                    dropout,
                    self.recompute,
                    &mut gradients,
                )
                .map_err(|error| self.with_way_out(error))
                .with_context(|| format!("step {number}, micro-batch {}", micro + 1))?;
        }
        let grad_norm = gradients.norm();
        if !grad_norm.is_finite() {
            let error = anyhow!("step {number}: the gradient's norm is {grad_norm}");
            return Err(error).hint(DIVERGED);
        }
        let learning_rate = self.schedule.at(self.state.step);
        let scale = clip_coefficient(grad_norm, self.args.schedule.max_grad_norm);
        let adapter = self.model.adapter_mut().expect("training has an adapter");
        self.optimizer
            .step(adapter, gradients, learning_rate, scale);
        self.state.advance(tokens);
        Ok(Step {
            number,
            epoch: self.plan.epochs(number),
            loss,
            grad_norm,
            learning_rate,
            tokens,
        })
    }

    /// A loss that is not finite after weights have moved is the learning rate's doing.
    fn with_way_out(&self, error: model::Error) -> anyhow::Error {
        let has_diverged = matches!(error, model::Error::NonFiniteLoss(_))
            && self.schedule.has_moved(self.state.step);
        match has_diverged {
            true => anyhow::Error::from(error).hint(DIVERGED),
            false => error.into(),
        }
    }

    fn dropout(&self, step: u64, micro: usize) -> Option<Dropout> {
        let p = self.args.lora.dropout as f32;
        (p > 0.0).then(|| Dropout::new(p, self.args.schedule.seed, step, micro as u64))
    }

    /// Evaluates if it is due, saves, and tells how the run stands. An evaluation that a signal stops is
    /// owed in the saved state: the run that goes on begins with it.
    fn evaluate_and_save(&mut self) -> anyhow::Result<Option<String>> {
        let evaluated = !self.state.owes_evaluation(&self.plan) || self.evaluate()?;
        if self.state.step > 0 {
            self.save()?;
        }
        Ok(evaluated.then(|| self.standing()))
    }

    /// Logs nats a target over the evaluation rows; `false` where a signal came before that was known.
    fn evaluate(&mut self) -> anyhow::Result<bool> {
        let step = self.state.step;
        let label = if step == 0 {
            "eval of the start"
        } else {
            "eval"
        };
        let count = self.eval.len() as u64;
        let progress = Progress::new(label, Some(count), cli::Unit::Items("rows"));
        let mut loss = Loss::default();
        // No larger than what is trained on: a row that is longer is alone, and planned for.
        for rows in self.eval.batches(self.plan.batch_size, self.largest_batch) {
            if cli::interrupted().is_some() {
                return Ok(false);
            }
            let rows: Vec<usize> = rows.collect();
            loss += self
                .model
                .loss(&self.eval.batch(&rows))
                .map_err(|error| self.with_way_out(error))
                .context("evaluating")?;
            progress.inc(rows.len() as u64);
        }
        progress.finish();
        self.state.log_eval(Eval {
            step,
            epoch: self.plan.epochs(step),
            loss: loss.mean(),
        });
        self.run_dir.write_metrics(&self.state)?;
        Ok(true)
    }

    /// The losses after the newest step, in words.
    fn standing(&self) -> String {
        let (step, train_loss) = (self.state.step, self.state.last_train_loss());
        let epoch = self.plan.epochs(step);
        let mut evals: Vec<Eval> = self.state.evals().collect();
        let Some(Eval { loss, .. }) = evals.pop_if(|eval| eval.step == step) else {
            return format!("epoch {epoch:.2}: train loss {train_loss:.4}");
        };
        if step == 0 {
            return format!("step 0: eval loss {loss:.4}");
        }
        let is_no_better = evals.iter().any(|before| loss >= before.loss);
        let verdict = match is_no_better && self.schedule.has_moved(step) {
            true => ", no better than before: watch for overfitting",
            false => "",
        };
        format!("epoch {epoch:.2}: train loss {train_loss:.4}, eval loss {loss:.4}{verdict}")
    }

    fn save(&self) -> anyhow::Result<()> {
        let adapter = self.model.adapter().expect("training has an adapter");
        self.run_dir.save(
            &self.state,
            adapter,
            &self.optimizer,
            self.args.run.save_total_limit,
        )
    }
}

/// torch's `clip_grad_norm_`: max / (norm + 1e-6), at most 1.
fn clip_coefficient(norm: f64, max_norm: f64) -> f64 {
    if max_norm == 0.0 {
        1.0
    } else {
        (max_norm / (norm + 1e-6)).min(1.0)
    }
}
