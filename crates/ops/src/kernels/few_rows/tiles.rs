//! Rows of W times a few rows of x on AMX: a tile of yᵀ is one of W times one of xᵀ.
//!
//! Layout: W lies along its rows in pairs of bf16, which is what the first operand of `tdpbf16ps`
//! wants, sixteen rows of 32 features; x lies as the second does ([`Layout`](super::layout)). So
//! weights are never turned, and a tile of them serves sixteen rows of x at once. Dense bf16 is loaded
//! from where it lies. Codes are unpacked into a ring of [`SLOTS`] blocks of 32 rows that stays in L1,
//! [`AHEAD`] of the product, because a tile cannot be loaded from stores that are still under way.
//! Whatever else W is becomes words in a buffer first, and so do dense rows that are no whole tile.
//! Register plan: 2 × 2 tiles of yᵀ (32 rows of W, 32 of x), two of W, two of xᵀ: four loads feed four
//! products. One row of x fills a sixteenth of what is multiplied, and costs no more: unpacking is the
//! limit up to sixteen rows of x, or memory, from where the next rows are asked for in time. A block
//! of 64 weights that lies in L2 takes 4.2 ns with one row and 6.1 with 32, where pairs in vectors
//! take 3.5 and 40; out of memory 6.1 and 8.3 where they take 5.7 and 44 (a Xeon of 2 cores, one
//! thread). One row alone would be better off there, but would then not have the bits of 32.
//! There unpacking takes 7 cycles a block and row (`vpermw` wants both vector ports, `vcvtne2ps2bf16` two
//! cycles) and one row's tiles 2.3, one after the other: loads of tiles between every eight rows that are
//! unpacked gained nothing, nor did asking for the next columns of dense rows, and copying those to whole
//! tiles lost half.
//!
//! Each (row of W, row of x) is summed in one order whatever the tile: of two equal tiles of the depth,
//! one after the other, each element depends on its row and column alone. The adapter's product and
//! the bias are added in f32. What [`multiply`] wants of its caller, every unsafe function here wants.

use super::layout::SIDE;
use super::packed::block_of_pairs;
use super::stored::{self, Codes};
use super::tile::Product;
use crate::format::DenseDtype;
use crate::kernels::amx;
use crate::kernels::panel::{Source, WeightView, transpose};
use crate::kernels::prefetch;
use crate::kernels::scratch::scratch_slices;
use crate::kernels::simd::{Avx512, Simd};
use crate::kernels::words::Words;
use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

/// Rows of W, and of x, that are multiplied together.
const ROWS: usize = 2 * SIDE;
/// Words of a tile.
const TILE: usize = SIDE * SIDE;
/// Words of a block of [`ROWS`] rows of codes.
const SLOT: usize = 4 * TILE;
const SLOTS: usize = 4;
/// Blocks that are unpacked before they are multiplied.
const AHEAD: usize = 2;

/// y of the rows `range` of W.
///
/// # Safety
/// The level has tiles. `range` lies in the weight, x is packed as `layout` says, there is b and u of the
/// adapter for both; y is valid for `range` and touched by no one else.
pub(super) unsafe fn multiply(weight: WeightView<'_>, range: Range<usize>, p: &Product<'_>) {
    let in_features = weight.format.in_features;
    let rank = p.low_rank.map_or(0, |low| low.rank);
    let (steps, blocks) = (p.layout.vectors * SIDE, in_features / nf4::BLOCK_SIZE);
    let codes = stored::codes(weight, &range);
    let halves = match weight.source {
        Source::Half(values, DenseDtype::BF16) if in_features.is_multiple_of(2 * SIDE) => {
            assert!(values.len() >= range.end * in_features);
            Some(values)
        }
        _ => None,
    };
    let (unpacked, scales) = match codes {
        Some(_) => (SLOTS * SLOT, ROWS * blocks),
        None => (ROWS * steps, 0),
    };
    let sizes = [unpacked, scales, 5 * TILE, rank * SIDE];
    scratch_slices(sizes, |[unpacked, scales, sums, b]| {
        for first in (0..p.layout.rows).step_by(ROWS) {
            let finish = Finish { p, first, sums, b };
            // SAFETY: says the caller; the buffers have the lengths that are wanted.
            unsafe {
                match codes {
                    Some(codes) => self::codes(codes, range.clone(), finish, unpacked, scales),
                    None => dense(weight, halves, range.clone(), finish, unpacked),
                }
            }
        }
    });
}

