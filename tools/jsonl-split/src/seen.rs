//! What keeps examples together? Their first questions, a field, likeness: one look at every line.

use std::collections::HashMap;

use anyhow::{anyhow, ensure};
use cli::Hint;
use dataset::Example;
use dataset::keys::{field, field_key, first_question_key, first_question_text};
use dataset::minhash::{Index, Signature};
use dataset::split::{Groups, Members};

use crate::Args;
use crate::fixed::FixedSet;
use crate::lines::Line;
use crate::place::{Fate, Rule};

/// What one pass over the file has seen: 8 to 28 bytes an example, and 320 with near duplicates.
#[derive(Default)]
pub struct Seen {
    /// Their groups are their first questions' keys until all are joined. Examples of the fixed set come
    /// first, as long as groups are looked for.
    pub members: Members,
    /// Their names.
    pub strata: Vec<String>,
    stratum_of: HashMap<String, u32>,
    together: Option<Together>,
    /// Members that ask what the fixed set asks, in rising order: few, if any.
    in_fixed: Vec<u32>,
}

/// What keeps examples together besides their first questions.
#[derive(Default)]
struct Together {
    groups: Groups,
    /// Examples of the fixed set, which come first.
    fixed: u32,
    /// The keys of `--group-by`.
    fields: Option<Vec<u64>>,
    similar: Option<Index>,
}

impl Seen {
    pub fn new(args: &Args) -> Seen {
        let together = Together {
            fields: args.group_by.as_ref().map(|_| Vec::new()),
            similar: args.near_duplicates.map(Index::new),
            ..Together::default()
        };
        let is_wanted = together.fields.is_some() || together.similar.is_some();
        Seen {
            together: is_wanted.then_some(together),
            ..Seen::default()
        }
    }

    /// The fixed set joins the groups like any other line, if there are groups.
    pub fn add_fixed(&mut self, args: &Args, fixed: &FixedSet) -> anyhow::Result<()> {
        if self.together.is_none() {
            return Ok(());
        }
        let mut without_field = 0;
        fixed.each_line(&mut |line, example| {
            let question = first_question_key(example);
            let key = match &args.group_by {
                Some(path) => field(&line.value()?, path).map(|value| of(path, &value)),
                None => None,
            };
            without_field += u64::from(key.is_none());
            self.members.groups.push(question);
            if let Some(together) = &mut self.together {
                together.add(example, key.unwrap_or(question)); // joins nothing that is not joined anyway
                together.fixed += 1;
            }
            Ok(())
        })?;
        if let (Some(path), 1..) = (&args.group_by, without_field) {
            cli::note(format_args!(
                "--against: {without_field} lines have no field {path:?}; only their first questions are compared"
            ));
        }
        Ok(())
    }

    pub fn add(&mut self, line: &Line, args: &Args, fixed: &FixedSet) -> anyhow::Result<()> {
        if line.index.is_none() {
            return Ok(());
        }
        ensure!(
            self.members.groups.len() < u32::MAX as usize,
            "{}: more than four billion examples",
            line.place()
        );
        let example = line.example()?;
        let value = if args.stratify.is_some() || args.group_by.is_some() {
            Some(line.value()?)
        } else {
            None
        };
        let get = |path: &String| {
            let value = value.as_ref().and_then(|value| field(value, path));
            value
                .ok_or_else(|| anyhow!("{}: no field {path:?} in the line or in its answer", line.place()))
                .hint("a FIELD is a key of the line (metadata.patient) or of the JSON in the answer (code)")
        };
        if fixed.holds(&example) {
            self.in_fixed.push(self.members.groups.len() as u32);
        }
        self.members.groups.push(first_question_key(&example));
        if let Some(together) = &mut self.together {
            let key = args
                .group_by
                .as_ref()
                .map(|path| Ok::<_, anyhow::Error>(of(path, &get(path)?)));
            together.add(&example, key.transpose()?.unwrap_or_default());
        }
        if let Some(path) = &args.stratify {
            let stratum = get(path)?;
            let next = self.strata.len() as u32;
            let number = *self
                .stratum_of
                .entry(stratum)
                .or_insert_with_key(|stratum| {
                    self.strata.push(stratum.clone());
                    next
                });
            self.members.strata.push(number);
        }
        Ok(())
    }

    /// Makes groups of first questions, and finds what the fixed set keeps out: an example that it holds, and
    /// the whole group of one, which would leak it.
    pub fn join(&mut self) -> Vec<Fate> {
        let mut rules = vec![Fate::LeftOut(Rule::NotAskedFor); self.members.groups.len()];
        for number in &self.in_fixed {
            rules[*number as usize] = Fate::LeftOut(Rule::InFixedSet);
        }
        let Some(mut together) = self.together.take() else {
            return rules;
        };
        let in_group = match together.fields {
            Some(_) => Rule::GroupInFixedSet,
            None => Rule::LikeFixedSet,
        };
        drop(together.similar.take());
        let questions = &mut self.members.groups;
        together.groups.join_equal(questions);
        if let Some(fields) = together.fields.take() {
            together.groups.join_equal(&fields);
        }
        // Whichever turn asks it: with the example its group is left out, and into one with the set's first
        // all of them may fall.
        for number in &self.in_fixed {
            together.groups.join(0, *number);
        }
        for number in together.fixed..questions.len() as u32 {
            let first = together.groups.first(number);
            let rule = &mut rules[number as usize];
            if first < together.fixed && matches!(rule, Fate::LeftOut(Rule::NotAskedFor)) {
                *rule = Fate::LeftOut(in_group);
            }
            questions[number as usize] = questions[first as usize];
        }
        questions.drain(..together.fixed as usize);
        rules.drain(..together.fixed as usize);
        rules
    }
}

impl Together {
    /// Joins all that are similar, not the nearest alone: two that are alike may each have a nearer
    /// one of their own.
    fn add(&mut self, example: &Example, field: u64) {
        let number = self.groups.add();
        if let Some(fields) = &mut self.fields {
            fields.push(field);
        }
        if let Some(index) = &mut self.similar {
            let groups = &mut self.groups;
            index.add(Signature::of(&first_question_text(example)), |other, _| {
                groups.join(other as u32, number);
            });
        }
    }
}

/// The key of all that have this value in the field.
fn of(path: &str, value: &str) -> u64 {
    field_key(&format!("{path}={value}"))
}
