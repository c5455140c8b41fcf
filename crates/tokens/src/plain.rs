//! Plain text as an encoder reads it: between the tokenizer's own special tokens.

use crate::Error;
use crate::encode::Encoder;
use std::path::Path;

/// A tokenizer that adds its special tokens.
pub struct PlainEncoder {
    encoder: Encoder,
    /// Goes before every text: RoBERTa's vocabulary begins a word with a space, the first one too.
    before: &'static str,
    /// What is added to an empty text: `[CLS]` and `[SEP]`.
    added: Vec<u32>,
}

/// A text in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainTokens {
    pub ids: Vec<u32>,
    /// Of each token, whether it is one of those that are added to an empty text.
    pub special: Vec<bool>,
    /// The text had more tokens than asked for; those at its end are missing.
    pub cut: bool,
}

impl PlainEncoder {
    /// `leading_space` as RoBERTa wants it.
    pub fn open(dir: &Path, leading_space: bool) -> Result<PlainEncoder, Error> {
        let mut encoder = PlainEncoder {
            encoder: Encoder::open(dir)?,
            before: if leading_space { " " } else { "" },
            added: Vec::new(),
        };
        encoder.added = encoder.ids("")?;
        Ok(encoder)
    }

    /// One more than the largest id that can occur.
    pub fn vocab_size(&self) -> usize {
        let vocabulary = self.encoder.tokenizer().get_vocab(true);
        vocabulary.values().max().map_or(0, |id| *id as usize + 1)
    }

    /// White space at both ends does not count; at most `limit` tokens, of which a text that is cut keeps
    /// the last special one.
    pub fn encode(&self, text: &str, limit: usize) -> Result<PlainTokens, Error> {
        let text = text.trim();
        let mut ids = match text {
            "" => self.added.clone(),
            text => self.ids(&format!("{}{text}", self.before))?,
        };
        let cut = ids.len() > limit;
        if cut {
            let last = ids[ids.len() - 1];
            ids.truncate(limit);
            ids[limit - 1] = last;
        }
        let special = ids.iter().map(|id| self.added.contains(id)).collect();
        Ok(PlainTokens { ids, special, cut })
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>, Error> {
        let encoding = self.encoder.tokenizer().encode(text, true);
        let encoding = encoding.map_err(|error| Error::Encode {
            reason: error.to_string(),
        })?;
        Ok(encoding.get_ids().to_vec())
    }
}
