//! The adapter's small products, all f32: u = drop(x)·Aᵀ, t = s·dy·B, dA = tᵀ·drop(x), dB = s·dyᵀ·u.
//!
//! u and t are made in the same pass that packs x and dy for the product with the weight, while
//! their rows are in L1. dA and dB run down strips of columns.

use super::dropout::Dropout;
use super::linear::LoraView;
use super::matmul::{Strided, multiply};
use super::panel::transpose;
use super::row_groups::pack;
use super::scratch::scratch_slices;
use super::simd::Level;
use super::words::Words;
use super::{Shared, output, prefetch};
use rayon::prelude::*;

/// Tokens that dA and dB sum in one pass: 48 lanes of that many f32 are 24 KiB, which stay in L1.
const DEPTH: usize = 128;

/// Rows projected onto `rank` directions: drop(x)·R·scaling.
#[derive(Clone, Copy)]
pub(crate) struct Projection<'a> {
    /// `[width][rank]`
    pub right: &'a [f32],
    pub rank: usize,
    pub scaling: f32,
    pub dropout: Option<Dropout>,
}

/// Where a projection goes: `[rows, rank]`, and the same packed as [`super::row_groups`] does.
pub(crate) struct Projected<'a> {
    pub rows: &'a mut [f32],
    pub packed: &'a mut [f32],
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
        let (rows, packed) = (to.rows.as_mut_ptr(), to.packed.as_mut_ptr());
        (projection, Shared(rows), Shared(packed))
    });
    packed
        .par_chunks_mut(words.row_steps(width) * lanes)
        .zip(x.par_chunks(lanes * width))
        .enumerate()
        .for_each(|(group, (packed, x))| {
            pack(level, words, x, width, width, packed);
            let Some((projection, to_rows, to_packed)) = projection else {
                return;
            };
            let (rows, rank) = (x.len() / width, projection.rank);
            let first = group * lanes;
            // SAFETY: each group writes its own rows of what was measured above.
            let (projected, packed) = unsafe {
                (
                    std::slice::from_raw_parts_mut(to_rows.at(first * rank), rows * rank),
                    std::slice::from_raw_parts_mut(to_packed.at(first * rank), lanes * rank),
                )
            };
            projection.project(level, x, width, first_row + first, projected);
            transpose(level, projected, rank, rows, rank, packed, lanes);
        });
}

impl Projection<'_> {
    /// All rows, nothing packed.
    pub fn all(&self, level: Level, x: &[f32], width: usize, out: &mut [f32]) {
        out.par_chunks_mut(level.lanes() * self.rank)
            .zip(x.par_chunks(level.lanes() * width))
            .enumerate()
            .for_each(|(i, (out, x))| self.project(level, x, width, i * level.lanes(), out));
    }

    /// `out` `[rows, rank]`
    fn project(&self, level: Level, x: &[f32], width: usize, first_row: usize, out: &mut [f32]) {
        let rows = x.len() / width;
        let product = |x: &[f32], out: &mut [f32]| {
            let a = Strided::rows(x, width);
            let (b, c) = (self.right.as_ptr(), out.as_mut_ptr());
            multiply(
                level, rows, self.rank, width, a, b, self.rank, c, self.rank, false,
            );
        };
        match self.dropout {
            None => product(x, out),
            Some(dropout) => scratch_slices([x.len()], |[dropped]| {
                let rows = x.chunks_exact(width).zip(dropped.chunks_exact_mut(width));
                for (i, (x, dropped)) in rows.enumerate() {
                    dropout.apply(level, first_row + i, 0, x, dropped);
                }
                product(dropped, out);
            }),
        }
        if self.scaling != 1.0 {
            out.iter_mut().for_each(|v| *v *= self.scaling);
        }
    }
}

