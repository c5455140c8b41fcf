//! What came of it? Counts, strata, and how many examples a split by lines would have leaked.

use std::collections::BTreeMap;

use anyhow::anyhow;
use cli::Hint;
use dataset::split::Split;
use serde::Serialize;
use serde_json::{Value, json};

use crate::Args;
use crate::place::{self, Placed};

/// Counts as the lines pass.
pub struct Report {
    wanted: Vec<Split>,
    lines: [u64; 3],
    left_out: BTreeMap<&'static str, u64>,
    strata: BTreeMap<u32, [u64; 3]>,
    /// Of every line its group, and in the last two bits where a blind split would have put it:
    /// eight bytes a line, where a map of groups would take three times as much.
    placed: Vec<u64>,
    groups: usize,
    /// Of the groups' sizes: what the shares' variance grows with.
    sum_of_squares: f64,
    would_have_leaked: u64,
}

/// Less than this below its share a set is by chance in one run of three million.
const FAR_BELOW: f64 = 5.0; // standard deviations

/// A set that misses its share by more of it than this is worth a word.
const OFF: f64 = 0.05;

const BLIND_BITS: u64 = 0b11;

#[derive(Serialize)]
struct Manifest<'a> {
    seed: u64,
    ratios: Option<String>,
    counts: Option<String>,
    stratify: Option<&'a str>,
    group_by: Option<&'a str>,
    near_duplicates: Option<f64>,
    lines: BTreeMap<&'static str, u64>,
    left_out: &'a BTreeMap<&'static str, u64>,
    groups: usize,
    would_have_leaked: u64,
    strata: Value,
}

impl Report {
    pub fn new(args: &Args) -> Report {
        let wanted = Split::ALL
            .into_iter()
            .filter(|split| place::wants(args, *split))
            .collect();
        Report {
            wanted,
            lines: [0; 3],
            left_out: BTreeMap::new(),
            strata: BTreeMap::new(),
            placed: Vec::new(),
            groups: 0,
            sum_of_squares: 0.0,
            would_have_leaked: 0,
        }
    }

    pub fn count(&mut self, placed: &Placed) {
        match placed.fate {
            Ok(split) => {
                self.lines[split as usize] += 1;
                self.strata.entry(placed.stratum).or_default()[split as usize] += 1;
                self.placed
                    .push((placed.group & !BLIND_BITS) | placed.blind as u64);
            }
            Err(rule) => *self.left_out.entry(rule).or_default() += 1,
        }
    }

    /// Adds up. Nothing at all is an error; an empty set that was asked for is worth a word.
    pub fn finish(&mut self, args: &Args) -> anyhow::Result<()> {
        self.count_groups();
        if self.lines.iter().sum::<u64>() == 0 {
            return Err(match self.left_out.values().sum::<u64>() {
                0 => anyhow!("{}: holds no examples", args.input.name())
                    .hint("an empty training file would train on nothing"),
                left_out => anyhow!(
                    "{}: all {left_out} examples are left out",
                    args.input.name()
                )
                .hint("see --ledger for the reasons"),
            });
        }
        for split in &self.wanted {
            let lines = self.lines[*split as usize];
            if let Some(expected) = self.far_below(*split, args) {
                let told = format!(
                    "{split} holds {lines} examples, where its share is {expected:.0}: was this file, or \
                     the one of --against, split with --seed {} before?",
                    args.seed
                );
                let way_out =
                    "give another --seed: the same one cuts what it left at the same places";
                if lines == 0 {
                    return Err(anyhow!(told).hint(way_out));
                }
                cli::note(format_args!("{told} If so, {way_out}"));
            } else if lines == 0 {
                let why = if args.counts.is_some() {
                    "the others take all there is"
                } else if args.exact || args.stratify.is_some() {
                    "the file is small for these ratios; --counts asks for numbers"
                } else {
                    "the file is small for these ratios; --exact meets them"
                };
                cli::note(format_args!("{split} is empty: {why}"));
            } else {
                self.tell_what_is_missed(*split, args);
            }
        }
        Ok(())
    }

