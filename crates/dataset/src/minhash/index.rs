//! Which earlier texts are like this one? Locality-sensitive hashing: signatures in 16 bands of 4 bins.
//!
//! Texts that agree in a band are compared, and a pair of similarity 0.8 agrees in one with
//! probability 1 − (1 − 0.8⁴)¹⁶ = 0.9998. A text takes 128 bytes, and 128 to 192 more in the tables.

use super::{BINS, Signature, mix};

const ROWS: usize = 4;
const BANDS: usize = BINS / ROWS;
/// Texts of a bucket that a later one is compared with: where more agree, the band is boilerplate's,
/// and the first ones stand for it.
const FULLEST: usize = 16;
const FEWEST_SLOTS: usize = 64;
const NONE: u32 = u32::MAX;

/// The texts so far, findable by similarity.
#[derive(Debug)]
pub struct Index {
    /// The least estimate that is taken.
    least: f64,
    signatures: Vec<Signature>,
    bands: [Band; BANDS],
}

/// The texts by their bins in one band: linear probing, at most three quarters full, so that the
/// texts of a bucket lie side by side and one wait for memory brings them all.
#[derive(Debug, Default)]
struct Band {
    slots: Vec<Slot>,
    used: usize,
}

/// A text's number, and 16 bits of what its bins hash to.
#[derive(Clone, Copy, Debug)]
struct Slot([u16; 3]);

impl Slot {
    const FREE: Slot = Slot([u16::MAX; 3]);

    fn new(hash: u64, number: u32) -> Slot {
        Slot([hash as u16, number as u16, (number >> 16) as u16])
    }

    fn number(self) -> u32 {
        u32::from(self.0[2]) << 16 | u32::from(self.0[1])
    }
}

impl Signature {
    /// What a band's bins hash to.
    fn band(&self, band: usize) -> u64 {
        let rows = &self.0[band * ROWS..][..ROWS];
        mix(rows.iter().fold(0, |key, row| key << 16 | u64::from(*row)))
    }
}

impl Index {
    /// Finds texts at least this similar. An estimate may fall short of the truth: what it puts no more
    /// than two of its standard errors below is taken too.
    pub fn new(threshold: f64) -> Index {
        let error = (threshold * (1.0 - threshold) / BINS as f64).sqrt();
        Index {
            least: threshold - 2.0 * error,
            signatures: Vec::new(),
            bands: Default::default(),
        }
    }

    /// Adds a text, and calls `each` with the number of every earlier one that is similar and with the
    /// similarity; it may do so several times with one that shares several bands.
    pub fn add(&mut self, signature: Signature, each: impl FnMut(usize, f64)) {
        let buckets = self.meet(&signature, each);
        let number = self.signatures.len() as u32;
        for (band, table) in self.bands.iter_mut().enumerate() {
            if buckets[band] < FULLEST {
                table.make_room(band, &self.signatures);
                table.insert(signature.band(band), number);
            }
        }
        self.signatures.push(signature);
    }

    /// The most similar text, the earliest of equals.
    pub fn nearest(&self, signature: &Signature) -> Option<(usize, f64)> {
        let mut nearest = None;
        self.meet(signature, |number, similarity| {
            nearer(&mut nearest, number, similarity);
        });
        nearest
    }

    /// Adds a text and gives the number of the earlier one that is most similar, with the similarity.
    pub fn add_to_nearest(&mut self, signature: Signature) -> Option<(usize, f64)> {
        let mut nearest = None;
        self.add(signature, |number, similarity| {
            nearer(&mut nearest, number, similarity);
        });
        nearest
    }

    /// The memory that is in use.
    pub fn bytes(&self) -> usize {
        let slots = self.bands.iter().map(|band| size_of_val(&band.slots[..]));
        size_of_val(&self.signatures[..]) + slots.sum::<usize>()
    }

    /// Calls `each` for every similar text, and counts the texts in the bucket of each band.
    fn meet(&self, signature: &Signature, mut each: impl FnMut(usize, f64)) -> [usize; BANDS] {
        let mut met = [0; BANDS];
        // The texts of one bucket tend to be those of the others. Here most are known again.
        let mut known = [NONE; 256];
        let mut candidates = [0; BANDS * FULLEST];
        let mut count = 0;
        for (band, table) in self.bands.iter().enumerate() {
            table.each_alike(signature.band(band), |number| {
                met[band] += 1;
                let known = &mut known[number as usize % 256];
                if std::mem::replace(known, number) != number {
                    candidates[count] = number;
                    count += 1;
                }
            });
        }
        let candidates = candidates[..count].iter().map(|number| *number as usize);
        for number in candidates {
            let similarity = self.signatures[number].similarity(signature);
            if similarity >= self.least {
                each(number, similarity);
            }
        }
        met
    }
}

