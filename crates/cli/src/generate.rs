//! What do the manual page and the shell completions of a tool say?

use std::io::Write;

use clap::{Command, ValueEnum};
use clap_complete::Shell;

/// What `--generate` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Generate {
    /// The manual page, in roff
    Man,
    /// Completions for bash
    Bash,
    /// Completions for zsh
    Zsh,
    /// Completions for fish
    Fish,
}

pub(crate) fn print(what: Generate, mut command: Command) -> anyhow::Result<()> {
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    match what {
        Generate::Man => clap_mangen::Man::new(command).render(&mut text)?,
        Generate::Bash => clap_complete::generate(Shell::Bash, &mut command, name, &mut text),
        Generate::Zsh => clap_complete::generate(Shell::Zsh, &mut command, name, &mut text),
        Generate::Fish => clap_complete::generate(Shell::Fish, &mut command, name, &mut text),
    }
    Ok(std::io::stdout().write_all(&text)?)
}