/// u = drop(x)·Aᵀ `[rows, rank]`, nothing packed.
pub(crate) fn project(level: Level, x: &[f32], width: usize, lora: &LoraView<'_>) -> Vec<f32> {
    let mut u = output(x.len() / width * lora.rank);
    scratch_slices([width * lora.rank], |[right]| {
        transpose(level, lora.a, width, lora.rank, width, right, lora.rank);
        lora.onto_a(right).all(level, x, width, &mut u);
    });
    u
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
    lora: &LoraView<'_>,
) -> Vec<f32> {
    let (r, m) = (lora.rank, x.len() / k);
    let mut da = output(r * k);
    let target = Shared(da.as_mut_ptr());
    let width = 3 * level.lanes();
    strips(k, width, |lanes| {
        // SAFETY: this task alone writes these columns of dA.
        let tile = unsafe { target.at(lanes.start) };
        scratch_slices([width * DEPTH], |[strip]| {
            for start in (0..m).step_by(DEPTH) {
                let depth = DEPTH.min(m - start);
                let a = Strided::columns(&t[start * r..], r);
                let out = strip.chunks_exact_mut(width).take(depth);
                for (i, (row, out)) in rows_of_strip(x, k, start, &lanes).zip(out).enumerate() {
                    match lora.dropout {
                        None => out[..row.len()].copy_from_slice(row),
                        Some(dropout) => dropout.apply(level, start + i, lanes.start, row, out),
                    }
                }
                let (n, b, accumulate) = (lanes.len(), strip.as_ptr(), start > 0);
                multiply(level, r, n, depth, a, b, width, tile, k, accumulate);
            }
        });
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
    let (r, m) = (lora.rank, dy.len() / n);
    let mut db = output(n * r);
    let target = Shared(db.as_mut_ptr());
    let width = 3 * level.lanes();
    strips(n, width, |lanes| {
        scratch_slices([r * width, width * DEPTH], |[product, strip]| {
            let c = product.as_mut_ptr();
            for start in (0..m).step_by(DEPTH) {
                let a = Strided::columns(&u[start * r..], r);
                let depth = DEPTH.min(m - start);
                let out = strip.chunks_exact_mut(width).take(depth);
                for (row, out) in rows_of_strip(dy, n, start, &lanes).zip(out) {
                    out[..row.len()].copy_from_slice(row);
                }
                let (count, b, accumulate) = (lanes.len(), strip.as_ptr(), start > 0);
                multiply(level, r, count, depth, a, b, width, c, width, accumulate);
            }
            // SAFETY: this task alone writes these rows of dB.
            let rows = unsafe {
                std::slice::from_raw_parts_mut(target.at(lanes.start * r), lanes.len() * r)
            };
            for (i, row) in rows.chunks_exact_mut(r).enumerate() {
                for (j, v) in row.iter_mut().enumerate() {
                    *v = lora.scaling * product[j * width + i];
                }
            }
        });
    });
    db
}

/// Columns `lanes` of the rows from `first` on of x `[rows, width]`. Each row is asked for eight rows
/// before: three lines a row are no stream that the processor follows by itself.
fn rows_of_strip<'a>(
    x: &'a [f32],
    width: usize,
    first: usize,
    lanes: &std::ops::Range<usize>,
) -> impl Iterator<Item = &'a [f32]> + use<'a> {
    const AHEAD: usize = 8;
    let lanes = lanes.clone();
    x[first * width..].chunks_exact(width).map(move |row| {
        let later = row.as_ptr().wrapping_add(AHEAD * width + lanes.start);
        prefetch(later.cast(), 4 * lanes.len());
        &row[lanes.clone()]
    })
}

/// Runs `task` on each strip of `width` of the columns.
fn strips(columns: usize, width: usize, task: impl Fn(std::ops::Range<usize>) + Sync) {
    (0..columns.div_ceil(width))
        .into_par_iter()
        .with_max_len(1)
        .for_each(|i| task(i * width..((i + 1) * width).min(columns)));
}
