//! How many examples should go where? Shares or numbers, as people write them.

use std::fmt::{self, Display};
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::Split;

/// Shares of train, valid and test, which sum to 1. Written `90,10`, `80,10,10` or
/// `train=0.8,test=0.2`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratios(pub(super) [f64; 3]);

impl Ratios {
    /// The share of a split, 0 to 1.
    pub fn share(&self, split: Split) -> f64 {
        self.0[split as usize]
    }
}

/// The sets that were named so far: of two numbers for one set, one would be forgotten.
#[derive(Default)]
struct Named([bool; 3]);

impl Named {
    fn once(&mut self, split: Split) -> Result<(), String> {
        match std::mem::replace(&mut self.0[split as usize], true) {
            false => Ok(()),
            true => Err(format!("{split} is named twice")),
        }
    }
}

impl FromStr for Ratios {
    type Err = String;

    fn from_str(text: &str) -> Result<Ratios, String> {
        let (mut shares, mut named) = ([0.0; 3], Named::default());
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
            named.once(split)?;
            shares[split as usize] = number;
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
pub struct Counts(pub(super) [Count; 3]);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
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
        let (mut counts, mut named) = ([Count::Exactly(0); 3], Named::default());
        for part in text.split(',') {
            let (name, number) = part
                .split_once('=')
                .ok_or("write train=12,valid=2,test=3")?;
            let split = Split::from_name(name.trim())?;
            named.once(split)?;
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

/// What [`exact`](super::exact) should meet, in every stratum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
    /// Shares, rounded so that every example is placed, and all strata together meet them.
    Ratios(Ratios),
    /// Numbers of examples; the others are left out.
    Counts(Counts),
}

impl Wanted {
    /// For a stratum of `total` examples, where those before it left the splits `due` some.
    pub(super) fn numbers(&self, total: usize, due: &[f64; 3]) -> [Count; 3] {
        match self {
            Wanted::Counts(counts) => counts.0,
            Wanted::Ratios(ratios) => rounded(ratios, total, due),
        }
    }

    /// What `total` examples, of which each split got so many, leave the splits due.
    pub(super) fn add_due(&self, total: usize, got: [usize; 3], due: &mut [f64; 3]) {
        if let Wanted::Ratios(ratios) = self {
            for split in Split::ALL {
                due[split as usize] +=
                    ratios.share(split) * total as f64 - got[split as usize] as f64;
            }
        }
    }
}

/// The shares of `total` rounded up or down to whole numbers, by the largest remainder, what is due
/// included: where every stratum is small, those that one split loses it gains in others. Groups may not
/// fit, so the biggest share takes what is left in the end.
fn rounded(ratios: &Ratios, total: usize, due: &[f64; 3]) -> [Count; 3] {
    const SLACK: f64 = 1e-9; // 0.29 × 100 is less than 29
    let share = |split: Split| ratios.share(split) * total as f64;
    let down = |split: Split| (share(split) + SLACK).floor();
    let mut up: Vec<Split> = Split::FILLED
        .into_iter()
        .filter(|split| share(*split) > down(*split) + SLACK)
        .collect();
    let remainder = |split: Split| share(split) - down(split) + due[split as usize];
    up.sort_by(|a, b| remainder(*b).total_cmp(&remainder(*a)));
    let left = total
        - Split::ALL
            .map(|split| down(split) as usize)
            .iter()
            .sum::<usize>();
    up.truncate(left);
    let mut numbers = Split::ALL
        .map(|split| Count::Exactly(down(split) as usize + usize::from(up.contains(&split))));
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
}
