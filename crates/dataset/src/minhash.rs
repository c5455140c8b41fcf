//! Which texts are nearly the same? MinHash by one permutation, and banding, without randomness.
//!
//! A text is the set of its pieces of five letters. A signature keeps the smallest hash in each of
//! 64 bins (Li, Owen, Zhang: One Permutation Hashing, 2012); empty bins borrow from the next full
//! one (Shrivastava, Li 2014). The share of equal entries estimates the Jaccard similarity with a
//! standard error of at most 1/16. Each text costs about 600 bytes of memory.

use std::collections::HashMap;

use xxhash_rust::xxh3::xxh3_64;

const BINS: usize = 64;
/// Bins of a band: 16 bands of 4 find a pair of similarity 0.8 with probability 0.9998.
const ROWS: usize = 4;
const PIECE: usize = 5;
const EMPTY: u32 = u32::MAX;

/// What is kept of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature([u32; BINS]);

impl Signature {
    /// Of letters and digits only, so that punctuation makes no difference.
    pub fn of(text: &str) -> Signature {
        let letters: String = text
            .chars()
            .filter(|letter| letter.is_alphanumeric())
            .flat_map(char::to_lowercase)
            .collect();
        let mut bins = [EMPTY; BINS];
        let bytes = letters.as_bytes();
        for piece in bytes.windows(PIECE.min(bytes.len().max(1))) {
            let hash = xxh3_64(piece);
            let bin = &mut bins[(hash >> 58) as usize];
            *bin = (*bin).min(hash as u32);
        }
        Signature(filled(bins))
    }

    /// The estimated Jaccard similarity, 0 to 1.
    pub fn similarity(&self, other: &Signature) -> f64 {
        let equal = self.0.iter().zip(&other.0).filter(|(a, b)| a == b).count();
        equal as f64 / BINS as f64
    }
}

/// An empty bin takes the next full one's value, changed by the distance, so that two texts agree
/// there only when they agree in both.
fn filled(bins: [u32; BINS]) -> [u32; BINS] {
    std::array::from_fn(|bin| {
        let full = (0..BINS).find(|step| bins[(bin + step) % BINS] != EMPTY);
        full.map_or(EMPTY, |step| {
            bins[(bin + step) % BINS].wrapping_add((step as u32).wrapping_mul(0x9E37_79B9))
        })
    })
}

/// The texts so far, findable by similarity.
#[derive(Debug)]
pub struct Index {
    threshold: f64,
    signatures: Vec<Signature>,
    bands: HashMap<u64, Vec<u32>>,
}

/// A bucket that is fuller than this is a boilerplate's; its first members stand for it.
const FULLEST: usize = 64;

impl Index {
    /// Finds texts at least this similar.
    pub fn new(threshold: f64) -> Index {
        Index {
            threshold,
            signatures: Vec::new(),
            bands: HashMap::new(),
        }
    }

    /// Adds a text and gives the number of the earlier one that is most similar, with the similarity.
    pub fn add(&mut self, signature: Signature) -> Option<(usize, f64)> {
        let nearest = self.nearest(&signature);
        self.insert(signature);
        nearest
    }

    /// Adds a text.
    pub fn insert(&mut self, signature: Signature) {
        let number = self.signatures.len() as u32;
        for key in band_keys(&signature) {
            let bucket = self.bands.entry(key).or_default();
            if bucket.len() < FULLEST {
                bucket.push(number);
            }
        }
        self.signatures.push(signature);
    }

    /// The most similar text, the earliest of equals.
    pub fn nearest(&self, signature: &Signature) -> Option<(usize, f64)> {
        let mut best: Option<(usize, f64)> = None;
        for (number, similarity) in self.similar(signature) {
            let is_better = best.is_none_or(|(was, most)| {
                similarity > most || (similarity == most && number < was)
            });
            if is_better {
                best = Some((number, similarity));
            }
        }
        best
    }

    /// Every similar text with its similarity; one that shares several bands comes several times.
    pub fn similar(&self, signature: &Signature) -> impl Iterator<Item = (usize, f64)> {
        let met = band_keys(signature).filter_map(|key| self.bands.get(&key));
        let numbers = met.flatten().map(|number| *number as usize);
        let compared =
            numbers.map(|number| (number, self.signatures[number].similarity(signature)));
        compared.filter(|(_, similarity)| *similarity >= self.threshold)
    }
}

fn band_keys(signature: &Signature) -> impl Iterator<Item = u64> {
    signature
        .0
        .chunks_exact(ROWS)
        .enumerate()
        .map(|(band, rows)| {
            let mut bytes = [0; 4 * (ROWS + 1)];
            for (place, value) in bytes
                .chunks_exact_mut(4)
                .zip(rows.iter().copied().chain([band as u32]))
            {
                place.copy_from_slice(&value.to_le_bytes());
            }
            xxh3_64(&bytes)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNEE: &str = "the patient reports pain in the left knee since Monday morning";

    fn similarity(a: &str, b: &str) -> f64 {
        Signature::of(a).similarity(&Signature::of(b))
    }

    #[test]
    fn similarity_follows_the_words() {
        assert_eq!(
            similarity(
                KNEE,
                "The patient reports pain in the left knee, since Monday morning!"
            ),
            1.0
        );
        assert!(similarity(KNEE, &KNEE.replace("Monday", "Tuesday")) > 0.5);
        assert!(
            similarity(
                KNEE,
                "blood pressure was measured twice and found to be normal"
            ) < 0.2
        );
        assert_eq!(similarity("", ""), 1.0);
    }

    #[test]
    fn an_index_finds_the_nearest_of_many() {
        let mut index = Index::new(0.7);
        for number in 0..1000 {
            let text = format!(
                "{} note {} about {}",
                number * 7919,
                number * 104_729,
                number * 1_299_709
            );
            index.add(Signature::of(&text));
        }
        index.add(Signature::of(KNEE));
        let found = index.add(Signature::of(&format!("{KNEE}.")));
        assert_eq!(found, Some((1000, 1.0)));
        assert_eq!(
            index.nearest(&Signature::of("something else entirely was said here")),
            None
        );
    }
}
