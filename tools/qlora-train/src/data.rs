//! Which rows make which batch: the shards as one list, its order in each epoch, its micro-batches.

use std::{ops::Range, path::PathBuf};

use cli::Hint;
use model::Batch;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokens::{Fingerprint, Prompting, Shard};

/// The rows of several shards that have a target, one after the other.
pub struct Rows {
    shards: Vec<Shard>,
    /// (shard, row within it)
    places: Vec<(usize, usize)>,
}

impl Rows {
    /// Opens shards, each of which must be packed for this base and have something to learn. A row
    /// without a target, such as a long prompt fills, teaches nothing and tells nothing: it is left out, and
    /// how many are is said.
    pub fn open(
        paths: &[PathBuf],
        fingerprint: &Fingerprint,
        vocab_size: usize,
    ) -> anyhow::Result<Self> {
        let mut shards = Vec::with_capacity(paths.len());
        let mut places = Vec::new();
        for path in paths {
            let shard =
                Shard::open(path).hint("pack the data with tokenize-pack --base BASE first")?;
            shard
                .check_base(fingerprint, vocab_size)
                .hint("pack the data again with tokenize-pack and the --base that is trained")?;
            let before = places.len();
            let rows = (0..shard.rows()).filter(|&row| shard.row_targets(row) > 0);
            places.extend(rows.map(|row| (shards.len(), row)));
            let learned = places.len() - before;
            if learned == 0 {
                let error = anyhow::anyhow!("{}: not one token is supervised", path.display());
                return Err(error).hint("tokenize-pack --show-mask 3 shows what would be learned");
            }
            if learned < shard.rows() {
                cli::note(format_args!(
                    "warning: {}: {} of {} rows have no supervised token and are left out",
                    path.display(),
                    shard.rows() - learned,
                    shard.rows()
                ));
            }
            shards.push(shard);
        }
        Ok(Self { shards, places })
    }

    /// The shards whose examples a chat template rendered.
    fn rendered(&self) -> impl Iterator<Item = &Shard> {
        let shards = self.shards.iter();
        shards.filter(|shard| shard.meta().train_on.is_some())
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Targets in a row.
    pub fn targets(&self, row: usize) -> usize {
        let (shard, row) = self.places[row];
        self.shards[shard].row_targets(row)
    }

    /// Tokens in a row.
    pub fn tokens(&self, row: usize) -> usize {
        let (shard, row) = self.places[row];
        self.shards[shard].row_length(row)
    }

    /// Tokens of the longest sequence: the positions that it takes.
    pub fn longest_sequence(&self) -> usize {
        let lengths = self.shards.iter().map(Shard::longest_sequence);
        lengths.max().unwrap_or(0)
    }

    /// Tokens of the longest micro-batch there can be.
    pub fn largest_batch(&self, batch_size: usize) -> usize {
        let mut lengths: Vec<usize> = (0..self.len()).map(|row| self.tokens(row)).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        lengths.iter().take(batch_size).sum()
    }

    /// All rows in their order, cut into micro-batches of so many rows and tokens at the most; a row that is
    /// longer is one alone.
    pub fn batches(&self, batch_size: usize, most_tokens: usize) -> Vec<Range<usize>> {
        let mut batches: Vec<Range<usize>> = Vec::new();
        let mut held = 0;
        for row in 0..self.len() {
            let tokens = self.tokens(row);
            match batches.last_mut() {
                Some(batch) if batch.len() < batch_size && held + tokens <= most_tokens => {
                    batch.end += 1;
                    held += tokens;
                }
                _ => {
                    batches.push(row..row + 1);
                    held = tokens;
                }
            }
        }
        batches
    }

    /// Tokens of the longest row.
    pub fn longest_row(&self) -> usize {
        (0..self.len())
            .map(|row| self.tokens(row))
            .max()
            .unwrap_or(0)
    }

    /// These rows end to end, without padding.
    pub fn batch(&self, rows: &[usize]) -> Batch {
        let places = rows.iter().map(|&row| self.places[row]);
        let tokens::Batch {
            input_ids,
            loss_mask,
            offsets,
        } = tokens::Batch::of(places.map(|(shard, row)| self.shards[shard].row(row)));
        Batch {
            input_ids,
            offsets,
            loss_mask,
        }
    }
}

/// How the examples were rendered: by one template, with one date.
pub fn prompting(train: &Rows, eval: &Rows) -> anyhow::Result<Prompting> {
    let mut shards = train.rendered().chain(eval.rendered());
    let Some(first) = shards.next() else {
        return Ok(Prompting::default());
    };
    let date = first.meta().date;
    if let Some(other) = shards.find(|shard| shard.meta().date != date) {
        let said = |shard: &Shard| {
            let date = shard.meta().date;
            let date = date.map_or("no date".to_owned(), |date| format!("the date {date}"));
            format!("{} prints {date}", shard.path().display())
        };
        return Err(anyhow::anyhow!("{}, and {}", said(first), said(other)))
            .hint("pack all of the data with the same tokenize-pack --date");
    }
    Ok(Prompting {
        date,
        fingerprint: first.meta().fingerprint.clone(),
    })
}

/// The order of an epoch's rows: a permutation keyed by seed and epoch, or the shards' own order.
pub fn epoch_order(rows: usize, epoch: u64, shuffle_seed: Option<u64>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows).collect();
    let Some(seed) = shuffle_seed else {
        return order;
    };
    let mut key = *b"qlora-train/epoch order\0\0\0\0\0\0\0\0\0";
    key[24..].copy_from_slice(&seed.to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(epoch);
    // Fisher–Yates; the modulo's bias is below 2⁻³² for any list that fits in memory.
    for i in (1..rows).rev() {
        order.swap(i, (rng.next_u64() % (i as u64 + 1)) as usize);
    }
    order
}

/// How epochs divide into optimizer steps and these into micro-batches.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub rows: usize,
    pub batch_size: usize,
    pub accumulation: usize,
    pub total_steps: u64,
    /// Whether there is anything to evaluate on, and every how many steps beside the epochs' ends.
    evaluates: bool,
    eval_steps: Option<u64>,
}