    /// Ratios that were to be met exactly: where groups or small strata stand in the way.
    fn tell_what_is_missed(&self, split: Split, args: &Args) {
        if args.counts.is_some() || !(args.exact || args.stratify.is_some()) {
            return;
        }
        let lines = self.lines[split as usize];
        let expected = args.ratios.share(split) * self.lines.iter().sum::<u64>() as f64;
        let off = (lines as f64 - expected).abs();
        if off >= 2.0 && off > OFF * expected {
            cli::note(format_args!(
                "{split} holds {lines} examples, where its share is {expected:.0}: groups stay together"
            ));
        }
        let without = self
            .strata
            .values()
            .filter(|lines| lines[split as usize] == 0);
        if let (Some(field), without @ 1..) = (&args.stratify, without.count()) {
            cli::note(format_args!(
                "{split} has no example of {without} of the {} values of {field}, which have too few for \
                 these ratios; --counts asks for numbers",
                self.strata.len()
            ));
        }
    }

    /// The number of examples that a split by hash should hold, where it holds so few that this is no
    /// chance. A group goes whole: the variance is share · (1 − share) · Σ size².
    fn far_below(&self, split: Split, args: &Args) -> Option<f64> {
        if args.exact || args.counts.is_some() || args.stratify.is_some() {
            return None;
        }
        let share = args.ratios.share(split);
        let expected = share * self.lines.iter().sum::<u64>() as f64;
        let deviation = (share * (1.0 - share) * self.sum_of_squares).sqrt();
        let is_far = (self.lines[split as usize] as f64) < expected - FAR_BELOW * deviation;
        is_far.then_some(expected)
    }

    /// Counts the groups, and the examples that a split line by line would have held out although
    /// their prompt, or another line of their group, was trained on.
    fn count_groups(&mut self) {
        self.placed.sort_unstable();
        for group in self
            .placed
            .chunk_by(|a, b| a & !BLIND_BITS == b & !BLIND_BITS)
        {
            let in_training = |line: &&u64| *line & BLIND_BITS == Split::Train as u64;
            let trained = group.iter().filter(in_training).count();
            self.groups += 1;
            self.sum_of_squares += (group.len() as f64).powi(2);
            if trained > 0 {
                self.would_have_leaked += (group.len() - trained) as u64;
            }
        }
    }

    pub fn print(&self, strata: &[String]) {
        for split in &self.wanted {
            cli::note(format_args!(
                "{:<12} {:>9}",
                crate::file_name(*split),
                self.lines[*split as usize]
            ));
        }
        for (rule, count) in &self.left_out {
            cli::note(format_args!("{rule:<12} {count:>9} left out"));
        }
        if strata.len() > 1 {
            cli::note(format_args!("{} strata", strata.len()));
        }
        match self.would_have_leaked {
            0 => {}
            leaked => cli::note(format_args!(
                "a split line by line would have leaked {leaked} examples"
            )),
        }
    }

    pub fn manifest<'a>(&'a self, args: &'a Args, names: &[String]) -> impl Serialize + use<'a> {
        let counted = |counts: &[u64; 3]| -> BTreeMap<&'static str, u64> {
            self.wanted
                .iter()
                .map(|split| (split.name(), counts[*split as usize]))
                .collect()
        };
        let strata = match args.stratify {
            Some(_) => {
                let name =
                    |stratum: &u32| names.get(*stratum as usize).cloned().unwrap_or_default();
                self.strata
                    .iter()
                    .map(|(stratum, counts)| (name(stratum), json!(counted(counts))))
                    .collect()
            }
            None => Value::Null,
        };
        Manifest {
            seed: args.seed,
            ratios: args.counts.is_none().then(|| args.ratios.to_string()),
            counts: args.counts.as_ref().map(ToString::to_string),
            stratify: args.stratify.as_deref(),
            group_by: args.group_by.as_deref(),
            near_duplicates: args.near_duplicates,
            lines: counted(&self.lines),
            left_out: &self.left_out,
            groups: self.groups,
            would_have_leaked: self.would_have_leaked,
            strata,
        }
    }
}
