//! Where do the words of a few rows of x lie, once each row is in its [`Order`]?
//!
//! Vectors: `[group][vector][row of the group][lane]`, groups of 8 rows. Tiles: `[group][vector]
//! [lane][row of the group]`, groups of 16 rows, because the other operand of `tdpbf16ps` has a step
//! of the depth in each of its rows. Where a group has fewer rows than sixteen the other columns hold
//! anything: they are columns of y that nobody reads. (Narrower groups would be smaller, but a tile
//! whose rows cross cache lines takes four to six times as long to load.)

use super::order::{BLOCK, Order, put_natural};
use crate::kernels::aligned::Aligned;
use crate::kernels::simd::Level;

/// Rows of x whose vectors lie side by side: what one tile reads is one stream.
pub(super) const GROUP: usize = 8;
/// Rows of x in a tile, and steps of the depth.
pub(super) const SIDE: usize = 16;

/// Packed rows of x.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub order: Order,
    pub rows: usize,
    /// Vectors of a row.
    pub vectors: usize,
}

impl Layout {
    /// Words of all rows.
    pub(crate) fn len(&self) -> usize {
        let rows = match self.order.tiled() {
            true => self.rows.next_multiple_of(SIDE),
            false => self.rows,
        };
        rows * self.vectors * self.order.lanes()
    }

    /// Where a vector of a row begins.
    #[inline(always)]
    pub(super) fn at(&self, vector: usize, row: usize) -> usize {
        debug_assert!(!self.order.tiled());
        let first = row / GROUP * GROUP;
        (first * self.vectors + vector * self.group(row) + row - first) * self.order.lanes()
    }

    /// Rows of the group that this row is in: from vector to vector of a row.
    #[inline(always)]
    pub(super) fn group(&self, row: usize) -> usize {
        GROUP.min(self.rows - row / GROUP * GROUP)
    }

    /// Where the steps of a vector of the group of row `row` begin, for tiles.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // tiles are AMX's
    #[inline(always)]
    pub(super) fn tile_at(&self, vector: usize, row: usize) -> usize {
        (row / SIDE * self.vectors + vector) * SIDE * SIDE
    }

    /// Puts features `first..` of every row, `[rows, width]`, among the words at `packed`.
    ///
    /// # Panics
    /// If `first` is not at the start of a block of 64, or an order that knows whole blocks alone
    /// is given less, or the features are more than a row has.
    ///
    /// # Safety
    /// `packed` must be valid for [`Layout::len`] words; no one else may touch the places of these.
    pub(crate) unsafe fn put(self, level: Level, values: &[f32], first: usize, packed: *mut f32) {
        let width = values.len() / self.rows.max(1);
        let per_vector = self.order.features();
        let vectors = first / per_vector..(first + width).div_ceil(per_vector);
        assert!(
            first.is_multiple_of(BLOCK) && values.len() == self.rows * width,
            "a block of each of the rows"
        );
        assert!(vectors.end <= self.vectors, "a feature beyond the row");
        let whole = per_vector * self.order.vectors_at_once();
        assert!(
            self.order.vectors_at_once() == 1 || width.is_multiple_of(whole),
            "whole blocks"
        );
        #[cfg(target_arch = "x86_64")]
        if self.order.tiled() {
            // SAFETY: such orders are chosen where the level has tiles, and AVX512-BF16 with them.
            return unsafe { tiles::put(self, level, values, width, vectors, packed) };
        }
        for (row, values) in values.chunks_exact(width.max(1)).enumerate() {
            let step = self.group(row) * self.order.lanes();
            // SAFETY: the vectors of this row that hold these features, as just seen.
            unsafe {
                let to = packed.add(self.at(vectors.start, row));
                put_vectors(level, self.order, values, to, step);
            }
        }
    }

    /// All of x, row-major, packed into `packed`.
    pub(crate) fn pack(self, level: Level, x: &[f32], packed: &mut Aligned) {
        packed.resize(self.len());
        // SAFETY: the buffer is ours and has this length.
        unsafe { self.put(level, x, 0, packed.as_mut_ptr()) };
    }
}

