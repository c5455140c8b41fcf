//! Where does each line go? From its own prompt alone, or from a look at all of them.

use std::collections::HashMap;

use anyhow::{anyhow, ensure};
use cli::Hint;
use dataset::Example;
use dataset::keys::{field, field_key, prompt_key, prompt_text};
use dataset::minhash::{Index, Signature};
use dataset::split::{self, Groups, Members, Short, Split, Wanted};

use crate::Args;
use crate::fixed::{self, FixedSet};
use crate::lines::{Line, Lines};

/// What was decided, before any line is written.
pub enum Place<'a> {
    /// A hash of each line's group decides as it passes.
    Streaming { args: &'a Args, fixed: &'a FixedSet },
    /// All was looked at: a member and a fate for each line that is not blank.
    Decided {
        args: &'a Args,
        members: Members,
        fates: Vec<Fate>,
        strata: Vec<String>,
    },
}

/// The place of one line.
#[derive(Clone, Copy, Debug)]
pub struct Placed {
    /// The split, or the rule that left it out.
    pub fate: Result<Split, &'static str>,
    pub group: u64,
    pub stratum: u32,
    /// Where a split of single lines, blind to groups, would have put it.
    pub blind: Split,
}

/// The same as [`Placed::fate`], in two bytes.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    To(Split),
    LeftOut(Rule),
}

/// Why a line goes nowhere.
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    NotAskedFor,
    InFixedSet,
    LikeFixedSet,
    GroupInFixedSet,
}

impl Rule {
    fn code(self) -> &'static str {
        match self {
            Rule::NotAskedFor => "not_asked_for",
            Rule::InFixedSet => "in_fixed_set",
            Rule::LikeFixedSet => "like_fixed_set",
            Rule::GroupInFixedSet => "group_in_fixed_set",
        }
    }
}

/// Must the whole file be seen before the first line is written?
pub fn needs_two_passes(args: &Args) -> bool {
    args.exact
        || args.counts.is_some()
        || args.stratify.is_some()
        || args.group_by.is_some()
        || args.near_duplicates.is_some()
}

/// Does anything go to this split?
pub fn wants(args: &Args, split: Split) -> bool {
    match &args.counts {
        Some(counts) => counts.wants(split),
        None => args.ratios.share(split) > 0.0,
    }
}

/// Looks at the whole file if it must.
pub fn decide<'a>(args: &'a Args, input: &Lines, fixed: &'a FixedSet) -> anyhow::Result<Place<'a>> {
    if !needs_two_passes(args) {
        return Ok(Place::Streaming { args, fixed });
    }
    let mut seen = Seen::new(args);
    if seen.together.is_some() {
        seen.add_fixed(args)?;
    }
    input.each(&mut |line| seen.add(line, args))?;
    let mut fates = seen.join(fixed);
    let Seen {
        members, strata, ..
    } = seen;
    let is_candidate = |fate: &Fate| matches!(fate, Fate::LeftOut(Rule::NotAskedFor));
    let candidates = (0..)
        .zip(&fates)
        .filter(|(_, fate)| is_candidate(fate))
        .map(|(number, _)| number);
    let splits =
        place_candidates(&members, candidates, args).map_err(|short| too_few(&short, &strata))?;
    for (fate, split) in fates.iter_mut().zip(splits) {
        if let Some(split) = split {
            *fate = Fate::To(split);
        }
    }
    Ok(Place::Decided {
        args,
        members,
        fates,
        strata,
    })
}

fn place_candidates(
    members: &Members,
    candidates: impl Iterator<Item = u32>,
    args: &Args,
) -> Result<Vec<Option<Split>>, Vec<Short>> {
    let wanted = match (&args.counts, args.exact || args.stratify.is_some()) {
        (Some(counts), _) => Wanted::Counts(*counts),
        (None, true) => Wanted::Ratios(args.ratios),
        (None, false) => {
            let mut splits = vec![None; members.groups.len()];
            for number in candidates {
                let group = members.groups[number as usize];
                splits[number as usize] = Some(split::assign(group, args.seed, &args.ratios));
            }
            return Ok(splits);
        }
    };
    split::exact(members, candidates, args.seed, &wanted)
}

fn too_few(short: &[Short], strata: &[String]) -> anyhow::Error {
    let name = |short: &Short| match strata.get(short.stratum as usize).map(String::as_str) {
        None | Some("") => format!("{} lacks {}", short.split, short.missing),
        Some(stratum) => format!("{} lacks {} of {stratum:?}", short.split, short.missing),
    };
    let shown: Vec<String> = short.iter().take(5).map(name).collect();
    let more = match short.len().saturating_sub(5) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    anyhow!("too few examples: {}{more}", shown.join(", ")).hint("ask for fewer, or for train=rest")
}

