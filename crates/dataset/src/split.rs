//! Which examples are trained on, which watched, which held out?
//!
//! Two ways. [`assign`] looks at one group alone, so appending data moves no example. [`exact`]
//! looks at all of them and meets the numbers asked for. Both fill the test set first, then the
//! validation set: asking for more training data never changes what is held out.

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::keys::{rank, unit_interval};

/// Where an example goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    Train,
    Valid,
    Test,
}

impl Split {
    /// In the order of reports.
    pub const ALL: [Split; 3] = [Split::Train, Split::Valid, Split::Test];
    /// In the order of filling.
    const FILLED: [Split; 3] = [Split::Test, Split::Valid, Split::Train];

    /// Its name, which is its file's name too.
    pub const fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Valid => "valid",
            Split::Test => "test",
        }
    }

    fn from_name(name: &str) -> Result<Split, String> {
        let split = Split::ALL.into_iter().find(|split| split.name() == name);
        split.ok_or_else(|| format!("{name:?} is none of train, valid, test"))
    }
}

impl Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Shares of train, valid and test, which sum to 1. Written `90,10`, `80,10,10` or
/// `train=0.8,test=0.2`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratios([f64; 3]);

impl Ratios {
    /// The share of a split, 0 to 1.
    pub fn share(&self, split: Split) -> f64 {
        self.0[split as usize]
    }
}

impl FromStr for Ratios {
    type Err = String;

    fn from_str(text: &str) -> Result<Ratios, String> {
        let mut shares = [0.0; 3];
        for (index, part) in text.split([',', '/']).enumerate() {
            let (split, number) = match part.split_once('=') {
                Some((name, number)) => (Split::from_name(name.trim())?, number),
                None => (
                    *Split::ALL
                        .get(index)
                        .ok_or("three shares at most: train, valid, test")?,
                    part,
                ),
            };
            let number: f64 = number
                .trim()
                .parse()
                .map_err(|_| format!("{number:?} is no number"))?;
            if !(number >= 0.0 && number.is_finite()) {
                return Err(format!("{number} is no share"));
            }
            shares[split as usize] += number;
        }
        let sum: f64 = shares.iter().sum();
        if (sum - 1.0).abs() > 1e-6 && (sum - 100.0).abs() > 1e-6 {
            return Err(format!(
                "the shares sum to {sum}; they should sum to 100 or to 1"
            ));
        }
        Ok(Ratios(shares.map(|share| share / sum)))
    }
}

impl Display for Ratios {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = self.0.map(|share| (share * 1e8).round() / 1e6);
        write!(f, "{},{},{}", percent[0], percent[1], percent[2])
    }
}

impl Serialize for Ratios {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How many examples of each stratum go where. Written `train=12,valid=2,test=3`; `rest` takes
/// what the others leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts([Count; 3]);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Count {
    Exactly(usize),
    Rest,
}

impl Counts {
    /// Whether a split was asked for at all.
    pub fn wants(&self, split: Split) -> bool {
        self.0[split as usize] != Count::Exactly(0)
    }
}

impl FromStr for Counts {
    type Err = String;

    fn from_str(text: &str) -> Result<Counts, String> {
        let mut counts = [Count::Exactly(0); 3];
        for part in text.split(',') {
            let (name, number) = part
                .split_once('=')
                .ok_or("write train=12,valid=2,test=3")?;
            let split = Split::from_name(name.trim())?;
            counts[split as usize] = match number.trim() {
                "rest" => Count::Rest,
                number => Count::Exactly(
                    number
                        .parse()
                        .map_err(|_| format!("{number:?} is neither a number nor rest"))?,
                ),
            };
        }
        match counts.iter().filter(|count| **count == Count::Rest).count() {
            0 | 1 => Ok(Counts(counts)),
            _ => Err("only one split can take the rest".into()),
        }
    }
}

impl Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for split in Split::ALL {
            match self.0[split as usize] {
                Count::Exactly(0) => continue,
                Count::Exactly(number) => write!(f, "{separator}{split}={number}")?,
                Count::Rest => write!(f, "{separator}{split}=rest")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

impl Serialize for Counts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The split of a group, from the group alone.
pub fn assign(group: u64, seed: u64, ratios: &Ratios) -> Split {
    let at = unit_interval(group, seed);
    let mut end = 0.0;
    for split in Split::FILLED {
        end += ratios.share(split);
        if at < end {
            return split;
        }
    }
    // Rounding left a sliver above the last end: it is the biggest split's.
    Split::ALL
        .into_iter()
        .max_by(|a, b| ratios.share(*a).total_cmp(&ratios.share(*b)))
        .unwrap_or(Split::Train)
}

/// What [`exact`] should meet, in every stratum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
    /// Shares, rounded so that every example is placed.
    Ratios(Ratios),
    /// Numbers of examples; the others are left out.
    Counts(Counts),
}

/// One example, as far as splitting is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which stratum it counts for.
    pub stratum: u32,
    /// What it must not be separated from.
    pub group: u64,
}

/// A stratum that has too few examples for the numbers asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short {
    pub stratum: u32,
    pub split: Split,
    /// How many could not be found.
    pub missing: usize,
}

/// Places every example so that each stratum meets what is wanted and no group is torn apart;
/// `None` is left out. A group counts for the stratum of its first example.
pub fn exact(
    members: &[Member],
    seed: u64,
    wanted: &Wanted,
) -> Result<Vec<Option<Split>>, Vec<Short>> {
    let mut placed: HashMap<u64, Split> = HashMap::new();
    let mut short = Vec::new();
    for (stratum, groups) in groups_by_stratum(members, seed) {
        fill(stratum, groups, wanted, &mut placed, &mut short);
    }
    if !short.is_empty() {
        return Err(short);
    }
    Ok(members
        .iter()
        .map(|member| placed.get(&member.group).copied())
        .collect())
}

