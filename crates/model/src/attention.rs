//! Which of a GPU's attention kernels a model takes.

use std::str::FromStr;

use ops::{AttentionKernel, flash_attention};

use crate::{DeviceChoice, Error, Model};

/// What was asked for: a kernel, or the flash kernel wherever it proves right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttentionChoice {
    #[default]
    Auto,
    Kernel(AttentionKernel),
}

impl AttentionChoice {
    /// What can be told before a model is loaded.
    ///
    /// # Errors
    /// When a kernel is named and the device is the CPU, which has one kernel of its own.
    pub fn check(self, device: DeviceChoice) -> Result<(), Error> {
        if self != Self::Auto && device.is_cpu() {
            return Err(Error::Attention(
                "it names a kernel of a GPU, and the CPU has one of its own".into(),
            ));
        }
        Ok(())
    }
}

impl Model {
    /// Chooses, and says what a GPU then computes attention with; the CPU has one kernel and nothing
    /// to say. Until this is called it is [`AttentionKernel::Chunked`].
    ///
    /// The flash kernel is taken only where, in this process and on this device, it gives what its
    /// specification says; where it does not, `Auto` says why and takes the other.
    ///
    /// # Errors
    /// When a kernel is named that is not there or is wrong.
    pub fn choose_attention(&mut self, choice: AttentionChoice) -> Result<Option<String>, Error> {
        let decoder = &self.decoder;
        if decoder.on_cpu {
            return choice.check(DeviceChoice::Cpu).map(|()| None);
        }
        let compute = decoder.embed_tokens.format().compute;
        let flash = || flash_attention(&decoder.device, compute, &decoder.attention_options());
        let (kernel, said) = match choice {
            AttentionChoice::Kernel(AttentionKernel::Chunked) => {
                (AttentionKernel::Chunked, "chunked".to_string())
            }
            AttentionChoice::Kernel(AttentionKernel::Flash) => {
                flash().map_err(Error::Attention)?;
                (AttentionKernel::Flash, "flash".to_string())
            }
            AttentionChoice::Auto => match flash() {
                Ok(()) => (AttentionKernel::Flash, "flash".to_string()),
                Err(why) => (
                    AttentionKernel::Chunked,
                    format!("chunked, not flash: {why}"),
                ),
            },
        };
        self.decoder.attention = kernel;
        Ok(Some(said))
    }
}

impl FromStr for AttentionChoice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "auto" => Ok(Self::Auto),
            "flash" => Ok(Self::Kernel(AttentionKernel::Flash)),
            "chunked" => Ok(Self::Kernel(AttentionKernel::Chunked)),
            _ => Err("one of auto, flash, chunked".into()),
        }
    }
}

impl std::fmt::Display for AttentionChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Kernel(AttentionKernel::Flash) => "flash",
            Self::Kernel(AttentionKernel::Chunked) => "chunked",
        })
    }
}
