//! Rows of a frozen weight as f32, a cache-sized piece at a time.
//!
//! NF4: sixteen codebook values are multiplied by the block's absmax and rounded to the weight's
//! dtype once for 64 elements, then looked up (one `vpermps` for 16 codes on AVX-512). Blocks that
//! straddle rows, odd columns and pieces that do not start on a block go the plain way.
//! `packed` makes of them the panels that a matmul reads, `pairs` those of bf16 pairs.

mod packed;
#[cfg(target_arch = "x86_64")]
pub(crate) mod pairs;

use super::simd::{Simd, simd_dispatch};
use crate::format::{DenseDtype, Encoding, WeightFormat};
#[cfg(target_arch = "x86_64")]
pub(crate) use pairs::{Parts, pair_along, pair_into_tiles, pair_rows};
use std::ops::Range;

/// A frozen weight on the host, read in place.
#[derive(Clone, Copy)]
pub struct WeightView<'a> {
    pub format: WeightFormat,
    pub(super) source: Source<'a>,
}

#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    Nf4 {
        codes: &'a [u8],
        scales: Scales<'a>,
        dtype: nf4::Dtype,
    },
    F32(&'a [f32]),
    Half(&'a [u16], DenseDtype),
}

#[derive(Clone, Copy)]
pub(super) enum Scales<'a> {
    Plain(&'a [f32]),
    Nested {
        codes: &'a [u8],
        absmax: &'a [f32],
        map: &'a [f32],
        offset: f32,
    },
}

impl Scales<'_> {
    /// Whether there is a scale for each of `blocks` blocks.
    pub(super) fn cover(&self, blocks: usize) -> bool {
        match self {
            Scales::Plain(absmax) => absmax.len() >= blocks,
            Scales::Nested {
                codes, absmax, map, ..
            } => {
                codes.len() >= blocks
                    && absmax.len() * nf4::NESTED_BLOCK_SIZE >= blocks
                    && map.len() == 256
            }
        }
    }

    /// [`Scales::get`] without looking.
    ///
    /// # Safety
    /// The scales [`cover`](Scales::cover) more than `block` blocks.
    #[inline(always)]
    pub(super) unsafe fn get_unchecked(&self, block: usize) -> f32 {
        match self {
            // SAFETY: covered, says the caller.
            Scales::Plain(absmax) => unsafe { *absmax.get_unchecked(block) },
            Scales::Nested {
                codes,
                absmax,
                map,
                offset,
            } => unsafe {
                let value = *map.get_unchecked(*codes.get_unchecked(block) as usize);
                value * *absmax.get_unchecked(block / nf4::NESTED_BLOCK_SIZE) + offset
            },
        }
    }

    /// [`Scales::get`] of the blocks from `first` on: a plain loop for all that share a nested scale.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn run(&self, first: usize, out: &mut [f32]) {
        match self {
            Scales::Plain(absmax) => out.copy_from_slice(&absmax[first..first + out.len()]),
            Scales::Nested {
                codes,
                absmax,
                map,
                offset,
            } => {
                let map: &[f32; 256] = (*map).try_into().expect("a value for each code");
                let (mut block, mut rest) = (first, out);
                while !rest.is_empty() {
                    let left = nf4::NESTED_BLOCK_SIZE - block % nf4::NESTED_BLOCK_SIZE;
                    let (part, after) = rest.split_at_mut(left.min(rest.len()));
                    let scale = absmax[block / nf4::NESTED_BLOCK_SIZE];
                    for (out, code) in part.iter_mut().zip(&codes[block..]) {
                        *out = map[*code as usize] * scale + offset;
                    }
                    (block, rest) = (block + part.len(), after);
                }
            }
        }
    }

    #[inline(always)]
    pub(super) fn get(&self, block: usize) -> f32 {
        match self {
            Scales::Plain(absmax) => absmax[block],
            Scales::Nested {
                codes,
                absmax,
                map,
                offset,
            } => map[codes[block] as usize] * absmax[block / nf4::NESTED_BLOCK_SIZE] + offset,
        }
    }
}

