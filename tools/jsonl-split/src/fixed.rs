//! Which prompts must not leak, because a fixed test set holds them?

use std::collections::HashSet;

use dataset::Example;
use dataset::keys::prompt_key;

use crate::Args;
use crate::lines::{self, Line, Lines};
use crate::place;

/// The prompts of all `--against` files, and their lines where groups are looked for.
pub struct FixedSet {
    prompts: HashSet<u64>,
    files: Vec<Lines>,
}

impl FixedSet {
    pub fn read(args: &Args) -> anyhow::Result<FixedSet> {
        let twice = place::looks_for_groups(args);
        let files = args.against.iter().map(|file| lines::open(file, twice));
        let mut set = FixedSet {
            prompts: HashSet::new(),
            files: files.collect::<anyhow::Result<_>>()?,
        };
        let mut prompts = HashSet::new();
        set.each_line(&mut |_, example| {
            prompts.insert(prompt_key(example));
            Ok(())
        })?;
        set.prompts = prompts;
        Ok(set)
    }

    /// Is this prompt asked there?
    pub fn holds(&self, prompt: u64) -> bool {
        self.prompts.contains(&prompt)
    }

    /// Calls `each` for every example of the files, as its line and as what that says.
    pub fn each_line(
        &self,
        each: &mut dyn FnMut(&Line, &Example) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for file in &self.files {
            file.each(&mut |line| match line.index {
                Some(_) => each(line, &line.example()?),
                None => Ok(()),
            })?;
        }
        Ok(())
    }
}
