//! Where a run stands: steps done, its log, its best evaluation; as transformers' trainer_state.json.

use std::path::Path;

use anyhow::Context;
use cli::Hint;
use model::Loss;
use serde::{Deserialize, Serialize};

use crate::{data::Plan, schedule::Schedule};

/// What one optimizer step did.
pub struct Step {
    /// From 1.
    pub number: u64,
    pub epoch: f64,
    pub loss: Loss,
    /// Global norm before clipping.
    pub grad_norm: f64,
    /// The rate this step was made with.
    pub learning_rate: f64,
    /// Tokens read, supervised or not.
    pub tokens: usize,
}

/// One evaluation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Eval {
    pub step: u64,
    pub epoch: f64,
    /// Nats a target.
    pub loss: f64,
}

/// A row of metrics.jsonl and of trainer_state.json's `log_history`. Keys are a contract, sorted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Row {
    Train {
        epoch: f64,
        grad_norm: f64,
        learning_rate: f64,
        /// Mean of the steps' losses since the row before, nats a target.
        loss: f64,
        num_input_tokens_seen: u64,
        step: u64,
    },
    Eval {
        epoch: f64,
        eval_loss: f64,
        step: u64,
    },
}

/// A run's state between steps; everything that is not weights or moments.
#[derive(Debug, Default, PartialEq)]
pub struct State {
    /// Optimizer steps done.
    pub step: u64,
    pub log: Vec<Row>,
    tokens_seen: u64,
    /// Losses of the steps since the last row.
    pending: Vec<f64>,
}

impl State {
    /// Counts a step that has changed the weights.
    pub fn advance(&mut self, tokens: usize) {
        self.step += 1;
        self.tokens_seen += tokens as u64;
    }

    /// Takes a step's numbers; `true` when a row was logged.
    pub fn log_step(&mut self, step: Step, logging_steps: u64, evaluates: bool) -> bool {
        self.pending.push(step.loss.mean());
        if !step.number.is_multiple_of(logging_steps) && !evaluates {
            return false;
        }
        let steps = std::mem::take(&mut self.pending);
        self.log.push(Row::Train {
            epoch: step.epoch,
            grad_norm: step.grad_norm,
            learning_rate: step.learning_rate,
            loss: steps.iter().sum::<f64>() / steps.len() as f64,
            num_input_tokens_seen: self.tokens_seen,
            step: step.number,
        });
        true
    }

    /// Takes an evaluation.
    pub fn log_eval(&mut self, eval: Eval) {
        self.log.push(Row::Eval {
            epoch: eval.epoch,
            eval_loss: eval.loss,
            step: eval.step,
        });
    }

    /// Every evaluation so far, the one before the first step included.
    pub fn evals(&self) -> impl Iterator<Item = Eval> {
        self.log.iter().filter_map(|row| match *row {
            Row::Eval {
                epoch,
                eval_loss,
                step,
            } => Some(Eval {
                step,
                epoch,
                loss: eval_loss,
            }),
            Row::Train { .. } => None,
        })
    }

    /// The first of the lowest evaluation losses.
    pub fn best(&self) -> Option<Eval> {
        self.evals()
            .reduce(|best, eval| if eval.loss < best.loss { eval } else { best })
    }

    /// The best evaluation of trained weights, whose checkpoint is the run's result.
    pub fn best_trained(&self) -> Option<Eval> {
        self.evals()
            .filter(|eval| eval.step > 0)
            .reduce(|best, eval| if eval.loss < best.loss { eval } else { best })
    }

    /// Evaluations since the best one, of weights that had moved from the start.
    pub fn evals_since_best(&self, schedule: &Schedule) -> usize {
        let best = self.best().map(|best| best.step);
        let since = self.evals().filter(|e| Some(e.step) > best);
        since.filter(|e| schedule.has_moved(e.step)).count()
    }

    /// Whether an evaluation is due where the run stands, and not made yet: it was stopped before.
    pub fn owes_evaluation(&self, plan: &Plan) -> bool {
        plan.evaluates_after(self.step) && self.evals().all(|eval| eval.step != self.step)
    }

    /// Whether there is nothing left to do: all steps are done, or the newest row is an evaluation
    /// that made `patience` (0: endless) of them without improvement.
    pub fn ended(&self, plan: &Plan, schedule: &Schedule, patience: u32) -> bool {
        let evaluated = matches!(self.log.last(), Some(Row::Eval { .. }));
        let impatient = patience > 0 && self.evals_since_best(schedule) >= patience as usize;
        let done = self.step >= plan.total_steps || (evaluated && impatient);
        done && !self.owes_evaluation(plan)
    }

    /// The loss of the newest training row.
    pub fn last_train_loss(&self) -> f64 {
        let losses = self.log.iter().rev().filter_map(|row| match row {
            Row::Train { loss, .. } => Some(*loss),
            Row::Eval { .. } => None,
        });
        losses.take(1).sum()
    }

