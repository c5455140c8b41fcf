//! Tune or prompt? A recommendation that gives its reasons, for and against.

use serde::Serialize;

use crate::cost::{Costs, TrainingCost};
use crate::prices::{Prices, decimal};

/// Instructions longer than this are worth training away.
const LONG_INSTRUCTIONS: u64 = 500;
/// Wrong answers that a good prompt leaves; below this a better prompt is the cheaper way on.
const MANY_FAILURES: f64 = 0.05;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Tune,
    Prompt,
    /// What is known speaks for neither.
    Undecided,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advice {
    pub verdict: Verdict,
    pub for_tuning: Vec<String>,
    pub against_tuning: Vec<String>,
}

/// What the user knows about the answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    pub failure_rate: Option<f64>,
    pub format: bool,
    pub vocabulary: bool,
    pub horizon_days: u32,
}

/// Better answers are a reason by themselves. A long prompt alone is one only as far as it is known
/// to pay: where nobody has said what a token costs, it decides nothing.
pub fn advise(costs: &Costs, needs: &Needs) -> Advice {
    let (mut better, mut cheaper, mut against) = (Vec::new(), Vec::new(), Vec::new());
    match needs.failure_rate {
        Some(rate) if rate > MANY_FAILURES => better.push(format!(
            "{:.1} % of the answers are wrong with the best prompt there is",
            100.0 * rate
        )),
        Some(rate) => against.push(format!(
            "a prompt already answers all but {:.1} % rightly",
            100.0 * rate
        )),
        None => against.push(
            "it is not known how often a good prompt fails: measure it first (adapter-eval, zero-shot and few-shot)".into(),
        ),
    }
    if needs.format {
        better.push("the answers need a format that the prompted model does not keep to".into());
    }
    if needs.vocabulary {
        better.push("the task has a vocabulary that the prompted model does not know".into());
    }
    let instructions = costs.prompt_tokens.prompted;
    if instructions > LONG_INSTRUCTIONS {
        cheaper.push(format!(
            "the instructions are {instructions} tokens with every request, over {LONG_INSTRUCTIONS}"
        ));
    } else {
        against.push(format!(
            "the instructions are {instructions} tokens, no more than {LONG_INSTRUCTIONS}, and a prompt is changed in a minute"
        ));
    }
    let pays = pays(costs, needs, &mut cheaper, &mut against);
    let long = instructions > LONG_INSTRUCTIONS;
    let verdict = match pays {
        _ if !better.is_empty() => Verdict::Tune,
        Some(true) if long => Verdict::Tune,
        None if long => Verdict::Undecided,
        _ => Verdict::Prompt,
    };
    better.append(&mut cheaper);
    Advice {
        verdict,
        for_tuning: better,
        against_tuning: against,
    }
}

/// Does the money speak for tuning? Without prices nobody can tell.
fn pays(
    costs: &Costs,
    needs: &Needs,
    cheaper: &mut Vec<String>,
    against: &mut Vec<String>,
) -> Option<bool> {
    let Some(money) = &costs.money else {
        against.push(
            "what a token costs is not known, so neither is what is saved: give --prices".into(),
        );
        // A tuned model's prompt that is no shorter saves nothing at any price.
        return costs
            .reduction
            .is_none_or(|share| share <= 0.0)
            .then_some(false);
    };
    let horizon = u64::from(needs.horizon_days);
    let currency = &money.currency;
    if money.saved_per_day <= 0.0 {
        against.push(format!(
            "the tuned model costs {} a day, the prompted one {}",
            Prices::amount(money.per_day.tuned, currency),
            decimal(money.per_day.prompted)
        ));
        return Some(false);
    }
    let pays = match money.break_even_day {
        Some(day) if day <= horizon => {
            cheaper.push(format!(
                "it saves {} a day and has paid for its training by day {day}",
                Prices::amount(money.saved_per_day, currency)
            ));
            true
        }
        Some(day) => {
            against.push(format!(
                "its training is paid for on day {day}, beyond {horizon} days"
            ));
            false
        }
        None => {
            let missing = match money.training {
                TrainingCost::NoPrice => "per_hour or once of [training] in the prices",
                _ if costs.training.is_some() => "--tokens-per-second",
                _ => "--train and --tokens-per-second",
            };
            against.push(format!(
                "it saves {} a day, but what training costs is not known: give {missing}",
                Prices::amount(money.saved_per_day, currency),
            ));
            false
        }
    };
    Some(pays)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::{Volume, costs};
    use crate::prices::{Model, Prices, Training};

    fn advice(prompted_tokens: u64, tuned_price: f64, needs: Needs) -> Advice {
        let volume = Volume {
            prompted_tokens,
            tuned_tokens: 50,
            requests_per_day: 1000,
            request_tokens: 0,
            answer_tokens: 0,
        };
        let model = |price: f64| Model {
            input_per_million_tokens: price,
            ..Model::default()
        };
        let prices = Prices {
            prompted: model(1.0),
            tuned: model(tuned_price),
            training: Some(Training {
                once: Some(0.0),
                ..Training::default()
            }),
            ..Prices::default()
        };
        advise(
            &costs(&volume, None, Some(&prices)),
            &Needs {
                horizon_days: 365,
                ..needs
            },
        )
    }

    #[test]
    fn a_long_prompt_is_trained_away_if_that_pays() {
        assert_eq!(advice(600, 1.0, Needs::default()).verdict, Verdict::Tune);
        let dear = advice(600, 20.0, Needs::default());
        assert_eq!(dear.verdict, Verdict::Prompt);
        assert!(
            dear.against_tuning
                .iter()
                .any(|reason| reason.contains("costs 1.00 a day")),
            "{dear:?}"
        );
    }

    #[test]
    fn of_tokens_without_a_price_comes_a_reason_and_no_verdict() {
        let advice = |prompted_tokens, tuned_tokens, needs: Needs| {
            let volume = Volume {
                prompted_tokens,
                tuned_tokens,
                requests_per_day: 1000,
                request_tokens: 0,
                answer_tokens: 0,
            };
            advise(&costs(&volume, None, None), &needs)
        };
        let long = advice(600, 50, Needs::default());
        assert_eq!(long.verdict, Verdict::Undecided);
        assert!(long.for_tuning[0].contains("600 tokens"), "{long:?}");
        let unwanted = [(120, 50), (600, 600)];
        for (prompted, tuned) in unwanted {
            let short = advice(prompted, tuned, Needs::default());
            assert_eq!(short.verdict, Verdict::Prompt);
        }
        let format = Needs {
            format: true,
            ..Needs::default()
        };
        assert_eq!(advice(120, 50, format).verdict, Verdict::Tune);
    }

    #[test]
    fn a_short_prompt_that_works_stays_a_prompt() {
        let needs = Needs {
            failure_rate: Some(0.01),
            ..Needs::default()
        };
        let advice = advice(120, 1.0, needs);
        assert_eq!(advice.verdict, Verdict::Prompt);
        assert!(
            advice
                .against_tuning
                .iter()
                .any(|reason| reason.contains("all but 1.0 %"))
        );
    }

    #[test]
    fn failures_format_and_vocabulary_are_each_a_reason() {
        for needs in [
            Needs {
                failure_rate: Some(0.2),
                ..Needs::default()
            },
            Needs {
                format: true,
                ..Needs::default()
            },
            Needs {
                vocabulary: true,
                ..Needs::default()
            },
        ] {
            let advice = advice(120, 1.0, needs);
            assert_eq!(
                (advice.verdict, !advice.for_tuning.is_empty()),
                (Verdict::Tune, true)
            );
        }
    }
}
