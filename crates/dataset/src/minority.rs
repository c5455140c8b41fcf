//! Which lines are of another kind than nearly all of the file?

use std::collections::BTreeMap;

/// Lines of a kind that are remembered, so that memory is bounded; a minority has few.
const REMEMBERED: usize = 10_000;

/// Lines by their kind: the script, the language.
#[derive(Debug)]
pub(crate) struct Minority<K> {
    kinds: BTreeMap<K, Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    count: u64,
    /// The first of them.
    first: Vec<u64>,
}

impl<K> Default for Minority<K> {
    fn default() -> Minority<K> {
        Minority {
            kinds: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Copy> Minority<K> {
    /// Counts a line.
    pub fn count(&mut self, kind: K, line: u64) {
        let lines = self.kinds.entry(kind).or_default();
        lines.count += 1;
        if lines.first.len() < REMEMBERED {
            lines.first.push(line);
        }
    }

    /// The kind of nine tenths of the lines, if there is one.
    pub fn main(&self) -> Option<K> {
        let all: u64 = self.kinds.values().map(|lines| lines.count).sum();
        let (main, most) = self.kinds.iter().max_by_key(|(_, lines)| lines.count)?;
        (most.count * 10 >= all * 9).then_some(*main)
    }

    /// The lines of other kinds than `main`.
    pub fn others(&self, main: K) -> impl Iterator<Item = (K, u64)> {
        let others = self.kinds.iter().filter(move |(kind, _)| **kind != main);
        others.flat_map(|(kind, lines)| lines.first.iter().map(|line| (*kind, *line)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_is_a_minority_and_more_is_not() {
        let mut kinds = Minority::default();
        for line in 1..=20 {
            kinds.count(if line % 10 == 0 { 'b' } else { 'a' }, line);
        }
        assert_eq!(kinds.main(), Some('a'));
        assert_eq!(
            kinds.others('a').collect::<Vec<_>>(),
            [('b', 10), ('b', 20)]
        );
        kinds.count('c', 21);
        assert_eq!(kinds.main(), None);
    }
}
