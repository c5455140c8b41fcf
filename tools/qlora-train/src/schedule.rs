//! The learning rate at a step: warm-up, then one of transformers' shapes.

use std::{collections::BTreeMap, f64::consts::PI};

use crate::args::{Parameter, Scheduler};

/// λ(step) of `get_cosine_schedule_with_warmup` and its siblings in transformers' optimization.py.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    pub shape: Shape,
    pub peak: f64,
    pub warmup_steps: u64,
    pub total_steps: u64,
}

/// What the rate does after warm-up, with its parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    Cosine,
    Linear,
    Constant,
    CosineWithRestarts {
        num_cycles: f64,
    },
    CosineWithMinLr {
        min_lr_rate: f64,
    },
    Polynomial {
        lr_end: f64,
        power: f64,
    },
    InverseSqrt {
        /// None: the steps of the warm-up, or 10,000 where there is none.
        timescale: Option<f64>,
    },
    WarmupStableDecay {
        num_decay_steps: f64,
    },
}

impl Shape {
    /// A shape by name, with transformers' defaults of what is not given; an error says what does not fit.
    pub fn new(kind: Scheduler, kwargs: &[Parameter], peak: f64) -> Result<Self, String> {
        let given = kwargs
            .iter()
            .map(|given| (given.name.as_str(), given.value));
        let mut given: BTreeMap<&str, f64> = given.collect();
        let mut take = |name| given.remove(name);
        let shape = match kind {
            Scheduler::Cosine => Self::Cosine,
            Scheduler::Linear => Self::Linear,
            Scheduler::Constant | Scheduler::ConstantWithWarmup => Self::Constant,
            Scheduler::CosineWithRestarts => Self::CosineWithRestarts {
                num_cycles: take("num_cycles").unwrap_or(1.0),
            },
            Scheduler::CosineWithMinLr => match (take("min_lr"), take("min_lr_rate")) {
                (Some(min_lr), None) if min_lr <= peak => Self::CosineWithMinLr {
                    min_lr_rate: min_lr / peak,
                },
                (None, Some(min_lr_rate)) if min_lr_rate <= 1.0 => {
                    Self::CosineWithMinLr { min_lr_rate }
                }
                (None, None) => return Err(format!("{kind} wants min_lr or min_lr_rate")),
                (Some(_), Some(_)) => {
                    return Err("min_lr and min_lr_rate exclude each other".into());
                }
                _ => return Err("the least rate is above the peak".into()),
            },
            Scheduler::Polynomial => match take("lr_end").unwrap_or(1e-7) {
                lr_end if lr_end < peak => Self::Polynomial {
                    lr_end,
                    power: take("power").unwrap_or(1.0),
                },
                lr_end => return Err(format!("lr_end, {lr_end}, is not below the peak")),
            },
            Scheduler::InverseSqrt => match take("timescale") {
                Some(0.0) => return Err("timescale is above 0".into()),
                timescale => Self::InverseSqrt { timescale },
            },
            Scheduler::WarmupStableDecay => match take("num_decay_steps") {
                Some(num_decay_steps) => Self::WarmupStableDecay { num_decay_steps },
                None => return Err(format!("{kind} wants num_decay_steps")),
            },
        };
        match given.keys().next() {
            Some(unknown) => Err(format!("{kind} has no parameter {unknown}")),
            None => Ok(shape),
        }
    }
}

/// In how many steps the rate rises from 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Warmup {
    Steps(u64),
    /// Of all steps, rounded up to whole ones.
    Ratio(f64),
}

impl Schedule {
    pub fn new(shape: Shape, peak: f64, warmup: Warmup, total_steps: u64) -> Self {
        Self {
            shape,
            peak,
            warmup_steps: match warmup {
                Warmup::Steps(steps) => steps,
                Warmup::Ratio(ratio) => (total_steps as f64 * ratio).ceil() as u64,
            },
            total_steps,
        }
    }

