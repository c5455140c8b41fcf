//! Which prompts must not leak, because a fixed test set holds them?

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader};

use anyhow::Context;
use dataset::Example;
use dataset::keys::prompt_key;

use crate::Args;

/// The prompts of all `--against` files.
pub struct FixedSet(HashSet<u64>);

impl FixedSet {
    pub fn read(args: &Args) -> anyhow::Result<FixedSet> {
        let mut prompts = HashSet::new();
        each_line(args, &mut |_, example| {
            prompts.insert(prompt_key(example));
            Ok(())
        })?;
        Ok(FixedSet(prompts))
    }

    /// Is this prompt asked there?
    pub fn holds(&self, prompt: u64) -> bool {
        self.0.contains(&prompt)
    }
}

/// Calls `each` for every example of the `--against` files, as its line and as what that says.
pub fn each_line(
    args: &Args,
    each: &mut dyn FnMut(&str, &Example) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for path in &args.against {
        let name = path.display();
        let reader = BufReader::new(File::open(path).with_context(|| name.to_string())?);
        for (index, line) in reader.lines().enumerate() {
            let place = || format!("{name}:{}", index + 1);
            let line = line.with_context(place)?;
            if !line.trim().is_empty() {
                let example = Example::from_json(&line).with_context(place)?;
                each(&line, &example).with_context(place)?;
            }
        }
    }
    Ok(())
}
