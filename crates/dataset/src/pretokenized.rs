//! Lines that are token ids already: `{"input_ids": […], "labels": […]}`.

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::{Error, IGNORED_LABEL};

/// A line of token ids, as TRL and transformers write them. Of a key that is not here nobody knows whether
/// it would change what is learned.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pretokenized {
    input_ids: Vec<i64>,
    /// −100, or the token id itself where it is a target.
    labels: Option<Vec<i64>>,
    /// Tokens with 0 are padding and dropped.
    attention_mask: Option<Vec<u8>>,
    /// Lengths of the segments of a packed line.
    seq_lengths: Option<Vec<usize>>,
    /// From 0 in each segment, as they are numbered here.
    position_ids: Option<Vec<i64>>,
    /// BERT's.
    #[serde(rename = "token_type_ids")]
    _token_type_ids: Option<IgnoredAny>,
    /// What the writer knows of the line.
    #[serde(rename = "id")]
    _id: Option<IgnoredAny>,
    #[serde(rename = "source")]
    _source: Option<IgnoredAny>,
    #[serde(rename = "metadata")]
    _metadata: Option<IgnoredAny>,
}

/// One example as token ids, and which of them are targets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    pub input_ids: Vec<u32>,
    /// 1 = predicted from the token before and learned. `loss_mask[0]` is 0.
    pub loss_mask: Vec<u8>,
}

impl Encoded {
    pub fn supervised_tokens(&self) -> usize {
        self.loss_mask.iter().filter(|target| **target == 1).count()
    }
}

impl Pretokenized {
    /// Does this line bring token ids? (A cheap look first; quotes inside JSON text carry a backslash.)
    pub fn recognises(line: &[u8]) -> bool {
        #[derive(Deserialize)]
        struct Keys {
            input_ids: Option<IgnoredAny>,
        }
        const KEY: &[u8] = b"\"input_ids\"";
        let names_it = line.windows(KEY.len()).any(|window| window == KEY);
        names_it && serde_json::from_slice(line).is_ok_and(|keys: Keys| keys.input_ids.is_some())
    }

    pub fn parse(line: &[u8]) -> Result<Pretokenized, Error> {
        serde_json::from_slice(line).map_err(Error::from)
    }

    /// The same of an [`Example::Tokens`](crate::Example::Tokens).
    pub fn of(input_ids: &[u32], labels: Option<&[Option<u32>]>) -> Pretokenized {
        let label = |label: &Option<u32>| label.map_or(IGNORED_LABEL, i64::from);
        Pretokenized {
            input_ids: input_ids.iter().map(|id| i64::from(*id)).collect(),
            labels: labels.map(|labels| labels.iter().map(label).collect()),
            ..Pretokenized::default()
        }
    }

    /// The segments of this line, checked; `vocab_size` where it is known.
    pub fn segments(self, vocab_size: Option<usize>) -> Result<Vec<Encoded>, Error> {
        let refuse = |reason: String| Err(Error::Shape(reason));
        let vocab_size = vocab_size.map_or(1 << 32, |size| size as i64);
        let Pretokenized {
            input_ids,
            labels,
            attention_mask,
            seq_lengths,
            position_ids,
            ..
        } = self;
        let Some(labels) = labels else {
            return refuse(
                "labels is missing (-100 where nothing is learned, else the token id)".into(),
            );
        };
        let attention_mask = attention_mask.unwrap_or_else(|| vec![1; input_ids.len()]);
        let positions = position_ids.as_deref();
        for (name, length) in [
            ("labels", Some(labels.len())),
            ("attention_mask", Some(attention_mask.len())),
            ("position_ids", positions.map(<[i64]>::len)),
        ] {
            if let Some(length) = length
                && length != input_ids.len()
            {
                return refuse(format!(
                    "{name} has {length} entries, input_ids {}",
                    input_ids.len()
                ));
            }
        }
        let seq_lengths = seq_lengths.unwrap_or_else(|| vec![input_ids.len()]);
        let total = seq_lengths
            .iter()
            .try_fold(0usize, |sum, length| sum.checked_add(*length));
        if total != Some(input_ids.len()) {
            return refuse(format!(
                "seq_lengths do not add up to the {} input_ids",
                input_ids.len()
            ));
        }
        let mut segments = Vec::with_capacity(seq_lengths.len());
        let mut at = 0;
        for length in seq_lengths {
            let mut segment = Encoded::default();
            for index in at..at + length {
                let (id, label, attended) =
                    (input_ids[index], labels[index], attention_mask[index]);
                if label != IGNORED_LABEL && label != id {
                    return refuse(format!(
                        "labels[{index}] is {label}, neither -100 nor input_ids[{index}], which is {id}"
                    ));
                }
                if !(0..vocab_size).contains(&id) {
                    return refuse(format!(
                        "input_ids[{index}] is {id}, outside the base's vocabulary of {vocab_size}"
                    ));
                }
                let position = segment.input_ids.len() as i64;
                match (attended, label) {
                    (1, _) if positions.is_some_and(|at| at[index] != position) => {
                        return refuse(format!(
                            "position_ids[{index}] does not count on to {position}: seq_lengths says where a segment begins"
                        ));
                    }
                    (1, _) => {
                        segment.input_ids.push(id as u32);
                        segment.loss_mask.push(u8::from(label != IGNORED_LABEL));
                    }
                    (0, IGNORED_LABEL) => {}
                    (0, _) => {
                        return refuse(format!(
                            "labels[{index}] is a target where attention_mask is 0"
                        ));
                    }
                    _ => {
                        return refuse(format!(
                            "attention_mask[{index}] is {attended}, not 0 or 1"
                        ));
                    }
                }
            }
            at += length;
            if let Some(first) = segment.loss_mask.first_mut() {
                *first = 0; // nothing stands before it to predict it from
            }
            segments.push(segment);
        }
        Ok(segments)
    }
}
