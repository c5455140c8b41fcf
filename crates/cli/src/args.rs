//! What does the command line, joined with a config file, ask for?

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, Parser};
use serde::Serialize;

use crate::generate::{self, Generate};
use crate::{config, progress};

/// Flags every tool has; `#[command(flatten)]` and `#[serde(flatten)]` them into the tool's own.
#[derive(Clone, Debug, Default, clap::Args, Serialize)]
#[command(next_help_heading = "Every tool")]
pub struct CommonArgs {
    /// Read flags from a JSON or TOML file; a flag given here wins
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Print what would run, as JSON that --config reads back, and stop
    #[arg(long)]
    #[serde(skip)]
    pub print_config: bool,
    /// Print only errors, and the reason of an exit status that is not 0
    #[arg(long)]
    #[serde(skip)]
    pub quiet: bool,
    /// Print the manual page or shell completions, and stop
    #[arg(long, value_name = "WHAT")]
    #[serde(skip)]
    pub generate: Option<Generate>,
}

/// What `--threads` takes: a number that some machine has.
pub fn threads() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=1024)
}

/// What the command line came to.
pub(crate) enum Resolved<A> {
    /// Run with these arguments.
    Run(Box<A>),
    /// `--generate` or `--print-config` was asked, and has been printed.
    Answered,
}

pub(crate) enum Error {
    /// A usage error, or the text of `--help` or `--version`.
    Usage(clap::Error),
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Self {
        Error::Other(error)
    }
}

/// Parses `argv`, fills in from `--config`, and answers what needs no run.
pub(crate) fn resolve<A: Parser + Serialize>(argv: Vec<OsString>) -> Result<Resolved<A>, Error> {
    // Where a flag may be given once, the last one counts: a script's "$@" overrides what it set.
    let mut command = A::command().args_override_self(true);
    // A first look that forgives everything: the config may hold what is missing.
    let given = command
        .clone()
        .ignore_errors(true)
        .try_get_matches_from(&argv)
        .ok();
    if let Some(what) = given
        .as_ref()
        .and_then(|given| one::<Generate>(given, "generate"))
    {
        generate::print(*what, command)?;
        return Ok(Resolved::Answered);
    }
    let file = given
        .as_ref()
        .and_then(|given| one::<PathBuf>(given, "config"));
    let from = file.cloned();
    let argv = match (&given, file) {
        (Some(given), Some(file)) => merge(&command, given, argv, &config::read(file)?, file)?,
        _ => argv,
    };
    let parsed = command.try_get_matches_from_mut(&argv);
    let parsed = parsed.and_then(|matches| {
        let args = A::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        Ok((args, matches))
    });
    let (args, matches) = parsed.map_err(|error| {
        if let Some(file) = from.filter(|_| error.use_stderr()) {
            progress::note(format_args!("with the flags of {}:", file.display()));
        }
        Error::Usage(error)
    })?;
    progress::set_quiet(flag(&matches, "quiet"));
    if flag(&matches, "print_config") {
        let mut text = serde_json::to_string_pretty(&args).map_err(anyhow::Error::from)?;
        text.push('\n');
        std::io::stdout()
            .write_all(text.as_bytes())
            .map_err(anyhow::Error::from)?;
        return Ok(Resolved::Answered);
    }
    Ok(Resolved::Run(Box::new(args)))
}

/// `argv` with the config's keys in it. They go before what the user typed, so that a later flag
/// overrides an earlier one as usual; positionals go last.
fn merge(
    command: &Command,
    given: &ArgMatches,
    argv: Vec<OsString>,
    config: &config::Config,
    file: &std::path::Path,
) -> anyhow::Result<Vec<OsString>> {
    let words = config.words(command, file, |id| {
        given.value_source(id) == Some(ValueSource::CommandLine)
    })?;
    let mut typed = argv.into_iter();
    let mut merged: Vec<OsString> = typed.next().into_iter().collect();
    merged.extend(words.flags.into_iter().map(OsString::from));
    merged.extend(typed);
    if !words.positionals.is_empty() {
        if !merged.iter().any(|word| word == OsStr::new("--")) {
            merged.push("--".into());
        }
        merged.extend(words.positionals.into_iter().map(OsString::from));
    }
    Ok(merged)
}

fn one<'a, T: Clone + Send + Sync + 'static>(matches: &'a ArgMatches, id: &str) -> Option<&'a T> {
    matches.try_get_one::<T>(id).ok().flatten()
}

fn flag(matches: &ArgMatches, id: &str) -> bool {
    one::<bool>(matches, id).copied().unwrap_or(false)
}