    /// Writes trainer_state.json.
    pub fn write(&self, path: &Path, total_steps: u64, epochs: u32) -> anyhow::Result<()> {
        let best = self.best_trained();
        let file = TrainerState {
            best_global_step: best.map(|b| b.step),
            best_metric: best.map(|b| b.loss),
            best_model_checkpoint: best.map(|b| format!("checkpoint-{}", b.step)),
            epoch: self.log.last().map(|row| match row {
                Row::Train { epoch, .. } | Row::Eval { epoch, .. } => *epoch,
            }),
            global_step: self.step,
            is_hyper_param_search: false,
            is_local_process_zero: true,
            is_world_process_zero: true,
            log_history: self.log.clone(),
            max_steps: total_steps,
            num_input_tokens_seen: self.tokens_seen,
            num_train_epochs: epochs,
            stateful_callbacks: Callbacks {
                pending_losses: self.pending.clone(),
            },
            trial_name: None,
            trial_params: None,
        };
        let mut text = serde_json::to_string_pretty(&file)?;
        text.push('\n');
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// Reads trainer_state.json.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let read = || -> anyhow::Result<TrainerState> {
            Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?)
        };
        let file = read()
            .with_context(|| path.display().to_string())
            .hint(crate::DAMAGED_CHECKPOINT)?;
        Ok(Self {
            step: file.global_step,
            log: file.log_history,
            tokens_seen: file.num_input_tokens_seen,
            pending: file.stateful_callbacks.pending_losses,
        })
    }
}

/// transformers' TrainerState, keys sorted.
#[derive(Serialize, Deserialize)]
struct TrainerState {
    best_global_step: Option<u64>,
    best_metric: Option<f64>,
    best_model_checkpoint: Option<String>,
    epoch: Option<f64>,
    global_step: u64,
    is_hyper_param_search: bool,
    is_local_process_zero: bool,
    is_world_process_zero: bool,
    log_history: Vec<Row>,
    max_steps: u64,
    num_input_tokens_seen: u64,
    num_train_epochs: u32,
    /// The one place where transformers lets others keep state.
    stateful_callbacks: Callbacks,
    trial_name: Option<String>,
    trial_params: Option<String>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Callbacks {
    pending_losses: Vec<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Shape, Warmup};

    fn step(number: u64, loss: f64) -> Step {
        Step {
            number,
            epoch: number as f64 / 3.0,
            loss: Loss {
                sum: loss * 10.0,
                targets: 10,
            },
            grad_norm: 1.0 / 3.0,
            learning_rate: 1e-4,
            tokens: 20,
        }
    }

    #[test]
    fn a_state_reads_back_as_it_was_written() {
        let mut state = State::default();
        state.log_eval(Eval {
            step: 0,
            epoch: 0.0,
            loss: 3.0,
        });
        for (number, loss) in [(1, 2.5), (2, 2.25), (3, 2.0)] {
            state.advance(20);
            state.log_step(step(number, loss), 2, false);
        }
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        state.write(file.path(), 9, 3).expect("it is written");
        assert_eq!(State::read(file.path()).expect("it is read"), state);
        assert_eq!(state.log.len(), 2, "step 3 waits for its row");
    }

    #[test]
    fn the_best_evaluation_is_the_first_lowest_one() {
        let mut state = State::default();
        for (step, loss) in [(0, 3.0), (5, 2.0), (10, 2.0), (15, 2.5)] {
            state.log_eval(Eval {
                step,
                epoch: 0.0,
                loss,
            });
        }
        assert_eq!(state.best().expect("four were logged").step, 5);
        let schedule = |steps| Schedule::new(Shape::Cosine, 1.0, Warmup::Steps(steps), 20);
        assert_eq!(state.evals_since_best(&schedule(0)), 2);
    }

    #[test]
    fn a_run_that_was_stopped_in_its_last_evaluation_has_not_ended() {
        let schedule = Schedule::new(Shape::Cosine, 1.0, Warmup::Steps(0), 2);
        let plan = Plan::new(4, 2, 1, 1.0, None);
        let evaluating = plan.with_evaluations(None);
        let mut state = State::default();
        assert!(evaluating.evaluates_after(0) && state.owes_evaluation(&evaluating));
        let eval = |step, loss| Eval {
            step,
            epoch: 0.0,
            loss,
        };
        state.log_eval(eval(0, 3.0));
        for number in 1..=2 {
            assert!(!state.owes_evaluation(&evaluating));
            state.advance(20);
            state.log_step(step(number, 2.0), 1, number == 2);
        }
        assert!(state.ended(&plan, &schedule, 0), "nothing to evaluate on");
        assert!(state.owes_evaluation(&evaluating) && !state.ended(&evaluating, &schedule, 0));
        state.log_eval(eval(2, 2.0));
        assert!(state.ended(&evaluating, &schedule, 0));
    }

    #[test]
    fn an_evaluation_before_the_rate_has_left_zero_costs_no_patience() {
        let mut state = State::default();
        for (step, loss) in [(0, 2.0), (1, 2.0), (2, 2.5)] {
            let epoch = step as f64;
            state.log_eval(Eval { step, epoch, loss });
        }
        for (warmup, since_best) in [(0, 2), (1, 1), (5, 1)] {
            let warmup = Warmup::Steps(warmup);
            let schedule = Schedule::new(Shape::Cosine, 1.0, warmup, 20);
            assert_eq!(state.evals_since_best(&schedule), since_best, "{warmup:?}");
        }
    }
}
