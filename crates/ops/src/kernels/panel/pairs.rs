//! Pairs of bf16 out of a weight, with AVX512-BF16: what `vdpbf16ps` reads.
//!
//! NF4: the codebook times the block's absmax, rounded to bf16, is a table of sixteen 16-bit
//! entries; one `vpermw` looks 32 codes up. Along a row the pairs are neighbours in memory: both
//! halves of the register hold the row's table. Across two rows (the depth of the backward pass)
//! the low half holds the upper row's table and the high half the lower row's, and bit 4 of each
//! index chooses, so that the pairs come out of the look-up as they are wanted.
//! No closures here: they would be compiled, and called, without these instructions' registers.

use super::{Scales, table};
use crate::kernels::simd::Avx512;
use std::arch::x86_64::*;

/// How many bf16 add up to one value, and how many words on each next one's lie.
#[derive(Clone, Copy)]
pub(crate) struct Parts {
    pub count: usize,
    pub stride: usize,
}

impl Parts {
    /// The values rounded, and no more.
    pub const ONE: Parts = Parts {
        count: 1,
        stride: 0,
    };

    /// Words from the first of the first part to the end of the last, each having `words`.
    pub fn span(self, words: usize) -> usize {
        (self.count - 1) * self.stride + words
    }

    /// The most that these instructions make: three parts of 8 bits hold all 24 of an f32.
    const MOST: usize = 3;
}

/// Where the words of a step go that are more than a panel's: the first `lanes` (a multiple of 16) into
/// one panel, the rest into the one that begins `next` words on.
#[derive(Clone, Copy)]
pub(crate) struct Panels {
    pub lanes: usize,
    pub next: usize,
}

/// Two bf16 in a word, from two f32 each rounded to nearest even: `out[i]` = (v[2i], v[2i + 1]), and
/// zeros beyond the values. The parts after the first are what the ones before left of the values.
///
/// # Safety
/// The processor has AVX512-BF16; each part of `out` holds half of `values`, rounded up, or more.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(crate) unsafe fn pair_along(values: &[f32], parts: Parts, out: &mut [f32]) {
    let (words, used) = (out.len() - parts.span(0), values.len().div_ceil(2));
    assert!(words >= used && parts.count <= Parts::MOST);
    // SAFETY: up to 32 values and 16 words at a time, under masks.
    unsafe {
        for j in (0..values.len()).step_by(32) {
            let (low, high) = load_32(&values[j..]);
            let lanes = first(used - j / 2);
            let to = out.as_mut_ptr().add(j / 2);
            let pairs = split(low, high, parts.count);
            for (part, pairs) in pairs.iter().enumerate().take(parts.count) {
                _mm512_mask_storeu_epi32(to.add(part * parts.stride).cast(), lanes, *pairs);
            }
        }
    }
    for part in 0..parts.count {
        out[part * parts.stride..][..words][used..].fill(0.0);
    }
}

/// Row `row` of a group of sixteen, `[steps / 16][parts][16][16]`: [`pair_along`], a line into each
/// tile.
///
/// # Safety
/// The processor has AVX512-BF16; `out` has tiles for each 32 of `values`, the last begun or whole.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(crate) unsafe fn pair_into_tiles(values: &[f32], row: usize, parts: usize, out: &mut [f32]) {
    debug_assert!(row < 16 && out.len() == parts * 256 * values.len().div_ceil(32));
    for (values, tiles) in values.chunks(32).zip(out.chunks_exact_mut(parts * 256)) {
        // SAFETY: at most 32 values, and the sixteen words of a row in each of `parts` tiles.
        unsafe {
            let (low, high) = load_32(values);
            let pairs = split(low, high, parts);
            for (part, pairs) in pairs.iter().enumerate().take(parts) {
                let line = tiles.as_mut_ptr().add(256 * part + 16 * row);
                _mm512_storeu_si512(line.cast(), *pairs);
            }
        }
    }
}

/// The first 32 values, or as many as there are and zeros.
#[inline(always)]
unsafe fn load_32(values: &[f32]) -> (__m512, __m512) {
    // SAFETY: masked by the length.
    unsafe {
        let (low, high) = (first(values.len()), first(values.len().saturating_sub(16)));
        (
            _mm512_maskz_loadu_ps(low, values.as_ptr()),
            _mm512_maskz_loadu_ps(high, values.as_ptr().wrapping_add(16)),
        )
    }
}

/// [`both`], and of what that left of the values, and of what that left, as many as `parts` says.
///
/// # Safety
/// As [`both`].
#[inline(always)]
unsafe fn split(mut low: __m512, mut high: __m512, parts: usize) -> [__m512i; Parts::MOST] {
    // SAFETY: says the caller.
    unsafe {
        let mut pairs = [both(low, high); Parts::MOST];
        for part in 1..Parts::MOST {
            if part < parts {
                let before = pairs[part - 1];
                low = _mm512_sub_ps(low, wide(_mm512_castsi512_si256(before)));
                high = _mm512_sub_ps(high, wide(_mm512_extracti64x4_epi64::<1>(before)));
                pairs[part] = both(low, high);
            }
        }
        pairs
    }
}

