//! In which language is a text? Told by its commonest words, and not told where they are few.
//!
//! A third to a half of all running words are the same hundred little ones: the, of, and; der, die,
//! und. Over twenty words they tell a language as well as trigrams do (Grefenstette, Comparing two
//! language identification schemes, JADT 1995), they need no model, and looking them up costs a
//! tenth of counting trigrams, so that every line of a file can be asked. What they cannot tell,
//! short texts, lists of terms, code, close relatives, stays untold: a wrong guess would be a false
//! finding. Languages with a script of their own are the script rules' business.

use std::hint::black_box;
use std::sync::LazyLock;

use crate::language_words::WORDS;

/// A language that is told from others of its script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Language {
    English,
    German,
    French,
    Spanish,
    Portuguese,
    Italian,
    Dutch,
    Swedish,
    /// Danish and Norwegian share too many words to be told apart here.
    DanishOrNorwegian,
    Finnish,
    Polish,
    /// The same holds for Czech and Slovak.
    CzechOrSlovak,
    Hungarian,
    Romanian,
    Turkish,
    Indonesian,
    Vietnamese,
    Russian,
    Ukrainian,
}

impl std::fmt::Display for Language {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Language::DanishOrNorwegian => "Danish or Norwegian",
            Language::CzechOrSlovak => "Czech or Slovak",
            other => return write!(f, "{other:?}"),
        })
    }
}

impl Language {
    /// Every language there is, in the order of [`WORDS`].
    pub const ALL: [Language; WORDS.len()] = [
        Language::English,
        Language::German,
        Language::French,
        Language::Spanish,
        Language::Portuguese,
        Language::Italian,
        Language::Dutch,
        Language::Swedish,
        Language::DanishOrNorwegian,
        Language::Finnish,
        Language::Polish,
        Language::CzechOrSlovak,
        Language::Hungarian,
        Language::Romanian,
        Language::Turkish,
        Language::Indonesian,
        Language::Vietnamese,
        Language::Russian,
        Language::Ukrainian,
    ];

    /// The language of a text in UTF-8, judged by its first 128 bytes: some twenty words.
    pub fn of(text: &[u8]) -> Option<Language> {
        if text.len() < FEWEST_BYTES {
            return None;
        }
        Tally::of(text).language()
    }
}

const LOOKED_AT: usize = u128::BITS as usize;

/// A text of eight words or so. Shorter ones seldom hold little words enough.
const FEWEST_BYTES: usize = 48;

/// Little words that must be found, and their share of all words, one in so many.
const FEWEST_HITS: u8 = 4;
const HITS_PER_WORD: u32 = 5;

/// A byte for each language, eight in a number. They count to 64 at most, which is how many words fit
/// into [`LOOKED_AT`] bytes.
type Hits = [u64; 3];

#[derive(Default)]
struct Tally {
    hits: Hits,
    words: u32,
    /// Words that any language has in its list.
    known: u32,
    /// Words that are followed by a space, as most are in prose and fewer in code.
    before_space: u32,
}

impl Tally {
    /// Without branches that depend on the words: guessing them wrong would cost more than the rest.
    fn of(text: &[u8]) -> Tally {
        let table = &*TABLE;
        let mut bytes = [0; LOOKED_AT + 8];
        let length = text.len().min(LOOKED_AT);
        bytes[..length].copy_from_slice(&text[..length]);
        let letters = letters(&bytes[..LOOKED_AT]);
        // A bit where a word starts, and one behind its last letter.
        let (mut starts, mut ends) = (letters & !(letters << 1), !letters & (letters << 1));
        let mut tally = Tally::default();
        while starts != 0 {
            let (start, end) = (
                starts.trailing_zeros() as usize,
                ends.trailing_zeros() as usize,
            );
            let key = key(eight(&bytes, start), end - start);
            let set = table.set_of(key);
            for (hits, one) in tally.hits.iter_mut().zip(table.sets[usize::from(set)]) {
                *hits += one;
            }
            tally.known += u32::from(set != 0);
            tally.words += 1;
            tally.before_space += u32::from(bytes[end] == b' ');
            starts &= starts - 1;
            ends &= ends - 1;
        }
        tally
    }