impl Place<'_> {
    /// The place of the next line that is not blank.
    pub fn of(&self, line: &Line, index: usize) -> anyhow::Result<Placed> {
        let (args, fate, group, stratum) = match self {
            Place::Decided {
                args,
                members,
                fates,
                ..
            } => {
                let fate = fates.get(index).copied();
                let fate =
                    fate.ok_or_else(|| anyhow!("{}: was not there at first", line.place()))?;
                (args, fate, members.groups[index], members.stratum(index))
            }
            Place::Streaming { args, fixed } => {
                let group = prompt_key(&line.example()?);
                let fate = match fixed.holds(group) {
                    true => Fate::LeftOut(Rule::InFixedSet),
                    false => Fate::To(split::assign(group, args.seed, &args.ratios)),
                };
                (args, fate, group, 0)
            }
        };
        Ok(Placed {
            fate: match fate {
                Fate::To(split) => Ok(split),
                Fate::LeftOut(rule) => Err(rule.code()),
            },
            group,
            stratum,
            // What splitting line by line, as most scripts do, would have done with it.
            blind: split::assign(field_key(&line.number.to_string()), args.seed, &args.ratios),
        })
    }

    /// The names of the strata.
    pub fn strata(&self) -> &[String] {
        match self {
            Place::Streaming { .. } => &[],
            Place::Decided { strata, .. } => strata,
        }
    }
}

/// What one pass over the file has seen: 8 to 28 bytes an example, and 320 with near duplicates.
#[derive(Default)]
struct Seen {
    /// Their groups are their prompts' keys until all are joined. Examples of the fixed set come
    /// first, as long as groups are looked for.
    members: Members,
    strata: Vec<String>,
    stratum_of: HashMap<String, u32>,
    together: Option<Together>,
}

/// What keeps examples together besides their prompts.
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
    fn new(args: &Args) -> Seen {
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

    /// The fixed set joins the groups like any other line.
    fn add_fixed(&mut self, args: &Args) -> anyhow::Result<()> {
        let mut without_field = 0;
        fixed::each_line(args, &mut |line, example| {
            let prompt = prompt_key(example);
            let key = match &args.group_by {
                Some(path) => {
                    field(&serde_json::from_str(line)?, path).map(|value| of(path, &value))
                }
                None => None,
            };
            without_field += u64::from(key.is_none());
            self.members.groups.push(prompt);
            if let Some(together) = &mut self.together {
                together.add(example, key.unwrap_or(prompt)); // joins nothing that is not joined anyway
                together.fixed += 1;
            }
            Ok(())
        })?;
        if let (Some(path), 1..) = (&args.group_by, without_field) {
            cli::note(format_args!(
                "--against: {without_field} lines have no field {path:?}; only their prompts are compared"
            ));
        }
        Ok(())
    }

    fn add(&mut self, line: &Line, args: &Args) -> anyhow::Result<()> {
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
        self.members.groups.push(prompt_key(&example));
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

    /// Makes groups of prompts, and finds what the fixed set keeps out: an example that it holds, and
    /// the whole group of one, which would leak it.
    fn join(&mut self, fixed: &FixedSet) -> Vec<Fate> {
        let mut rules = Vec::with_capacity(self.members.groups.len());
        let Some(mut together) = self.together.take() else {
            let in_fixed = self
                .members
                .groups
                .iter()
                .map(|prompt| fixed.holds(*prompt));
            rules.extend(in_fixed.map(|is_in| match is_in {
                true => Fate::LeftOut(Rule::InFixedSet),
                false => Fate::LeftOut(Rule::NotAskedFor),
            }));
            return rules;
        };
        let in_group = match together.fields {
            Some(_) => Rule::GroupInFixedSet,
            None => Rule::LikeFixedSet,
        };
        drop(together.similar.take());
        let prompts = &mut self.members.groups;
        together.groups.join_equal(prompts);
        if let Some(fields) = together.fields.take() {
            together.groups.join_equal(&fields);
        }
        for number in together.fixed..prompts.len() as u32 {
            let first = together.groups.first(number);
            rules.push(Fate::LeftOut(if fixed.holds(prompts[number as usize]) {
                Rule::InFixedSet
            } else if first < together.fixed {
                in_group
            } else {
                Rule::NotAskedFor
            }));
            prompts[number as usize] = prompts[first as usize];
        }
        prompts.drain(..together.fixed as usize);
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
            index.add(Signature::of(&prompt_text(example)), |other, _| {
                groups.join(other as u32, number);
            });
        }
    }
}

/// The key of all that have this value in the field.
fn of(path: &str, value: &str) -> u64 {
    field_key(&format!("{path}={value}"))
}
