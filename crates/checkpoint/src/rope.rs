//! Which angles do the rotary position embeddings of a model turn by?

use crate::Error;
use crate::json::Object;

/// Rotary position embedding over the whole head: frequency `i` is `theta^(−2i / head_dim)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    pub theta: f64,
    pub scaling: RopeScaling,
}

/// How the frequencies are stretched for contexts longer than the model was first trained on.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// Every frequency divided by `factor`.
    Linear {
        factor: f64,
    },
    /// Llama 3.1: wavelengths longer than `original_max_position_embeddings / low_freq_factor`
    /// are stretched by `factor`, shorter than `… / high_freq_factor` not, in between smoothly.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: usize,
    },
}

impl Rope {
    /// From config.json: `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling`.
    pub(crate) fn parse(config: &Object, max_position_embeddings: usize) -> Result<Rope, Error> {
        let (parameters, key) = match config.object("rope_parameters")? {
            Some(parameters) => (Some(parameters), "rope_parameters"),
            None => (config.object("rope_scaling")?, "rope_scaling"),
        };
        let nested = parameters
            .as_ref()
            .map(|p| p.number("rope_theta"))
            .transpose()?
            .flatten();
        // transformers, default of every family here
        let theta = nested.or(config.number("rope_theta")?).unwrap_or(10_000.0);
        if !(theta.is_finite() && theta > 0.0) {
            return Err(config.error("rope_theta", format!("is {theta}, not a positive number")));
        }
        let partial = match &parameters {
            Some(parameters) => parameters.number("partial_rotary_factor")?,
            None => None,
        };
        let partial = partial.or(config.number("partial_rotary_factor")?);
        if partial.is_some_and(|factor| factor != 1.0) {
            return Err(config.error(
                "partial_rotary_factor",
                "is not 1: heads that turn only in part are not supported",
            ));
        }
        let scaling = match &parameters {
            Some(parameters) => scaling(config, parameters, key, max_position_embeddings)?,
            None => RopeScaling::None,
        };
        Ok(Rope { theta, scaling })
    }
}

fn scaling(
    config: &Object,
    parameters: &Object,
    key: &str,
    max_position_embeddings: usize,
) -> Result<RopeScaling, Error> {
    let kind = match parameters.string("rope_type")? {
        Some(kind) => Some(kind),
        None => parameters.string("type")?,
    };
    let positive = |field: &str| match parameters.number(field)? {
        Some(number) if number.is_finite() && number > 0.0 => Ok(number),
        Some(number) => Err(parameters.error(field, format!("is {number}, not positive"))),
        None => Err(parameters.error(field, "is missing")),
    };
    match kind.as_deref() {
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear {
            factor: positive("factor")?,
        }),
        Some("llama3") => Ok(RopeScaling::Llama3 {
            factor: positive("factor")?,
            low_freq_factor: positive("low_freq_factor")?,
            high_freq_factor: positive("high_freq_factor")?,
            original_max_position_embeddings: parameters
                .size("original_max_position_embeddings")?
                .or(config.size("original_max_position_embeddings")?)
                .unwrap_or(max_position_embeddings),
        }),
        Some(other) => Err(config.error(
            key,
            format!("has type {other:?}; default, linear and llama3 are supported"),
        )),
    }
}