/// Sixteen bf16 as f32.
#[inline(always)]
unsafe fn wide(halves: __m256i) -> __m512 {
    // SAFETY: as `split`.
    unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves))) }
}

/// `out[i]` = (upper[i], lower[i]), each rounded to bf16; no `lower` counts as zeros. Parts as in
/// [`pair_along`].
///
/// # Safety
/// The processor has AVX512-BF16; the slices are of one length.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) unsafe fn pair_across(
    upper: &[f32],
    lower: Option<&[f32]>,
    parts: Parts,
    out: &mut [f32],
) {
    debug_assert!(out.len() >= parts.span(upper.len()));
    debug_assert!(lower.is_none_or(|l| l.len() >= upper.len()));
    // Of the pair (low, high) of two lanes beside each other: halves in turn.
    const IN_TURN: [u16; 32] = {
        let (mut index, mut i) = ([0; 32], 0);
        while i < 32 {
            index[i] = i as u16 / 2 + 16 * (i as u16 % 2);
            i += 1;
        }
        index
    };
    // SAFETY: up to 16 elements at a time, under masks.
    unsafe {
        let in_turn = _mm512_loadu_si512(IN_TURN.as_ptr().cast());
        for j in (0..upper.len()).step_by(16) {
            let lanes = first(upper.len() - j);
            let low = _mm512_maskz_loadu_ps(lanes, upper.as_ptr().add(j));
            let high = match lower {
                Some(lower) => _mm512_maskz_loadu_ps(lanes, lower.as_ptr().add(j)),
                None => _mm512_setzero_ps(),
            };
            let halves = split(low, high, parts.count);
            for (part, halves) in halves.iter().enumerate().take(parts.count) {
                let pairs = _mm512_permutexvar_epi16(in_turn, *halves);
                let to = out.as_mut_ptr().add(part * parts.stride + j);
                _mm512_mask_storeu_epi32(to.cast(), lanes, pairs);
            }
        }
    }
}

/// [`pair_across`] for each two of `rows` rows of `width` values, `row` floats apart; pairs go to
/// `out`, `stride` words apart.
///
/// # Safety
/// The processor has AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(crate) unsafe fn pair_rows(
    values: &[f32],
    row: usize,
    [rows, width]: [usize; 2],
    out: &mut [f32],
    stride: usize,
) {
    for (s, i) in (0..rows).step_by(2).enumerate() {
        let upper = &values[i * row..i * row + width];
        let lower = match i + 1 < rows {
            true => Some(&values[(i + 1) * row..(i + 1) * row + width]),
            false => None,
        };
        // SAFETY: the slices are of one length.
        unsafe {
            pair_across(
                upper,
                lower,
                Parts::ONE,
                &mut out[s * stride..s * stride + width],
            )
        };
    }
}

/// As [`pair_across`], of values that are bf16 already.
///
/// # Safety
/// The processor has AVX-512; the slices are of one length.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) unsafe fn pair_halves(upper: &[u16], lower: Option<&[u16]>, out: &mut [f32]) {
    debug_assert!(out.len() >= upper.len() && lower.is_none_or(|l| l.len() >= upper.len()));
    // SAFETY: up to 16 elements at a time, under masks.
    unsafe {
        for j in (0..upper.len()).step_by(16) {
            let lanes = first(upper.len() - j);
            let low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(
                lanes,
                upper.as_ptr().add(j).cast(),
            ));
            let high = match lower {
                Some(lower) => _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(
                    _mm256_maskz_loadu_epi16(lanes, lower.as_ptr().add(j).cast()),
                )),
                None => _mm512_setzero_si512(),
            };
            let pairs = _mm512_or_si512(low, high);
            _mm512_mask_storeu_epi32(out.as_mut_ptr().add(j).cast(), lanes, pairs);
        }
    }
}

/// The elements of the flat matrix from `at` on as pairs along it, as many as a part of `out` holds.
///
/// # Safety
/// The processor has AVX512-BF16; `at` and the length are multiples of 64.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) unsafe fn nf4_along(
    codes: &[u8],
    scales: Scales<'_>,
    dtype: nf4::Dtype,
    at: usize,
    parts: Parts,
    out: &mut [f32],
) {
    let first_block = at / nf4::BLOCK_SIZE;
    let words = out.len() - parts.span(0);
    assert!(parts.count <= Parts::MOST);
    let codes = &codes[at / 2..at / 2 + words];
    for (b, codes) in codes.chunks_exact(32).enumerate() {
        // SAFETY: a block is 32 bytes of codes and 32 words of pairs in each part.
        unsafe {
            let values = rounded(scales.get(first_block + b), dtype);
            let tables = split(values, values, parts.count);
            for half in 0..2 {
                let bytes = _mm_loadu_si128(codes.as_ptr().add(16 * half).cast());
                let byte = _mm512_cvtepu8_epi32(bytes);
                // The first element is in the high nibble; beyond bit 4 an index is not read, and
                // bit 4 chooses between two equal halves.
                let index =
                    _mm512_or_si512(_mm512_srli_epi32::<4>(byte), _mm512_slli_epi32::<16>(byte));
                for (part, table) in tables.iter().enumerate().take(parts.count) {
                    let pairs = _mm512_permutexvar_epi16(index, *table);
                    let to = out
                        .as_mut_ptr()
                        .add(part * parts.stride + 32 * b + 16 * half);
                    _mm512_storeu_si512(to.cast(), pairs);
                }
            }
        }
    }
}

