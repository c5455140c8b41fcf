//! Rows of a packed file laid end to end: a ragged batch, without padding.

use crate::shard::Row;

/// Segments of several rows, one after the other. Attention is block-diagonal over segments, so
/// which row a segment came from no longer matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub input_ids: Vec<u32>, // [tokens]
    pub loss_mask: Vec<u8>,  // [tokens], 1 = target
    /// Where each segment starts; last, the number of tokens.
    pub offsets: Vec<usize>, // [segments + 1]
}

impl Batch {
    pub fn of<'a>(rows: impl IntoIterator<Item = Row<'a>>) -> Batch {
        let mut batch = Batch {
            offsets: vec![0],
            ..Batch::default()
        };
        for row in rows {
            let start = batch.input_ids.len();
            batch.input_ids.extend_from_slice(&row.input_ids);
            batch.loss_mask.extend_from_slice(row.loss_mask);
            batch
                .offsets
                .extend(row.offsets[1..].iter().map(|offset| start + offset));
        }
        batch
    }

    /// Number of targets: what the sum of the losses is divided by.
    pub fn targets(&self) -> usize {
        self.loss_mask.iter().filter(|target| **target == 1).count()
    }

    /// Position of each token in its segment. `[tokens]`
    pub fn position_ids(&self) -> Vec<u32> {
        let lengths = self
            .offsets
            .windows(2)
            .map(|pair| (pair[1] - pair[0]) as u32);
        lengths.flat_map(|length| 0..length).collect()
    }
}