/// A group and its number of examples.
type Sized = (u64, usize);

/// The groups of every stratum, in the order that the seed gives.
fn groups_by_stratum(members: &[Member], seed: u64) -> Vec<(u32, Vec<Sized>)> {
    let mut home: HashMap<u64, (u32, usize)> = HashMap::new();
    for member in members {
        home.entry(member.group).or_insert((member.stratum, 0)).1 += 1;
    }
    let mut strata: HashMap<u32, Vec<Sized>> = HashMap::new();
    for (group, (stratum, size)) in home {
        strata.entry(stratum).or_default().push((group, size));
    }
    let mut strata: Vec<_> = strata.into_iter().collect();
    strata.sort_unstable_by_key(|(stratum, _)| *stratum);
    for (_, groups) in &mut strata {
        groups.sort_unstable_by_key(|(group, _)| (rank(*group, seed), *group));
    }
    strata
}

fn fill(
    stratum: u32,
    mut groups: Vec<Sized>,
    wanted: &Wanted,
    placed: &mut HashMap<u64, Split>,
    short: &mut Vec<Short>,
) {
    let total: usize = groups.iter().map(|(_, size)| size).sum();
    let numbers = match wanted {
        Wanted::Counts(counts) => counts.0,
        Wanted::Ratios(ratios) => rounded(ratios, total),
    };
    let rest = Split::ALL
        .into_iter()
        .find(|split| numbers[*split as usize] == Count::Rest);
    for split in Split::FILLED {
        let Count::Exactly(mut missing) = numbers[split as usize] else {
            continue;
        };
        groups.retain(|(group, size)| {
            // A group that is too big for what is missing waits for the next split.
            let fits = *size <= missing;
            if fits {
                missing -= size;
                placed.insert(*group, split);
            }
            !fits
        });
        if missing > 0 && matches!(wanted, Wanted::Counts(_)) {
            short.push(Short {
                stratum,
                split,
                missing,
            });
        }
    }
    if let Some(rest) = rest {
        placed.extend(groups.into_iter().map(|(group, _)| (group, rest)));
    }
}

/// Whole numbers for the shares of `total`; the biggest share takes what rounding leaves.
fn rounded(ratios: &Ratios, total: usize) -> [Count; 3] {
    let mut numbers = Split::ALL
        .map(|split| Count::Exactly((ratios.share(split) * total as f64).round() as usize));
    let biggest = (0..3)
        .rev()
        .max_by(|a, b| ratios.0[*a].total_cmp(&ratios.0[*b]))
        .unwrap_or(0);
    numbers[biggest] = Count::Rest;
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_written_as_people_write_them() {
        let shares = |text: &str| text.parse::<Ratios>().map(|ratios| ratios.0);
        assert_eq!(shares("90/10"), Ok([0.9, 0.1, 0.0]));
        assert_eq!(shares("80,0,20"), Ok([0.8, 0.0, 0.2]));
        assert_eq!(shares("train=0.5,test=0.5"), Ok([0.5, 0.0, 0.5]));
        assert_eq!(
            "train=0.9,valid=0.1".parse::<Ratios>().unwrap().to_string(),
            "90,10,0"
        );
        assert_eq!(
            shares("90,20"),
            Err("the shares sum to 110; they should sum to 100 or to 1".into())
        );
        assert!(shares("a").is_err() && shares("dev=1").is_err() && shares("1,1,1,1").is_err());
    }

    #[test]
    fn shares_are_met_in_the_long_run() {
        let ratios = "80,10,10".parse().unwrap();
        let mut counts = [0; 3];
        for group in 0..100_000 {
            counts[assign(group, 0, &ratios) as usize] += 1;
        }
        // Binomial: the standard deviation is 95 for the small splits, 127 for the big one.
        assert!(
            (counts[0] - 80_000i32).abs() < 600 && (counts[2] - 10_000i32).abs() < 450,
            "{counts:?}"
        );
    }

    #[test]
    fn asking_for_more_training_data_moves_no_held_out_example() {
        let members: Vec<Member> = (0..500)
            .map(|n| Member {
                stratum: n % 5,
                group: u64::from(n),
            })
            .collect();
        let test = |counts: &str| {
            let placed = exact(&members, 7, &Wanted::Counts(counts.parse().unwrap())).unwrap();
            (0..500)
                .filter(|n| placed[*n] == Some(Split::Test))
                .collect::<Vec<_>>()
        };
        assert_eq!(test("train=12,valid=2,test=3"), test("train=rest,test=3"));
        assert_eq!(test("train=12,test=3").len(), 15);
    }

    #[test]
    fn a_short_stratum_is_named() {
        let members: Vec<Member> = (0..10)
            .map(|n| Member {
                stratum: 3,
                group: n,
            })
            .collect();
        let got = exact(
            &members,
            0,
            &Wanted::Counts("train=9,test=3".parse().unwrap()),
        );
        assert_eq!(
            got,
            Err(vec![Short {
                stratum: 3,
                split: Split::Train,
                missing: 2
            }])
        );
    }

    #[test]
    fn exact_shares_place_every_example_and_tear_no_group() {
        let members: Vec<Member> = (0..100)
            .map(|n| Member {
                stratum: n % 3,
                group: u64::from(n / 6),
            })
            .collect();
        let placed = exact(&members, 0, &Wanted::Ratios("70,20,10".parse().unwrap())).unwrap();
        assert!(placed.iter().all(Option::is_some));
        for (a, member) in members.iter().enumerate() {
            for (b, other) in members.iter().enumerate() {
                assert!(member.group != other.group || placed[a] == placed[b]);
            }
        }
    }
}
