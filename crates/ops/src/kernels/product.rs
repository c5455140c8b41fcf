//! C = A·W̃ + bias + L·R: packed rows against a frozen weight, a panel at a time.
//!
//! W̃ is Wᵀ in the forward pass and W in the backward pass; L·R is the adapter's low-rank term, always
//! f32. A task takes 48 lanes of C: it unpacks that panel of W̃ once ([depth][48] for each part, at most
//! [`MOST_STEPS`] words deep so that it stays in L2) and walks down the rows of A. A tile of C is
//! begun by its bias and its low-rank term and finished by the panel while it is still in L1.
//! Each weight is unpacked once a call (once per piece of rows where there are not two panels for each
//! thread), against 2·rows / 64 cycles of arithmetic on it in bf16: little at 512 rows, a quarter at
//! 64. Summation order depends on the shapes alone, so bits do not depend on the threads.

use super::Shared;
use super::dropout::Kept;
use super::scratch::scratch_slices;
use super::simd::Level;
use super::tile::{Piece, VECTORS, multiply_words};
use super::words::Words;
use rayon::prelude::*;
use std::ops::Range;

/// Words of a panel's depth: 192 KiB of a 1 MiB L2, beside the rows that stream by; three parts are
/// 576 KiB, for processors with AMX, whose L2 is 2 MiB.
const MOST_STEPS: usize = 1024;

/// Writes the panel of W̃ for some lanes and some of the depth, row stride `3·LANES`.
pub(crate) type Unpack<'a> = dyn Fn(Range<usize>, Range<usize>, &mut [f32]) + Sync + 'a;
/// Writes R `[rank][3·LANES]` for some lanes.
pub(crate) type Right<'a> = dyn Fn(Range<usize>, &mut [f32]) + Sync + 'a;

/// L·R, with L packed as [`super::row_groups`] packs f32.
pub(crate) struct LowRank<'a> {
    pub left: &'a [f32],
    pub rank: usize,
    pub right: &'a Right<'a>,
    /// Multiplies the term, element by element; the number is the mask's row of row 0.
    pub mask: Option<(Kept<'a>, usize)>,
}

/// One product; see the head of the file.
pub(crate) struct Product<'a> {
    pub level: Level,
    pub words: Words,
    pub rows: usize,
    pub depth: usize,
    pub lanes: usize,
    /// As [`super::row_groups`] packs it.
    pub a: &'a [f32],
    pub unpack: &'a Unpack<'a>,
    pub bias: Option<&'a [f32]>,
    pub low_rank: Option<LowRank<'a>>,
}

impl Product<'_> {
    /// Writes C `[rows, lanes]`.
    pub fn run(&self, c: &mut [f32]) {
        assert_eq!(c.len(), self.rows * self.lanes);
        let c = Shared(c.as_mut_ptr());
        let width = VECTORS * self.level.lanes();
        let (panels, groups) = (
            self.lanes.div_ceil(width),
            self.rows.div_ceil(self.level.lanes()),
        );
        // Rows are split too where threads outnumber panels.
        let wanted = (2 * rayon::current_num_threads()).div_ceil(panels.max(1));
        let per_piece = groups.div_ceil(wanted.clamp(1, groups.div_ceil(4).max(1)));
        let pieces = groups.div_ceil(per_piece.max(1));
        (0..panels * pieces)
            .into_par_iter()
            .with_max_len(1)
            .for_each(|task| {
                let (panel, piece) = (task / pieces, task % pieces);
                let lanes = panel * width..((panel + 1) * width).min(self.lanes);
                let groups = piece * per_piece..((piece + 1) * per_piece).min(groups);
                // SAFETY: C is as long as asserted, and tasks share no group of a panel.
                unsafe { self.task(lanes, groups, c) };
            });
    }

    /// # Safety
    /// C has all rows and lanes, and nobody else touches these.
    unsafe fn task(&self, lanes: Range<usize>, groups: Range<usize>, c: Shared) {
        let width = VECTORS * self.level.lanes();
        let (total, row) = (
            self.words.steps(self.depth),
            self.words.row_steps(self.depth),
        );
        // Blocks of equal size, a multiple of every NF4 block.
        let block = self.depth.div_ceil(total.div_ceil(MOST_STEPS).max(1));
        let block = block.next_multiple_of(2 * nf4::BLOCK_SIZE);
        let rank = self.low_rank.as_ref().map_or(0, |l| l.rank);
        let size = width * self.words.panel_steps(block.min(self.depth));
        scratch_slices([size, width * rank], |[panel, right]| {
            if let Some(low_rank) = &self.low_rank {
                (low_rank.right)(lanes.clone(), right);
            }
            for start in (0..self.depth).step_by(block) {
                let depth = start..(start + block).min(self.depth);
                let steps = self.words.steps(depth.len());
                (self.unpack)(lanes.clone(), depth.clone(), panel);
                for group in groups.clone() {
                    let first = group * self.level.lanes();
                    let mut piece = Piece {
                        rows: (self.rows - first).min(self.level.lanes()),
                        lanes: lanes.len(),
                        steps,
                        c_row: self.lanes,
                        accumulate: start > 0,
                    };
                    // SAFETY: this task alone writes these rows × lanes of C, and the operands hold
                    // the steps and lanes that their layout says.
                    unsafe {
                        let c = c.at(first * self.lanes + lanes.start);
                        if start == 0 {
                            piece.accumulate = self.begin(group, &lanes, piece, right, c);
                        }
                        let at = (group * row + self.words.row_steps(start)) * self.level.lanes();
                        let words = self.words.row_steps(depth.len()) * self.level.lanes();
                        let a = self.a[at..at + words].as_ptr();
                        multiply_words(self.level, self.words, piece, a, panel.as_ptr(), c);
                    }
                }
            }
        });
    }

    /// Bias and low-rank term of a tile; whether there is any.
    ///
    /// # Safety
    /// `c` is the piece, untouched by others.
    unsafe fn begin(
        &self,
        group: usize,
        lanes: &Range<usize>,
        piece: Piece,
        right: &[f32],
        c: *mut f32,
    ) -> bool {
        let row = |i: usize| unsafe {
            std::slice::from_raw_parts_mut(c.add(i * self.lanes), lanes.len())
        };
        if let Some(bias) = self.bias {
            (0..piece.rows).for_each(|i| row(i).copy_from_slice(&bias[lanes.clone()]));
        }
        let Some(low_rank) = &self.low_rank else {
            return self.bias.is_some();
        };
        let size = low_rank.rank * self.level.lanes();
        let left = &low_rank.left[group * size..(group + 1) * size];
        let piece = Piece {
            steps: low_rank.rank,
            accumulate: self.bias.is_some(),
            ..piece
        };
        unsafe {
            let (left, right) = (left.as_ptr(), right.as_ptr());
            multiply_words(self.level, Words::F32, piece, left, right, c);
        }
        if let Some((kept, first_row)) = low_rank.mask {
            let first = first_row + group * self.level.lanes();
            for i in 0..piece.rows {
                kept.multiply(self.level, first + i, lanes.start, row(i));
            }
        }
        true
    }
}
