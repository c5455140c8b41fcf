//! How surprised is the model by packed data? Loss and perplexity over its supervised tokens.

use std::path::Path;

use anyhow::Context;
use cli::{Progress, Unit};
use model::Model;
use serde::Serialize;
use tokens::{Batch, Shard, Vocabulary};

use crate::fit::hinted;

/// The loss of packed data.
#[derive(Clone, Debug, Serialize)]
pub struct DataLoss {
    /// Nats a supervised token.
    pub loss: f64,
    /// e to the loss.
    pub perplexity: f64,
    /// Summed over all supervised tokens.
    pub nats: f64,
    /// Supervised tokens.
    pub targets: usize,
    pub tokens: usize,
    pub sequences: usize,
    pub rows: usize,
    pub data: String,
    pub base: String,
    pub adapter: Option<String>,
    pub quantize: String,
    pub compute_dtype: String,
}

/// Opens a packed file that was made for this base; refuses another tokenizer's or template's.
pub fn open(data: &Path, base: &Path) -> anyhow::Result<Shard> {
    let shard = Shard::open(data).map_err(hinted)?;
    let vocabulary = Vocabulary::open(base).map_err(hinted)?;
    shard
        .check_base(&vocabulary.fingerprint, vocabulary.size)
        .map_err(hinted)?;
    Ok(shard)
}

/// Sum of nats and number of targets, `batch_size` rows at a time.
pub fn sum(model: &Model, shard: &Shard, batch_size: usize) -> anyhow::Result<(f64, usize)> {
    let progress = Progress::new("loss", Some(shard.rows() as u64), Unit::Items("rows"));
    let (mut nats, mut targets) = (0.0, 0);
    for first in (0..shard.rows()).step_by(batch_size) {
        let rows = first..shard.rows().min(first + batch_size);
        progress.set(rows.start as u64);
        let Batch {
            input_ids,
            loss_mask,
            offsets,
        } = Batch::of(rows.clone().map(|row| shard.row(row)));
        let loss = model
            .loss(&model::Batch {
                input_ids,
                offsets,
                loss_mask,
            })
            .with_context(|| {
                format!(
                    "{}: rows {} to {}",
                    shard.path().display(),
                    rows.start,
                    rows.end - 1
                )
            })?;
        nats += loss.sum;
        targets += loss.targets;
    }
    progress.finish();
    Ok((nats, targets))
}
