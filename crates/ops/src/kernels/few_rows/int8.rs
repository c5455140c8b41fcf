//! A matrix in 8 bits, and its product with rows of x in 16: integers, half the bytes of bf16 and half the work.
//!
//! The product answers no question by itself: it is off by what rounding has cost, which is known of every row
//! ([`Rounded`]), and tells which rows of the real matrix are worth reading ([`crate::decoding`]).
//!
//! Layout: four rows lie together, `[block of 64 columns][row of the four][code]`, so that the four rows of a tile
//! are one stream through memory; x is row-major. Rows and columns are filled up with zeros.
//! Register plan (AVX2, also where there is AVX-512): 4 rows of W × 2 of x, eight sums, 16 codes widened to 16 bits,
//! two vectors of x. The limit is memory for a row or two of x, then `vpmaddwd`: 16 products, two of them a cycle.
//! NEON: 4 rows of W × 1 of x, two sums for each, `smlal`: 4 products.

use crate::kernels::simd::{Isa, Level, Simd, simd_dispatch};
use rayon::prelude::*;
use std::ops::Range;

/// Columns of a line.
const COLUMNS: usize = 64;
const TOGETHER: usize = Int8::TOGETHER;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([i8; COLUMNS]);

/// W `[rows, columns]` as codes.
pub(crate) struct Int8 {
    lines: Vec<Line>,
    /// Lines of a row.
    blocks: usize,
}

/// A few rows of x as codes of 16 bits.
pub(crate) struct Int16 {
    codes: Vec<i16>,
    /// Of each row.
    pub rounded: Vec<Rounded>,
}

/// What rounding made of a row v: codes c.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rounded {
    /// v ≈ scale·c
    pub scale: f32,
    /// |v|
    pub norm: f32,
    /// |v - scale·c|
    pub error: f32,
}

impl Int8 {
    /// Rows that lie together.
    pub(crate) const TOGETHER: usize = 4;

    /// Rounds `rows` rows of `columns` values, which `read` writes.
    pub(crate) fn round(
        level: Level,
        [rows, columns]: [usize; 2],
        read: impl Fn(usize, &mut [f32]) + Sync,
    ) -> (Int8, Vec<Rounded>) {
        let blocks = columns.div_ceil(COLUMNS);
        let mut rounded = vec![Rounded::default(); rows];
        let mut lines = vec![Line([0; COLUMNS]); rows.next_multiple_of(TOGETHER) * blocks];
        lines
            .par_chunks_mut(TOGETHER * blocks)
            .zip(rounded.par_chunks_mut(TOGETHER))
            .enumerate()
            .for_each_init(
                || [vec![0.0; blocks * COLUMNS], vec![0.0; blocks * COLUMNS]],
                |[values, codes], (four, (lines, rounded))| {
                    for (r, rounded) in rounded.iter_mut().enumerate() {
                        read(four * TOGETHER + r, &mut values[..columns]);
                        *rounded = round_row(level, values, 127.0, codes);
                        for (block, codes) in codes.chunks_exact(COLUMNS).enumerate() {
                            let line = &mut lines[block * TOGETHER + r].0;
                            for (to, code) in line.iter_mut().zip(codes) {
                                *to = *code as i8;
                            }
                        }
                    }
                },
            );
        (Int8 { lines, blocks }, rounded)
    }

    /// Rounds rows of x `[rows, columns]`, as finely as sums of `columns` products allow.
    pub(crate) fn round_x(&self, level: Level, x: &[f32], columns: usize) -> Int16 {
        let width = self.blocks * COLUMNS;
        // Each lane of a sum has one in eight of the products at most, all lanes together all of them.
        let largest = (i32::MAX as usize / (width * 127)).min(i16::MAX as usize);
        let (mut values, mut of_row) = (vec![0.0; width], vec![0.0; width]);
        let (mut codes, mut rounded) = (Vec::new(), Vec::new());
        for row in x.chunks_exact(columns) {
            values[..columns].copy_from_slice(row);
            rounded.push(round_row(level, &values, largest as f32, &mut of_row));
            codes.extend(of_row.iter().map(|code| *code as i16));
        }
        Int16 { codes, rounded }
    }