impl<'a> WeightView<'a> {
    /// Reads `words` as [`crate::format`] laid them out.
    pub fn new(words: &'a [u32], format: WeightFormat) -> Self {
        let elements = format.out_features * format.in_features;
        let source = match format.encoding {
            Encoding::Nf4 {
                dtype,
                nested_offset,
            } => {
                let blocks = elements.div_ceil(nf4::BLOCK_SIZE);
                let (codes, rest) = words.split_at(elements.div_ceil(2).div_ceil(4));
                let scales = match nested_offset {
                    None => Scales::Plain(bytemuck::cast_slice(&rest[..blocks])),
                    Some(offset) => {
                        let (codes, rest) = rest.split_at(blocks.div_ceil(4));
                        let (absmax, map) = rest.split_at(blocks.div_ceil(nf4::NESTED_BLOCK_SIZE));
                        Scales::Nested {
                            codes: bytemuck::cast_slice(codes),
                            absmax: bytemuck::cast_slice(absmax),
                            map: bytemuck::cast_slice(&map[..256]),
                            offset,
                        }
                    }
                };
                Source::Nf4 {
                    codes: bytemuck::cast_slice(codes),
                    scales,
                    dtype,
                }
            }
            Encoding::Dense(DenseDtype::F32) => Source::F32(bytemuck::cast_slice(words)),
            Encoding::Dense(dtype) => Source::Half(bytemuck::cast_slice(words), dtype),
        };
        WeightView { format, source }
    }

    /// Columns `cols` of the rows `rows`, row-major with row stride `stride`, into `out`.
    pub fn rows(
        &self,
        level: super::simd::Level,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
        stride: usize,
    ) {
        assert!(rows.end <= self.format.out_features && cols.end <= self.format.in_features);
        assert!(rows.is_empty() || out.len() >= (rows.len() - 1) * stride + cols.len());
        fill(level, *self, rows, cols, out, stride)
    }
}

