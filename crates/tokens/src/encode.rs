//! Text to token ids with byte offsets, doing the repeated part once.
//!
//! A special token is a hard boundary: the tokenizer cuts the text there before anything else, so
//! the text between two of them encodes the same wherever it stands. Chats repeat such stretches
//! (the system prompt above all), and a small cache remembers them. Where a tokenizer's special
//! tokens look at their neighbours (`lstrip`, `rstrip`, `single_word`) they are not used as
//! boundaries, and the result is the tokenizer's own in every case.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokenizers::Tokenizer;

use crate::Error;

const CACHE_SLOTS: usize = 1024;
const CACHED_BYTES: usize = 8192; // longer stretches are rare and would make the cache's size matter

/// Token ids and the bytes of the text each one stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub ids: Vec<u32>,
    pub offsets: Vec<(usize, usize)>,
}

pub(crate) struct Encoder {
    tokenizer: Tokenizer,
    specials: Specials,
    cache: Vec<Mutex<Option<Stretch>>>,
}

/// What follows a special token, encoded; offsets count from the end of that token.
#[derive(Clone)]
struct Stretch {
    after: u32,
    text: Arc<str>,
    tokens: Arc<Tokens>,
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
        let specials = Specials::of(&tokenizer);
        let cache = (0..CACHE_SLOTS).map(|_| Mutex::new(None)).collect();
        Ok(Encoder {
            tokenizer,
            specials,
            cache,
        })
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
        let Some((after, boundary_start)) = boundary else {
            append(tokens, &self.encode_whole(stretch)?, start);
            return Ok(());
        };
        // The boundary goes along: what stands first in a text may encode differently.
        let encode = || {
            let mut encoded = self.encode_whole(&text[boundary_start..range.end])?;
            encoded.ids.remove(0);
            encoded.offsets.remove(0);
            let boundary_length = start - boundary_start;
            encoded.offsets.iter_mut().for_each(|(from, to)| {
                *from -= boundary_length;
                *to -= boundary_length;
            });
            Ok(encoded)
        };
        if stretch.len() > CACHED_BYTES {
            append(tokens, &encode()?, start);
            return Ok(());
        }
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        let slot = &self.cache[hasher.hash_one((after, stretch)) as usize % CACHE_SLOTS];
        let known = slot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(known) = known
            && known.after == after
            && *known.text == *stretch
        {
            append(tokens, &known.tokens, start);
            return Ok(());
        }
        let encoded = Arc::new(encode()?);
        append(tokens, &encoded, start);
        let stretch = Stretch {
            after,
            text: stretch.into(),
            tokens: encoded,
        };
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(stretch);
        Ok(())
    }

    /// The tokenizer's own answer, which [`Encoder::encode`] equals.
    pub fn encode_whole(&self, text: &str) -> Result<Tokens, Error> {
        let encoding = self.tokenizer.encode(text, false);
        let encoding = encoding.map_err(|error| Error::Encode {
            reason: error.to_string(),
        })?;
        Ok(Tokens {
            ids: encoding.get_ids().to_vec(),
            offsets: encoding.get_offsets().to_vec(),
        })
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

fn append(tokens: &mut Tokens, stretch: &Tokens, start: usize) {
    tokens.ids.extend_from_slice(&stretch.ids);
    tokens.offsets.extend(
        stretch
            .offsets
            .iter()
            .map(|(from, to)| (from + start, to + start)),
    );
}

/// Added tokens that are matched in the raw text, by first byte, longest first.
struct Specials {
    by_first_byte: Vec<Vec<Special>>,
}

struct Special {
    text: String,
    id: u32,
    is_boundary: bool,
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
            });
        }
        for specials in &mut by_first_byte {
            specials.sort_by(|a, b| b.text.len().cmp(&a.text.len()).then(a.text.cmp(&b.text)));
        }
        Specials { by_first_byte }
    }

    /// Leftmost, longest: the tokenizer's own rule.
    fn boundaries<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Found> + 'a {
        let bytes = text.as_bytes();
        let mut at = 0;
        std::iter::from_fn(move || {
            while at < bytes.len() {
                let specials = &self.by_first_byte[bytes[at] as usize];
                let matched = specials
                    .iter()
                    .find(|special| bytes[at..].starts_with(special.text.as_bytes()));
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
