//! Text to token ids with byte offsets, doing the repeated part once.
//!
//! A special token is a hard boundary: the tokenizer cuts the text there before anything else, so
//! the stretch between two of them encodes the same wherever it stands. Byte-level tokenizers with
//! the regular expressions of GPT-2, Llama 3 and Qwen 2 cut besides before every single space
//! between two printing characters, so words encode the same wherever they stand. Chats repeat both
//! (the system prompt above all), and two small caches remember them. Where a tokenizer's tokens
//! look at their neighbours (`lstrip`, `rstrip`, `single_word`) such cuts are not made, and the
//! result is the tokenizer's own in every case.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::Error;

const STRETCHES: usize = 1 << 10;
const WORDS: usize = 1 << 16;
const CACHED_BYTES: usize = 8192; // longer texts are rare and would make a cache's size matter

/// Token ids and the bytes of the text each one stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub ids: Vec<u32>,
    pub offsets: Vec<(usize, usize)>,
}

pub(crate) struct Encoder {
    tokenizer: Tokenizer,
    specials: Specials,
    /// Ids of the added tokens, ascending.
    added: Vec<u32>,
    cuts_at_spaces: bool,
    stretches: Cache,
    words: Cache,
}

impl Encoder {
    pub fn open(dir: &Path) -> Result<Encoder, Error> {
        let path = dir.join("tokenizer.json");
        if !path.exists() {
            return Err(Error::NoTokenizer {
                dir: dir.to_owned(),
            });
        }
        let broken = |error: tokenizers::Error| Error::Base {
            path: path.clone(),
            reason: format!("not a tokenizer this build can read: {error}"),
        };
        let bytes = std::fs::read(&path).map_err(|source| Error::Io {
            path: path.clone(),
            source,
        })?;
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(broken)?;
        // Some tokenizer.json files cut or pad to a fixed length; data is never cut in silence.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(broken)?;
        let mut added: Vec<u32> = tokenizer.get_added_tokens_decoder().into_keys().collect();
        added.sort_unstable();
        Ok(Encoder {
            added,
            specials: Specials::of(&tokenizer),
            cuts_at_spaces: cuts_at_spaces(&tokenizer),
            stretches: Cache::new(STRETCHES),
            words: Cache::new(WORDS),
            tokenizer,
        })
    }

    /// Is this no token of the model's, but one that is matched in the raw text?
    pub fn is_added(&self, id: u32) -> bool {
        self.added.binary_search(&id).is_ok()
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Encodes without adding special tokens: a rendered chat holds its own.
    pub fn encode(&self, text: &str) -> Result<Tokens, Error> {
        let mut tokens = Tokens::default();
        let mut boundary: Option<(u32, usize)> = None; // id of the last boundary, where it starts
        let mut start = 0; // of the stretch after it
        for special in self.specials.boundaries(text) {
            self.encode_stretch(text, boundary, start..special.start, &mut tokens)?;
            tokens.ids.push(special.id);
            tokens.offsets.push((special.start, special.end));
            boundary = Some((special.id, special.start));
            start = special.end;
        }
        self.encode_stretch(text, boundary, start..text.len(), &mut tokens)?;
        Ok(tokens)
    }

    fn encode_stretch(
        &self,
        text: &str,
        boundary: Option<(u32, usize)>,
        range: Range<usize>,
        tokens: &mut Tokens,
    ) -> Result<(), Error> {
        let start = range.start;
        let stretch = &text[range.clone()];
        if stretch.is_empty() {
            return Ok(());
        }
        let after = boundary.map_or(u32::MAX, |(id, _)| id);
        let key = Key::new(after, stretch);
        if self.stretches.append(&key, start, tokens) {
            return Ok(());
        }
        let first = tokens.ids.len();
        match boundary {
            _ if self.cuts_at_spaces => self.encode_words(stretch, start, tokens)?,
            None => append(tokens, &self.encode_whole(stretch)?, start),
            // The boundary goes along: what stands first in a text may encode differently.
            Some((_, boundary_start)) => {
                let mut encoded = self.encode_whole(&text[boundary_start..range.end])?;
                encoded.ids.remove(0);
                encoded.offsets.remove(0);
                append(tokens, &encoded, boundary_start);
            }
        }
        self.stretches.remember(&key, start, tokens, first);
        Ok(())
    }

    fn encode_words(&self, stretch: &str, start: usize, tokens: &mut Tokens) -> Result<(), Error> {
        for word in words(stretch) {
            let (key, start) = (
                Key::new(u32::MAX, &stretch[word.clone()]),
                start + word.start,
            );
            if !self.words.append(&key, start, tokens) {
                let first = tokens.ids.len();
                append(tokens, &self.encode_whole(key.text)?, start);
                self.words.remember(&key, start, tokens, first);
            }
        }
        Ok(())
    }

    /// The tokenizer's own answer, which [`Encoder::encode`] equals.
    fn encode_whole(&self, text: &str) -> Result<Tokens, Error> {
        let encoding = self.tokenizer.encode(text, false);
        let encoding = encoding.map_err(|error| Error::Encode {
            reason: error.to_string(),
        })?;
        Ok(Tokens {
            ids: encoding.get_ids().to_vec(),
            offsets: encoding.get_offsets().to_vec(),
        })
    }

    /// The first special token whose text stands in this one.
    pub fn special_token<'t>(&self, text: &'t str) -> Option<&'t str> {
        self.specials.first_special(text)
    }

    /// What the tokenizer itself puts before a text, if anything.
    pub fn leading_token(&self) -> Option<u32> {
        self.tokenizer
            .encode("", true)
            .ok()?
            .get_ids()
            .first()
            .copied()
    }
}

