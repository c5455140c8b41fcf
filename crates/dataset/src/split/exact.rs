//! Splitting to the number: which groups go where, so that each stratum gets what was asked for?

use super::wanted::Count;
use super::{Split, Wanted, in_order_of};
use crate::keys::rank;

/// Every example, as far as splitting is concerned: 8 bytes each, and 4 more with strata.
#[derive(Clone, Debug, Default)]
pub struct Members {
    /// What each must not be separated from.
    pub groups: Vec<u64>,
    /// Which stratum each counts for; empty where there is but one.
    pub strata: Vec<u32>,
}

impl Members {
    /// The stratum of an example.
    pub fn stratum(&self, number: usize) -> u32 {
        self.strata.get(number).copied().unwrap_or(0)
    }
}

/// A stratum that has too few examples for the numbers asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short {
    pub stratum: u32,
    pub split: Split,
    /// How many could not be found.
    pub missing: usize,
}

/// Places the candidates, which are numbers of members in rising order, so that each stratum meets
/// what is wanted and no group is torn apart; `None` is left out. A group counts for the stratum of
/// its first candidate. Of shares every stratum gets its own rounded up or down; in which of them a
/// split gets more is the seed's choice. Takes 13 bytes an example besides the members.
pub fn exact(
    members: &Members,
    candidates: impl Iterator<Item = u32>,
    seed: u64,
    wanted: &Wanted,
) -> Result<Vec<Option<Split>>, Vec<Short>> {
    let rank = |number: u32| rank(members.groups[number as usize], seed);
    let order = in_order_of(candidates, rank);
    let shuffled = Shuffled {
        order: &order,
        rank,
    };
    let stratum = |start: &u32| members.stratum(order[*start as usize] as u32 as usize);
    let mut starts = shuffled.starts();
    starts.sort_unstable_by_key(|start| (stratum(start), *start));
    let mut placed = vec![None; members.groups.len()];
    let mut short = Vec::new();
    let strata = starts.chunk_by(|a, b| stratum(a) == stratum(b));
    let mut strata: Vec<(u32, &[u32])> =
        strata.map(|groups| (stratum(&groups[0]), groups)).collect();
    strata.sort_by_key(|(stratum, _)| crate::keys::rank(u64::from(*stratum), seed));
    let mut due = [0.0; 3];
    for (stratum, groups) in strata {
        let total = groups
            .iter()
            .map(|start| shuffled.group(*start).len())
            .sum();
        let numbers = wanted.numbers(total, &due);
        let got = shuffled.fill(groups, numbers, &mut placed);
        wanted.add_due(total, got, &mut due);
        for split in Split::FILLED {
            if let (Wanted::Counts(_), Count::Exactly(number)) = (wanted, numbers[split as usize])
                && number > got[split as usize]
            {
                let missing = number - got[split as usize];
                short.push(Short {
                    stratum,
                    split,
                    missing,
                });
            }
        }
    }
    short.sort_by_key(|short| short.stratum);
    if short.is_empty() {
        Ok(placed)
    } else {
        Err(short)
    }
}

/// The candidates in the order that a seed gives to their groups, so that a group is a run of them.
struct Shuffled<'a, R> {
    order: &'a [u64],
    rank: R,
}

impl<R: Fn(u32) -> u64> Shuffled<'_, R> {
    /// Where each group starts.
    fn starts(&self) -> Vec<u32> {
        let mut end = 0;
        let starts = self.groups(0).map(|group| {
            let start = end;
            end += group.len() as u32;
            start
        });
        starts.collect()
    }

    fn groups(&self, start: usize) -> impl Iterator<Item = &[u64]> {
        self.order[start..].chunk_by(|a, b| (self.rank)(*a as u32) == (self.rank)(*b as u32))
    }

    fn group(&self, start: u32) -> &[u64] {
        self.groups(start as usize).next().unwrap_or_default()
    }

    /// Places the groups of one stratum; gives how many examples went to each split.
    fn fill(
        &self,
        groups: &[u32],
        numbers: [Count; 3],
        placed: &mut [Option<Split>],
    ) -> [usize; 3] {
        let mut got = [0; 3];
        for split in Split::FILLED {
            let Count::Exactly(mut missing) = numbers[split as usize] else {
                continue;
            };
            for start in groups {
                if missing == 0 {
                    break;
                }
                let group = self.group(*start);
                // A group that is too big for what is missing waits for the next split.
                if group.len() <= missing && placed[group[0] as u32 as usize].is_none() {
                    missing -= group.len();
                    got[split as usize] += group.len();
                    place(group, split, placed);
                }
            }
        }
        let takes_rest = |split: &Split| numbers[*split as usize] == Count::Rest;
        if let Some(rest) = Split::ALL.into_iter().find(takes_rest) {
            for start in groups {
                let group = self.group(*start);
                if placed[group[0] as u32 as usize].is_none() {
                    got[rest as usize] += group.len();
                    place(group, rest, placed);
                }
            }
        }
        got
    }
}

