//! How alike are two texts? MinHash by one permutation, without randomness.
//!
//! A text is the set of its pieces of five letters, and two texts are as alike as the Jaccard
//! similarity of their sets. A signature keeps the smallest hash in each of 64 bins (Li, Owen, Zhang:
//! One Permutation Hashing, 2012); an empty bin copies a full one, drawn for it (Shrivastava: Optimal
//! Densification, 2017); and of each hash 16 bits are kept, since two that differ agree in those once
//! in 65,536 (Li, König: b-Bit Minwise Hashing, 2010). The share of equal bins estimates the
//! similarity, with a standard error of at most 1/16 for texts of many pieces and somewhat more for
//! those that leave bins empty.

mod index;

pub use index::Index;

const BINS: usize = 64;
/// Bytes of a piece.
const PIECE: usize = 5;
const PIECE_MASK: u64 = (1 << (8 * PIECE)) - 1;
const EMPTY: u32 = u32::MAX;

/// What is kept of a text: 128 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature([u16; BINS]);

impl Signature {
    /// Of letters and digits only, so that punctuation makes no difference.
    pub fn of(text: &str) -> Signature {
        let mut letters = letters(text);
        let mut bins = [EMPTY; BINS];
        if !letters.is_empty() {
            // Eight bytes are loaded for each piece; a text shorter than a piece is one.
            letters.resize((letters.len() + 8 - PIECE).max(8), 0);
            for bytes in letters.array_windows::<8>() {
                let hash = mix(u64::from_le_bytes(*bytes) & PIECE_MASK);
                let bin = &mut bins[(hash >> 58) as usize];
                *bin = (*bin).min(hash as u32);
            }
        }
        Signature(filled(&bins))
    }

    /// The estimated Jaccard similarity, 0 to 1.
    pub fn similarity(&self, other: &Signature) -> f64 {
        let equal: u16 = self
            .0
            .iter()
            .zip(&other.0)
            .map(|(a, b)| u16::from(a == b))
            .sum();
        f64::from(equal) / BINS as f64
    }
}

/// Letters and digits, in lower case.
fn letters(text: &str) -> Vec<u8> {
    if text.is_ascii() {
        let mut letters = vec![0; text.len()];
        let mut length = 0;
        for byte in text.bytes() {
            letters[length] = byte.to_ascii_lowercase();
            length += usize::from(byte.is_ascii_alphanumeric());
        }
        letters.truncate(length);
        return letters;
    }
    let letters = text.chars().filter(|letter| letter.is_alphanumeric());
    letters
        .flat_map(char::to_lowercase)
        .collect::<String>()
        .into_bytes()
}

/// The finisher of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
const fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

/// For each bin the order in which it looks for a full one: all bins, itself first.
static DRAWN: [[u8; BINS]; BINS] = {
    let mut drawn = [[0; BINS]; BINS];
    let mut bin = 0;
    while bin < BINS {
        let mut at = 0;
        while at < BINS {
            drawn[bin][at] = ((bin + at) % BINS) as u8;
            at += 1;
        }
        at = BINS - 1;
        while at > 1 {
            let other = 1 + (mix((bin * BINS + at) as u64 + 1) % at as u64) as usize;
            let was = drawn[bin][at];
            drawn[bin][at] = drawn[bin][other];
            drawn[bin][other] = was;
            at -= 1;
        }
        bin += 1;
    }
    drawn
};

/// Without an empty bin, unless the text is empty. The smallest of many hashes has leading zeros, so
/// its last bits are the ones to keep.
fn filled(bins: &[u32; BINS]) -> [u16; BINS] {
    std::array::from_fn(|bin| {
        let mut drawn = DRAWN[bin].iter().map(|at| bins[*at as usize]);
        drawn.find(|value| *value != EMPTY).unwrap_or(EMPTY) as u16
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::keys::rank;

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
        assert_eq!(
            (similarity("ab", "a b"), similarity("ab", "abc")),
            (1.0, 0.0)
        );
        assert_eq!(similarity("Ärger über Übel", "ärger, über übel"), 1.0);
    }

    #[test]
    fn the_order_of_looking_is_a_permutation_of_all_bins() {
        for (bin, drawn) in DRAWN.iter().enumerate() {
            assert_eq!(drawn[0] as usize, bin);
            assert_eq!(drawn.iter().collect::<HashSet<_>>().len(), BINS);
        }
    }

    fn exact(a: &str, b: &str) -> f64 {
        let pieces = |text: &str| -> HashSet<Vec<u8>> {
            let letters = letters(text);
            letters.windows(PIECE).map(<[u8]>::to_vec).collect()
        };
        let (a, b) = (pieces(a), pieces(b));
        let both = a.intersection(&b).count();
        both as f64 / (a.len() + b.len() - both) as f64
    }

    /// A text of `words` words, and another in which every `n`-th or so is changed.
    fn pair(number: u64, words: u64) -> (String, String) {
        let draw = |what: u64, of: u64| rank(number, what) % of;
        let word = |seed: u64| {
            let letter = |at| char::from(b'a' + (rank(seed, at) % 26) as u8);
            (0..3 + seed % 6).map(letter).collect::<String>()
        };
        let every = 1 + draw(0, 20);
        let (mut a, mut b) = (String::new(), String::new());
        for at in 0..words {
            let said = word(draw(1 + at, 5000));
            let other = word(draw(1000 + at, 5000) + 10_000);
            a += &format!("{said} ");
            b += &format!(
                "{} ",
                if draw(2000 + at, every) == 0 {
                    other
                } else {
                    said
                }
            );
        }
        (a, b)
    }

    #[test]
    fn the_estimate_is_the_jaccard_similarity_within_its_error() {
        // Binomial with 64 bins: at most 1/16; twice that where most bins are copies.
        for (words, most) in [(200, 1.0 / 16.0), (30, 1.0 / 16.0), (12, 0.08), (5, 0.12)] {
            let (mut errors, mut squares) = (0.0, 0.0);
            for number in 0..2000 {
                let (a, b) = pair(number, words);
                let error = similarity(&a, &b) - exact(&a, &b);
                errors += error / 2000.0;
                squares += error * error / 2000.0;
            }
            assert!(errors.abs() < 0.01, "{words} words: bias {errors}");
            assert!(squares.sqrt() < most, "{words} words: {}", squares.sqrt());
        }
    }

    #[test]
    fn what_is_alike_is_found_and_what_is_clearly_not_is_not() {
        // Standard errors of the estimate: 0.05 at 0.8, so that 0.7 is enough; 0.0625 at 0.5.
        let bands = [
            (0.8, 0.82),
            (0.82, 1.1),
            (0.69, 0.71),
            (0.6, 0.62),
            (0.0, 0.5),
        ];
        let mut counts = [(0, 0); 5];
        for number in 0..12_000 {
            let (a, b) = pair(number, 40);
            let exact = exact(&a, &b);
            let mut index = Index::new(0.8);
            index.add(Signature::of(&a), |_, _| ());
            let is_found = index.nearest(&Signature::of(&b)).is_some();
            for ((from, to), (all, found)) in bands.iter().zip(&mut counts) {
                let is_in = (*from..*to).contains(&exact);
                *all += u32::from(is_in);
                *found += u32::from(is_in && is_found);
            }
        }
        let least = [(960, 1000), (998, 1000), (400, 650), (0, 120), (0, 1)]; // in a thousand
        for (((all, found), (least, most)), band) in counts.iter().zip(least).zip(bands) {
            let is_right = (least * all..=most * all).contains(&(found * 1000));
            assert!(*all > 200 && is_right, "{band:?}: {found} of {all}");
        }
    }
}
