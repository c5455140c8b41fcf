//! How does every tool behave at its edges? Exit status, streams, files, locks, progress, signals.
//!
//! A tool's `main.rs` is five lines: it hands its `run` to [`main`], which reads the command line
//! (flag > `--config` file > default), answers `--print-config` and `--generate`, and turns what
//! `run` returned into an exit status:
//!
//! | status | meaning |
//! |---|---|
//! | 0 | done, or the reader of our output went away and no file was left to write |
//! | 1 | done, and the answer is no |
//! | 2 | could not: usage, missing file, full disk |
//! | 75 | another run holds the lock |
//! | 128+n | stopped by signal n |

mod args;
mod config;
mod descriptor;
mod directory;
mod files;
mod generate;
mod hint;
mod input;
mod lock;
mod memory;
mod output;
mod progress;
mod publish;
mod signals;

pub use args::{CommonArgs, threads};
pub use directory::AtomicDir;
pub use files::Files;
pub use hint::{Hint, ledger_error};
pub use input::Input;
pub use lock::{Lock, Locked};
pub use memory::give_back_freed_memory;
pub use output::{Output, OutputWriter};
pub use progress::{Progress, Unit, note, quiet, reason};
pub use publish::publish;
pub use signals::interrupted;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use serde::Serialize;

/// What a run that did not fail came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was done, and the answer, if there was a question, is yes.
    Done,
    /// Everything was done, and the answer is no: findings, a gate not met.
    No,
    /// The run saved its state and left because of this signal.
    Interrupted(i32),
}

/// Runs a tool: the whole of its `main`.
pub fn main<A: Parser + Serialize>(run: impl FnOnce(A) -> anyhow::Result<Outcome>) -> ExitCode {
    let command = A::command();
    let name = command.get_name().to_owned();
    progress::set_name(&name);
    signals::watch();
    match args::resolve::<A>(std::env::args_os().collect()) {
        Ok(args::Resolved::Run(args)) => exit_code(&name, run(*args)),
        Ok(args::Resolved::Answered) => exit_code(&name, Ok(Outcome::Done)),
        Err(args::Error::Usage(error)) if error.use_stderr() => {
            let _ = write!(io::stderr(), "{}", usage(&name, &error)); // nobody is left to tell when it is gone
            ExitCode::from(2)
        }
        Err(args::Error::Usage(help)) => {
            let printed = help.print().and_then(|()| io::stdout().flush());
            let printed = printed.context("writing <stdout>");
            exit_code(&name, printed.map(|()| Outcome::Done))
        }
        Err(args::Error::Other(error)) => exit_code(&name, Err(error)),
    }
}

/// clap's words in the form of every other error: who says it, what it is, the way out.
fn usage(name: &str, error: &clap::Error) -> String {
    let styled = error.render();
    let text = match io::stderr().is_terminal() {
        true => styled.ansi().to_string(),
        false => styled.to_string(),
    };
    let (_, said) = text.split_once(':').unwrap_or_default();
    let said = said.split("\nFor more information").next();
    format!(
        "{name}:{}hint: {name} --help says more\n",
        said.unwrap_or_default()
    )
}

fn exit_code(name: &str, result: anyhow::Result<Outcome>) -> ExitCode {
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::No) => {
            progress::reason_if_none("the answer is no; the same without --quiet says why");
            ExitCode::from(1)
        }
        Ok(Outcome::Interrupted(signal)) => ExitCode::from(signals::status(signal)),
        Err(error) if is_closed_pipe(&error) && !signals::is_output_pending() => ExitCode::SUCCESS,
        Err(error) => {
            let error = match is_closed_pipe(&error) {
                true => error.hint("its reader went away before all was written; no other output of this run is complete"),
                false => error,
            };
            let mut stderr = io::stderr().lock();
            let _ = writeln!(stderr, "{name}: {error:#}");
            for hint in hint::hints(&error) {
                let _ = writeln!(stderr, "hint: {hint}");
            }
            let is_locked = hint::find(&error, &|cause| cause.downcast_ref::<Locked>().map(drop));
            ExitCode::from(if is_locked.is_some() { 75 } else { 2 })
        }
    }
}

/// Did the reader of an output go away? Of itself that ends a run with status 0.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    hint::io_kind(error) == Some(io::ErrorKind::BrokenPipe)
}
