//! Which examples belong together, through others too? Union-find, 4 bytes an example.

use super::in_order_of;

/// Examples by number, joined to groups. A group goes by its first example, so that examples added
/// later follow it.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    /// An example before it of the same group; itself if there is none.
    parents: Vec<u32>,
}

impl Groups {
    /// Adds an example that belongs to no other, and gives its number.
    pub fn add(&mut self) -> u32 {
        let number = self.parents.len() as u32;
        self.parents.push(number);
        number
    }

    /// The first example of a group.
    pub fn first(&mut self, number: u32) -> u32 {
        let mut number = number;
        while self.parents[number as usize] != number {
            let grandparent = self.parents[self.parents[number as usize] as usize];
            self.parents[number as usize] = grandparent; // halves the way for the next
            number = grandparent;
        }
        number
    }

    /// Makes two groups one.
    pub fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.first(a), self.first(b));
        self.parents[a.max(b) as usize] = a.min(b);
    }

    /// Joins all that have the same key. Takes 8 bytes an example while it works.
    pub fn join_equal(&mut self, keys: &[u64]) {
        let key = |number: u64| keys[number as u32 as usize];
        let order = in_order_of(0..keys.len() as u32, |number| keys[number as usize]);
        for pair in order.windows(2) {
            if key(pair[0]) == key(pair[1]) {
                self.join(pair[0] as u32, pair[1] as u32);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn who_shares_a_key_with_one_of_a_group_is_in_it_and_nobody_else(
            keys in proptest::collection::vec((0..30u64, 0..30u64), 1..60)
        ) {
            let mut groups = Groups::default();
            keys.iter().for_each(|_| _ = groups.add());
            for of in [|(a, _): &(u64, u64)| *a, |(_, b): &(u64, u64)| *b] {
                groups.join_equal(&keys.iter().map(of).collect::<Vec<_>>());
            }
            // Plainly: spread the lowest number until nothing changes.
            let mut first: Vec<u32> = (0..keys.len() as u32).collect();
            let mut has_changed = true;
            while has_changed {
                has_changed = false;
                for a in 0..keys.len() {
                    for b in 0..keys.len() {
                        let shares = keys[a].0 == keys[b].0 || keys[a].1 == keys[b].1;
                        if shares && first[a] < first[b] {
                            first[b] = first[a];
                            has_changed = true;
                        }
                    }
                }
            }
            for number in 0..keys.len() as u32 {
                prop_assert_eq!(groups.first(number), first[number as usize]);
            }
        }
    }
}