impl Plan {
    /// The plan of so many epochs, whose last part is rounded up to a whole step, or of `max_steps` steps over
    /// as many epochs as that takes.
    pub fn new(
        rows: usize,
        batch_size: usize,
        accumulation: usize,
        epochs: f64,
        max_steps: Option<u64>,
    ) -> Self {
        let plan = Self {
            rows,
            batch_size,
            accumulation,
            total_steps: 0,
            evaluates: false,
            eval_steps: None,
        };
        let whole = (plan.steps_per_epoch() as f64 * epochs).ceil() as u64;
        Self {
            total_steps: max_steps.unwrap_or(whole),
            ..plan
        }
    }

    /// The same with evaluations: before the first step, at each epoch's end, and every `eval_steps`.
    pub fn with_evaluations(self, eval_steps: Option<u64>) -> Self {
        Self {
            evaluates: true,
            eval_steps,
            ..self
        }
    }

    /// The last step of an epoch takes what is left.
    pub fn steps_per_epoch(&self) -> u64 {
        self.rows
            .div_ceil(self.batch_size)
            .div_ceil(self.accumulation) as u64
    }

    /// The epoch that a step (from 0) falls in.
    pub fn epoch_of(&self, step: u64) -> u64 {
        step / self.steps_per_epoch()
    }

    /// Places within the epoch's order that a step reads.
    pub fn rows_of(&self, step: u64) -> Range<usize> {
        let step_rows = self.batch_size * self.accumulation;
        let start = (step % self.steps_per_epoch()) as usize * step_rows;
        start..(start + step_rows).min(self.rows)
    }

    /// Whether the run looks around after so many steps, logs and saves: at the end of an epoch, at its
    /// own, and where it evaluates.
    pub fn pauses_after(&self, steps_done: u64) -> bool {
        let is_multiple_of = |n: u64| steps_done.is_multiple_of(n);
        steps_done == self.total_steps
            || is_multiple_of(self.steps_per_epoch())
            || self.eval_steps.is_some_and(is_multiple_of)
    }

    /// How often that is, where no two of its reasons meet.
    pub fn pauses(&self) -> u64 {
        let epochs = self.total_steps.div_ceil(self.steps_per_epoch());
        epochs + self.eval_steps.map_or(0, |n| self.total_steps / n)
    }

    /// Whether an evaluation follows so many steps.
    pub fn evaluates_after(&self, steps_done: u64) -> bool {
        self.evaluates && self.pauses_after(steps_done)
    }

    /// Epochs that so many steps are.
    pub fn epochs(&self, steps_done: u64) -> f64 {
        steps_done as f64 / self.steps_per_epoch() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_visits_every_row_once_in_an_order_of_its_own() {
        let orders: Vec<_> = (0..3)
            .map(|epoch| epoch_order(50, epoch, Some(7)))
            .collect();
        for order in &orders {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..50).collect::<Vec<_>>());
        }
        assert_ne!(orders[0], orders[1]);
        assert_ne!(orders[1], orders[2]);
        assert_eq!(orders[1], epoch_order(50, 1, Some(7)));
        assert_ne!(orders[1], epoch_order(50, 1, Some(8)));
    }

    #[test]
    fn the_steps_of_an_epoch_read_every_row_once() {
        for (rows, batch_size, accumulation) in
            [(10, 2, 2), (1, 4, 4), (7, 3, 1), (16, 4, 4), (17, 4, 4)]
        {
            let plan = Plan::new(rows, batch_size, accumulation, 2.0, None);
            let mut read: Vec<usize> = (0..plan.steps_per_epoch())
                .flat_map(|s| plan.rows_of(s))
                .collect();
            assert_eq!(read, (0..rows).collect::<Vec<_>>());
            read = (plan.steps_per_epoch()..plan.total_steps)
                .flat_map(|s| plan.rows_of(s))
                .collect();
            assert_eq!(read, (0..rows).collect::<Vec<_>>());
            assert!((0..plan.total_steps).all(|s| !plan.rows_of(s).is_empty()));
        }
    }
}
