//! The packed file: rows of segments as a safetensors file, written in one pass and mapped to be read.
//!
//! Flat arrays, no padding:
//!
//! | tensor | type, shape | what |
//! |---|---|---|
//! | `row_offsets` | U64 [R + 1] | where each row starts, counted in sequences |
//! | `seq_offsets` | U64 [S + 1] | where each sequence (segment of a row) starts, counted in tokens |
//! | `input_ids` | U16 or U32 [N] | U16 when the vocabulary fits |
//! | `loss_mask` | U8 [N] | 1 = this token is a target, predicted from the one before |
//!
//! The metadata is one key, `packed`, holding JSON with a fixed key order ([`Meta`]): the same rows
//! give the same bytes. (The safetensors crate keeps metadata in a HashMap, so two keys would not.)

mod read;
mod write;

use serde::{Deserialize, Serialize};

use crate::{Date, Fingerprint, Packing, TrainOn};

pub use read::{Row, Shard};
pub use write::{Examples, count, segment_loss_mask, write};

const METADATA_KEY: &str = "packed";
const FORMAT: &str = "packed-tokens";
const VERSION: u32 = 1;

/// What a packed file says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    pub format: String,
    pub version: u32,
    pub fingerprint: Fingerprint,
    pub vocab_size: usize,
    pub max_seq_length: usize,
    pub packing: Packing,
    /// Which assistant turns are targets; none when the lines came with their own labels.
    pub train_on: Option<TrainOn>,
    /// The date that the template printed into the examples, if it printed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<Date>,
    /// This file is part `index` (from 1) of `of`.
    pub part: Part,
    pub counts: Counts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    pub index: usize,
    pub of: usize,
}

/// What is in this file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    pub examples: usize,
    pub sequences: usize,
    pub rows: usize,
    pub tokens: usize,
    pub supervised_tokens: usize,
}

impl Meta {
    pub fn new(
        fingerprint: Fingerprint,
        vocab_size: usize,
        max_seq_length: usize,
        packing: Packing,
        train_on: Option<TrainOn>,
        counts: Counts,
    ) -> Meta {
        let (format, part) = (FORMAT.to_owned(), Part { index: 1, of: 1 });
        Meta {
            format,
            version: VERSION,
            fingerprint,
            vocab_size,
            max_seq_length,
            packing,
            train_on,
            date: None,
            part,
            counts,
        }
    }

    /// Reads the metadata's JSON; an error says what is foreign about it.
    fn parse(json: &str) -> Result<Meta, String> {
        #[derive(Deserialize)]
        struct Envelope {
            format: String,
            version: u32,
        }
        let damaged = |error: serde_json::Error| format!("damaged (metadata: {error})");
        let Envelope { format, version } = serde_json::from_str(json).map_err(damaged)?;
        if format != FORMAT {
            return Err(format!("a \"{format}\" file, not \"{FORMAT}\""));
        }
        if version != VERSION {
            return Err(format!(
                "format version {version}, and this build reads version {VERSION}"
            ));
        }
        serde_json::from_str(json).map_err(damaged)
    }

    fn wide(&self) -> bool {
        self.vocab_size > 1 << 16
    }
}
