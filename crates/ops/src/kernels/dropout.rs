//! Which activations does dropout keep?
//!
//! A counter-based mask: element j of row i is kept by a hash of (seed, i, j) alone, so that a
//! recomputed layer and any thread see the same mask. The hash costs more than what it decides, so it
//! is drawn once, where x is first read; backward reads [`Kept`], a bit an element.

use super::simd::{Level, Simd, simd_dispatch};

/// Inverted dropout with probability `p`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability that an element is zeroed, 0 ≤ p < 1.
    pub p: f32,
    /// Key of the mask; give every layer and step its own.
    pub seed: u64,
}

impl Dropout {
    /// What element `(row, col)` is multiplied by: 0 or 1 / (1 − p).
    pub fn factor(&self, row: usize, col: usize) -> f32 {
        if hash(self.row_key(row), counter(col)) >= self.threshold() {
            self.scale()
        } else {
            0.0
        }
    }

    /// The bits of row `row`, for [`Kept`]; those beyond `columns` are zero.
    pub(crate) fn draw(&self, level: Level, row: usize, columns: usize, bits: &mut [u8]) {
        assert_eq!(bits.len(), Kept::stride(columns));
        draw(level, self.row_key(row), self.threshold(), columns, bits);
    }

    pub(crate) fn scale(&self) -> f32 {
        1.0 / (1.0 - self.p)
    }

    pub(crate) fn threshold(&self) -> u32 {
        (self.p as f64 * 4_294_967_296.0) as u32
    }

    /// SplitMix64 of the seed and the row.
    fn row_key(&self, row: usize) -> u32 {
        let mut z = self.seed
            ^ (row as u64)
                .wrapping_add(1)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as u32
    }
}

/// Which elements of a matrix were kept: a bit each, the first of a byte lowest, rows of whole bytes.
#[derive(Clone, Copy)]
pub(crate) struct Kept<'a> {
    bits: &'a [u8],
    stride: usize,
    scale: f32,
}

impl<'a> Kept<'a> {
    /// `bits` as [`Dropout::draw`] left them for rows of `columns`.
    pub fn new(dropout: Dropout, bits: &'a [u8], columns: usize) -> Self {
        Kept {
            bits,
            stride: Self::stride(columns),
            scale: dropout.scale(),
        }
    }

    /// Bytes of a row.
    pub fn stride(columns: usize) -> usize {
        columns.div_ceil(8)
    }

    /// `out[i][j] = values[i][j] · factor(row + i, col + j)` for `rows` rows of `columns`, which lie
    /// `from` floats apart and go `to` apart; `col` is a multiple of 8.
    pub fn apply(
        self,
        level: Level,
        [row, col]: [usize; 2],
        [rows, columns]: [usize; 2],
        (values, from): (&[f32], usize),
        (out, to): (&mut [f32], usize),
    ) {
        if rows == 0 {
            return;
        }
        assert!(values.len() >= (rows - 1) * from + columns);
        assert!(out.len() >= (rows - 1) * to + columns);
        let (values, out) = ((values.as_ptr(), from), (out.as_mut_ptr(), to));
        // SAFETY: both hold these rows, as asserted.
        unsafe { keep(level, self.grid([row, col], [rows, columns]), values, out) };
    }

    /// `values[i][j] *= factor(row + i, col + j)`, as [`apply`](Self::apply).
    ///
    /// # Safety
    /// These columns of these rows are there, and nobody else touches them.
    pub unsafe fn multiply(
        self,
        level: Level,
        at: [usize; 2],
        size: [usize; 2],
        values: *mut f32,
        stride: usize,
    ) {
        let values = (values, stride);
        // SAFETY: says the caller.
        unsafe { keep(level, self.grid(at, size), (values.0, stride), values) };
    }

    fn grid(self, [row, col]: [usize; 2], [rows, columns]: [usize; 2]) -> Grid<'a> {
        debug_assert!(col.is_multiple_of(8));
        let end = (row + rows) * self.stride;
        Grid {
            bits: &self.bits[row * self.stride + col / 8..end],
            stride: self.stride,
            scale: self.scale,
            rows,
            columns,
        }
    }
}

