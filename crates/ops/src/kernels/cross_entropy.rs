//! Σ −log softmax(h·Wᵀ)[target] and its gradient in one pass over the vocabulary.
//!
//! dh = Σ_v p_v·W_v − W_target has the form of attention with W as keys and values, so it is
//! computed as flash attention is: logits of ≤ 256 rows × 192 vocabulary entries live in a scratch
//! tile, softmax is online, and Σ e^{l_v − max}·W_v is rescaled when the maximum grows. The
//! vocabulary is cut into a fixed number of splits (the tasks) whose partial results are merged in
//! order: each value of W is converted once for 256 rows and no [rows, vocabulary] exists.

use super::matmul::{Strided, multiply};
use super::panel::{WeightView, transpose};
use super::simd::Level;
use super::softmax::softmax_row;
use super::{Shared, output};
use rayon::prelude::*;

/// Depth of a panel.
const DEPTH: usize = 128;
/// Rows that share one pass over the vocabulary.
const ROWS: usize = 256;
/// Vocabulary entries of a tile: a multiple of every panel width.
const ENTRIES: usize = 192;
/// Partial results that are merged; fixed, so that the bits do not depend on the threads.
const SPLITS: usize = 16;

/// Returns the loss (sum of nats) and, when asked, dh `[rows, hidden]` for an upstream gradient of 1.
pub fn forward(
    level: Level,
    h: &[f32],
    weight: WeightView<'_>,
    targets: &[u32],
    want_gradient: bool,
) -> (f64, Vec<f32>) {
    let hidden = weight.format.in_features;
    let mut dh = if want_gradient {
        output(h.len())
    } else {
        Vec::new()
    };
    let mut loss = 0.0;
    for (i, (h, targets)) in h
        .chunks(ROWS * hidden)
        .zip(targets.chunks(ROWS))
        .enumerate()
    {
        let at = i * ROWS * hidden;
        let dh = if want_gradient {
            &mut dh[at..at + h.len()]
        } else {
            &mut []
        };
        loss += some_rows(level, h, weight, targets, dh);
    }
    (loss, dh)
}

/// One split's running maximum and sum of exponentials for each row, and Σ e^{l − max}·W.
struct Partial {
    largest: Vec<f32>,
    sums: Vec<f32>,
    weighted: Vec<f32>,
}

fn some_rows(
    level: Level,
    h: &[f32],
    weight: WeightView<'_>,
    targets: &[u32],
    dh: &mut [f32],
) -> f64 {
    let (vocabulary, hidden) = (weight.format.out_features, weight.format.in_features);
    let rows = targets.len();
    let per_split = vocabulary.div_ceil(SPLITS).next_multiple_of(ENTRIES);
    let mut target_logits = output(rows);
    let logits_at = Shared(target_logits.as_mut_ptr());
    let partials: Vec<Partial> = (0..vocabulary.div_ceil(per_split))
        .into_par_iter()
        .with_max_len(1)
        .map(|split| {
            let entries = split * per_split..((split + 1) * per_split).min(vocabulary);
            let mut partial = Partial {
                largest: vec![f32::NEG_INFINITY; rows],
                sums: vec![0.0; rows],
                weighted: vec![0.0; dh.len()],
            };
            let mut scratch = Scratch::new(level, rows, hidden);
            for start in entries.clone().step_by(ENTRIES) {
                let count = ENTRIES.min(entries.end - start);
                scratch.tile(level, h, weight, start, count);
                for (i, target) in targets.iter().enumerate() {
                    let logits = &mut scratch.logits[i * ENTRIES..i * ENTRIES + count];
                    if let Some(logit) = (*target as usize)
                        .checked_sub(start)
                        .and_then(|t| logits.get(t))
                    {
                        // SAFETY: a target lies in one tile only.
                        unsafe { *logits_at.at(i) = *logit };
                    }
                    let (largest, sum) = (&mut partial.largest[i], &mut partial.sums[i]);
                    let rescale = softmax_row(level, logits, 0, count, 1.0, None, largest, sum);
                    if rescale != 1.0 && !dh.is_empty() {
                        partial.weighted[i * hidden..(i + 1) * hidden]
                            .iter_mut()
                            .for_each(|v| *v *= rescale);
                    }
                }
                if !dh.is_empty() {
                    let p = Strided::rows(&scratch.logits, ENTRIES);
                    multiply(
                        level,
                        rows,
                        hidden,
                        count,
                        p,
                        scratch.natural.as_ptr(),
                        hidden,
                        partial.weighted.as_mut_ptr(),
                        hidden,
                        true,
                    );
                }
            }
            partial
        })
        .collect();
    merge(
        level,
        h.len() / rows,
        &partials,
        &target_logits,
        targets,
        weight,
        dh,
    )
}

