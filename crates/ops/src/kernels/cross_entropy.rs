//! Σ −log softmax(h·Wᵀ)[target] and its gradient in one pass over the vocabulary.
//!
//! dh = Σ_v p_v·W_v − W_target has the form of attention with W as keys and values, so it is
//! computed as flash attention is: logits of ≤ 256 rows × 192 vocabulary entries live in a scratch
//! tile, softmax is online, and Σ e^{l_v − max}·W_v is rescaled when the maximum grows. The
//! vocabulary is cut into a fixed number of splits (the tasks) whose partial results are merged in
//! order: each value of W is unpacked twice for 256 rows (transposed for the logits, as it lies for
//! the gradient) and no [rows, vocabulary] exists.
//! In bf16 h and W are rounded for the logits, e^{l − max} and W for the gradient; softmax, sums and
//! the target's row are f32.

use super::panel::WeightView;
use super::row_groups::pack;
use super::scratch::scratch_slices;
use super::simd::Level;
use super::softmax::softmax_row;
use super::tile::{Piece, multiply_words};
use super::words::Words;
use super::{Shared, unwritten};
use rayon::prelude::*;
use std::ops::Range;

/// Rows that share one pass over the vocabulary.
const ROWS: usize = 256;
/// Vocabulary entries of a tile: a multiple of every panel's width.
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
    assert_eq!(h.len(), targets.len() * hidden, "a target a row");
    let mut dh = match want_gradient {
        // SAFETY: every row has a target, and is written with it.
        true => unsafe { unwritten(h.len()) },
        false => Vec::new(),
    };
    let mut loss = 0.0;
    for (i, (h, targets)) in h
        .chunks(ROWS * hidden)
        .zip(targets.chunks(ROWS))
        .enumerate()
    {
        let at = i * ROWS * hidden;
        let dh = match want_gradient {
            true => &mut dh[at..at + h.len()],
            false => &mut [],
        };
        let head = Head {
            level,
            words: Words::for_weight(level, &weight.format),
            weight,
            targets,
        };
        loss += head.some_rows(h, dh);
    }
    (loss, dh)
}

/// The output projection and the rows that go through it together.
struct Head<'a> {
    level: Level,
    words: Words,
    weight: WeightView<'a>,
    targets: &'a [u32],
}

