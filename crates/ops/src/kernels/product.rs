//! C = A·W̃ + bias + L·R: packed rows against a frozen weight, a panel at a time.
//!
//! W̃ is Wᵀ in the forward pass and W in the backward pass; L·R is the adapter's low-rank term, always
//! f32. A task takes a panel of W̃ (48 lanes; AMX: 32, mostly two of them): it unpacks it once
//! ([depth][lanes] for each part, at most [`MOST_STEPS`] words deep so that it stays in L2) and walks
//! down the rows of A. A piece of C is begun by its bias and its low-rank term and finished by the panel
//! while it is still in L1. Where C is a sum already (the gradient of an x that several linears read), all is
//! added to it.
//! Each weight is unpacked once a call (once per piece of rows where there are not two panels for each
//! thread), against 2·rows / 64 cycles of arithmetic on it in bf16: little at 512 rows, a quarter at
//! 64. Summation order depends on the shapes alone, so bits do not depend on the threads.

use super::Shared;
use super::add::add_rows;
use super::dropout::Kept;
use super::scratch::scratch_slices;
use super::simd::Level;
use super::tile::{Piece, VECTORS, multiply_words};
use super::words::Words;
use rayon::prelude::*;
use std::ops::Range;

/// Words of a panel's depth: 192 KiB of a 1 MiB L2, beside the rows that stream by; AMX's two of three
/// parts each are 768 KiB of 2 MiB.
const MOST_STEPS: usize = 1024;

/// Writes the panel of W̃ for some lanes and some of the depth, row stride [`Words::lanes`].
pub(crate) type Unpack<'a> = dyn Fn(Range<usize>, Range<usize>, &mut [f32]) + Sync + 'a;
/// Writes R `[rank][`[`LowRank::width`]`]` for some lanes.
pub(crate) type Right<'a> = dyn Fn(Range<usize>, &mut [f32]) + Sync + 'a;

/// L·R, with L packed as [`super::row_groups`] packs f32.
pub(crate) struct LowRank<'a> {
    pub left: &'a [f32],
    pub rank: usize,
    pub right: &'a Right<'a>,
    /// Multiplies the term, element by element; the number is the mask's row of row 0.
    pub mask: Option<(Kept<'a>, usize)>,
}

impl LowRank<'_> {
    /// Row stride of R.
    pub fn width(level: Level) -> usize {
        VECTORS * level.lanes()
    }
}

/// Which panels are unpacked together: each thread's share is as many strips of `together` as every
/// thread can have, then single ones; what is left of all comes last. rayon halves tasks as they stand,
/// so that halves last as long.
struct Strips {
    panels: usize,
    together: usize,
    threads: usize,
    /// Of a thread's share.
    strips: usize,
    singles: usize,
}

impl Strips {
    fn new(panels: usize, together: usize, threads: usize) -> Self {
        let strips = panels / (together * threads);
        Strips {
            panels,
            together,
            threads,
            strips,
            singles: panels / threads - strips * together,
        }
    }

    fn count(&self) -> usize {
        let shares = self.threads * (self.strips + self.singles);
        shares + self.panels % self.threads
    }

    fn get(&self, task: usize) -> Range<usize> {
        let tasks = self.strips + self.singles;
        let per_thread = self.panels / self.threads;
        if task >= tasks * self.threads {
            let last = per_thread * self.threads + (task - tasks * self.threads);
            return last..last + 1;
        }
        let (first, i) = (task / tasks * per_thread, task % tasks);
        let beyond = i.saturating_sub(self.strips);
        let first = first + i.min(self.strips) * self.together + beyond;
        let count = if i < self.strips { self.together } else { 1 };
        first..first + count
    }
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
    /// C holds values, to which the product is added.
    pub adds: bool,
    /// Of a product that does not add.
    pub bias: Option<&'a [f32]>,
    pub low_rank: Option<LowRank<'a>>,
}

