//! Where does each line go? From its own prompt alone, or from a look at all of them.

use std::collections::{HashMap, HashSet};

use anyhow::anyhow;
use cli::Hint;
use dataset::Example;
use dataset::keys::{field, field_key, prompt_key, prompt_text};
use dataset::minhash::{Index, Signature};
use dataset::split::{self, Member, Short, Split, Wanted};

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
        members: Vec<Member>,
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
    seen.add_fixed(args)?;
    input.each(&mut |line| seen.add(line, args))?;
    let Seen {
        mut members,
        strata,
        mut groups,
        ..
    } = seen;
    // A group that holds one example of the fixed set leaks it, whole.
    let fixed_groups: HashSet<u64> = fixed
        .prompts()
        .map(|prompt| groups.representative(prompt))
        .collect();
    let in_group = match args.group_by {
        Some(_) => Rule::GroupInFixedSet,
        None => Rule::LikeFixedSet,
    };
    let mut fates = Vec::with_capacity(members.len());
    for member in &mut members {
        let prompt = member.group;
        member.group = groups.representative(prompt);
        fates.push(Fate::LeftOut(if fixed.holds(prompt) {
            Rule::InFixedSet
        } else if fixed_groups.contains(&member.group) {
            in_group
        } else {
            Rule::NotAskedFor
        }));
    }
    drop(groups);
    let is_candidate = |fate: &Fate| matches!(fate, Fate::LeftOut(Rule::NotAskedFor));
    let candidates: Vec<Member> = members
        .iter()
        .zip(&fates)
        .filter(|(_, fate)| is_candidate(fate))
        .map(|(member, _)| *member)
        .collect();
    let splits = place_candidates(&candidates, args).map_err(|short| too_few(&short, &strata))?;
    let open = fates.iter_mut().filter(|fate| is_candidate(fate));
    for (fate, split) in open.zip(splits) {
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

fn place_candidates(candidates: &[Member], args: &Args) -> Result<Vec<Option<Split>>, Vec<Short>> {
    match (&args.counts, args.exact || args.stratify.is_some()) {
        (Some(counts), _) => split::exact(candidates, args.seed, &Wanted::Counts(*counts)),
        (None, true) => split::exact(candidates, args.seed, &Wanted::Ratios(args.ratios)),
        (None, false) => {
            let assign =
                |member: &Member| Some(split::assign(member.group, args.seed, &args.ratios));
            Ok(candidates.iter().map(assign).collect())
        }
    }
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
        let (args, fate, member) = match self {
            Place::Decided {
                args,
                members,
                fates,
                ..
            } => {
                let fate = fates.get(index).copied();
                let fate =
                    fate.ok_or_else(|| anyhow!("{}: was not there at first", line.place()))?;
                (args, fate, members[index])
            }
            Place::Streaming { args, fixed } => {
                let group = prompt_key(&line.example()?);
                let fate = match fixed.holds(group) {
                    true => Fate::LeftOut(Rule::InFixedSet),
                    false => Fate::To(split::assign(group, args.seed, &args.ratios)),
                };
                (args, fate, Member { stratum: 0, group })
            }
        };
        Ok(Placed {
            fate: match fate {
                Fate::To(split) => Ok(split),
                Fate::LeftOut(rule) => Err(rule.code()),
            },
            group: member.group,
            stratum: member.stratum,
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

/// What one pass over the file has seen.
#[derive(Default)]
struct Seen {
    members: Vec<Member>, // their groups are still their prompts' keys
    strata: Vec<String>,
    stratum_of: HashMap<String, u32>,
    groups: Groups,
    /// Prompts that may be nearly the same, and their keys.
    similar: Option<(Index, Vec<u64>)>,
}

impl Seen {
    fn new(args: &Args) -> Seen {
        let similar = args
            .near_duplicates
            .map(|threshold| (Index::new(threshold), Vec::new()));
        Seen {
            similar,
            ..Seen::default()
        }
    }

    /// The fixed set joins the groups like any other line.
    fn add_fixed(&mut self, args: &Args) -> anyhow::Result<()> {
        let mut without_field = 0;
        fixed::each_line(args, &mut |line, example| {
            let prompt = prompt_key(example);
            self.join_similar(prompt, example);
            if let Some(path) = &args.group_by {
                match field(&serde_json::from_str(line)?, path) {
                    Some(value) => self.join_field(prompt, path, &value),
                    None => without_field += 1,
                }
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
        let example = line.example()?;
        let prompt = prompt_key(&example);
        self.join_similar(prompt, &example);
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
        if let Some(path) = &args.group_by {
            self.join_field(prompt, path, &get(path)?);
        }
        let stratum = args
            .stratify
            .as_ref()
            .map(get)
            .transpose()?
            .unwrap_or_default();
        let next = self.strata.len() as u32;
        let stratum = *self.stratum_of.entry(stratum.clone()).or_insert_with(|| {
            self.strata.push(stratum);
            next
        });
        self.members.push(Member {
            stratum,
            group: prompt,
        });
        Ok(())
    }

    /// Joins all that are similar, not the nearest alone: two that are alike may each have a nearer
    /// one of their own.
    fn join_similar(&mut self, prompt: u64, example: &Example) {
        let Some((index, prompts)) = &mut self.similar else {
            return;
        };
        let signature = Signature::of(&prompt_text(example));
        let groups = &mut self.groups;
        index.add(signature, |number, _| groups.join(prompts[number], prompt));
        prompts.push(prompt);
    }

    fn join_field(&mut self, prompt: u64, path: &str, value: &str) {
        self.groups
            .join(prompt, field_key(&format!("{path}={value}")));
    }
}

/// Groups that are joined by what they share (union-find). A group goes by the key that was seen
/// first, so that lines appended later follow it.
#[derive(Default)]
struct Groups {
    parents: HashMap<u64, u64>,
    age: HashMap<u64, usize>,
}

impl Groups {
    fn representative(&mut self, key: u64) -> u64 {
        let mut root = key;
        while let Some(parent) = self.parents.get(&root) {
            root = *parent;
        }
        let mut at = key;
        while at != root {
            at = self.parents.insert(at, root).unwrap_or(root); // shorten the way for the next
        }
        root
    }

    fn join(&mut self, a: u64, b: u64) {
        for key in [a, b] {
            let age = self.age.len();
            self.age.entry(key).or_insert(age);
        }
        let (a, b) = (self.representative(a), self.representative(b));
        if a != b {
            let (old, young) = if self.age[&a] < self.age[&b] {
                (a, b)
            } else {
                (b, a)
            };
            self.parents.insert(young, old);
        }
    }
}
