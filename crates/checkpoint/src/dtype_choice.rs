//! Which type is asked for, where a tool may also choose it?

use crate::Dtype;
use serde::Serialize;
use std::fmt::{self, Display};
use std::str::FromStr;

/// A floating-point type, or `auto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct DtypeChoice(pub Option<Dtype>);

impl DtypeChoice {
    /// All that can be asked for.
    pub const NAMES: [&str; 4] = ["auto", "f32", "bf16", "f16"];
}

impl FromStr for DtypeChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<DtypeChoice, String> {
        Ok(DtypeChoice(match text {
            "auto" => None,
            "f32" => Some(Dtype::F32),
            "bf16" => Some(Dtype::BF16),
            "f16" => Some(Dtype::F16),
            _ => return Err(format!("{text:?} is none of {}", Self::NAMES.join(", "))),
        }))
    }
}

impl Display for DtypeChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            None => "auto",
            Some(Dtype::BF16) => "bf16",
            Some(Dtype::F16) => "f16",
            Some(_) => "f32",
        })
    }
}

impl From<DtypeChoice> for String {
    fn from(choice: DtypeChoice) -> String {
        choice.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_what_is_read() {
        for name in DtypeChoice::NAMES {
            assert_eq!(name.parse::<DtypeChoice>().unwrap().to_string(), name);
        }
        assert!("f64".parse::<DtypeChoice>().is_err());
    }
}
