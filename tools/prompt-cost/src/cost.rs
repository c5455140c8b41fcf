//! The arithmetic: tokens and money with a long prompt and with a tuned model's short one.

use serde::Serialize;

use crate::prices::{self, Prices};

pub const DAYS_IN_A_MONTH: u64 = 30;

/// What is known of the work.
#[derive(Clone, Copy, Debug)]
pub struct Volume {
    pub prompted_tokens: u64,
    pub tuned_tokens: u64,
    pub requests_per_day: u64,
    pub request_tokens: u64,
    pub answer_tokens: u64,
}

/// Training as it will be run; hours only where the speed was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Training {
    pub tokens: u64,
    pub epochs: u32,
    pub hours: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Costs {
    pub prompt_tokens: Pair<u64>,
    pub requests_per_day: u64,
    pub tokens_per_day: Pair<u64>,
    pub tokens_per_month: Pair<u64>,
    /// Share of the prompt's tokens that a tuned model saves; none of no tokens.
    pub reduction: Option<f64>,
    pub training: Option<Training>,
    pub money: Option<Money>,
}

/// The same figure for both ways.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Pair<T> {
    pub prompted: T,
    pub tuned: T,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Money {
    pub currency: String,
    pub per_day: Pair<f64>,
    pub per_month: Pair<f64>,
    pub saved_per_day: f64,
    pub training: TrainingCost,
    /// First day by whose end the savings have paid for the training; none if never, or unknown.
    pub break_even_day: Option<u64>,
}

/// What training costs; in JSON a number where it is known, else null.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(into = "Option<f64>")]
pub enum TrainingCost {
    Known(f64),
    /// The prices have no amount in [training].
    NoPrice,
    /// There is a price by the hour, and no telling how many hours.
    NoHours,
}

impl TrainingCost {
    fn of(price: Option<prices::Training>, hours: Option<f64>) -> TrainingCost {
        let prices::Training { per_hour, once } = price.unwrap_or_default();
        let per_hour = match (per_hour, once) {
            (None, None) => return TrainingCost::NoPrice,
            (per_hour, _) => per_hour.unwrap_or(0.0),
        };
        let once = once.unwrap_or(0.0);
        match hours {
            _ if per_hour == 0.0 => TrainingCost::Known(once),
            None => TrainingCost::NoHours,
            Some(hours) => TrainingCost::Known(hours * per_hour + once),
        }
    }

    pub fn known(self) -> Option<f64> {
        match self {
            TrainingCost::Known(amount) => Some(amount),
            TrainingCost::NoPrice | TrainingCost::NoHours => None,
        }
    }
}

impl From<TrainingCost> for Option<f64> {
    fn from(cost: TrainingCost) -> Option<f64> {
        cost.known()
    }
}

pub fn costs(volume: &Volume, training: Option<Training>, prices: Option<&Prices>) -> Costs {
    let Volume {
        prompted_tokens,
        tuned_tokens,
        requests_per_day,
        ..
    } = *volume;
    let a_day = |tokens: u64| tokens.saturating_mul(requests_per_day);
    let tokens_per_day = Pair {
        prompted: a_day(prompted_tokens),
        tuned: a_day(tuned_tokens),
    };
    Costs {
        prompt_tokens: Pair {
            prompted: prompted_tokens,
            tuned: tuned_tokens,
        },
        requests_per_day,
        tokens_per_day,
        tokens_per_month: Pair {
            prompted: tokens_per_day.prompted.saturating_mul(DAYS_IN_A_MONTH),
            tuned: tokens_per_day.tuned.saturating_mul(DAYS_IN_A_MONTH),
        },
        reduction: (tokens_per_day.prompted > 0)
            .then(|| 1.0 - tuned_tokens as f64 / prompted_tokens as f64),
        training,
        money: prices.map(|prices| money(volume, training, prices)),
    }
}