impl Head<'_> {
    fn some_rows(&self, h: &[f32], dh: &mut [f32]) -> f64 {
        let vocabulary = self.weight.format.out_features;
        let (rows, hidden) = (self.targets.len(), self.hidden());
        let lanes = self.level.lanes();
        let per_split = vocabulary.div_ceil(SPLITS).next_multiple_of(ENTRIES);
        let splits = vocabulary.div_ceil(per_split);
        let packed = rows.next_multiple_of(lanes) * self.words.row_steps(hidden);
        // Of each split and row: the largest logit and the sum of exponentials so far.
        let sizes = [packed, splits * dh.len(), splits * 2 * rows, rows];
        scratch_slices(sizes, |[packed, weighted, softmaxes, target_logits]| {
            let logits_at = Shared(target_logits.as_mut_ptr());
            packed
                .par_chunks_mut(lanes * self.words.row_steps(hidden))
                .zip(h.par_chunks(lanes * hidden))
                .for_each(|(packed, h)| pack(self.level, self.words, h, hidden, hidden, packed));
            let weighted_at = Shared(weighted.as_mut_ptr());
            softmaxes
                .par_chunks_exact_mut(2 * rows)
                .with_max_len(1)
                .enumerate()
                .for_each(|(split, softmax)| {
                    let entries = split * per_split..((split + 1) * per_split).min(vocabulary);
                    // SAFETY: each split has its own partial gradient and its own entries.
                    unsafe {
                        let weighted = weighted_at.slice(split * dh.len(), dh.len());
                        self.split(packed, entries, logits_at, weighted, softmax)
                    }
                });
            self.merge(softmaxes, target_logits, weighted, dh)
        })
    }

    /// Walks over some of the vocabulary: the softmax so far and Σ e^{l − max}·W.
    ///
    /// # Safety
    /// `target_logits` has a place for each target, and no other split has these entries.
    unsafe fn split(
        &self,
        h: &[f32],
        entries: Range<usize>,
        target_logits: Shared,
        weighted: &mut [f32],
        softmax: &mut [f32],
    ) {
        let (rows, hidden) = (self.targets.len(), self.hidden());
        let (largest, sums) = softmax.split_at_mut(rows);
        largest.fill(f32::NEG_INFINITY);
        sums.fill(0.0);
        scratch_slices([rows * ENTRIES], |[logits]| {
            for start in entries.clone().step_by(ENTRIES) {
                let tile = start..(start + ENTRIES).min(entries.end);
                self.logits(h, tile.clone(), logits);
                for (i, target) in self.targets.iter().enumerate() {
                    let logits = &mut logits[i * ENTRIES..i * ENTRIES + tile.len()];
                    if let Some(logit) = (*target as usize)
                        .checked_sub(start)
                        .and_then(|t| logits.get(t))
                    {
                        // SAFETY: a target lies in one tile only.
                        unsafe { *target_logits.at(i) = *logit };
                    }
                    let (largest, sum) = (&mut largest[i], &mut sums[i]);
                    let count = tile.len();
                    let rescale =
                        softmax_row(self.level, logits, 0, count, 1.0, None, largest, sum);
                    if rescale != 1.0 && start > entries.start && !weighted.is_empty() {
                        weighted[i * hidden..(i + 1) * hidden]
                            .iter_mut()
                            .for_each(|v| *v *= rescale);
                    }
                }
                if !weighted.is_empty() {
                    self.weigh(logits, tile, weighted, start > entries.start);
                }
            }
        });
    }

    /// h·Wᵀ for some entries, row stride `ENTRIES`.
    fn logits(&self, h: &[f32], entries: Range<usize>, logits: &mut [f32]) {
        let hidden = self.hidden();
        let (width, steps) = (self.words.lanes(self.level), self.words.steps(hidden));
        scratch_slices([width * self.words.panel_steps(hidden)], |[panel]| {
            for start in entries.clone().step_by(width) {
                let lanes = start..(start + width).min(entries.end);
                let (level, words) = (self.level, self.words);
                self.weight
                    .panels_of_rows(level, words, lanes.clone(), 0..hidden, panel, width);
                let c = &mut logits[start - entries.start..];
                self.groups(h, steps, panel, lanes.len(), c, ENTRIES, false);
            }
        });
    }

    /// weighted (+)= p·W for some entries; `p` has row stride `ENTRIES`.
    fn weigh(&self, p: &[f32], entries: Range<usize>, weighted: &mut [f32], accumulate: bool) {
        let (hidden, rows) = (self.hidden(), self.targets.len());
        let (lanes, steps) = (self.level.lanes(), self.words.steps(entries.len()));
        let width = self.words.lanes(self.level);
        let group = lanes * self.words.row_steps(entries.len());
        let packed = rows.div_ceil(lanes) * group;
        let size = width * self.words.panel_steps(entries.len());
        scratch_slices([packed, size], |[packed, panel]| {
            let groups = p[..rows * ENTRIES].chunks(lanes * ENTRIES);
            for (p, packed) in groups.zip(packed.chunks_exact_mut(group)) {
                pack(self.level, self.words, p, ENTRIES, entries.len(), packed);
            }
            for start in (0..hidden).step_by(width) {
                let lanes = start..(start + width).min(hidden);
                let (level, words) = (self.level, self.words);
                let rows = entries.clone();
                self.weight
                    .panels_of_columns(level, words, rows, lanes.clone(), panel, width);
                let c = &mut weighted[start..];
                self.groups(packed, steps, panel, lanes.len(), c, hidden, accumulate);
            }
        });
    }

    /// c (+)= a·panel for all rows.
    #[allow(clippy::too_many_arguments)]
    fn groups(
        &self,
        a: &[f32],
        steps: usize,
        panel: &[f32],
        lanes: usize,
        c: &mut [f32],
        c_row: usize,
        accumulate: bool,
    ) {
        let group = self.level.lanes() * self.words.parts() * steps;
        let (height, width) = (self.words.rows(self.level), self.words.lanes(self.level));
        let per_piece = height / self.level.lanes() * group;
        for (i, a) in a.chunks(per_piece).enumerate() {
            let first = i * height;
            let piece = Piece {
                rows: (self.targets.len() - first).min(height),
                lanes,
                steps,
                a_group: group,
                b_row: width,
                c_row,
                accumulate,
                streamed: true,
            };
            let c = &mut c[first * c_row..];
            assert!(a.len() >= piece.rows.div_ceil(self.level.lanes()) * group);
            assert!(panel.len() >= width * steps * self.words.weight_parts());
            assert!(c.len() >= (piece.rows - 1) * c_row + lanes);
            // SAFETY: the operands hold what the piece says.
            unsafe {
                let (a, b) = (a.as_ptr(), panel.as_ptr());
                multiply_words(self.level, self.words, piece, a, b, c.as_mut_ptr());
            }
        }
    }

    /// The loss, and dh where it is wanted, from the splits in order.
    fn merge(
        &self,
        softmaxes: &[f32],
        target_logits: &[f32],
        weighted: &[f32],
        dh: &mut [f32],
    ) -> f64 {
        let hidden = self.hidden();
        let rows = self.targets.len();
        // (largest, sum) of row i in each split, and over all of them.
        let splits = move |i: usize| {
            let of_split = move |s: &[f32]| (s[i], s[rows + i]);
            softmaxes.chunks_exact(2 * rows).map(of_split)
        };
        let total = |i: usize| -> (f32, f64) {
            let largest = splits(i).fold(f32::NEG_INFINITY, |a, (largest, _)| a.max(largest));
            let part = |(l, sum): (f32, f32)| sum as f64 * f64::from(l - largest).exp();
            (largest, splits(i).map(part).sum())
        };
        let elements = dh.len();
        dh.par_chunks_exact_mut(hidden)
            .zip(self.targets)
            .enumerate()
            .for_each(|(i, (dh, target))| {
                let target = *target as usize;
                self.weight
                    .rows(self.level, target..target + 1, 0..hidden, dh, hidden);
                dh.iter_mut().for_each(|d| *d = -*d);
                let (largest, sum) = total(i);
                for (s, (of_split, _)) in splits(i).enumerate() {
                    let share = (f64::from(of_split - largest).exp() / sum) as f32;
                    let weighted = &weighted[s * elements + i * hidden..][..hidden];
                    dh.iter_mut()
                        .zip(weighted)
                        .for_each(|(d, w)| *d += share * w);
                }
            });
        let loss = |(i, logit): (usize, &f32)| {
            let (largest, sum) = total(i);
            f64::from(largest) + sum.ln() - f64::from(*logit)
        };
        target_logits.iter().enumerate().map(loss).sum()
    }

    fn hidden(&self) -> usize {
        self.weight.format.in_features
    }
}
