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
        Generate::Man => text = manual(command)?.into_bytes(),
        Generate::Bash => clap_complete::generate(Shell::Bash, &mut command, name, &mut text),
        Generate::Zsh => clap_complete::generate(Shell::Zsh, &mut command, name, &mut text),
        Generate::Fish => clap_complete::generate(Shell::Fish, &mut command, name, &mut text),
    }
    Ok(std::io::stdout().write_all(&text)?)
}

/// The manual page. What stands below the options is laid out in lines, examples above all, and roff
/// would fill them into paragraphs.
fn manual(command: Command) -> anyhow::Result<String> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    let page = String::from_utf8(page)?;
    Ok(page
        .replacen(".SH EXTRA\nExamples:\n", ".SH EXAMPLES\n.nf\n", 1)
        .replacen(".SH VERSION\n", ".fi\n.SH VERSION\n", 1))
}