impl Product<'_> {
    /// Writes C `[rows, lanes]`, or adds to it.
    pub fn run(&self, c: &mut [f32]) {
        assert_eq!(c.len(), self.rows * self.lanes);
        assert!(!self.adds || self.bias.is_none());
        let c = Shared(c.as_mut_ptr());
        let (height, width) = (self.words.rows(self.level), self.words.lanes(self.level));
        let (panels, threads) = (self.lanes.div_ceil(width), rayon::current_num_threads());
        let strips = Strips::new(panels, self.words.panels(), threads);
        let tasks = strips.count();
        // Rows are split too where threads outnumber tasks, into parts of four groups or more.
        let wanted = (2 * threads).div_ceil(tasks.max(1));
        let most = self.rows.div_ceil(4 * self.level.lanes()).max(1);
        let per_part = self.rows.div_ceil(wanted.clamp(1, most));
        let per_part = per_part.next_multiple_of(height).max(height);
        let parts = self.rows.div_ceil(per_part);
        (0..tasks * parts)
            .into_par_iter()
            .with_max_len(1)
            .for_each(|task| {
                let (panels, part) = (strips.get(task / parts), task % parts);
                let lanes = panels.start * width..(panels.end * width).min(self.lanes);
                let rows = part * per_part..((part + 1) * per_part).min(self.rows);
                // SAFETY: C is as long as asserted, and tasks share no row of a panel.
                unsafe { self.task(lanes, rows, c) };
            });
    }

    /// Some panels of some rows, which begin with a group.
    ///
    /// # Safety
    /// C has all rows and lanes, and nobody else touches these.
    unsafe fn task(&self, lanes: Range<usize>, rows: Range<usize>, c: Shared) {
        let (height, width) = (self.words.rows(self.level), self.words.lanes(self.level));
        let (total, row) = (
            self.words.steps(self.depth),
            self.words.row_steps(self.depth),
        );
        // Blocks of equal size, a multiple of every NF4 block.
        let block = self.depth.div_ceil(total.div_ceil(MOST_STEPS).max(1));
        let block = block.next_multiple_of(2 * nf4::BLOCK_SIZE);
        let rank = self.low_rank.as_ref().map_or(0, |l| l.rank);
        let size = width * self.words.panel_steps(block.min(self.depth));
        let right_size = LowRank::width(self.level) * rank;
        let panels = lanes.len().div_ceil(width);
        let sizes = [panels * size, right_size, height * self.masked_lanes()];
        scratch_slices(sizes, |[unpacked, right, masked]| {
            for start in (0..self.depth).step_by(block) {
                let depth = start..(start + block).min(self.depth);
                let words = self.words.row_steps(depth.len()) * self.level.lanes();
                (self.unpack)(lanes.clone(), depth.clone(), unpacked);
                let size = width * self.words.panel_steps(depth.len());
                for (first, panel) in lanes.clone().step_by(width).zip(unpacked.chunks(size)) {
                    let lanes = first..(first + width).min(lanes.end);
                    if let (Some(low_rank), 0) = (&self.low_rank, start) {
                        (low_rank.right)(lanes.clone(), right);
                    }
                    for first in rows.clone().step_by(height) {
                        let piece = Piece {
                            rows: (rows.end - first).min(height),
                            lanes: lanes.len(),
                            steps: self.words.steps(depth.len()),
                            a_group: row * self.level.lanes(),
                            b_row: width,
                            c_row: self.lanes,
                            accumulate: start > 0 || self.is_begun(),
                            streamed: true,
                        };
                        let at = first * row + self.words.row_steps(start) * self.level.lanes();
                        let last = (piece.rows.div_ceil(self.level.lanes()) - 1) * piece.a_group;
                        let (a, b) = (self.a[at..at + last + words].as_ptr(), panel.as_ptr());
                        // SAFETY: this task alone writes these rows × lanes of C, and the operands
                        // hold the steps and lanes that their layout says.
                        unsafe {
                            let c = c.at(first * self.lanes + lanes.start);
                            if start == 0 {
                                self.begin(first, &lanes, piece, right, masked, c);
                            }
                            multiply_words(self.level, self.words, piece, a, b, c);
                        }
                    }
                }
            }
        });
    }

    /// Whether there is anything in C after [`begin`](Self::begin).
    fn is_begun(&self) -> bool {
        self.adds || self.bias.is_some() || self.low_rank.is_some()
    }

    /// Row stride of a low-rank term that is masked before it is added to C; 0 where none is.
    fn masked_lanes(&self) -> usize {
        let is_masked = self.low_rank.as_ref().is_some_and(|l| l.mask.is_some());
        if self.adds && is_masked {
            self.words.lanes(self.level)
        } else {
            0
        }
    }

    /// Bias and low-rank term of a piece, row `first` and those below; `masked` is [`Self::masked_lanes`]
    /// wide and as high as a piece.
    ///
    /// # Safety
    /// `c` is the piece, untouched by others.
    unsafe fn begin(
        &self,
        first: usize,
        lanes: &Range<usize>,
        piece: Piece,
        right: &[f32],
        masked: &mut [f32],
        c: *mut f32,
    ) {
        if let Some(bias) = self.bias {
            for i in 0..piece.rows {
                // SAFETY: a row of the piece.
                let row =
                    unsafe { std::slice::from_raw_parts_mut(c.add(i * self.lanes), lanes.len()) };
                row.copy_from_slice(&bias[lanes.clone()]);
            }
        }
        let Some(low_rank) = &self.low_rank else {
            return;
        };
        let masked_lanes = self.masked_lanes();
        let (term, stride) = match masked_lanes {
            0 => (c, self.lanes),
            lanes => (masked.as_mut_ptr(), lanes),
        };
        let height = self.level.lanes();
        let left = low_rank.left[first * low_rank.rank..].chunks_exact(height * low_rank.rank);
        for (i, left) in (0..piece.rows).step_by(height).zip(left) {
            let piece = Piece {
                rows: (piece.rows - i).min(height),
                steps: low_rank.rank,
                b_row: LowRank::width(self.level),
                c_row: stride,
                accumulate: self.bias.is_some() || (self.adds && masked_lanes == 0),
                ..piece
            };
            // SAFETY: rows of the piece, and operands of `rank` steps.
            unsafe {
                let (term, words) = (term.add(i * stride), Words::F32);
                multiply_words(
                    self.level,
                    words,
                    piece,
                    left.as_ptr(),
                    right.as_ptr(),
                    term,
                );
            }
        }
        if let Some((kept, first_row)) = low_rank.mask {
            let (at, size) = ([first_row + first, lanes.start], [piece.rows, lanes.len()]);
            // SAFETY: the piece, or what was made of it in `masked`.
            unsafe { kept.multiply(self.level, at, size, term, stride) };
        }
        if masked_lanes > 0 {
            // SAFETY: the piece, and as many rows and lanes of `masked`.
            unsafe {
                let size = [piece.rows, lanes.len()];
                add_rows(self.level, (term, stride), size, (c, self.lanes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Strips;

    #[test]
    fn strips_cover_every_panel_once_and_halves_are_equal_where_they_can_be() {
        for threads in [1, 2, 3, 8] {
            for together in [1, 2, 4] {
                for panels in 0..70 {
                    let strips = Strips::new(panels, together, threads);
                    let tasks: Vec<_> = (0..strips.count()).map(|i| strips.get(i)).collect();
                    let covered: Vec<_> = tasks.iter().cloned().flatten().collect();
                    assert_eq!(covered, (0..panels).collect::<Vec<_>>());
                    assert!(tasks.iter().all(|t| [1, together].contains(&t.len())));
                    if panels % threads == 0 {
                        for share in tasks.chunks(tasks.len().div_ceil(threads).max(1)) {
                            let panels_of_it: usize = share.iter().map(|t| t.len()).sum();
                            assert_eq!(panels_of_it, panels / threads);
                        }
                    }
                }
            }
        }
    }
}
