//! Where does each line go? From its own prompt alone, or from a look at all of them.

use std::collections::HashMap;

use anyhow::anyhow;
use cli::Hint;
use dataset::keys::{field, field_key, prompt_key, prompt_text};
use dataset::minhash::{Index, Signature};
use dataset::split::{self, Member, Short, Split, Wanted};

use crate::Args;
use crate::fixed::FixedSet;
use crate::lines::{Line, Lines};

/// What was decided, before any line is written.
pub enum Place<'a> {
    /// A hash of each line's group decides as it passes.
    Streaming { args: &'a Args, fixed: &'a FixedSet },
    /// All was looked at: one entry for each line that is not blank.
    Decided {
        placed: Vec<Placed>,
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

const NOT_ASKED_FOR: &str = "not_asked_for";

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
    input.each(&mut |line| seen.add(line, args, fixed))?;
    let Seen {
        members,
        refused,
        blind,
        strata,
        mut groups,
        ..
    } = seen;
    let members: Vec<Member> = members
        .into_iter()
        .map(|member| Member {
            group: groups.representative(member.group),
            ..member
        })
        .collect();
    let candidates: Vec<Member> = members
        .iter()
        .zip(&refused)
        .filter(|(_, refused)| refused.is_none())
        .map(|(member, _)| *member)
        .collect();
    let splits = place_candidates(&candidates, args).map_err(|short| too_few(&short, &strata))?;
    let mut splits = splits.into_iter();
    let placed = members
        .iter()
        .zip(refused)
        .zip(blind)
        .map(|((member, refused), blind)| {
            let fate = match refused {
                Some(rule) => Err(rule),
                None => splits.next().flatten().ok_or(NOT_ASKED_FOR),
            };
            Placed {
                fate,
                group: member.group,
                stratum: member.stratum,
                blind,
            }
        })
        .collect();
    Ok(Place::Decided { placed, strata })
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
    /// The place of the next line.
    pub fn of(&self, line: &Line) -> anyhow::Result<Placed> {
        match self {
            Place::Decided { placed, .. } => placed
                .get(line.index)
                .copied()
                .ok_or_else(|| anyhow!("{}: was not there at first", line.place())),
            Place::Streaming { args, fixed } => {
                let example = line.example()?;
                let group = prompt_key(&example);
                let fate = match fixed.refuses(&example) {
                    Some(rule) => Err(rule),
                    None => Ok(split::assign(group, args.seed, &args.ratios)),
                };
                Ok(Placed {
                    fate,
                    group,
                    stratum: 0,
                    blind: blind(line, args),
                })
            }
        }
    }

    /// The names of the strata.
    pub fn strata(&self) -> &[String] {
        match self {
            Place::Streaming { .. } => &[],
            Place::Decided { strata, .. } => strata,
        }
    }
}

/// What splitting line by line, as most scripts do, would have done with it.
fn blind(line: &Line, args: &Args) -> Split {
    split::assign(field_key(&line.number.to_string()), args.seed, &args.ratios)
}

/// What one pass over the file has seen.
#[derive(Default)]
struct Seen {
    members: Vec<Member>,
    refused: Vec<Option<&'static str>>,
    blind: Vec<Split>,
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

    fn add(&mut self, line: &Line, args: &Args, fixed: &FixedSet) -> anyhow::Result<()> {
        let example = line.example()?;
        let prompt = prompt_key(&example);
        if let Some((index, prompts)) = &mut self.similar {
            if let Some((nearest, _)) = index.add(Signature::of(&prompt_text(&example))) {
                self.groups.join(prompts[nearest], prompt);
            }
            prompts.push(prompt);
        }
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
            self.groups
                .join(prompt, field_key(&format!("{path}={}", get(path)?)));
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
        self.refused.push(fixed.refuses(&example));
        self.blind.push(blind(line, args));
        Ok(())
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
