//! Which prompts must not leak, because a fixed test set holds them?

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader};

use anyhow::Context;
use dataset::Example;
use dataset::keys::{prompt_key, prompt_text};
use dataset::minhash::{Index, Signature};

use crate::Args;

/// The prompts of all `--against` files.
pub struct FixedSet {
    prompts: HashSet<u64>,
    similar: Option<Index>,
}

const IN_FIXED_SET: &str = "in_fixed_set";
const LIKE_FIXED_SET: &str = "like_fixed_set";

impl FixedSet {
    pub fn read(args: &Args) -> anyhow::Result<FixedSet> {
        let mut set = FixedSet {
            prompts: HashSet::new(),
            similar: args.near_duplicates.map(Index::new),
        };
        for path in &args.against {
            let name = path.display();
            let reader = BufReader::new(File::open(path).with_context(|| name.to_string())?);
            for (index, line) in reader.lines().enumerate() {
                let place = || format!("{name}:{}", index + 1);
                let line = line.with_context(place)?;
                if !line.trim().is_empty() {
                    set.add(&Example::from_json(&line).with_context(place)?);
                }
            }
        }
        Ok(set)
    }

    fn add(&mut self, example: &Example) {
        self.prompts.insert(prompt_key(example));
        if let Some(index) = &mut self.similar {
            index.add(Signature::of(&prompt_text(example)));
        }
    }

    /// The rule that keeps this example out, if one does.
    pub fn refuses(&self, example: &Example) -> Option<&'static str> {
        if self.prompts.contains(&prompt_key(example)) {
            return Some(IN_FIXED_SET);
        }
        let index = self.similar.as_ref().filter(|_| !self.prompts.is_empty())?;
        index
            .nearest(&Signature::of(&prompt_text(example)))
            .map(|_| LIKE_FIXED_SET)
    }
}