    fn language(&self) -> Option<Language> {
        if self.known < u32::from(FEWEST_HITS) {
            return None; // as nearly all short texts
        }
        let mut hits = [0; 24];
        for (bytes, eight) in hits.as_chunks_mut().0.iter_mut().zip(self.hits) {
            *bytes = eight.to_le_bytes();
        }
        let most = hits.iter().fold(0, |most, hits| most.max(*hits));
        if most < FEWEST_HITS {
            return None;
        }
        let best = hits.iter().position(|hits| *hits == most)?;
        hits[best] = 0;
        let second = hits.iter().fold(0, |most, hits| most.max(*hits));
        let is_clear = 2 * most >= 3 * second;
        let is_prose = self.before_space * 10 >= self.words * 6;
        let is_frequent = u32::from(most) * HITS_PER_WORD >= self.words;
        (is_clear && is_prose && is_frequent).then(|| Language::ALL[best])
    }
}

const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
const LOWER_CASE: u64 = 0x2020_2020_2020_2020;

/// A bit for each byte that is a letter, or part of one that is not ASCII. What may be cut off at
/// the end is no word.
fn letters(bytes: &[u8]) -> u128 {
    let (chunks, _) = bytes.as_chunks();
    let letters = chunks
        .iter()
        .zip((0..).step_by(8))
        .fold(0, |letters, (chunk, at)| {
            letters | u128::from(letter_bits(u64::from_le_bytes(*chunk))) << at
        });
    letters & (u128::MAX.checked_shr(letters.leading_ones()).unwrap_or(0))
}

