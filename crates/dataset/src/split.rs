//! Which examples are trained on, which watched, which held out?
//!
//! Two ways. [`assign`] looks at one group alone, so appending data moves no example. [`exact`]
//! looks at all of them and meets the numbers asked for. Both fill the test set first, then the
//! validation set: asking for more training data never changes what is held out. Examples that must
//! stay together are one group; [`Groups`] finds them.

mod exact;
mod groups;
mod wanted;

use std::fmt::{self, Display};

use serde::Serialize;

use crate::keys::unit_interval;

pub use exact::{Members, Short, exact};
pub use groups::Groups;
pub use wanted::{Counts, Ratios, Wanted};

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

/// The numbers with the high half of their keys, in the order of the keys; those of equal keys in
/// their own order. With a key that is a hash, 8 bytes and one sort do for millions of numbers.
fn in_order_of(numbers: impl Iterator<Item = u32>, key: impl Fn(u32) -> u64) -> Vec<u64> {
    const HIGH: u64 = !(u32::MAX as u64);
    let mut order: Vec<u64> = numbers
        .map(|number| key(number) & HIGH | u64::from(number))
        .collect();
    order.sort_unstable();
    for alike in order.chunk_by_mut(|a, b| a & HIGH == b & HIGH) {
        if alike.len() > 1 {
            alike.sort_unstable_by_key(|number| (key(*number as u32), *number));
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn numbers_come_in_the_order_of_their_keys(
            keys in proptest::collection::vec(prop_oneof![0..5u64, any::<u64>(), (1 << 40)..(1 << 40) + 5u64], 0..200)
        ) {
            let order = in_order_of(0..keys.len() as u32, |number| keys[number as usize]);
            let mut expected: Vec<u32> = (0..keys.len() as u32).collect();
            expected.sort_by_key(|number| keys[*number as usize]);
            prop_assert_eq!(order.iter().map(|number| *number as u32).collect::<Vec<_>>(), expected);
        }
    }
}
