//! What does a rule say, and what breaks it?

use std::io::Write;

use cli::{Hint, Outcome};
use dataset::Rule;

/// Prints one rule with its example, or a table of all.
pub fn print(what: &str) -> anyhow::Result<Outcome> {
    let mut out = std::io::stdout().lock();
    if what == "all" {
        for rule in Rule::ALL {
            writeln!(
                out,
                "{:<34} {:<8} {}",
                rule.code(),
                rule.severity().to_string(),
                rule.meaning()
            )?;
        }
        return Ok(Outcome::Done);
    }
    let rule: Rule = what
        .parse()
        .map_err(anyhow::Error::msg)
        .hint("jsonl-validate --explain all lists the rules")?;
    writeln!(
        out,
        "{} ({})\n\n{}",
        rule.code(),
        rule.severity(),
        rule.meaning()
    )?;
    writeln!(out, "\nFor example:\n{}", rule.example())?;
    if rule.example().contains('<') {
        writeln!(out, "where <E9> stands for the byte of that number.")?;
    }
    writeln!(
        out,
        "\n--severity {}=off does not look for it.",
        rule.code()
    )?;
    Ok(Outcome::Done)
}