/// Some columns of some rows of [`Kept`].
#[derive(Clone, Copy)]
struct Grid<'a> {
    /// From the first row's first column on.
    bits: &'a [u8],
    stride: usize,
    scale: f32,
    rows: usize,
    columns: usize,
}

/// What a column adds to the counter.
const STEP: u32 = 0x9e37_79b9;

/// A 32-bit finaliser with low bias (Wellons' "lowbias32"), which vectorises.
#[inline(always)]
fn hash(key: u32, counter: u32) -> u32 {
    let mut h = key ^ counter;
    h = (h ^ (h >> 16)).wrapping_mul(0x7feb_352d);
    h = (h ^ (h >> 15)).wrapping_mul(0x846c_a68b);
    h ^ (h >> 16)
}

#[inline(always)]
fn counter(col: usize) -> u32 {
    (col as u32).wrapping_mul(STEP)
}

/// Elements of a loop's body: their counters are the first one's and a constant vector.
const BODY: usize = 16;

/// The counters of a body less the first one's.
const COUNTERS: [u32; BODY] = {
    let mut counters = [0; BODY];
    let mut i = 0;
    while i < BODY {
        counters[i] = STEP.wrapping_mul(i as u32);
        i += 1;
    }
    counters
};

simd_dispatch! {
    fn draw(key: u32, threshold: u32, columns: usize, bits: &mut [u8]) = draw_generic
}

#[inline(always)]
unsafe fn draw_generic<S: Simd>(key: u32, threshold: u32, columns: usize, bits: &mut [u8]) {
    let mut first = counter(0);
    let mut left = columns;
    for bits in bits.chunks_mut(BODY / 8) {
        let mut hashes = [0; BODY];
        // A plain loop of known length, which the compiler vectorises.
        for (h, counter) in hashes.iter_mut().zip(COUNTERS) {
            *h = hash(key, first.wrapping_add(counter));
        }
        // SAFETY: the caller has the instructions of S.
        let mut kept = unsafe { S::at_least_16(&hashes, threshold) };
        if left < BODY {
            kept &= (1 << left) - 1;
        }
        bits.copy_from_slice(&kept.to_le_bytes()[..bits.len()]);
        first = first.wrapping_add(counter(BODY));
        left = left.saturating_sub(BODY);
    }
}

simd_dispatch! {
    /// `out[i][j] = values[i][j]·scale` where its bit is set, else 0; the two may be one.
    ///
    /// # Safety
    /// The pointers, each with its row stride, are valid for the rows and columns; nobody else touches `out`.
    unsafe fn keep(grid: Grid<'_>, values: (*const f32, usize), out: (*mut f32, usize)) = keep_generic
}

#[inline(always)]
unsafe fn keep_generic<S: Simd>(
    grid: Grid<'_>,
    (values, from): (*const f32, usize),
    (out, to): (*mut f32, usize),
) {
    let (whole, bytes) = (grid.columns / BODY, grid.columns.div_ceil(8));
    for row in 0..grid.rows {
        let bits = &grid.bits[row * grid.stride..][..bytes];
        let (pairs, last) = bits.as_chunks::<2>();
        // SAFETY: says the caller.
        unsafe {
            let (values, out) = (values.add(row * from), out.add(row * to));
            for (i, bits) in pairs[..whole].iter().enumerate() {
                let (values, out) = (values.add(BODY * i), out.add(BODY * i));
                S::keep_16(u16::from_le_bytes(*bits), grid.scale, values, out);
            }
            // Less than a body.
            let rest = pairs[whole..].as_flattened().iter().chain(last);
            let mut at = BODY * whole;
            for bits in rest {
                for i in 0..(grid.columns - at).min(8) {
                    let kept = bits >> i & 1 != 0;
                    *out.add(at + i) = if kept {
                        *values.add(at + i) * grid.scale
                    } else {
                        0.0
                    };
                }
                at = (at + 8).min(grid.columns);
            }
        }
    }
}
