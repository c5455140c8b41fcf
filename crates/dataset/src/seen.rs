//! Which key came first, and on which line? A table of 16 bytes an entry, for many millions.
//!
//! The table is divided by the first bits of the key, and the parts grow by half, each in its time:
//! no moment needs twice the memory, and never is more than half of it empty. An entry takes about
//! 25 bytes on average.

use std::hint::black_box;

/// Parts of the table.
const PARTS: usize = 64;
const PART_BITS: u32 = PARTS.trailing_zeros();

/// The bits of an entry: the key, a tag, and the line, which is never 0.
const KEY: u32 = 64;
const TAG: u32 = 24;
const LINE: u32 = 40;
const LINE_MASK: u128 = (1 << LINE) - 1;

/// Keys are hashes, of 64 bits and 24 more in the tag.
pub(crate) struct Seen {
    parts: [Part; PARTS],
    identity: Identity,
}

/// What makes two entries one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Key and tag: 88 bits, so that a hundred million examples have a false twin once in 10¹⁰ files.
    KeyAndTag,
    /// The key alone; the tag says what came with it first.
    Key,
}

#[derive(Default)]
struct Part {
    /// 0 is free; linear probing.
    slots: Vec<u128>,
    used: usize,
}

impl Seen {
    pub fn new(identity: Identity) -> Seen {
        Seen {
            parts: std::array::from_fn(|_| Part::default()),
            identity,
        }
    }

    /// Inserts once; gives the tag and the line of an earlier entry.
    pub fn insert_first(&mut self, key: u64, tag: u64, line: u64) -> Option<(u64, u64)> {
        let entry = u128::from(key) << (TAG + LINE)
            | u128::from(tag & ((1 << TAG) - 1)) << LINE
            | u128::from(line) & LINE_MASK;
        let ignored = match self.identity {
            Identity::KeyAndTag => LINE,
            Identity::Key => TAG + LINE,
        };
        let part = &mut self.parts[part_of(key)];
        if part.slots.len() * 4 <= part.used * 5 {
            part.grow();
        }
        let there = part.place(entry, ignored);
        if *there == 0 {
            *there = entry;
            part.used += 1;
            return None;
        }
        let there = *there;
        Some((
            (there >> LINE) as u64 & ((1 << TAG) - 1),
            (there & LINE_MASK) as u64,
        ))
    }

    /// Loads the places of keys that are about to be inserted: one after the other would wait for
    /// memory each time, and together they wait once.
    pub fn warm(&self, keys: impl Iterator<Item = u64>) {
        let first = |key: u64| {
            let slots = &self.parts[part_of(key)].slots;
            slots
                .get(slot_of(key, slots.len()))
                .map_or(0, |slot| *slot as u64)
        };
        black_box(keys.fold(0, |any, key| any ^ first(key)));
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.used).sum()
    }
}

impl Part {
    /// The entry of the same identity, or the free slot for it. There is always one.
    fn place(&mut self, entry: u128, ignored: u32) -> &mut u128 {
        let length = self.slots.len();
        let mut slot = slot_of((entry >> (128 - KEY)) as u64, length);
        while self.slots[slot] != 0 && self.slots[slot] >> ignored != entry >> ignored {
            slot = if slot + 1 == length { 0 } else { slot + 1 };
        }
        &mut self.slots[slot]
    }

    fn grow(&mut self) {
        let more = vec![0; (self.slots.len() * 3 / 2).max(64)];
        let slots = std::mem::replace(&mut self.slots, more);
        for entry in slots.into_iter().filter(|entry| *entry != 0) {
            *self.place(entry, 0) = entry;
        }
    }
}

fn part_of(key: u64) -> usize {
    (key >> (64 - PART_BITS)) as usize
}

/// The bits below the part's, as a share of the length.
fn slot_of(key: u64, length: usize) -> usize {
    ((u128::from(key << PART_BITS) * length as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::rank;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn the_first_line_of_a_key_is_told_ever_after() {
        let mut seen = Seen::new(Identity::Key);
        for line in 1..=100_000 {
            assert_eq!(seen.insert_first(rank(line, 0), line, line), None);
        }
        seen.warm((1..=10).map(|line| rank(line, 0)));
        for line in 1..=100_000 {
            assert_eq!(seen.insert_first(rank(line, 0), 7, 7), Some((line, line)));
        }
        assert_eq!(seen.len(), 100_000);
    }

    #[test]
    fn a_tag_tells_entries_apart_where_it_is_asked_to() {
        let mut seen = Seen::new(Identity::KeyAndTag);
        assert_eq!(seen.insert_first(5, 1, 1), None);
        assert_eq!(seen.insert_first(5, 2, 2), None);
        assert_eq!(seen.insert_first(5, 1, 3), Some((1, 1)));
    }

    proptest! {
        #[test]
        fn the_table_is_a_map_whatever_the_keys(keys in proptest::collection::vec(prop_oneof![0..50u64, any::<u64>(), Just(u64::MAX)], 0..500)) {
            let (mut seen, mut map) = (Seen::new(Identity::Key), HashMap::new());
            for (line, key) in (1..).zip(keys) {
                let before = map.get(&key).copied();
                map.entry(key).or_insert((line % 100, line));
                prop_assert_eq!(seen.insert_first(key, line % 100, line), before);
            }
            prop_assert_eq!(seen.len(), map.len());
        }
    }
}
