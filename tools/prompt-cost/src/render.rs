//! The result as a table for people, as JSON, or as one row of CSV.

use std::fmt::Write;

use serde::Serialize;

use crate::advice::{Advice, Verdict};
use crate::cost::{Costs, DAYS_IN_A_MONTH, Pair};
use crate::prices::{Prices, decimal};

#[derive(Serialize)]
pub struct Report<'a> {
    #[serde(flatten)]
    pub costs: &'a Costs,
    pub advice: &'a Advice,
}

/// The columns are a contract: new ones go at the end.
const HEADER: &str = "prompted_tokens,tuned_tokens,requests_per_day,prompted_tokens_per_day,\
tuned_tokens_per_day,prompted_tokens_per_month,tuned_tokens_per_month,reduction,currency,\
prompted_cost_per_day,tuned_cost_per_day,saved_per_day,training_tokens,training_hours,\
training_cost,break_even_day,verdict";

pub fn json(report: &Report) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(report)? + "\n")
}

pub fn csv(report: &Report) -> String {
    let costs = report.costs;
    let money = costs.money.as_ref();
    let or_empty = |value: Option<String>| value.unwrap_or_default();
    let amount = |value: Option<f64>| or_empty(value.map(|value| value.to_string()));
    let fields = [
        costs.prompt_tokens.prompted.to_string(),
        costs.prompt_tokens.tuned.to_string(),
        costs.requests_per_day.to_string(),
        costs.tokens_per_day.prompted.to_string(),
        costs.tokens_per_day.tuned.to_string(),
        costs.tokens_per_month.prompted.to_string(),
        costs.tokens_per_month.tuned.to_string(),
        amount(costs.reduction),
        or_empty(money.map(|money| format!("\"{}\"", money.currency.replace('"', "\"\"")))),
        amount(money.map(|money| money.per_day.prompted)),
        amount(money.map(|money| money.per_day.tuned)),
        amount(money.map(|money| money.saved_per_day)),
        or_empty(costs.training.map(|training| training.tokens.to_string())),
        amount(costs.training.and_then(|training| training.hours)),
        amount(money.and_then(|money| money.training.known())),
        or_empty(
            money
                .and_then(|money| money.break_even_day)
                .map(|day| day.to_string()),
        ),
        verdict(report.advice.verdict).to_owned(),
    ];
    format!("{HEADER}\n{}\n", fields.join(","))
}

pub fn text(report: &Report) -> String {
    let costs = report.costs;
    let mut text = String::new();
    let mut row = |name: &str, prompted: &str, tuned: &str, saved: &str| {
        let _ = writeln!(text, "{name:<26}{prompted:>18}{tuned:>18}{saved:>12}");
    };
    let saved = share(costs.reduction);
    row("", "prompted", "tuned", "saved");
    let mut tokens = |name: &str, pair: Pair<u64>| {
        row(name, &grouped(pair.prompted), &grouped(pair.tuned), &saved);
    };
    tokens("prompt tokens", costs.prompt_tokens);
    tokens("prompt tokens a day", costs.tokens_per_day);
    tokens(
        &format!("prompt tokens in {DAYS_IN_A_MONTH} days"),
        costs.tokens_per_month,
    );
    if let Some(money) = &costs.money {
        let mut amounts = |name: &str, pair: Pair<f64>| {
            let saved = share(Some(1.0 - pair.tuned / pair.prompted));
            row(name, &decimal(pair.prompted), &decimal(pair.tuned), &saved);
        };
        let currency = match money.currency.as_str() {
            "" => "cost",
            currency => currency,
        };
        amounts(&format!("{currency} a day"), money.per_day);
        amounts(
            &format!("{currency} in {DAYS_IN_A_MONTH} days"),
            money.per_month,
        );
    }
    if let Some(training) = costs.training {
        let _ = write!(
            text,
            "\ntraining: {} tokens, {} epochs",
            grouped(training.tokens),
            training.epochs
        );
        if let Some(hours) = training.hours {
            let _ = write!(text, ", {} hours", decimal(hours));
        }
        text.push('\n');
    }
    if let Some(money) = &costs.money {
        if let Some(training) = money.training.known() {
            let training = Prices::amount(training, &money.currency);
            let _ = writeln!(text, "training costs {training}");
        }
        let _ = match money.break_even_day {
            Some(day) => writeln!(text, "break-even: day {day}"),
            None if money.saved_per_day <= 0.0 => writeln!(text, "break-even: never"),
            None => writeln!(text, "break-even: unknown, for training has no known cost"),
        };
    }
    let _ = writeln!(text, "\nrecommendation: {}", verdict(report.advice.verdict));
    for (title, reasons) in [
        ("for tuning", &report.advice.for_tuning),
        ("against tuning", &report.advice.against_tuning),
    ] {
        if !reasons.is_empty() {
            let _ = writeln!(text, "{title}:\n- {}", reasons.join("\n- "));
        }
    }
    text
}

fn share(share: Option<f64>) -> String {
    match share.filter(|share| share.is_finite()) {
        Some(share) => format!("{:.1} %", 100.0 * share),
        None => "–".into(),
    }
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Tune => "tune",
        Verdict::Prompt => "prompt",
        Verdict::Undecided => "undecided",
    }
}

/// 6000000 as 6,000,000
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
