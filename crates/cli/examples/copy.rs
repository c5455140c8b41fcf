//! How does a tool look that does nothing but copy lines? The tests run it through the door.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use cli::{CommonArgs, Hint, Input, Lock, Outcome, Output};
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  copy a.txt --prefix '> ' -o b.txt
  copy --prefix '' < a.txt";

#[derive(Parser, Serialize)]
#[command(name = "copy", version, about = "Copies lines", after_help = EXAMPLES)]
struct Args {
    /// The file to copy
    #[arg(default_value = "-")]
    input: Input,
    /// Where to
    #[arg(short, long, default_value = "-")]
    output: Output,
    /// Written before every line
    #[arg(long)]
    prefix: String,
    /// Times each line is written
    #[arg(long, default_value_t = 1)]
    times: u32,
    /// Words that mean no
    #[arg(long)]
    no_word: Vec<String>,
    /// Say which word it was
    #[arg(long)]
    because: bool,
    /// Write in capitals
    #[arg(long)]
    capitals: bool,
    /// Lock this folder
    #[arg(long)]
    lock: Option<PathBuf>,
    /// Wait for a signal before the end, and save
    #[arg(long)]
    wait: bool,
    /// Sleep before the end
    #[arg(long)]
    sleep: bool,
    #[command(flatten)]
    #[serde(flatten)]
    common: CommonArgs,
}

fn main() -> ExitCode {
    cli::main(run)
}

fn run(args: Args) -> anyhow::Result<Outcome> {
    let _lock = args.lock.as_deref().map(Lock::acquire).transpose()?;
    let input = args.input.open().hint("give a file that exists")?;
    let mut output = args.output.create()?;
    let mut outcome = Outcome::Done;
    for line in input.lines() {
        let line = line?;
        if args.no_word.contains(&line) {
            outcome = Outcome::No;
            if args.because {
                cli::reason(format_args!("{line:?} is in the input"));
            }
        }
        let line = if args.capitals {
            line.to_uppercase()
        } else {
            line
        };
        for _ in 0..args.times {
            writeln!(output, "{}{line}", args.prefix)?;
        }
    }
    if args.wait {
        cli::interrupted(); // from here on a signal is waited for
        cli::note("waiting");
        outcome = loop {
            match cli::interrupted() {
                Some(signal) => break Outcome::Interrupted(signal),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
    }
    if args.sleep {
        std::thread::sleep(Duration::from_secs(30));
    }
    output.commit()?;
    Ok(outcome)
}
