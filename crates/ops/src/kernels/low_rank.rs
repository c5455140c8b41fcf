//! The adapter's small products, all f32: u = drop(x)·Aᵀ, t = s·dy·B, dA = tᵀ·drop(x), dB = s·dyᵀ·u.
//!
//! u and t are made in the same pass that packs x and dy for the product with the weight, while
//! their rows are in L1. dA and dB run down bands of columns.

use super::copy_rows::copy_rows;
use super::dropout::{Dropout, Kept};
use super::linear::LoraView;
use super::matmul::{Strided, multiply};
use super::panel::transpose;
use super::row_groups::pack;
use super::scratch::scratch_slices;
use super::simd::Level;
use super::words::Words;
use super::{Shared, prefetch, unwritten};
use rayon::prelude::*;
use std::ops::Range;

/// Tokens that dA and dB sum in one pass: 48 lanes of that many f32 are 24 KiB, which stay in L1.
const DEPTH: usize = 128;
/// Strips of 48 lanes that are read together: 72 KiB are packed at a time, which stay in L2.
const STRIPS: usize = 3;
/// Rows that are packed at once, while as many of the next are asked for.
const AT_ONCE: usize = 8;

/// Rows projected onto `rank` directions: drop(x)·R·scaling.
#[derive(Clone, Copy)]
pub(crate) struct Projection<'a> {
    /// `[width][rank]`
    pub right: &'a [f32],
    pub rank: usize,
    pub scaling: f32,
    pub dropout: Option<Dropout>,
}

/// Where a projection goes: `[rows, rank]`, the same packed as [`super::row_groups`] does, and which
/// elements of x the dropout kept ([`Kept`]).
pub(crate) struct Projected<'a> {
    pub rows: &'a mut [f32],
    pub packed: &'a mut [f32],
    pub kept: &'a mut [u8],
}

/// Packs x `[rows, width]` into `packed` and projects it. `first_row` is the dropout's row of row 0.
pub(crate) fn pack_and_project(
    level: Level,
    words: Words,
    x: &[f32],
    width: usize,
    first_row: usize,
    packed: &mut [f32],
    projection: Option<(Projection<'_>, Projected<'_>)>,
) {
    let lanes = level.lanes();
    let projection = projection.map(|(projection, to)| {
        let groups = packed.len() / (words.row_steps(width) * lanes);
        assert_eq!(to.rows.len(), x.len() / width * projection.rank);
        assert_eq!(to.packed.len(), groups * lanes * projection.rank);
        let stride = projection.mask_stride(width);
        assert_eq!(to.kept.len(), x.len() / width * stride);
        let (rows, packed) = (to.rows.as_mut_ptr(), to.packed.as_mut_ptr());
        let kept = to.kept.as_mut_ptr();
        (
            projection,
            stride,
            Shared(rows),
            Shared(packed),
            Shared(kept),
        )
    });
    packed
        .par_chunks_mut(words.row_steps(width) * lanes)
        .zip(x.par_chunks(lanes * width))
        .enumerate()
        .for_each(|(group, (packed, x))| {
            pack(level, words, x, width, width, packed);
            let Some((projection, stride, to_rows, to_packed, to_kept)) = projection else {
                return;
            };
            let (rows, rank) = (x.len() / width, projection.rank);
            let first = group * lanes;
            // SAFETY: each group writes its own rows of what was measured above.
            let (projected, packed, kept) = unsafe {
                (
                    to_rows.slice(first * rank, rows * rank),
                    to_packed.slice(first * rank, lanes * rank),
                    to_kept.slice(first * stride, rows * stride),
                )
            };
            projection.project(level, x, width, first_row + first, projected, kept);
            transpose(level, projected, rank, rows, rank, packed, lanes);
        });
}

