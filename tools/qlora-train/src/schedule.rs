//! The learning rate at a step: warm-up, then cosine, linear or constant, as transformers has them.

use crate::args::Scheduler;

/// λ(step) of `get_cosine_schedule_with_warmup` and its siblings in transformers' optimization.py.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    pub kind: Scheduler,
    pub peak: f64,
    pub warmup_steps: u64,
    pub total_steps: u64,
}

/// In how many steps the rate rises from 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Warmup {
    Steps(u64),
    /// Of all steps, rounded up to whole ones.
    Ratio(f64),
}

impl Schedule {
    pub fn new(kind: Scheduler, peak: f64, warmup: Warmup, total_steps: u64) -> Self {
        Self {
            kind,
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
        let left = (self.total_steps - self.warmup_steps).max(1) as f64;
        let progress = (steps_done - self.warmup_steps) as f64 / left;
        self.peak
            * match self.kind {
                Scheduler::Cosine => {
                    (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
                }
                Scheduler::Linear => (1.0 - progress).max(0.0),
                Scheduler::Constant => 1.0,
            }
    }

    /// Whether any of the first steps had a rate above 0: without one the weights are those of the start.
    pub fn has_moved(&self, steps_done: u64) -> bool {
        (0..steps_done).any(|step| self.at(step) > 0.0)
    }
}

#[cfg(test)]
mod tests {
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
        for table in fixture()["tables"].as_array().expect("tables") {
            let kind = match table["name"].as_str() {
                Some("cosine") if table["kwargs"].is_null() => Scheduler::Cosine,
                Some("linear") if table["kwargs"].is_null() => Scheduler::Linear,
                Some("constant_with_warmup") => Scheduler::Constant,
                _ => continue,
            };
            let schedule = Schedule {
                kind,
                peak: table["base_lr"].as_f64().expect("base_lr"),
                warmup_steps: table["warmup"].as_u64().expect("warmup"),
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
        assert!(compared > 100, "only {compared} rates compared");
    }

    #[test]
    fn a_warmup_ratio_is_rounded_up_to_whole_steps() {
        for row in fixture()["warmup_ratio_to_steps"].as_array().expect("rows") {
            let [ratio, total, steps] = [0, 1, 2].map(|i| row[i].as_f64().expect("a number"));
            let schedule =
                Schedule::new(Scheduler::Cosine, 1.0, Warmup::Ratio(ratio), total as u64);
            assert_eq!(schedule.warmup_steps, steps as u64, "{ratio} of {total}");
        }
    }
}
