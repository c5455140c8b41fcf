//! Which device a run uses: chosen by name, found by enumeration.

use std::str::FromStr;

use burn::tensor::Device;

use crate::Error;

/// `auto` or `cpu`. This build has no GPU back end: a GPU asked for by name is an error, never a
/// silent fall-back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    #[default]
    Auto,
    Cpu,
}

impl DeviceChoice {
    /// The device to put tensors on.
    pub fn device(self) -> Device {
        match self {
            // burn's `Device::default()` names a GPU even where no driver is; never ask it.
            Self::Auto | Self::Cpu => Device::flex(),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            _ => Err(Error::Device(format!(
                "{name} (this build knows auto and cpu)"
            ))),
        }
    }
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
        })
    }
}