/// 4-bit rows of whole blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
unsafe fn codes(
    codes: Codes<'_>,
    range: Range<usize>,
    mut finish: Finish<'_>,
    ring: &mut [f32],
    scales: &mut [f32],
) {
    let blocks = codes.blocks;
    let total = range.len().div_ceil(ROWS) * blocks;
    let rows_at = |row: usize| ROWS.min(range.end - row);
    let (mut unpacked, mut multiplied) = ((range.start, 0), (range.start, 0));
    unsafe {
        amx::configure();
        let x = finish.x();
        for i in 0..total + AHEAD {
            if i < total {
                let (row, block) = unpacked;
                let rows = rows_at(row);
                if block == 0 {
                    codes.scales.run(row * blocks, &mut scales[..rows * blocks]);
                }
                let slot = ring.as_mut_ptr().add(i % SLOTS * SLOT);
                unpack(codes, row..row + rows, block, scales, slot);
                unpacked = next(unpacked, blocks);
            }
            if i >= AHEAD {
                let (row, block) = multiplied;
                let rows = rows_at(row);
                let wide = rows > SIDE;
                if block == 0 {
                    clear();
                }
                let slot = ring.as_ptr().add((i - AHEAD) % SLOTS * SLOT);
                for half in 0..2 {
                    let w = [slot.add(2 * half * TILE), slot.add((2 * half + 1) * TILE)];
                    x.step(wide, w, 4 * SIDE, 2 * block + half);
                }
                if block + 1 == blocks {
                    finish.rows(row, rows);
                }
                multiplied = next(multiplied, blocks);
            }
        }
    }
}

fn next((row, block): (usize, usize), blocks: usize) -> (usize, usize) {
    match block + 1 == blocks {
        true => (row + ROWS, 0),
        false => (row, block + 1),
    }
}

/// Block `block` of each of `rows` (at most [`ROWS`]): two tiles of its first half, two of the other.
#[inline(always)]
unsafe fn unpack(
    codes: Codes<'_>,
    rows: Range<usize>,
    block: usize,
    scales: &[f32],
    slot: *mut f32,
) {
    unsafe {
        let blocks = codes.blocks;
        let first = codes.codes.as_ptr().add((rows.start * blocks + block) * 32);
        let next = codes
            .codes
            .as_ptr()
            .wrapping_add((rows.end * blocks + block * ROWS) * 32);
        // Rows side by side are more streams than the processor follows by itself.
        prefetch(next, ROWS * 32);
        for r in 0..rows.len() {
            let absmax = *scales.get_unchecked(r * blocks + block);
            let pairs = block_of_pairs(absmax, first.add(r * blocks * 32), codes.dtype);
            _mm512_store_ps(slot.add(r * SIDE), pairs[0]);
            _mm512_store_ps(slot.add(2 * TILE + r * SIDE), pairs[1]);
        }
    }
}

/// Dense rows: `halves` where the weight's own values can be loaded.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
unsafe fn dense(
    weight: WeightView<'_>,
    halves: Option<&[u16]>,
    range: Range<usize>,
    mut finish: Finish<'_>,
    buffer: &mut [f32],
) {
    let in_features = weight.format.in_features;
    let layout = finish.p.layout;
    unsafe {
        amx::configure();
        let x = finish.x();
        for row in range.clone().step_by(ROWS) {
            let rows = ROWS.min(range.end - row);
            let direct = halves.filter(|_| rows.is_multiple_of(SIDE));
            let (w, stride) = match direct {
                Some(values) => {
                    let w = values.as_ptr().add(row * in_features);
                    (w.cast(), in_features / 2)
                }
                None => {
                    let stride = layout.vectors * SIDE;
                    weight.row_words(
                        finish.p.level,
                        Words::Tiles,
                        row..row + rows,
                        0..in_features,
                        buffer,
                        stride,
                    );
                    (buffer.as_ptr(), stride)
                }
            };
            let wide = rows > SIDE;
            clear();
            for v in 0..layout.vectors {
                let w = w.add(v * SIDE);
                if direct.is_some() {
                    // The next rows, a part of them with each step.
                    let next = w.wrapping_add(ROWS * stride + v * (ROWS - 1) * SIDE);
                    prefetch(next.cast(), ROWS * 4 * SIDE);
                }
                x.step(wide, [w, w.wrapping_add(SIDE * stride)], 4 * stride, v);
            }
            finish.rows(row, rows);
        }
    }
}

/// Up to [`ROWS`] rows of xᵀ.
#[derive(Clone, Copy)]
struct Columns {
    /// The first tile of each sixteen.
    tiles: [*const f32; 2],
    wide: bool,
}

macro_rules! load {
    ($tile:literal, $pointer:expr, $row:expr) => {
        asm!(concat!("tileloadd ", $tile, ", [{pointer} + {row}]"),
            pointer = in(reg) $pointer, row = in(reg) $row,
            options(readonly, nostack, preserves_flags))
    };
}

macro_rules! add_product {
    ($tiles:literal) => {
        asm!(
            concat!("tdpbf16ps ", $tiles),
            options(nomem, nostack, preserves_flags)
        )
    };
}