/// The same for eight bytes, in eight bits.
fn letter_bits(bytes: u64) -> u64 {
    let each = |byte: u8| u64::from_ne_bytes([byte; 8]);
    // A byte below 128 plus 128 - x has its high bit set when it is x or more.
    let seven_bits = (bytes | LOWER_CASE) & !HIGH_BITS;
    let from_a = seven_bits + each(128 - b'a');
    let beyond_z = seven_bits + each(127 - b'z');
    let letters = (from_a & !beyond_z | bytes) & HIGH_BITS;
    // The product moves the high bit of each byte to its place in the last one.
    (letters >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// Eight bytes from `at` on, the first in the lowest bits.
fn eight(bytes: &[u8; LOOKED_AT + 8], at: usize) -> u64 {
    let eight = bytes
        .get(at..at + 8)
        .and_then(|bytes| bytes.try_into().ok());
    u64::from_le_bytes(eight.unwrap_or_default())
}

/// The letters of a word of up to seven bytes in lower case, else 0; the bit that makes ASCII letters
/// small does so for most letters of two bytes, too.
fn key(bytes: u64, length: usize) -> u64 {
    let others = u64::MAX.checked_shl(8 * length as u32).unwrap_or(u64::MAX);
    let mask = if length < 8 { !others } else { 0 };
    (bytes | LOWER_CASE) & mask
}

/// Which languages have a word. Each is in one of two places (cuckoo hashing), so that finding it takes
/// no loop.
struct Table {
    /// The seven bytes of a key, and in the highest byte the number of its set of languages.
    words: [u64; SLOTS],
    /// The sets as counters of 1; words share few of them. The first is empty.
    sets: [Hits; 256],
}

const SLOTS: usize = 2048;

static TABLE: LazyLock<Table> = LazyLock::new(Table::new);

impl Table {
    fn new() -> Table {
        let mut languages = std::collections::BTreeMap::<u64, Hits>::new();
        for (language, words) in WORDS.iter().enumerate() {
            for word in words.split_whitespace() {
                let mut bytes = [0; LOOKED_AT + 8];
                bytes[..word.len()].copy_from_slice(word.as_bytes());
                let set = languages
                    .entry(key(eight(&bytes, 0), word.len()))
                    .or_default();
                set[language / 8] |= 1 << (8 * (language % 8));
            }
        }
        let mut table = Table {
            words: [0; SLOTS],
            sets: [Hits::default(); 256],
        };
        let mut known = vec![Hits::default()];
        for (key, set) in languages {
            let number = known.iter().position(|other| *other == set);
            let number = number.unwrap_or_else(|| {
                known.push(set);
                known.len() - 1
            });
            table.sets[number] = set;
            table.insert(key | (number as u64) << KEY_BITS);
        }
        table
    }

    /// Whoever is in the way goes to its other place, and so on. At less than half full that ends.
    fn insert(&mut self, mut word: u64) {
        let mut place = places(word & KEY)[0];
        while word != 0 {
            std::mem::swap(&mut self.words[place], &mut word);
            let [first, second] = places(word & KEY);
            place = if place == first { second } else { first };
        }
    }

    /// The number of the set of languages that have this word; 0 where none has.
    fn set_of(&self, key: u64) -> u8 {
        let [first, second] = places(key).map(|place| {
            let word = self.words[place];
            // The compiler would make this a jump, guessed wrong for every other word.
            let differs = (word ^ key) & KEY;
            let all_if_equal = (differs.wrapping_sub(1) as i64 >> 63) as u64;
            word >> KEY_BITS & black_box(all_if_equal)
        });
        (first | second) as u8
    }
}

const KEY_BITS: u32 = 56;
const KEY: u64 = (1 << KEY_BITS) - 1;

fn places(key: u64) -> [usize; 2] {
    let hash = key.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let bits = SLOTS.ilog2();
    [hash >> (64 - bits), hash >> (64 - 2 * bits)].map(|place| place as usize % SLOTS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// From what people write to doctors, libraries and offices, three sentences a language.
    const SENTENCES: &str = include_str!("language_sentences.txt");

    #[test]
    fn sentences_are_told_by_their_language_and_never_by_another() {
        let mut told = 0;
        let mut wrong = Vec::new();
        let lines: Vec<_> = SENTENCES
            .lines()
            .filter_map(|line| line.split_once(": "))
            .collect();
        for (name, sentence) in &lines {
            match Language::of(sentence.as_bytes()) {
                Some(language) if format!("{language:?}") == *name => told += 1,
                Some(other) => wrong.push(format!("{sentence} is not {other}")),
                None => println!("untold: {name}: {sentence}"),
            }
        }
        assert!(wrong.is_empty(), "{wrong:?}");
        assert!(lines.len() >= 3 * Language::ALL.len());
        assert!(told * 10 >= lines.len() * 9, "{told} of {}", lines.len());
    }

    #[test]
    fn short_texts_terms_and_code_are_not_told() {
        for text in [
            "",
            "Is it the knee?",
            "Displaced intertrochanteric fracture of left femur, initial encounter for closed fracture",
            "M84.359S: Stress fracture, hip, unspecified, sequela.",
            "for (int i = 0; i < n; i++) { if (is_in(a[i], b)) { return this->of(a[i]); } }",
            "def f(x):\n    for i in range(10):\n        if x is not None and i in x:\n            yield x[i]",
            "{\"code\": \"B35\", \"is_in\": [\"the\", \"and\"], \"of\": {\"to\": 1}}",
            "Arteria mesenterica superior, vena portae, ductus choledochus, pancreas, duodenum",
            "\u{4e2d}\u{6587}\u{ff0c}\u{60a3}\u{8005}\u{3002}",
        ] {
            assert_eq!(Language::of(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn every_word_of_the_table_fits_and_is_found() {
        for (language, words) in WORDS.iter().enumerate() {
            for word in words.split_whitespace() {
                assert!(
                    word.len() <= 7,
                    "{word}: only words of up to seven bytes are looked up"
                );
                let twice = format!("{word} {word} ");
                let hits = Tally::of(twice.as_bytes()).hits[language / 8];
                assert_eq!(hits >> (8 * (language % 8)) & 0xFF, 2, "{word}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_may_be_asked(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            Language::of(&bytes);
        }

        #[test]
        fn letters_are_found_as_one_by_one(bytes in any::<[u8; 8]>()) {
            let is_letter = |byte: &u8| byte.is_ascii_alphabetic() || !byte.is_ascii();
            let bits = bytes.iter().map(|byte| u64::from(is_letter(byte))).enumerate();
            let plainly = bits.fold(0, |all, (at, bit)| all | bit << at);
            prop_assert_eq!(letter_bits(u64::from_le_bytes(bytes)), plainly);
        }
    }
}