fn append(tokens: &mut Tokens, part: &Tokens, start: usize) {
    tokens.ids.extend_from_slice(&part.ids);
    tokens.offsets.extend(
        part.offsets
            .iter()
            .map(|(from, to)| (from + start, to + start)),
    );
}

/// Cut before every single space between two printing ASCII characters.
fn words(stretch: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let bytes = stretch.as_bytes();
    let mut start = 0;
    std::iter::from_fn(move || {
        if start == bytes.len() {
            return None;
        }
        let is_cut = |at: usize| {
            bytes[at] == b' '
                && bytes[at - 1].is_ascii_graphic()
                && bytes[at + 1].is_ascii_graphic()
        };
        let last = bytes.len().saturating_sub(1);
        let end = (start + 1..last)
            .find(|at| is_cut(*at))
            .unwrap_or(bytes.len());
        let word = start..end;
        start = end;
        Some(word)
    })
}

/// Does this tokenizer cut before every single space between printing characters, whatever else
/// stands around? Known for these pre-tokenizers, and unless an added token reaches over a space.
fn cuts_at_spaces(tokenizer: &Tokenizer) -> bool {
    const SPLITS: [&str; 2] = [
        // Llama 3, then Qwen 2 and 3
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ];
    let added = tokenizer.get_added_tokens_decoder();
    let over_a_space = added
        .values()
        .any(|token| token.rstrip || token.single_word || token.content.contains(' '));
    let normalizer = serde_json::to_value(tokenizer.get_normalizer()).unwrap_or_default();
    let harmless = normalizer.is_null() || normalizer["type"] == "NFC";
    if over_a_space || !harmless {
        return false;
    }
    let pre_tokenizer = serde_json::to_value(tokenizer.get_pre_tokenizer()).unwrap_or_default();
    let steps = match &pre_tokenizer["pretokenizers"] {
        Value::Array(steps) => steps.clone(),
        _ => vec![pre_tokenizer],
    };
    let is_split = |step: &Value| {
        let pattern = step["pattern"]["Regex"].as_str().unwrap_or_default();
        let whole = step["behavior"] == "Isolated" && step["invert"] == false;
        step["type"] == "Split" && whole && SPLITS.contains(&pattern)
    };
    let is_byte_level =
        |step: &Value| step["type"] == "ByteLevel" && step["add_prefix_space"] == false;
    let known = |step: &Value| step["type"] == "Digits" || is_split(step) || is_byte_level(step);
    let cuts = |step: &Value| is_split(step) || (is_byte_level(step) && step["use_regex"] == true);
    steps.iter().all(known) && steps.iter().any(cuts)
}

/// Encoded texts, direct-mapped: a text that comes to a taken place takes it over.
struct Cache {
    slots: Vec<Mutex<Slot>>,
}

#[derive(Default)]
struct Slot {
    /// Hash of what came here last: a text is remembered when it comes a second time.
    seen: u64,
    entry: Option<Entry>,
}