impl Columns {
    /// Adds the product of a tile of W, or two, `row` bytes from row to row, with vector `vector` of x.
    ///
    /// # Safety
    /// The tiles are configured, and W is there.
    #[inline(always)]
    unsafe fn step(&self, wide: bool, w: [*const f32; 2], row: usize, vector: usize) {
        let x = self.tiles.map(|x| x.wrapping_add(vector * TILE));
        unsafe {
            load!("tmm4", w[0], row);
            load!("tmm6", x[0], 4 * SIDE);
            add_product!("tmm0, tmm4, tmm6");
            if wide {
                load!("tmm5", w[1], row);
                add_product!("tmm1, tmm5, tmm6");
            }
            if self.wide {
                load!("tmm7", x[1], 4 * SIDE);
                add_product!("tmm2, tmm4, tmm7");
                if wide {
                    add_product!("tmm3, tmm5, tmm7");
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn clear() {
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            options(nomem, nostack, preserves_flags)
        );
    }
}

/// From tiles to y: rows `first..` of x.
struct Finish<'a> {
    p: &'a Product<'a>,
    first: usize,
    /// Four tiles, and one that is turned.
    sums: &'a mut [f32],
    /// Of the adapter, `[rank][SIDE]`.
    b: &'a mut [f32],
}

impl Finish<'_> {
    fn count(&self) -> usize {
        ROWS.min(self.p.layout.rows - self.first)
    }

    fn x(&self) -> Columns {
        let layout = self.p.layout;
        let wide = self.count() > SIDE;
        let second = self.first + if wide { SIDE } else { 0 };
        Columns {
            tiles: [self.first, second].map(|row| self.p.x[layout.tile_at(0, row)..].as_ptr()),
            wide,
        }
    }

    /// Rows `row..row + rows` of W.
    #[inline(always)]
    unsafe fn rows(&mut self, row: usize, rows: usize) {
        unsafe {
            asm!(
                "tilestored [{sums} + {row}], tmm0",
                "tilestored [{sums} + {row} + 1024], tmm1",
                "tilestored [{sums} + {row} + 2048], tmm2",
                "tilestored [{sums} + {row} + 3072], tmm3",
                sums = in(reg) self.sums.as_mut_ptr(),
                row = in(reg) 4 * SIDE,
                options(nostack, preserves_flags)
            );
            for (t, first) in (0..rows).step_by(SIDE).enumerate() {
                let outputs = row + first..row + rows.min(first + SIDE);
                if let Some(low) = self.p.low_rank {
                    let b = &low.b[outputs.start * low.rank..];
                    let (level, height) = (self.p.level, outputs.len());
                    transpose(level, b, low.rank, height, low.rank, self.b, SIDE);
                }
                for (n, i) in (0..self.count()).step_by(SIDE).enumerate() {
                    let x = self.first + i..self.first + self.count().min(i + SIDE);
                    self.tile(2 * n + t, outputs.clone(), x);
                }
            }
        }
    }

    /// The tile of these outputs and rows of x.
    #[inline(always)]
    unsafe fn tile(&mut self, tile: usize, outputs: Range<usize>, x: Range<usize>) {
        let p = self.p;
        unsafe {
            let (sums, turned) = self.sums.split_at_mut(4 * TILE);
            let sums = sums.as_ptr().add(tile * TILE);
            let few = x.len() <= 4;
            if !few {
                Avx512::transpose(sums, SIDE, turned.as_mut_ptr(), SIDE);
            }
            let column = _mm512_mullo_epi32(
                _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                _mm512_set1_epi32(SIDE as i32),
            );
            let lanes = u16::MAX >> (SIDE - outputs.len());
            let bias = match p.bias {
                Some(bias) => _mm512_maskz_loadu_ps(lanes, bias[outputs.clone()].as_ptr()),
                None => _mm512_setzero_ps(),
            };
            for first in x.clone().step_by(4) {
                let count = 4.min(x.end - first);
                let mut four = [_mm512_setzero_ps(); 4];
                for (i, sum) in four.iter_mut().enumerate().take(count) {
                    let row = first - x.start + i;
                    *sum = match few {
                        true => _mm512_i32gather_ps::<4>(column, sums.add(row)),
                        false => _mm512_load_ps(turned.as_ptr().add(row * SIDE)),
                    };
                }
                if let Some(low) = p.low_rank {
                    // A row that is not there is another one again.
                    let u = [0, 1, 2, 3].map(|i| {
                        let row = first + i.min(count - 1);
                        low.u.as_ptr().add(row * low.rank)
                    });
                    for (r, b) in self.b.chunks_exact(SIDE).enumerate() {
                        let b = _mm512_load_ps(b.as_ptr());
                        for (sum, u) in four.iter_mut().zip(u) {
                            *sum = _mm512_fmadd_ps(_mm512_set1_ps(*u.add(r)), b, *sum);
                        }
                    }
                }
                for (i, sum) in four.iter().enumerate().take(count) {
                    let y = p.y.wrapping_add((first + i) * p.y_row + outputs.start);
                    _mm512_mask_storeu_ps(y, lanes, _mm512_add_ps(*sum, bias));
                }
            }
        }
    }
}
