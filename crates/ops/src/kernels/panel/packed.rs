//! Panels of a frozen weight, in the words and the layout that the tile reads: `[steps][width]`.
//!
//! Forward (xWᵀ) lanes run over output features and the depth over input features: words are made
//! along the rows of W, in pieces that stay in L1, and transposed. Backward (dy·W) lanes run over
//! input features and the depth over output features: rows are taken as they lie, or, as bf16
//! pairs, two by two. What has no fast way (blocks that straddle rows, odd widths, f16) becomes f32
//! first.

#[cfg(target_arch = "x86_64")]
use super::pairs::{Panels, Parts};
use super::{Source, WeightView, transpose};
#[cfg(target_arch = "x86_64")]
use crate::format::DenseDtype;
use crate::kernels::scratch::scratch_slices;
use crate::kernels::simd::Level;
#[cfg(target_arch = "x86_64")]
use crate::kernels::words::TILE_STEPS;
use crate::kernels::words::{Words, round_to_bf16};
use std::ops::Range;

/// Input features of a piece that is transposed at once: 48 rows of f32 are 24 KiB, of pairs 12 a part.
const PIECE: usize = 128;

impl WeightView<'_> {
    /// `out[s][i]` is word `s` along columns `cols` of row `rows.start + i`, lanes beyond are zero; where
    /// there are more rows than `width`, a panel for each `width` of them.
    pub(crate) fn panels_of_rows(
        &self,
        level: Level,
        words: Words,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
        width: usize,
    ) {
        let panels = out.chunks_mut(words.panel_steps(cols.len()) * width);
        for (first, out) in rows.clone().step_by(width).zip(panels) {
            let rows = first..(first + width).min(rows.end);
            self.panel_of_rows(level, words, rows, cols.clone(), out, width);
        }
    }

    fn panel_of_rows(
        &self,
        level: Level,
        words: Words,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
        width: usize,
    ) {
        if let Some((stored, row)) = self.stored(words, &rows, &cols) {
            let steps = words.steps(cols.len());
            return transpose(level, stored, row, rows.len(), steps, out, width);
        }
        let stride = words.steps(PIECE);
        scratch_slices([words.weight_parts() * rows.len() * stride], |[natural]| {
            for start in cols.clone().step_by(PIECE) {
                let piece = start..(start + PIECE).min(cols.end);
                let steps = words.steps(piece.len());
                self.row_words(level, words, rows.clone(), piece, natural, stride);
                let mut turn = |from: &[f32], step, steps| {
                    let out = &mut out[step * width..];
                    transpose(level, from, stride, rows.len(), steps, out, width);
                };
                let first = words.panel_steps(start - cols.start);
                if words.weight_parts() == 1 {
                    turn(natural, first, steps);
                    continue;
                }
                #[cfg(target_arch = "x86_64")]
                for step in (0..steps).step_by(TILE_STEPS) {
                    for (part, natural) in natural.chunks_exact(rows.len() * stride).enumerate() {
                        let to = first + step * words.weight_parts() + part * TILE_STEPS;
                        turn(&natural[step..], to, TILE_STEPS);
                    }
                }
            }
        });
    }

    /// The words as they lie in memory, and the stride of their rows, where they lie so.
    fn stored(
        &self,
        words: Words,
        rows: &Range<usize>,
        cols: &Range<usize>,
    ) -> Option<(&[f32], usize)> {
        let width = self.format.in_features;
        let first = rows.start * width + cols.start;
        match (words, self.source) {
            (Words::F32, Source::F32(values)) => Some((&values[first..], width)),
            #[cfg(target_arch = "x86_64")]
            (
                Words::Pairs | Words::Tiles | Words::Thirds,
                Source::Half(values, DenseDtype::BF16),
            ) if width.is_multiple_of(2)
                && cols.start.is_multiple_of(2)
                && words.steps(cols.len()) == cols.len().div_ceil(2) =>
            {
                let end = (rows.end - 1) * width + cols.end;
                let values = bytemuck::cast_slice(&values[first..end.next_multiple_of(2)]);
                Some((values, width / 2))
            }
            _ => None,
        }
    }

    /// Words along each row, row-major; part after part.
    pub(crate) fn row_words(
        &self,
        level: Level,
        words: Words,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
        stride: usize,
    ) {
        match words {
            Words::F32 => self.rows(level, rows, cols, out, stride),
            Words::Rounded => {
                self.rows(level, rows.clone(), cols.clone(), out, stride);
                for row in out.chunks_mut(stride).take(rows.len()) {
                    round_to_bf16(level, &mut row[..cols.len()]);
                }
            }
            #[cfg(target_arch = "x86_64")]
            Words::Pairs | Words::Tiles | Words::Thirds | Words::ThirdsOfBoth => {
                let steps = words.steps(cols.len());
                let parts = Parts {
                    count: words.weight_parts(),
                    stride: rows.len() * stride,
                };
                let whole_blocks = [self.format.in_features, cols.start, cols.len()]
                    .iter()
                    .all(|n| n.is_multiple_of(nf4::BLOCK_SIZE));
                for (i, row) in rows.enumerate() {
                    let out = &mut out[i * stride..][..parts.span(steps)];
                    match self.source {
                        Source::Nf4 {
                            codes,
                            scales,
                            dtype,
                        } if whole_blocks => {
                            let at = row * self.format.in_features + cols.start;
                            // SAFETY: these words exist where the level has AVX512-BF16; whole blocks.
                            unsafe { super::pairs::nf4_along(codes, scales, dtype, at, parts, out) }
                        }
                        _ => scratch_slices([cols.len()], |[values]| {
                            self.rows(level, row..row + 1, cols.clone(), values, cols.len());
                            // SAFETY: these words exist where the level has AVX512-BF16.
                            unsafe { super::pairs::pair_along(values, parts, out) }
                        }),
                    }
                }
            }
        }
    }

    /// `out[s][j]` is word `s` along rows `rows` of column `cols.start + j`, lanes beyond are not
    /// written; where there are more columns than `width`, a panel for each `width` of them.
    pub(crate) fn panels_of_columns(
        &self,
        level: Level,
        words: Words,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
        width: usize,
    ) {
        let size = words.panel_steps(rows.len()) * width;
        match words {
            Words::F32 | Words::Rounded => {
                let panels = out.chunks_mut(size);
                for (first, out) in cols.clone().step_by(width).zip(panels) {
                    let cols = first..(first + width).min(cols.end);
                    self.rows(level, rows.clone(), cols.clone(), out, width);
                    if words == Words::Rounded {
                        for row in out.chunks_mut(width).take(rows.len()) {
                            round_to_bf16(level, &mut row[..cols.len()]);
                        }
                    }
                }
            }
            #[cfg(target_arch = "x86_64")]
            Words::Pairs | Words::Tiles | Words::Thirds | Words::ThirdsOfBoth => {
                let parts = Parts {
                    count: words.weight_parts(),
                    stride: TILE_STEPS * width,
                };
                let panels = Panels {
                    lanes: width,
                    next: size,
                };
                let place = |step: usize| match parts.count {
                    1 => step * width,
                    count => (step / TILE_STEPS * count * TILE_STEPS + step % TILE_STEPS) * width,
                };
                for (step, row) in rows.clone().step_by(2).enumerate() {
                    let lower = (row + 1 < rows.end).then_some(row + 1);
                    let out = &mut out[place(step)..];
                    self.row_pair(level, row, lower, cols.clone(), (parts, panels), out);
                }
                for out in out.chunks_mut(size).take(cols.len().div_ceil(width)) {
                    for step in rows.len().div_ceil(2)..words.steps(rows.len()) {
                        for part in 0..parts.count {
                            out[place(step) + part * parts.stride..][..width].fill(0.0);
                        }
                    }
                }
            }
        }
    }

    /// Columns `cols` of two rows, or of one above zeros, as pairs.
    #[cfg(target_arch = "x86_64")]
    fn row_pair(
        &self,
        level: Level,
        upper: usize,
        lower: Option<usize>,
        cols: Range<usize>,
        (parts, panels): (Parts, Panels),
        out: &mut [f32],
    ) {
        let width = self.format.in_features;
        let at = |row: usize| row * width + cols.start;
        let aligned = width.is_multiple_of(nf4::BLOCK_SIZE)
            && [cols.start, cols.len()]
                .iter()
                .all(|n| n.is_multiple_of(16));
        if let (
            Source::Nf4 {
                codes,
                scales,
                dtype,
            },
            Some(lower),
            true,
        ) = (self.source, lower, aligned)
        {
            let (starts, count) = ([at(upper), at(lower)], cols.len());
            // SAFETY: these words exist where the level has AVX512-BF16; multiples of 16.
            unsafe {
                super::pairs::nf4_across(codes, scales, dtype, starts, count, (parts, panels), out)
            };
            return;
        }
        for (i, first) in cols.clone().step_by(panels.lanes).enumerate() {
            let cols = first..(first + panels.lanes).min(cols.end);
            let out = &mut out[i * panels.next..][..parts.span(cols.len())];
            // SAFETY: these words exist where the level has AVX512-BF16; the lengths are those of `cols`.
            match self.source {
                Source::Half(values, DenseDtype::BF16) => {
                    debug_assert_eq!(parts.count, 1, "bf16 is one part of itself");
                    let row = |row: usize| &values[row * width..][cols.clone()];
                    unsafe { super::pairs::pair_halves(row(upper), lower.map(row), out) }
                }
                _ => scratch_slices([cols.len(); 2], |[above, below]| {
                    self.rows(level, upper..upper + 1, cols.clone(), above, cols.len());
                    if let Some(lower) = lower {
                        self.rows(level, lower..lower + 1, cols.clone(), below, cols.len());
                    }
                    let below = lower.map(|_| &*below);
                    unsafe { super::pairs::pair_across(above, below, parts, out) }
                }),
            }
        }
    }
}
