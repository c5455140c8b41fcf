//! A GPU that is none: the CUDA driver of tests/emulation/driver, and programs that find it.

use std::path::PathBuf;
use std::process::Command;

use crate::process::profile;
use crate::{exits, root, skip};

/// A folder that looks like a machine with CUDA. The kernels that were compiled once stay in it, and all tests
/// share it.
pub struct Driver {
    folder: PathBuf,
}

impl Driver {
    /// Nothing, said aloud, where there is no compiler.
    pub fn built() -> Option<Driver> {
        if Command::new("g++").arg("--version").output().is_err() {
            skip("there is no g++ to compile the driver and the kernels");
            return None;
        }
        let profile = profile();
        let target = profile.parent().expect("it lies in the target folder");
        let folder = target.join("tmp/driver");
        std::fs::create_dir_all(&folder).expect("the target folder can be written to");
        let build = root().join("tests/emulation/driver/build");
        exits(Command::new("sh").arg(build).arg(&folder), 0);
        Some(Driver { folder })
    }

    /// Lets a program find it; `settings` are of the machine.
    pub fn lend<'a>(&self, to: &'a mut Command, settings: &[(&str, &str)]) -> &'a mut Command {
        to.env("LD_LIBRARY_PATH", &self.folder)
            .env("CUDA_PATH", &self.folder)
            .envs(settings.iter().copied())
    }
}