simd_dispatch! {
    fn fill(view: WeightView<'_>, rows: Range<usize>, cols: Range<usize>, out: &mut [f32], stride: usize) = fill_generic
}

#[inline(always)]
pub(super) unsafe fn fill_generic<S: Simd>(
    view: WeightView<'_>,
    rows: Range<usize>,
    cols: Range<usize>,
    out: &mut [f32],
    stride: usize,
) {
    let width = view.format.in_features;
    for (i, row) in rows.enumerate() {
        let first = row * width + cols.start;
        let out = &mut out[i * stride..i * stride + cols.len()];
        match view.source {
            Source::Nf4 {
                codes,
                scales,
                dtype,
            } => unsafe { nf4_run::<S>(codes, scales, dtype, first, out) },
            Source::F32(values) => out.copy_from_slice(&values[first..first + cols.len()]),
            Source::Half(values, DenseDtype::F16) => {
                for (o, v) in out.iter_mut().zip(&values[first..first + cols.len()]) {
                    *o = half::f16::from_bits(*v).to_f32();
                }
            }
            Source::Half(values, _) => {
                for (o, v) in out.iter_mut().zip(&values[first..first + cols.len()]) {
                    *o = f32::from_bits((*v as u32) << 16);
                }
            }
        }
    }
}

/// The consecutive elements `first..first + out.len()` of the flat matrix.
#[inline(always)]
unsafe fn nf4_run<S: Simd>(
    codes: &[u8],
    scales: Scales<'_>,
    dtype: nf4::Dtype,
    first: usize,
    out: &mut [f32],
) {
    let mut done = 0;
    while done < out.len() {
        let at = first + done;
        let block = at / nf4::BLOCK_SIZE;
        let run = (nf4::BLOCK_SIZE - at % nf4::BLOCK_SIZE).min(out.len() - done);
        let absmax = scales.get(block);
        let piece = &mut out[done..done + run];
        done += run;
        if run == nf4::BLOCK_SIZE && dtype == nf4::Dtype::F32 {
            let codes = &codes[at / 2..at / 2 + nf4::BLOCK_SIZE / 2];
            // SAFETY: 32 code bytes, 64 values.
            unsafe { S::decode_64(absmax, codes.as_ptr(), piece.as_mut_ptr()) };
            continue;
        }
        // SAFETY: the instructions of `S`.
        let table = unsafe { table::<S>(absmax, dtype) };
        if run == nf4::BLOCK_SIZE {
            let codes = &codes[at / 2..at / 2 + nf4::BLOCK_SIZE / 2];
            // SAFETY: 32 code bytes, 64 values.
            unsafe { S::look_up_64(&table, codes.as_ptr(), piece.as_mut_ptr()) };
        } else if at.is_multiple_of(2) && run.is_multiple_of(8) {
            let codes = &codes[at / 2..(at + run) / 2];
            let (from, to) = (codes.as_ptr(), piece.as_mut_ptr());
            for j in 0..run / 16 {
                // SAFETY: 8 of the run's code bytes, 16 of its values.
                unsafe { S::look_up_16(&table, from.add(8 * j), to.add(16 * j)) };
            }
            if !run.is_multiple_of(16) {
                // SAFETY: its last 4 bytes and 8 values.
                unsafe { S::look_up_8(&table, from.add(run / 2 - 4), to.add(run - 8)) };
            }
        } else {
            for (j, o) in piece.iter_mut().enumerate() {
                let byte = codes[(at + j) / 2];
                *o = table[if (at + j).is_multiple_of(2) {
                    byte >> 4
                } else {
                    byte & 15
                } as usize];
            }
        }
    }
}

/// What each code means in a block with this absmax.
///
/// # Safety
/// The instructions of `S`.
#[inline(always)]
pub(crate) unsafe fn table<S: Simd>(absmax: f32, dtype: nf4::Dtype) -> [f32; 16] {
    let mut table = nf4::CODEBOOK;
    for values in table.chunks_exact_mut(S::LANES) {
        // Whole vectors: of single constants the compiler makes a negation here and a copy there.
        // SAFETY: as many values as lanes, of 8 or 16.
        unsafe {
            let product = S::mul(S::load(values.as_ptr()), S::splat(absmax));
            S::store(values.as_mut_ptr(), product);
        }
    }
    match dtype {
        nf4::Dtype::F32 => {}
        // As `nf4::Dtype::round`, here where it becomes five instructions; absmax is no NaN.
        nf4::Dtype::BF16 => {
            for v in &mut table {
                let bits = v.to_bits();
                *v = f32::from_bits(bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000);
            }
        }
        nf4::Dtype::F16 => dtype.round(&mut table),
    }
    table
}

simd_dispatch! {
    /// `out[p][i] = src[i][p]` for i < height, p < depth; lanes `height..width` are set to zero.
    pub fn transpose(src: &[f32], ld: usize, height: usize, depth: usize, out: &mut [f32], width: usize) = transpose_generic
}

#[inline(always)]
unsafe fn transpose_generic<S: Simd>(
    src: &[f32],
    ld: usize,
    height: usize,
    depth: usize,
    out: &mut [f32],
    width: usize,
) {
    let l = S::LANES;
    assert!(height <= width && out.len() >= depth * width);
    assert!(height == 0 || depth == 0 || src.len() >= (height - 1) * ld + depth);
    let (tall, deep) = (height / l * l, depth / l * l);
    for p in (0..deep).step_by(l) {
        for i in (0..tall).step_by(l) {
            // SAFETY: the l × l blocks lie inside the ranges asserted above.
            unsafe {
                S::transpose(
                    src.as_ptr().add(i * ld + p),
                    ld,
                    out.as_mut_ptr().add(p * width + i),
                    width,
                )
            };
        }
    }
    for p in 0..depth {
        let from = if p < deep { tall } else { 0 };
        for i in from..height {
            out[p * width + i] = src[i * ld + p];
        }
        out[p * width + height..(p + 1) * width].fill(0.0);
    }
}
