//! Pairs of bf16 out of a weight, with AVX512-BF16: what `vdpbf16ps` reads.
//!
//! NF4: the codebook times the block's absmax, rounded to bf16, is a table of sixteen 16-bit
//! entries; one `vpermw` looks 32 codes up. Along a row the pairs are neighbours in memory: both
//! halves of the register hold the row's table. Across two rows (the depth of the backward pass)
//! the low half holds the upper row's table and the high half the lower row's, and bit 4 of each
//! index chooses, so that the pairs come out of the look-up as they are wanted.
//! No closures here: they would be compiled, and called, without these instructions' registers.

use super::{Scales, table};
use std::arch::x86_64::*;

/// Two bf16 in a word, from two f32 each rounded to nearest even: `out[i]` = (v[2i], v[2i + 1]), and
/// zeros beyond the values.
///
/// # Safety
/// The processor has AVX512-BF16; `out` holds half of `values`, rounded up, or more.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(crate) unsafe fn pair_along(values: &[f32], out: &mut [f32]) {
    debug_assert!(out.len() >= values.len().div_ceil(2));
    let whole = values.len() / 32 * 32;
    // SAFETY: 32 values and 16 words at a time, then what is left under masks.
    unsafe {
        let (from, to) = (values.as_ptr(), out.as_mut_ptr());
        for j in (0..whole).step_by(32) {
            let (low, high) = (
                _mm512_loadu_ps(from.add(j)),
                _mm512_loadu_ps(from.add(j + 16)),
            );
            _mm512_storeu_si512(to.add(j / 2).cast(), both(low, high));
        }
        let rest = values.len() - whole;
        if rest > 0 {
            let low = _mm512_maskz_loadu_ps(first(rest), from.add(whole));
            let high = _mm512_maskz_loadu_ps(
                first(rest.saturating_sub(16)),
                from.wrapping_add(whole + 16),
            );
            let words = first(rest.div_ceil(2));
            _mm512_mask_storeu_epi32(to.add(whole / 2).cast(), words, both(low, high));
        }
    }
    out[values.len().div_ceil(2)..].fill(0.0);
}

/// Row `row` of a group of sixteen, `[steps / 16][parts][16][16]`: [`pair_along`], a line into each
/// tile. The parts after the first are what the ones before left of the values: three of 8 bits hold
/// all 24 of an f32.
///
/// # Safety
/// The processor has AVX512-BF16; `out` has tiles for each 32 of `values`, the last begun or whole.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(crate) unsafe fn pair_into_tiles(values: &[f32], row: usize, parts: usize, out: &mut [f32]) {
    debug_assert!(row < 16 && out.len() == parts * 256 * values.len().div_ceil(32));
    for (values, tiles) in values.chunks(32).zip(out.chunks_exact_mut(parts * 256)) {
        // SAFETY: at most 32 values, and the sixteen words of a row in each of `parts` tiles.
        unsafe {
            let mut low = _mm512_maskz_loadu_ps(first(values.len()), values.as_ptr());
            let mut high = _mm512_maskz_loadu_ps(
                first(values.len().saturating_sub(16)),
                values.as_ptr().wrapping_add(16),
            );
            for part in 0..parts {
                let pairs = both(low, high);
                let line = tiles.as_mut_ptr().add(256 * part + 16 * row);
                _mm512_storeu_si512(line.cast(), pairs);
                if part + 1 < parts {
                    let wide = |half| {
                        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)))
                    };
                    low = _mm512_sub_ps(low, wide(_mm512_castsi512_si256(pairs)));
                    high = _mm512_sub_ps(high, wide(_mm512_extracti64x4_epi64::<1>(pairs)));
                }
            }
        }
    }
}