    /// Writes the sums of products of codes of the rows `range` with all rows of x to y `[rows of x, range]`.
    ///
    /// # Panics
    /// Unless `range` is whole groups of four rows (beyond the last row codes are zero), and y is as large.
    pub(crate) fn multiply(&self, level: Level, range: Range<usize>, x: &Int16, y: &mut [i32]) {
        let rows = x.rounded.len();
        assert!(range.start.is_multiple_of(TOGETHER) && range.end.is_multiple_of(TOGETHER));
        assert!(range.end * self.blocks <= self.lines.len());
        assert_eq!(x.codes.len(), rows * self.blocks * COLUMNS);
        assert_eq!(y.len(), rows * range.len());
        let lines = &self.lines[range.start * self.blocks..range.end * self.blocks];
        match level.isa() {
            Isa::Portable => portable(lines, self.blocks, &x.codes, y),
            // SAFETY: whole groups of lines, whole rows of x, and y as large.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => unsafe { aarch64::multiply(lines, self.blocks, &x.codes, y) },
            // SAFETY: these levels have AVX2; whole groups of lines, whole rows of x, and y as large.
            #[cfg(target_arch = "x86_64")]
            _ => unsafe { x86::multiply(lines, self.blocks, &x.codes, rows, y) },
        }
    }
}