impl Band {
    /// The first texts of a bucket, at most [`FULLEST`].
    fn each_alike(&self, hash: u64, mut each: impl FnMut(u32)) {
        let mut left = FULLEST;
        if self.slots.is_empty() {
            return;
        }
        let mut at = self.first(hash);
        while self.slots[at].number() != NONE && left > 0 {
            if self.slots[at].0[0] == hash as u16 {
                each(self.slots[at].number());
                left -= 1;
            }
            at = self.after(at);
        }
    }

    fn insert(&mut self, hash: u64, number: u32) {
        let mut at = self.first(hash);
        while self.slots[at].number() != NONE {
            at = self.after(at);
        }
        self.slots[at] = Slot::new(hash, number);
        self.used += 1;
    }

    fn make_room(&mut self, band: usize, signatures: &[Signature]) {
        if (self.used + 1) * 4 <= self.slots.len() * 3 {
            return;
        }
        let more = (self.slots.len() * 3 / 2).max(FEWEST_SLOTS);
        let slots = std::mem::replace(&mut self.slots, vec![Slot::FREE; more]);
        self.used = 0;
        for number in slots.iter().map(|slot| slot.number()) {
            if number != NONE {
                self.insert(signatures[number as usize].band(band), number);
            }
        }
    }

    /// Where a bucket begins: its hash as a share of the length.
    fn first(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.slots.len() as u128) >> 64) as usize
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.slots.len() {
            0
        } else {
            at + 1
        }
    }
}

fn nearer(nearest: &mut Option<(usize, f64)>, number: usize, similarity: f64) {
    let is_nearer =
        nearest.is_none_or(|(was, most)| similarity > most || (similarity == most && number < was));
    if is_nearer {
        *nearest = Some((number, similarity));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_finds_the_nearest_of_many() {
        const KNEE: &str = "the patient reports pain in the left knee since Monday morning";
        let mut index = Index::new(0.7);
        for number in 0..1000 {
            let text = format!(
                "{} note {} about {}",
                number * 7919,
                number * 104_729,
                number * 1_299_709
            );
            index.add(Signature::of(&text), |_, _| ());
        }
        index.add(Signature::of(KNEE), |_, _| ());
        let found = index.add_to_nearest(Signature::of(&format!("{KNEE}.")));
        assert_eq!(found, Some((1000, 1.0)));
        assert_eq!(
            index.nearest(&Signature::of("something else entirely was said here")),
            None
        );
    }

    #[test]
    fn an_index_finds_what_a_search_of_all_finds() {
        let text = |number: u64| {
            let word = |at: u64| mix(number / 8 * 100 + at) % 10_000;
            let mut words: Vec<String> = (0..20).map(|at| word(at).to_string()).collect();
            words[(number % 20) as usize] = number.to_string();
            words.join(" ")
        };
        let signatures: Vec<Signature> = (0..2000).map(|n| Signature::of(&text(n))).collect();
        let mut index = Index {
            least: 0.8,
            ..Index::new(0.8)
        };
        for (number, signature) in signatures.iter().enumerate() {
            let alike = |other: &usize| signatures[*other].similarity(signature) >= 0.8;
            let all: Vec<usize> = (0..number).filter(alike).collect();
            let mut found = Vec::new();
            index.add(signature.clone(), |number, _| found.push(number));
            found.sort_unstable();
            found.dedup();
            // Two signatures with 52 of 64 bins equal disagree in every band once in a thousand pairs
            // at most; none of these do.
            assert_eq!(found, all, "of {number}");
        }
    }

    fn random(number: u64) -> Signature {
        Signature(std::array::from_fn(|bin| {
            mix(number * BINS as u64 + bin as u64) as u16
        }))
    }

    #[test]
    fn a_million_prompts_take_less_than_320_megabytes() {
        let mut index = Index::new(0.8);
        for number in 0..1_000_000 {
            index.add(random(number), |_, _| ());
            if number % 1000 == 0 {
                let texts = number as usize + 1;
                assert!(index.bytes() <= 320 * texts + 100_000, "{texts} texts");
            }
        }
        assert!(index.bytes() < 320_000_000, "{}", index.bytes());
    }

    #[test]
    fn boilerplate_is_compared_with_a_few_only() {
        let mut index = Index::new(0.8);
        for _ in 0..5000 {
            index.add(random(7), |_, _| ());
        }
        let mut alike = 0;
        assert_eq!(index.meet(&random(7), |_, _| alike += 1), [FULLEST; BANDS]);
        assert_eq!(alike, FULLEST);
        assert_eq!(index.nearest(&random(7)), Some((0, 1.0)));
    }
}