impl Projection<'_> {
    /// Bytes of a row of [`Kept`]; none without dropout.
    pub fn mask_stride(&self, width: usize) -> usize {
        self.dropout.map_or(0, |_| Kept::stride(width))
    }

    /// All rows, nothing packed; `kept` as in [`Projected`].
    pub fn all(&self, level: Level, x: &[f32], width: usize, out: &mut [f32], kept: &mut [u8]) {
        let stride = self.mask_stride(width);
        assert_eq!(kept.len(), x.len() / width * stride);
        let kept = Shared(kept.as_mut_ptr());
        out.par_chunks_mut(level.lanes() * self.rank)
            .zip(x.par_chunks(level.lanes() * width))
            .enumerate()
            .for_each(|(i, (out, x))| {
                let (first, rows) = (i * level.lanes(), x.len() / width);
                // SAFETY: each task writes its own rows of what was measured above.
                let kept = unsafe { kept.slice(first * stride, rows * stride) };
                self.project(level, x, width, first, out, kept)
            });
    }

    /// `out` `[rows, rank]`
    fn project(
        &self,
        level: Level,
        x: &[f32],
        width: usize,
        first_row: usize,
        out: &mut [f32],
        kept: &mut [u8],
    ) {
        let rows = x.len() / width;
        assert!(self.right.len() >= width * self.rank && out.len() >= rows * self.rank);
        let product = |x: &[f32], out: &mut [f32]| {
            let a = Strided::rows(x, width);
            let (b, c) = (self.right.as_ptr(), out.as_mut_ptr());
            let rank = self.rank;
            // SAFETY: x holds the rows, the others were asserted to.
            unsafe { multiply(level, rows, rank, width, a, b, rank, c, rank, false) };
        };
        match self.dropout {
            None => product(x, out),
            Some(dropout) => scratch_slices([x.len()], |[dropped]| {
                let bits = kept.chunks_exact_mut(Kept::stride(width));
                for (i, bits) in bits.enumerate() {
                    dropout.draw(level, first_row + i, width, bits);
                }
                let kept = Kept::new(dropout, kept, width);
                let to = (&mut *dropped, width);
                kept.apply(level, [0, 0], [rows, width], (x, width), to);
                product(dropped, out);
            }),
        }
        if self.scaling != 1.0 {
            out.iter_mut().for_each(|v| *v *= self.scaling);
        }
    }
}

/// u = drop(x)·Aᵀ `[rows, rank]`, nothing packed, and which elements were kept.
pub(crate) fn project(
    level: Level,
    x: &[f32],
    width: usize,
    lora: &LoraView<'_>,
) -> (Vec<f32>, Vec<u8>) {
    // SAFETY: `all` writes all rows.
    let mut u = unsafe { unwritten(x.len() / width * lora.rank) };
    let mut kept = lora.mask(x.len() / width, width);
    scratch_slices([width * lora.rank], |[right]| {
        transpose(level, lora.a, width, lora.rank, width, right, lora.rank);
        lora.onto_a(right).all(level, x, width, &mut u, &mut kept);
    });
    (u, kept)
}

impl<'a> LoraView<'a> {
    /// u = drop(x)·Aᵀ, given Aᵀ.
    pub(crate) fn onto_a(&self, transposed: &'a [f32]) -> Projection<'a> {
        Projection {
            right: transposed,
            rank: self.rank,
            scaling: 1.0,
            dropout: self.dropout,
        }
    }

    /// Room for the bits of [`Kept`] of x `[rows, width]`; none without dropout.
    pub(crate) fn mask(&self, rows: usize, width: usize) -> Vec<u8> {
        vec![0; self.dropout.map_or(0, |_| rows * Kept::stride(width))]
    }

    /// What of x `[_, width]` was kept, of the bits that the forward pass left; `None` without dropout.
    pub(crate) fn kept<'k>(&self, bits: &'k [u8], width: usize) -> Option<Kept<'k>> {
        self.dropout.map(|dropout| Kept::new(dropout, bits, width))
    }

    /// t = s·dy·B
    pub(crate) fn onto_b(&self) -> Projection<'a> {
        Projection {
            right: self.b,
            rank: self.rank,
            scaling: self.scaling,
            dropout: None,
        }
    }
}

