//! What a flag's text is: one of a few words, a size, a number within bounds.

use std::{
    fmt::{self, Display},
    str::FromStr,
};

use clap::ValueEnum;
use serde::Serialize;

/// transformers' names, and its defaults of their parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Scheduler {
    /// half a cosine, to 0
    Cosine,
    /// a line, to 0
    Linear,
    /// the peak from the first step on
    Constant,
    /// the peak
    ConstantWithWarmup,
    /// cosines to 0, num_cycles [1] of them
    CosineWithRestarts,
    /// half a cosine, to the rate min_lr or the share min_lr_rate of the peak
    CosineWithMinLr,
    /// (1 - progress)^power [1], to lr_end [1e-7]
    Polynomial,
    /// 1 / sqrt(steps), in units of timescale [the warm-up's steps, or 10000]
    InverseSqrt,
    /// the peak, and in the last num_decay_steps half a cosine to 0
    WarmupStableDecay,
}

impl Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("none is hidden");
        f.write_str(value.get_name())
    }
}

/// A parameter of a scheduler, written `num_cycles=3`.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    pub name: String,
    pub value: f64,
}

impl FromStr for Parameter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
        let value = number(value, |x| x >= 0.0 && x.is_finite(), "a number, 0 or more")?;
        let name = name.to_owned();
        Ok(Self { name, value })
    }
}

impl Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

impl Serialize for Parameter {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    Nf4,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    Auto,
    F32,
    Bf16,
    F16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Checkpointing {
    Auto,
    On,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Resume {
    Auto,
    Never,
    Require,
}

/// A number of bytes, written like `6GiB`, `512MiB` or `8000000000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let split = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let scale = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1.0,
            "k" | "kib" => 1024.0,
            "m" | "mib" => 1048576.0,
            "g" | "gib" => 1073741824.0,
            "kb" => 1e3,
            "mb" => 1e6,
            "gb" => 1e9,
            other => return Err(format!("{other:?} is no unit; write 6GiB, 512MiB or 6GB")),
        };
        let number: f64 = number
            .parse()
            .map_err(|_| "write 6GiB, 512MiB or 6GB".to_string())?;
        Ok(Self((number * scale) as u64))
    }
}

impl Serialize for ByteSize {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_string())
    }
}

pub(super) fn as_text<T: std::fmt::Display, S: serde::Serializer>(
    value: &T,
    s: S,
) -> Result<S::Ok, S::Error> {
    s.collect_str(value)
}

/// A whole number without a fraction, as people write it.
pub(super) fn plainly<S: serde::Serializer>(value: &f64, s: S) -> Result<S::Ok, S::Error> {
    match value.fract() == 0.0 && *value < 1e15 {
        true => s.serialize_u64(*value as u64),
        false => s.serialize_f64(*value),
    }
}

pub(super) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("must be a whole number, 1 or more".into()),
        Ok(n) => Ok(n),
    }
}

fn number(text: &str, allowed: impl Fn(f64) -> bool, what: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if allowed(x) => Ok(x),
        _ => Err(format!("must be {what}")),
    }
}

pub(super) fn above_zero(text: &str) -> Result<f64, String> {
    let what = "a number above 0 that 32 bits hold: with 0 nothing is learned";
    let held = |x: f64| x as f32 > 0.0 && (x as f32).is_finite();
    number(text, held, what)
}

pub(super) fn epochs(text: &str) -> Result<f64, String> {
    let what = "a number above 0, up to a million";
    number(text, |x| x > 0.0 && x <= 1e6, what)
}

pub(super) fn non_negative(text: &str) -> Result<f64, String> {
    number(text, |x| x >= 0.0 && x.is_finite(), "a number, 0 or more")
}

pub(super) fn fraction(text: &str) -> Result<f64, String> {
    number(text, |x| (0.0..=1.0).contains(&x), "between 0 and 1")
}

pub(super) fn below_one(text: &str) -> Result<f64, String> {
    number(text, |x| (0.0..1.0).contains(&x), "from 0 to below 1")
}