/// `out[i]` = (upper[i], lower[i]), each rounded to bf16; no `lower` counts as zeros.
///
/// # Safety
/// The processor has AVX512-BF16; the slices are of one length.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) unsafe fn pair_across(upper: &[f32], lower: Option<&[f32]>, out: &mut [f32]) {
    debug_assert!(out.len() >= upper.len() && lower.is_none_or(|l| l.len() >= upper.len()));
    // SAFETY: up to 16 elements at a time, under masks.
    unsafe {
        for j in (0..upper.len()).step_by(16) {
            let lanes = first(upper.len() - j);
            let low = _mm512_maskz_loadu_ps(lanes, upper.as_ptr().add(j));
            let high = match lower {
                Some(lower) => _mm512_maskz_loadu_ps(lanes, lower.as_ptr().add(j)),
                None => _mm512_setzero_ps(),
            };
            let low = widened(low);
            let high = _mm512_slli_epi32::<16>(widened(high));
            let pairs = _mm512_or_si512(low, high);
            _mm512_mask_storeu_epi32(out.as_mut_ptr().add(j).cast(), lanes, pairs);
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
        unsafe { pair_across(upper, lower, &mut out[s * stride..s * stride + width]) };
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

/// Elements `at..at + 2·out.len()` of the flat matrix as pairs along it.
///
/// # Safety
/// The processor has AVX512-BF16; `at` and the length are multiples of 64.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) unsafe fn nf4_along(
    codes: &[u8],
    scales: Scales<'_>,
    dtype: nf4::Dtype,
    at: usize,
    out: &mut [f32],
) {
    let first_block = at / nf4::BLOCK_SIZE;
    let codes = &codes[at / 2..at / 2 + out.len()];
    for (b, (codes, out)) in codes
        .chunks_exact(32)
        .zip(out.chunks_exact_mut(32))
        .enumerate()
    {
        // SAFETY: a block is 32 bytes of codes and 32 words of pairs.
        unsafe {
            let table = table_of_pairs(scales.get(first_block + b), dtype);
            for half in 0..2 {
                let bytes = _mm_loadu_si128(codes.as_ptr().add(16 * half).cast());
                let byte = _mm512_cvtepu8_epi32(bytes);
                // The first element is in the high nibble; beyond bit 4 an index is not read, and
                // bit 4 chooses between two equal halves.
                let index =
                    _mm512_or_si512(_mm512_srli_epi32::<4>(byte), _mm512_slli_epi32::<16>(byte));
                let pairs = _mm512_permutexvar_epi16(index, table);
                _mm512_storeu_si512(out.as_mut_ptr().add(16 * half).cast(), pairs);
            }
        }
    }
}

/// Elements `upper..upper + out.len()` and `lower..` as pairs across the two rows.
///
/// # Safety
/// The processor has AVX512-BF16; both starts and the length are multiples of 16, and both starts
/// lie at the same place of a block.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) unsafe fn nf4_across(
    codes: &[u8],
    scales: Scales<'_>,
    dtype: nf4::Dtype,
    [upper, lower]: [usize; 2],
    out: &mut [f32],
) {
    debug_assert!(
        [upper, lower, out.len()]
            .iter()
            .all(|n| n.is_multiple_of(16))
    );
    assert!(upper.max(lower) + out.len() <= 2 * codes.len());
    let mut done = 0;
    while done < out.len() {
        let end = (done + nf4::BLOCK_SIZE - (upper + done) % nf4::BLOCK_SIZE).min(out.len());
        // SAFETY: 8 bytes of codes of each row and 16 words at a time, inside what was asserted.
        unsafe {
            let above = scales.get((upper + done) / nf4::BLOCK_SIZE);
            let below = scales.get((lower + done) / nf4::BLOCK_SIZE);
            let table = both(rounded(above, dtype), rounded(below, dtype));
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
                let pairs = _mm512_permutexvar_epi16(index, table);
                _mm512_storeu_si512(out.as_mut_ptr().add(j).cast(), pairs);
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
            nf4::Dtype::F16 => _mm512_loadu_ps(table(absmax, dtype).as_ptr()),
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

/// Each value as a bf16 in the low half of a word.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn widened(values: __m512) -> __m512i {
    // SAFETY: only the bits' reading changes.
    unsafe {
        let halves = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(values));
        _mm512_cvtepu16_epi32(halves)
    }
}

fn first(n: usize) -> __mmask16 {
    if n >= 16 { u16::MAX } else { (1 << n) - 1 }
}