fn portable(lines: &[Line], blocks: usize, x: &[i16], y: &mut [i32]) {
    let columns = lines.len() / blocks;
    for (x, y) in x
        .chunks_exact(blocks * COLUMNS)
        .zip(y.chunks_exact_mut(columns))
    {
        let fours = lines.chunks_exact(TOGETHER * blocks);
        for (lines, y) in fours.zip(y.chunks_exact_mut(TOGETHER)) {
            y.fill(0);
            for (lines, x) in lines.chunks_exact(TOGETHER).zip(x.chunks_exact(COLUMNS)) {
                for (line, sum) in lines.iter().zip(y.iter_mut()) {
                    let products = line
                        .0
                        .iter()
                        .zip(x)
                        .map(|(w, x)| i32::from(*w) * i32::from(*x));
                    *sum += products.sum::<i32>();
                }
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use super::*;
    use std::arch::aarch64::*;

    /// # Safety
    /// `lines` are whole groups of four rows, x `[rows, 64·blocks]`, y `[rows, lines.len() / blocks]`.
    pub(super) unsafe fn multiply(lines: &[Line], blocks: usize, x: &[i16], y: &mut [i32]) {
        const LANES: usize = 16;
        let columns = lines.len() / blocks;
        let rows = x.chunks_exact(blocks * COLUMNS);
        for (x, y) in rows.zip(y.chunks_exact_mut(columns)) {
            let fours = lines.chunks_exact(TOGETHER * blocks);
            for (lines, y) in fours.zip(y.chunks_exact_mut(TOGETHER)) {
                // SAFETY: 16 codes of a line and of x at a time, and four sums.
                unsafe {
                    super::super::stored::ask_ahead(lines.as_ptr().cast(), size_of_val(lines));
                    let mut sums = [[vdupq_n_s32(0); 2]; TOGETHER];
                    for (lines, x) in lines.chunks_exact(TOGETHER).zip(x.chunks_exact(COLUMNS)) {
                        for at in (0..COLUMNS).step_by(LANES) {
                            let x = [0, 8].map(|half| vld1q_s16(x.as_ptr().add(at + half)));
                            for (line, [even, odd]) in lines.iter().zip(&mut sums) {
                                let codes = vld1q_s8(line.0.as_ptr().add(at));
                                let codes = [vmovl_s8(vget_low_s8(codes)), vmovl_high_s8(codes)];
                                for (codes, x) in codes.into_iter().zip(x) {
                                    *even = vmlal_s16(*even, vget_low_s16(codes), vget_low_s16(x));
                                    *odd = vmlal_high_s16(*odd, codes, x);
                                }
                            }
                        }
                    }
                    let [a, b, c, d] = sums.map(|[even, odd]| vaddq_s32(even, odd));
                    let both = vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
                    vst1q_s32(y.as_mut_ptr(), both);
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::*;
    use std::arch::x86_64::*;

    /// # Safety
    /// AVX2; `lines` are whole groups of four rows, x `[rows, 64·blocks]`, y `[rows, lines.len() / blocks]`.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn multiply(
        lines: &[Line],
        blocks: usize,
        x: &[i16],
        rows: usize,
        y: &mut [i32],
    ) {
        let y_row = lines.len() / blocks;
        for (four, lines) in lines.chunks_exact(TOGETHER * blocks).enumerate() {
            unsafe {
                super::super::stored::ask_ahead(lines.as_ptr().cast(), size_of_val(lines));
                let mut i = 0;
                while i < rows {
                    let x = x.as_ptr().add(i * blocks * COLUMNS);
                    let y = y.as_mut_ptr().add(i * y_row + four * TOGETHER);
                    i += match rows - i {
                        1 => tile::<1>(lines, blocks, x, y, y_row),
                        _ => tile::<2>(lines, blocks, x, y, y_row),
                    };
                }
            }
        }
    }

    /// Four rows of W with `N` of x; returns `N`.
    #[inline(always)]
    unsafe fn tile<const N: usize>(
        lines: &[Line],
        blocks: usize,
        x: *const i16,
        y: *mut i32,
        y_row: usize,
    ) -> usize {
        const LANES: usize = 16;
        unsafe {
            let mut sums = [[_mm256_setzero_si256(); TOGETHER]; N];
            for block in 0..blocks {
                for v in 0..COLUMNS / LANES {
                    let mut of_x = [_mm256_setzero_si256(); N];
                    for (i, of_x) in of_x.iter_mut().enumerate() {
                        let x = x.add((i * blocks + block) * COLUMNS + v * LANES);
                        *of_x = _mm256_loadu_si256(x.cast());
                    }
                    for r in 0..TOGETHER {
                        let line = lines.as_ptr().add(block * TOGETHER + r).cast::<i8>();
                        let codes = _mm_load_si128(line.add(v * LANES).cast());
                        let codes = _mm256_cvtepi8_epi16(codes);
                        for (sums, x) in sums.iter_mut().zip(of_x) {
                            let products = _mm256_madd_epi16(codes, x);
                            sums[r] = _mm256_add_epi32(sums[r], products);
                        }
                    }
                }
            }
            for (i, s) in sums.iter().enumerate() {
                let (low, high) = (_mm256_hadd_epi32(s[0], s[1]), _mm256_hadd_epi32(s[2], s[3]));
                let both = _mm256_hadd_epi32(low, high);
                let (low, high) = (
                    _mm256_castsi256_si128(both),
                    _mm256_extracti128_si256::<1>(both),
                );
                _mm_storeu_si128(y.add(i * y_row).cast(), _mm_add_epi32(low, high));
            }
        }
        N
    }
}

simd_dispatch! {
    /// The codes of a row of whole lines, whole numbers up to `largest` either way.
    fn round_row(values: &[f32], largest: f32, codes: &mut [f32]) -> Rounded = round_row_generic
}

#[inline(always)]
unsafe fn round_row_generic<S: Simd>(values: &[f32], largest: f32, codes: &mut [f32]) -> Rounded {
    assert!(values.len() == codes.len() && values.len().is_multiple_of(COLUMNS));
    // SAFETY: whole vectors of both.
    unsafe {
        let zero = S::splat(0.0);
        let mut absmax = zero;
        for j in (0..values.len()).step_by(S::LANES) {
            let v = S::load(values.as_ptr().add(j));
            absmax = S::max(S::max(v, S::sub(zero, v)), absmax);
        }
        let absmax = S::largest(absmax);
        let (mut scale, mut inverse) = (absmax / largest, largest / absmax);
        if !inverse.is_finite() {
            (scale, inverse) = (0.0, 0.0); // all of the row is error
        }
        let (minus, inverse) = (S::splat(-scale), S::splat(inverse));
        let (mut squares, mut errors) = (zero, zero);
        for j in (0..values.len()).step_by(S::LANES) {
            let v = S::load(values.as_ptr().add(j));
            let code = S::round(S::mul(v, inverse));
            let error = S::fma(code, minus, v);
            squares = S::fma(v, v, squares);
            errors = S::fma(error, error, errors);
            S::store(codes.as_mut_ptr().add(j), code);
        }
        // A square below the smallest normal number is lost.
        let lost = values.len() as f32 * f32::MIN_POSITIVE;
        Rounded {
            scale,
            norm: (S::sum(squares) + lost).sqrt(),
            error: (S::sum(errors) + lost).sqrt(),
        }
    }
}