/// `words` elements from `upper` on and those from `lower` on as pairs across the two rows.
///
/// # Safety
/// The processor has AVX512-BF16; both starts and `words` are multiples of 16, and both starts lie at
/// the same place of a block.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) unsafe fn nf4_across(
    codes: &[u8],
    scales: Scales<'_>,
    dtype: nf4::Dtype,
    [upper, lower]: [usize; 2],
    words: usize,
    (parts, panels): (Parts, Panels),
    out: &mut [f32],
) {
    debug_assert!([upper, lower, words].iter().all(|n| n.is_multiple_of(16)));
    assert!(upper.max(lower) + words <= 2 * codes.len() && parts.count <= Parts::MOST);
    let (full, last) = (words / panels.lanes, words % panels.lanes);
    let end = match last {
        0 => (full - 1) * panels.next + panels.lanes,
        _ => full * panels.next + last,
    };
    assert!(words <= panels.lanes || panels.lanes.is_multiple_of(16));
    assert!(out.len() >= parts.span(end));
    let (mut done, mut place, mut left) = (0, 0, panels.lanes);
    while done < words {
        let end = (done + nf4::BLOCK_SIZE - (upper + done) % nf4::BLOCK_SIZE).min(words);
        // SAFETY: 8 bytes of codes of each row and 16 words at a time, inside what was asserted.
        unsafe {
            let above = scales.get((upper + done) / nf4::BLOCK_SIZE);
            let below = scales.get((lower + done) / nf4::BLOCK_SIZE);
            let tables = split(rounded(above, dtype), rounded(below, dtype), parts.count);
            let row_of = _mm512_set1_epi32(0x0010_0000);
            let nibble = _mm512_set1_epi32(0xffff_000fu32 as i32);
            for j in (done..end).step_by(16) {
                let above = _mm_loadl_epi64(codes.as_ptr().add((upper + j) / 2).cast());
                let below = _mm_loadl_epi64(codes.as_ptr().add((lower + j) / 2).cast());
                let bytes = _mm_unpacklo_epi8(above, below);
                // Each quadword: the byte of the upper row, 16 bits on that of the lower.
                let wide = _mm512_cvtepu32_epi64(_mm256_cvtepu8_epi16(bytes));
                let codes =
                    _mm512_or_si512(_mm512_srli_epi64::<4>(wide), _mm512_slli_epi64::<32>(wide));
                // (codes & nibble) | row_of
                let index = _mm512_ternarylogic_epi32::<0xea>(codes, nibble, row_of);
                for (part, table) in tables.iter().enumerate().take(parts.count) {
                    let pairs = _mm512_permutexvar_epi16(index, *table);
                    let to = out.as_mut_ptr().add(part * parts.stride + place);
                    _mm512_storeu_si512(to.cast(), pairs);
                }
                (place, left) = (place + 16, left - 16);
                if left == 0 {
                    (place, left) = (place - panels.lanes + panels.next, panels.lanes);
                }
            }
        }
        done = end;
    }
}

/// What each code means in a block with this absmax, in bf16, twice: a look-up of 32 values.
///
/// # Safety
/// As [`both`].
#[inline(always)]
pub(crate) unsafe fn table_of_pairs(absmax: f32, dtype: nf4::Dtype) -> __m512i {
    unsafe {
        let one = rounded(absmax, dtype);
        both(one, one)
    }
}

/// What each code means in a block with this absmax, before it is rounded to bf16.
#[inline(always)]
unsafe fn rounded(absmax: f32, dtype: nf4::Dtype) -> __m512 {
    // SAFETY: sixteen values.
    unsafe {
        match dtype {
            // Rounded to bf16 once, by the conversion.
            nf4::Dtype::F32 | nf4::Dtype::BF16 => _mm512_mul_ps(
                _mm512_loadu_ps(nf4::CODEBOOK.as_ptr()),
                _mm512_set1_ps(absmax),
            ),
            nf4::Dtype::F16 => _mm512_loadu_ps(table::<Avx512>(absmax, dtype).as_ptr()),
        }
    }
}

/// Sixteen bf16 below sixteen others, each rounded to nearest even.
///
/// # Safety
/// The processor has AVX512-BF16, and the caller is compiled for it.
#[inline(always)]
pub(crate) unsafe fn both(low: __m512, high: __m512) -> __m512i {
    // SAFETY: only the bits' reading changes.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

fn first(n: usize) -> __mmask16 {
    if n >= 16 { u16::MAX } else { (1 << n) - 1 }
}