    /// The rate of the update that follows `steps_done` updates: 0 for the first one if there is
    /// any warm-up.
    pub fn at(&self, steps_done: u64) -> f64 {
        if steps_done < self.warmup_steps {
            return self.peak * steps_done as f64 / self.warmup_steps.max(1) as f64;
        }
        let [step, warmup, total] =
            [steps_done, self.warmup_steps, self.total_steps].map(|steps| steps as f64);
        let progress = (step - warmup) / (total - warmup).max(1.0);
        let cosine = |half_turns: f64| 0.5 * (1.0 + (PI * half_turns).cos());
        self.peak
            * match self.shape {
                Shape::Cosine => cosine(progress).max(0.0),
                Shape::Linear => (1.0 - progress).max(0.0),
                Shape::Constant => 1.0,
                Shape::CosineWithRestarts { .. } if progress >= 1.0 => 0.0,
                Shape::CosineWithRestarts { num_cycles } => cosine((num_cycles * progress) % 1.0),
                Shape::CosineWithMinLr { min_lr_rate } => {
                    cosine(progress) * (1.0 - min_lr_rate) + min_lr_rate
                }
                Shape::Polynomial { lr_end, power } => {
                    let end = lr_end / self.peak;
                    (1.0 - end) * (1.0 - progress).max(0.0).powf(power) + end
                }
                Shape::InverseSqrt { timescale } => {
                    let default = if self.warmup_steps > 0 { warmup } else { 1e4 };
                    let timescale = timescale.unwrap_or(default);
                    1.0 / ((step - warmup + timescale) / timescale).sqrt()
                }
                Shape::WarmupStableDecay { num_decay_steps } => {
                    // Below 0 where the decay is longer than the run: it then begins in its middle.
                    let decayed = step - (total - num_decay_steps);
                    match step < total {
                        true if decayed < 0.0 => 1.0,
                        true => cosine(decayed / num_decay_steps.max(1.0)),
                        false => 0.0,
                    }
                }
            }
    }

    /// Whether any of the first steps had a rate above 0: without one the weights are those of the start.
    pub fn has_moved(&self, steps_done: u64) -> bool {
        (0..steps_done).any(|step| self.at(step) > 0.0)
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    fn fixture() -> serde_json::Value {
        let file = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/data/lr_schedules.json"
        );
        let text = std::fs::read_to_string(file).expect("the fixture is in the project");
        serde_json::from_str(&text).expect("it is JSON")
    }

    #[test]
    fn the_rates_are_those_of_transformers() {
        let mut compared = 0;
        let mut untold = Scheduler::value_variants().to_vec();
        for table in fixture()["tables"].as_array().expect("tables") {
            let name = table["name"].as_str().expect("a name");
            let kind = Scheduler::from_str(name, false).expect("all are known");
            untold.retain(|other| *other != kind);
            let kwargs = table["kwargs"].as_object().into_iter().flatten();
            let kwargs = kwargs.map(|(name, value)| Parameter {
                name: name.clone(),
                value: value.as_f64().expect("a number"),
            });
            let peak = table["base_lr"].as_f64().expect("base_lr");
            let schedule = Schedule {
                shape: Shape::new(kind, &kwargs.collect::<Vec<_>>(), peak).expect("it fits"),
                peak,
                warmup_steps: match kind {
                    Scheduler::Constant => 0, // which the command line sees to
                    _ => table["warmup"].as_u64().expect("warmup"),
                },
                total_steps: table["total"].as_u64().expect("total"),
            };
            for (step, expected) in table["lr"].as_array().expect("lr").iter().enumerate() {
                let expected = expected.as_f64().expect("a rate");
                let got = schedule.at(step as u64);
                assert!(
                    (got - expected).abs() <= 1e-12 * schedule.peak,
                    "{kind:?} step {step}: {got} is not {expected}"
                );
                compared += 1;
            }
        }
        assert!(compared > 1000, "only {compared} rates compared");
        assert!(untold.is_empty(), "{untold:?}");
    }

    #[test]
    fn a_warmup_ratio_is_rounded_up_to_whole_steps() {
        for row in fixture()["warmup_ratio_to_steps"].as_array().expect("rows") {
            let [ratio, total, steps] = [0, 1, 2].map(|i| row[i].as_f64().expect("a number"));
            let schedule = Schedule::new(Shape::Cosine, 1.0, Warmup::Ratio(ratio), total as u64);
            assert_eq!(schedule.warmup_steps, steps as u64, "{ratio} of {total}");
        }
    }
}
