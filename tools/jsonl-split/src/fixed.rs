//! Which questions must not leak, because a fixed test set holds them?

use std::collections::HashSet;

use dataset::Example;
use dataset::keys::{first_question_key, question_keys};

use crate::Args;
use crate::lines::{self, Line, Lines};
use crate::place;

/// The first questions of all `--against` files, and their lines where groups are looked for.
pub struct FixedSet {
    questions: HashSet<u64>,
    files: Vec<Lines>,
}

impl FixedSet {
    pub fn read(args: &Args) -> anyhow::Result<FixedSet> {
        let twice = place::looks_for_groups(args);
        let files = args.against.iter().map(|file| lines::open(file, twice));
        let mut set = FixedSet {
            questions: HashSet::new(),
            files: files.collect::<anyhow::Result<_>>()?,
        };
        let mut questions = HashSet::new();
        set.each_line(&mut |_, example| {
            questions.insert(first_question_key(example));
            questions.extend(question_keys(example).first());
            Ok(())
        })?;
        set.questions = questions;
        Ok(set)
    }

    /// Does this example ask what is asked there first, at its beginning or in any turn that is learned?
    /// What is asked there later on ("and why?") says too little to be found again.
    pub fn holds(&self, example: &Example) -> bool {
        let is_there = |question: u64| self.questions.contains(&question);
        !self.questions.is_empty()
            && (is_there(first_question_key(example))
                || question_keys(example).into_iter().any(is_there))
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