struct Entry {
    after: u32,
    text: Box<str>,
    tokens: Tokens, // offsets from the start of the text
}

struct Key<'a> {
    hash: u64,
    after: u32,
    text: &'a str,
}

impl<'a> Key<'a> {
    fn new(after: u32, text: &'a str) -> Key<'a> {
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        Key {
            hash: hasher.hash_one((after, text)),
            after,
            text,
        }
    }
}

impl Cache {
    fn new(slots: usize) -> Cache {
        Cache {
            slots: (0..slots).map(|_| Mutex::default()).collect(),
        }
    }

    fn slot(&self, key: &Key) -> MutexGuard<'_, Slot> {
        let slot = &self.slots[key.hash as usize % self.slots.len()];
        slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends the tokens of a known text.
    fn append(&self, key: &Key, start: usize, tokens: &mut Tokens) -> bool {
        let slot = self.slot(key);
        let known = slot.entry.as_ref();
        let known = known.filter(|entry| entry.after == key.after && *entry.text == *key.text);
        known
            .inspect(|entry| append(tokens, &entry.tokens, start))
            .is_some()
    }

    /// Remembers the tokens from `first` on, which stand for the text at `start`.
    fn remember(&self, key: &Key, start: usize, tokens: &Tokens, first: usize) {
        if key.text.len() > CACHED_BYTES {
            return;
        }
        let mut slot = self.slot(key);
        if slot.seen != key.hash {
            slot.seen = key.hash;
            return;
        }
        let offsets = tokens.offsets[first..]
            .iter()
            .map(|(from, to)| (from - start, to - start));
        let tokens = Tokens {
            ids: tokens.ids[first..].to_vec(),
            offsets: offsets.collect(),
        };
        slot.entry = Some(Entry {
            after: key.after,
            text: key.text.into(),
            tokens,
        });
    }
}

/// Added tokens that are matched in the raw text, by first byte, longest first.
struct Specials {
    by_first_byte: Vec<Vec<Special>>,
}

struct Special {
    text: String,
    id: u32,
    is_boundary: bool,
    is_special: bool,
}

struct Found {
    id: u32,
    start: usize,
    end: usize,
}

impl Specials {
    fn of(tokenizer: &Tokenizer) -> Specials {
        let mut by_first_byte: Vec<Vec<Special>> = (0..256).map(|_| Vec::new()).collect();
        let added = tokenizer.get_added_tokens_decoder();
        // A single-word token is skipped or not by what stands beside it, across our cuts.
        let cuts = added.values().all(|token| !token.single_word);
        for (id, token) in added {
            let Some(first) = token
                .content
                .bytes()
                .next()
                .filter(|_| cuts && !token.normalized)
            else {
                continue;
            };
            let is_boundary = !token.lstrip && !token.rstrip;
            by_first_byte[first as usize].push(Special {
                text: token.content,
                id,
                is_boundary,
                is_special: token.special,
            });
        }
        for specials in &mut by_first_byte {
            specials.sort_by(|a, b| b.text.len().cmp(&a.text.len()).then(a.text.cmp(&b.text)));
        }
        Specials { by_first_byte }
    }

    fn at<'s>(&'s self, bytes: &[u8]) -> Option<&'s Special> {
        let specials = &self.by_first_byte[*bytes.first()? as usize];
        specials
            .iter()
            .find(|special| bytes.starts_with(special.text.as_bytes()))
    }

    fn first_special<'t>(&self, text: &'t str) -> Option<&'t str> {
        (0..text.len()).find_map(|at| {
            let special = self.at(&text.as_bytes()[at..])?;
            special
                .is_special
                .then(|| &text[at..at + special.text.len()])
        })
    }

    /// Leftmost, longest: the tokenizer's own rule.
    fn boundaries<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Found> + 'a {
        let bytes = text.as_bytes();
        let mut at = 0;
        std::iter::from_fn(move || {
            while at < bytes.len() {
                let matched = self.at(&bytes[at..]);
                let start = at;
                at += matched.map_or(1, |special| special.text.len());
                if let Some(special) = matched.filter(|special| special.is_boundary) {
                    return Some(Found {
                        id: special.id,
                        start,
                        end: at,
                    });
                }
            }
            None
        })
    }
}