fn place(group: &[u64], split: Split, placed: &mut [Option<Split>]) {
    for number in group {
        placed[*number as u32 as usize] = Some(split);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(count: u32, stratum: impl Fn(u32) -> u32, group: impl Fn(u32) -> u32) -> Members {
        Members {
            groups: (0..count).map(|n| u64::from(group(n))).collect(),
            strata: (0..count).map(stratum).collect(),
        }
    }

    #[test]
    fn asking_for_more_training_data_moves_no_held_out_example() {
        let members = members(500, |n| n % 5, |n| n);
        let test = |counts: &str| {
            let wanted = Wanted::Counts(counts.parse().unwrap());
            let placed = exact(&members, 0..500, 7, &wanted).unwrap();
            (0..500)
                .filter(|n| placed[*n] == Some(Split::Test))
                .collect::<Vec<_>>()
        };
        assert_eq!(test("train=12,valid=2,test=3"), test("train=rest,test=3"));
        assert_eq!(test("train=12,test=3").len(), 15);
    }

    #[test]
    fn a_short_stratum_is_named() {
        let members = members(10, |_| 3, |n| n);
        let wanted = Wanted::Counts("train=9,test=3".parse().unwrap());
        let got = exact(&members, 0..10, 0, &wanted);
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
        let members = members(100, |n| n % 3, |n| n / 6);
        let wanted = Wanted::Ratios("70,20,10".parse().unwrap());
        let placed = exact(&members, 0..100, 0, &wanted).unwrap();
        assert!(placed.iter().all(Option::is_some));
        for (a, group) in members.groups.iter().enumerate() {
            for (b, other) in members.groups.iter().enumerate() {
                assert!(group != other || placed[a] == placed[b]);
            }
        }
    }

    #[test]
    fn shares_of_many_small_strata_are_met_together() {
        for (size, expected) in [
            (4, [320, 40, 40]),
            (5, [400, 50, 50]),
            (1, [80, 10, 10]),
            (10, [800, 100, 100]),
        ] {
            let members = members(100 * size, |n| n % 100, |n| n);
            let wanted = Wanted::Ratios("80,10,10".parse().unwrap());
            let placed = exact(&members, 0..100 * size, 3, &wanted).unwrap();
            let count = |stratum: Option<u32>, split: Split| {
                let is_in = |n: &u32| stratum.is_none_or(|stratum| n % 100 == stratum);
                let in_split = |n: &u32| placed[*n as usize] == Some(split);
                (0..100 * size).filter(is_in).filter(in_split).count()
            };
            assert_eq!(Split::ALL.map(|split| count(None, split)), expected);
            for stratum in 0..100 {
                let train = count(Some(stratum), Split::Train) as f64;
                assert!(
                    (train - 0.8 * f64::from(size)).abs() < 1.0,
                    "{train} of {size}"
                );
            }
            let again = exact(&members, 0..100 * size, 3, &wanted).unwrap();
            assert_eq!(placed, again);
            let other = exact(&members, 0..100 * size, 4, &wanted).unwrap();
            assert_ne!(placed, other);
        }
    }

    #[test]
    fn who_is_no_candidate_is_not_placed_and_changes_no_stratum() {
        let members = members(12, |n| n % 2, |n| n);
        let wanted = Wanted::Counts("train=rest,test=1".parse().unwrap());
        let placed = exact(&members, (0..12).filter(|n| n % 3 != 0), 0, &wanted).unwrap();
        assert!((0..12).all(|n| placed[n].is_some() == (n % 3 != 0)));
        let tests = placed.iter().filter(|split| **split == Some(Split::Test));
        assert_eq!(tests.count(), 2);
    }
}