fn merge(
    level: Level,
    hidden: usize,
    partials: &[Partial],
    target_logits: &[f32],
    targets: &[u32],
    weight: WeightView<'_>,
    dh: &mut [f32],
) -> f64 {
    let mut loss = 0.0;
    let mut target_row = vec![0.0; hidden];
    for (i, target) in targets.iter().enumerate() {
        let largest = partials
            .iter()
            .fold(f32::NEG_INFINITY, |a, p| a.max(p.largest[i]));
        let sum: f64 = partials
            .iter()
            .map(|p| p.sums[i] as f64 * ((p.largest[i] - largest) as f64).exp())
            .sum();
        loss += largest as f64 + sum.ln() - target_logits[i] as f64;
        if dh.is_empty() {
            continue;
        }
        let target = *target as usize;
        weight.rows(
            level,
            target..target + 1,
            0..hidden,
            &mut target_row,
            hidden,
        );
        let dh = &mut dh[i * hidden..(i + 1) * hidden];
        dh.iter_mut().zip(&target_row).for_each(|(d, w)| *d = -w);
        for p in partials {
            let share = (((p.largest[i] - largest) as f64).exp() / sum) as f32;
            let weighted = &p.weighted[i * hidden..(i + 1) * hidden];
            dh.iter_mut()
                .zip(weighted)
                .for_each(|(d, w)| *d += share * w);
        }
    }
    loss
}

struct Scratch {
    natural: Vec<f32>,
    panel: Vec<f32>,
    logits: Vec<f32>,
    hidden: usize,
}

impl Scratch {
    fn new(level: Level, rows: usize, hidden: usize) -> Scratch {
        Scratch {
            natural: output(ENTRIES * hidden),
            panel: output(3 * level.lanes() * DEPTH),
            logits: output(rows * ENTRIES),
            hidden,
        }
    }

    /// Converts entries `start..start + count` of W and computes their logits for every row of h.
    fn tile(
        &mut self,
        level: Level,
        h: &[f32],
        weight: WeightView<'_>,
        start: usize,
        count: usize,
    ) {
        let (hidden, width) = (self.hidden, 3 * level.lanes());
        let rows = h.len() / hidden;
        weight.rows(
            level,
            start..start + count,
            0..hidden,
            &mut self.natural,
            hidden,
        );
        for first in (0..count).step_by(width) {
            let lanes = width.min(count - first);
            for from in (0..hidden).step_by(DEPTH) {
                let depth = DEPTH.min(hidden - from);
                transpose(
                    level,
                    &self.natural[first * hidden + from..],
                    hidden,
                    lanes,
                    depth,
                    &mut self.panel,
                    width,
                );
                let a = Strided::rows(&h[from..], hidden);
                let logits = self.logits[first..].as_mut_ptr();
                multiply(
                    level,
                    rows,
                    lanes,
                    depth,
                    a,
                    self.panel.as_ptr(),
                    width,
                    logits,
                    ENTRIES,
                    from > 0,
                );
            }
        }
    }
}
