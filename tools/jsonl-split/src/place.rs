//! Where does each line go? From its own first question alone, or from a look at all of them.

use anyhow::anyhow;
use cli::Hint;
use dataset::keys::{field_key, first_question_key};
use dataset::split::{self, Members, Ratios, Short, Split, Wanted};

use crate::Args;
use crate::fixed::FixedSet;
use crate::lines::{Line, Lines};
use crate::seen::Seen;

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
        /// The shares of a split of single lines that is as large.
        blind: Ratios,
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
    args.exact || args.counts.is_some() || args.stratify.is_some() || looks_for_groups(args)
}

/// Is there more than the first question that keeps examples together?
pub fn looks_for_groups(args: &Args) -> bool {
    args.group_by.is_some() || args.near_duplicates.is_some()
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
    seen.add_fixed(args, fixed)?;
    input.each(&mut |line| seen.add(line, args, fixed))?;
    let mut fates = seen.join();
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
    let blind = match args.counts {
        Some(_) => shares(&fates).unwrap_or(args.ratios),
        None => args.ratios,
    };
    Ok(Place::Decided {
        args,
        blind,
        members,
        fates,
        strata,
    })
}

/// The shares that the splits came to, if there is anything in them.
fn shares(fates: &[Fate]) -> Option<Ratios> {
    let mut lines = [0u32; 3];
    for fate in fates {
        if let Fate::To(split) = fate {
            lines[*split as usize] += 1;
        }
    }
    let all: u32 = lines.iter().sum();
    let [train, valid, test] = lines.map(|lines| f64::from(lines) / f64::from(all));
    format!("{train},{valid},{test}").parse().ok()
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
        let (args, fate, group, stratum, blind) = match self {
            Place::Decided {
                args,
                members,
                fates,
                blind,
                ..
            } => {
                let fate = fates.get(index).copied();
                let fate =
                    fate.ok_or_else(|| anyhow!("{}: was not there at first", line.place()))?;
                let (group, stratum) = (members.groups[index], members.stratum(index));
                (args, fate, group, stratum, blind)
            }
            Place::Streaming { args, fixed } => {
                let example = line.example()?;
                let group = first_question_key(&example);
                let fate = match fixed.holds(&example) {
                    true => Fate::LeftOut(Rule::InFixedSet),
                    false => Fate::To(split::assign(group, args.seed, &args.ratios)),
                };
                (args, fate, group, 0, &args.ratios)
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
            blind: split::assign(field_key(&line.number.to_string()), args.seed, blind),
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
