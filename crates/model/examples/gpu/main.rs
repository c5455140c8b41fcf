//! One program to carry to a machine with a GPU: does it compute right there, and how fast?
//!
//!     gpu check [--device cuda:0] [--data tests/data]
//!     gpu bench [--device cuda:0] [--shape NAME]... [--rows N] [--length N] [--steps N] [--recompute]
//!              [--attention auto|flash|chunked] [--no-cublas] [--rehearse]
//!
//! With --no-cublas every product is CubeCL's. --rehearse does all of it once, as small as it gets: does it
//! run here? Without --rows and --recompute a 7B or 8B is trained in three settings, others with 4 rows.
//!
//! `scripts/gpu-check` and `scripts/gpu-bench` call it.

mod bench;
mod check;
#[path = "../../tests/families/mod.rs"]
mod families;
#[cfg(any(feature = "cuda", feature = "cube-cpu"))]
mod memory;

use std::process::ExitCode;

use model::{AttentionChoice, DeviceChoice};

#[global_allocator]
static ALLOCATOR: model::CacheLines = model::CacheLines;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_default();
    let mut flags = Flags::default();
    while let Some(flag) = words.next() {
        if let Err(why) = flags.take(&flag, &mut words) {
            eprintln!("gpu: {why}");
            return ExitCode::from(2);
        }
    }
    let device = match flags.device.parse::<DeviceChoice>() {
        Ok(device) => device,
        Err(error) => {
            eprintln!("gpu: {error}");
            return ExitCode::from(2);
        }
    };
    match command.as_str() {
        "check" => check::run(device, flags.data.as_ref()),
        "bench" => bench::run(device, &flags),
        _ => {
            eprintln!("gpu: the first word is check or bench");
            ExitCode::from(2)
        }
    }
}

/// What the command line says.
struct Flags {
    device: String,
    data: String,
    shapes: Vec<String>,
    rows: Option<usize>,
    length: usize,
    steps: usize,
    recompute: bool,
    no_cublas: bool,
    rehearse: bool,
    attention: AttentionChoice,
}

impl Default for Flags {
    fn default() -> Self {
        Self {
            device: "cuda:0".into(),
            data: "tests/data".into(),
            shapes: Vec::new(),
            rows: None,
            length: 2048,
            steps: 5,
            recompute: false,
            no_cublas: false,
            rehearse: false,
            attention: AttentionChoice::Auto,
        }
    }
}

impl Flags {
    fn take(&mut self, flag: &str, words: &mut impl Iterator<Item = String>) -> Result<(), String> {
        match flag {
            "--recompute" => {
                self.recompute = true;
                return Ok(());
            }
            "--no-cublas" => {
                self.no_cublas = true;
                return Ok(());
            }
            "--rehearse" => {
                self.rehearse = true;
                self.shapes = vec!["tiny".into()];
                (self.rows, self.length, self.steps) = (Some(1), 64, 1);
                return Ok(());
            }
            _ => {}
        }
        let value = words.next().ok_or(format!("{flag} wants a value"))?;
        let number = || match value.parse() {
            Ok(n) if n > 0 => Ok(n),
            _ => Err(format!("{flag} wants a whole number, 1 or more")),
        };
        match flag {
            "--device" => self.device = value,
            "--data" => self.data = value,
            "--shape" => self.shapes.push(value),
            "--rows" => self.rows = Some(number()?),
            "--attention" => self.attention = value.parse()?,
            "--length" => self.length = number()?,
            "--steps" => self.steps = number()?,
            _ => return Err(format!("{flag} is no flag")),
        }
        Ok(())
    }
}