fn money(volume: &Volume, training: Option<Training>, prices: &Prices) -> Money {
    let Volume {
        requests_per_day,
        request_tokens,
        answer_tokens,
        ..
    } = *volume;
    let a_day = |model: &crate::prices::Model, prompt: u64| {
        model.per_day(requests_per_day, prompt, request_tokens, answer_tokens)
    };
    let per_day = Pair {
        prompted: a_day(&prices.prompted, volume.prompted_tokens),
        tuned: a_day(&prices.tuned, volume.tuned_tokens),
    };
    let month = |day: f64| day * DAYS_IN_A_MONTH as f64;
    let saved_per_day = per_day.prompted - per_day.tuned;
    let hours = training.and_then(|training| training.hours);
    let training = TrainingCost::of(prices.training, hours);
    let break_even_day = training
        .known()
        .filter(|_| saved_per_day > 0.0)
        .map(|once| (once / saved_per_day).ceil().max(1.0) as u64);
    Money {
        currency: prices.currency.clone(),
        per_day,
        per_month: Pair {
            prompted: month(per_day.prompted),
            tuned: month(per_day.tuned),
        },
        saved_per_day,
        training,
        break_even_day,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prices::{Model, Training as TrainingPrices};

    /// The figures of the guide: 600 tokens of instructions, 10,000 requests a day, 50 tokens left.
    const GUIDE: Volume = Volume {
        prompted_tokens: 600,
        tuned_tokens: 50,
        requests_per_day: 10_000,
        request_tokens: 0,
        answer_tokens: 0,
    };

    #[test]
    fn the_guides_own_figures_come_out() {
        let costs = costs(&GUIDE, None, None);
        assert_eq!(
            costs.tokens_per_day,
            Pair {
                prompted: 6_000_000,
                tuned: 500_000
            }
        );
        assert_eq!((costs.reduction.unwrap() * 100.0).round(), 92.0);
        assert_eq!(costs.tokens_per_month.prompted, 180_000_000);
    }

    #[test]
    fn training_pays_on_the_day_its_cost_is_saved() {
        let model = |price: f64| Model {
            input_per_million_tokens: price,
            ..Model::default()
        };
        let prices = Prices {
            prompted: model(2.0),
            tuned: model(2.0),
            training: Some(TrainingPrices {
                per_hour: Some(4.0),
                once: Some(100.0),
            }),
            ..Prices::default()
        };
        let training = Training {
            tokens: 1_000_000,
            epochs: 3,
            hours: Some(2.5),
        };
        let money = costs(&GUIDE, Some(training), Some(&prices)).money.unwrap();
        assert_eq!(
            money.per_day,
            Pair {
                prompted: 12.0,
                tuned: 1.0
            }
        );
        assert_eq!(money.training, TrainingCost::Known(110.0));
        assert_eq!(money.break_even_day, Some(10)); // 11 a day
    }

    #[test]
    fn a_cost_that_is_not_known_says_what_is_missing() {
        let price = |per_hour| {
            Some(TrainingPrices {
                per_hour: Some(per_hour),
                once: Some(5.0),
            })
        };
        for (price, hours, cost) in [
            (None, Some(2.0), TrainingCost::NoPrice),
            (
                Some(TrainingPrices::default()),
                Some(2.0),
                TrainingCost::NoPrice,
            ),
            (price(4.0), None, TrainingCost::NoHours),
            (price(0.0), None, TrainingCost::Known(5.0)),
            (price(4.0), Some(2.0), TrainingCost::Known(13.0)),
        ] {
            assert_eq!(TrainingCost::of(price, hours), cost);
            let json = serde_json::to_value(cost).unwrap();
            assert_eq!(json.as_f64(), cost.known());
        }
    }

    #[test]
    fn a_machine_that_costs_more_than_the_prompt_never_pays() {
        let prices = Prices {
            prompted: Model {
                input_per_million_tokens: 0.1,
                ..Model::default()
            },
            tuned: Model {
                per_hour: 1.0,
                ..Model::default()
            },
            ..Prices::default()
        };
        let money = costs(&GUIDE, None, Some(&prices)).money.unwrap();
        assert!(money.saved_per_day < 0.0);
        assert_eq!(money.break_even_day, None);
    }

    #[test]
    fn a_cached_prompt_costs_its_own_price() {
        let model = Model {
            input_per_million_tokens: 10.0,
            cached_input_per_million_tokens: Some(1.0),
            cached_share: 0.5,
            ..Model::default()
        };
        assert_eq!(model.per_day(1000, 1000, 0, 0), 5.5);
        assert_eq!(model.per_day(1000, 0, 1000, 0), 10.0);
    }
}
