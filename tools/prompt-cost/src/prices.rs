//! The user's prices. None is built in.

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    #[serde(default)]
    pub currency: String,
    pub prompted: Model,
    pub tuned: Model,
    /// None: what training costs is not known, which is not nothing.
    pub training: Option<Training>,
}

/// What a model costs to run.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    #[serde(default)]
    pub input_per_million_tokens: f64,
    /// As the input's, if not given.
    pub cached_input_per_million_tokens: Option<f64>,
    /// Share of the prompt's tokens that are charged as cached.
    #[serde(default)]
    pub cached_share: f64,
    #[serde(default)]
    pub output_per_million_tokens: f64,
    #[serde(default)]
    pub per_hour: f64,
}

/// What training costs. An amount that is not given is nothing if the other one is; with neither,
/// nothing is known.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    pub per_hour: Option<f64>,
    pub once: Option<f64>,
}

impl Prices {
    /// An amount with its currency, if that has a name.
    pub fn amount(amount: f64, currency: &str) -> String {
        format!("{} {currency}", decimal(amount))
            .trim_end()
            .to_owned()
    }

    pub fn read(path: &Path) -> anyhow::Result<Prices> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let prices: Prices = toml::from_str(&text)
            .map_err(|error| anyhow!("{}: {}", path.display(), error.to_string().trim_end()))?;
        for (name, model) in [("prompted", prices.prompted), ("tuned", prices.tuned)] {
            let figures = [
                model.input_per_million_tokens,
                model.cached_input_per_million_tokens.unwrap_or(0.0),
                model.output_per_million_tokens,
                model.per_hour,
            ];
            if figures
                .iter()
                .any(|price| !price.is_finite() || *price < 0.0)
            {
                bail!(
                    "{}: [{name}] has a price that is below 0 or no number",
                    path.display()
                );
            }
            if !(0.0..=1.0).contains(&model.cached_share) {
                bail!(
                    "{}: [{name}] cached_share is not from 0 to 1",
                    path.display()
                );
            }
        }
        let Training { per_hour, once } = prices.training.unwrap_or_default();
        if [per_hour, once]
            .iter()
            .flatten()
            .any(|price| !price.is_finite() || *price < 0.0)
        {
            bail!(
                "{}: [training] has a price that is below 0 or no number",
                path.display()
            );
        }
        Ok(prices)
    }
}

/// Two decimals, and below 1 two digits that are not 0 before the number is called nothing.
pub fn decimal(amount: f64) -> String {
    const MOST: i32 = 12;
    let magnitude = match amount {
        0.0 => 0,
        amount => amount.abs().log10().floor() as i32,
    };
    let decimals = (1 - magnitude).clamp(2, MOST) as usize;
    format!("{amount:.decimals$}")
}

impl Model {
    /// Cost of a day of requests with this prompt.
    pub fn per_day(&self, requests: u64, prompt: u64, request: u64, answer: u64) -> f64 {
        let cached_price = self
            .cached_input_per_million_tokens
            .unwrap_or(self.input_per_million_tokens);
        let prompt_price = self.cached_share * cached_price
            + (1.0 - self.cached_share) * self.input_per_million_tokens;
        let per_request = prompt as f64 * prompt_price
            + request as f64 * self.input_per_million_tokens
            + answer as f64 * self.output_per_million_tokens;
        requests as f64 * per_request / 1e6 + 24.0 * self.per_hour
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_sum_is_not_printed_as_nothing() {
        for (amount, printed) in [
            (0.0, "0.00"),
            (1234.5, "1234.50"),
            (1.0, "1.00"),
            (0.5, "0.50"),
            (0.05, "0.050"),
            (0.00123, "0.0012"),
            (-0.00123, "-0.0012"),
        ] {
            assert_eq!(decimal(amount), printed);
        }
        assert_eq!(Prices::amount(0.004, "EUR"), "0.0040 EUR");
    }
}