/// dA = tᵀ·drop(x), `[rank, in]`
pub(crate) fn gradient_of_a(
    level: Level,
    x: &[f32],
    k: usize,
    t: &[f32],
    r: usize,
    kept: Option<Kept<'_>>,
) -> Vec<f32> {
    // SAFETY: bands have all columns.
    let mut da = unsafe { unwritten(r * k) };
    let target = Shared(da.as_mut_ptr());
    bands(level, k, |band| {
        // SAFETY: this task alone writes these columns of dA.
        unsafe {
            let columns = target.at(band.start);
            sum_over_rows(level, x, k, band, t, r, kept, columns, k);
        }
    });
    da
}

/// dB = s·dyᵀ·u, `[out, rank]`, computed as its transpose: lanes over `out`.
pub(crate) fn gradient_of_b(
    level: Level,
    dy: &[f32],
    n: usize,
    u: &[f32],
    lora: &LoraView<'_>,
) -> Vec<f32> {
    let r = lora.rank;
    // SAFETY: bands have all rows.
    let mut db = unsafe { unwritten(n * r) };
    let target = Shared(db.as_mut_ptr());
    bands(level, n, |band| {
        let width = band.len();
        scratch_slices([r * width], |[product]| {
            let c = product.as_mut_ptr();
            // SAFETY: the buffer is as large as the band.
            unsafe { sum_over_rows(level, dy, n, band.clone(), u, r, None, c, width) };
            // SAFETY: this task alone writes these rows of dB.
            let rows = unsafe { target.slice(band.start * r, width * r) };
            for (i, row) in rows.chunks_exact_mut(r).enumerate() {
                for (j, v) in row.iter_mut().enumerate() {
                    *v = lora.scaling * product[j * width + i];
                }
            }
        });
    });
    db
}

/// Runs `task` on each band of the columns: so many neighbours that a row of them is a stream which the
/// processor follows by itself.
fn bands(level: Level, columns: usize, task: impl Fn(Range<usize>) + Sync) {
    let width = STRIPS * 3 * level.lanes();
    (0..columns.div_ceil(width))
        .into_par_iter()
        .with_max_len(1)
        .for_each(|i| task(i * width..((i + 1) * width).min(columns)));
}

/// C `[r, band]` = leftᵀ·right, left `[rows, r]`, right `[rows, width]` or what of it was kept.
///
/// # Safety
/// C is there for `r` rows of the band, `c_row` floats apart, and nobody else touches it.
#[allow(clippy::too_many_arguments)]
unsafe fn sum_over_rows(
    level: Level,
    right: &[f32],
    width: usize,
    band: Range<usize>,
    left: &[f32],
    r: usize,
    kept: Option<Kept<'_>>,
    c: *mut f32,
    c_row: usize,
) {
    let (rows, strip) = (right.len() / width, 3 * level.lanes());
    assert!(left.len() >= rows * r && band.end <= width);
    let strips = band.len().div_ceil(strip);
    scratch_slices([strips * DEPTH * strip], |[packed]| {
        for start in (0..rows).step_by(DEPTH) {
            let depth = DEPTH.min(rows - start);
            for i in (0..depth).step_by(AT_ONCE) {
                let (row, count) = (start + i, AT_ONCE.min(depth - i));
                for ahead in 1..=count {
                    let later = right.as_ptr().wrapping_add((row + AT_ONCE + ahead) * width);
                    prefetch(later.wrapping_add(band.start).cast(), 4 * band.len());
                }
                for s in 0..strips {
                    let column = band.start + s * strip;
                    let size = [count, strip.min(band.end - column)];
                    let from = (&right[row * width + column..], width);
                    let to = (&mut packed[(s * DEPTH + i) * strip..], strip);
                    match kept {
                        Some(kept) => kept.apply(level, [row, column], size, from, to),
                        None => copy_rows(level, from.0, from.1, size, to.0, to.1),
                    }
                }
            }
            let a = Strided::columns(&left[start * r..], r);
            for (s, b) in packed.chunks_exact(DEPTH * strip).enumerate() {
                let lanes = strip.min(band.len() - s * strip);
                // SAFETY: `depth` rows of both operands, and the strip's lanes of C.
                unsafe {
                    let (b, c) = (b.as_ptr(), c.add(s * strip));
                    multiply(level, r, lanes, depth, a, b, strip, c, c_row, start > 0);
                }
            }
        }
    });
}