/// Features of one row in the vectors at `to`, which lie `step` words apart.
///
/// # Safety
/// Room for the vectors; whole runs of them where the order wants those.
unsafe fn put_vectors(level: Level, order: Order, values: &[f32], mut to: *mut f32, step: usize) {
    match order {
        Order::Natural { words, lanes } => {
            for values in values.chunks(order.features()) {
                // SAFETY: one vector.
                unsafe {
                    let to = std::slice::from_raw_parts_mut(to, lanes);
                    put_natural(level, words, values, to);
                }
                to = to.wrapping_add(step);
            }
        }
        // SAFETY: whole runs of vectors, says the caller, and each of these orders is chosen where the
        // level is that of its function.
        #[cfg(target_arch = "x86_64")]
        Order::Planes => unsafe { super::order::x86::planes(values, to, step) },
        #[cfg(target_arch = "x86_64")]
        Order::Nibbles => unsafe { super::order::x86::nibbles(values, to, step) },
        #[cfg(target_arch = "x86_64")]
        Order::NibblePairs | Order::NibbleTiles => unsafe {
            super::order::x86::nibble_pairs(values, to, step)
        },
        #[cfg(target_arch = "x86_64")]
        Order::Halves => unsafe { super::order::x86::halves(values, to, step) },
        #[cfg(not(target_arch = "x86_64"))]
        order => unreachable!("{order:?} is an order of x86"),
    }
}

#[cfg(target_arch = "x86_64")]
mod tiles {
    use super::*;
    use crate::kernels::simd::{Avx512, Simd};
    use std::arch::x86_64::*;
    use std::ops::Range;

    /// A run of vectors of sixteen rows, then of sixteen words the first of each row.
    #[repr(align(64))]
    struct Rows([f32; SIDE * 2 * SIDE]);

    /// Vectors `vectors` of every row: a run of a group's rows is put in order and turned.
    ///
    /// # Safety
    /// As [`Layout::put`], and the level has AVX512-BF16.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
    pub(super) unsafe fn put(
        layout: Layout,
        level: Level,
        values: &[f32],
        width: usize,
        vectors: Range<usize>,
        packed: *mut f32,
    ) {
        let (order, mut ordered, mut turned) = (
            layout.order,
            Rows([0.0; 2 * SIDE * SIDE]),
            Rows([0.0; 2 * SIDE * SIDE]),
        );
        let run = order.vectors_at_once();
        for first in (0..layout.rows).step_by(SIDE) {
            let rows = SIDE.min(layout.rows - first);
            for (r, vector) in vectors.clone().step_by(run).enumerate() {
                let features =
                    r * run * order.features()..width.min((r + 1) * run * order.features());
                for i in 0..rows {
                    let row = (first + i) * width;
                    let values = &values[row + features.start..row + features.end];
                    // SAFETY: a row of the buffer holds a run.
                    unsafe {
                        let to = ordered.0.as_mut_ptr().add(i * run * SIDE);
                        put_vectors(level, order, values, to, SIDE);
                    }
                }
                for v in 0..run {
                    // SAFETY: sixteen words of each row, and a tile.
                    unsafe {
                        let from = ordered.0.as_ptr().add(v * SIDE);
                        let to = packed.add(layout.tile_at(vector + v, first));
                        if rows == 1 {
                            (0..SIDE).for_each(|s| *to.add(s * SIDE) = *from.add(s));
                            continue;
                        }
                        Avx512::transpose(from, run * SIDE, turned.0.as_mut_ptr(), SIDE);
                        let words = u16::MAX >> (SIDE - rows);
                        for s in 0..SIDE {
                            let words_of_step = _mm512_load_ps(turned.0.as_ptr().add(s * SIDE));
                            _mm512_mask_storeu_ps(to.add(s * SIDE), words, words_of_step);
                        }
                    }
                }
            }
        }
    }
}
