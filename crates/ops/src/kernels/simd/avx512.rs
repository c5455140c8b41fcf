//! AVX-512: 16 lanes, 32 registers.

use super::Simd;
use std::arch::x86_64::*;

/// 16 lanes, 32 registers.
#[derive(Clone, Copy)]
pub struct Avx512;

#[inline(always)]
fn first_lanes(n: usize) -> __mmask16 {
    if n >= 16 { u16::MAX } else { (1 << n) - 1 }
}

impl Simd for Avx512 {
    const LANES: usize = 16;
    const TILE_ROWS: usize = 8;
    type V = __m512;
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_partial(p: *const f32, n: usize) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps(first_lanes(n), p) }
    }
    #[inline(always)]
    unsafe fn store_partial(p: *mut f32, v: __m512, n: usize) {
        unsafe { _mm512_mask_storeu_ps(p, first_lanes(n), v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn round(a: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<0>(a) }
    }
    #[inline(always)]
    unsafe fn scale_by_power(p: __m512, n: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(p, n) }
    }
    #[inline(always)]
    unsafe fn zero_below(v: __m512, x: __m512, limit: __m512) -> __m512 {
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, limit), v) }
    }
    #[inline(always)]
    unsafe fn sum(v: __m512) -> f32 {
        unsafe { _mm512_reduce_add_ps(v) }
    }
    #[inline(always)]
    unsafe fn sum_4([a, b, c, d]: [__m512; 4]) -> [f32; 4] {
        unsafe {
            // Interleaved halves are added until each 128-bit lane holds a part of all four sums.
            let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
            let low = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
            let high = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
            let parts = _mm512_add_ps(low, high);
            let upper = _mm512_extractf32x8_ps::<1>(parts);
            let halves = _mm256_add_ps(_mm512_castps512_ps256(parts), upper);
            let upper = _mm256_extractf128_ps::<1>(halves);
            let mut sums = [0.0; 4];
            _mm_storeu_ps(
                sums.as_mut_ptr(),
                _mm_add_ps(_mm256_castps256_ps128(halves), upper),
            );
            sums
        }
    }
    #[inline(always)]
    unsafe fn largest(v: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(v) }
    }
    #[inline(always)]
    unsafe fn look_up_16(table: &[f32; 16], codes: *const u8, out: *mut f32) {
        unsafe {
            let bytes = _mm_loadl_epi64(codes as *const __m128i);
            let mask = _mm_set1_epi8(15);
            let low = _mm_and_si128(bytes, mask);
            let high = _mm_and_si128(_mm_srli_epi16::<4>(bytes), mask);
            let index = _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(high, low));
            let table = _mm512_loadu_ps(table.as_ptr());
            _mm512_storeu_ps(out, _mm512_permutexvar_ps(index, table));
        }
    }
    #[inline(always)]
    unsafe fn look_up_64(table: &[f32; 16], codes: *const u8, out: *mut f32) {
        unsafe {
            let table = _mm512_loadu_ps(table.as_ptr());
            let bytes = _mm256_loadu_si256(codes as *const __m256i);
            let mask = _mm256_set1_epi8(15);
            let low = _mm256_and_si256(bytes, mask);
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask);
            let even = _mm256_unpacklo_epi8(high, low); // codes 0..16 and 32..48
            let odd = _mm256_unpackhi_epi8(high, low); // codes 16..32 and 48..64
            let quarters = [
                _mm256_castsi256_si128(even),
                _mm256_castsi256_si128(odd),
                _mm256_extracti128_si256::<1>(even),
                _mm256_extracti128_si256::<1>(odd),
            ];
            for (j, quarter) in quarters.into_iter().enumerate() {
                let index = _mm512_cvtepu8_epi32(quarter);
                _mm512_storeu_ps(out.add(16 * j), _mm512_permutexvar_ps(index, table));
            }
        }
    }
    #[inline(always)]
    unsafe fn at_least_16(values: &[u32; 16], limit: u32) -> u16 {
        unsafe {
            let values = _mm512_loadu_si512(values.as_ptr().cast());
            _mm512_cmpge_epu32_mask(values, _mm512_set1_epi32(limit as i32))
        }
    }
    #[inline(always)]
    unsafe fn keep_16(bits: u16, factor: f32, values: *const f32, out: *mut f32) {
        unsafe {
            let values = _mm512_loadu_ps(values);
            _mm512_storeu_ps(
                out,
                _mm512_maskz_mul_ps(bits, values, _mm512_set1_ps(factor)),
            );
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> __m512 {
        unsafe {
            let half = _mm256_loadu_si256(p as *const __m256i);
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)))
        }
    }
    #[inline(always)]
    unsafe fn transpose(src: *const f32, ld: usize, dst: *mut f32, dst_ld: usize) {
        unsafe {
            let mut r = [_mm512_setzero_ps(); 16];
            for (i, v) in r.iter_mut().enumerate() {
                *v = _mm512_loadu_ps(src.add(i * ld));
            }
            let mut t = [_mm512_setzero_ps(); 16];
            for i in 0..8 {
                t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            for i in 0..4 {
                let (a, b, c, d) = (t[4 * i], t[4 * i + 1], t[4 * i + 2], t[4 * i + 3]);
                let pd = |x| _mm512_castps_pd(x);
                r[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(pd(a), pd(c)));
                r[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(pd(a), pd(c)));
                r[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(pd(b), pd(d)));
                r[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(pd(b), pd(d)));
            }
            // r[4g+c] holds, in 128-bit lane l, column 4l+c of rows 4g..4g+4.
            for c in 0..4 {
                let (g0, g1, g2, g3) = (r[c], r[4 + c], r[8 + c], r[12 + c]);
                let a = _mm512_shuffle_f32x4::<0x88>(g0, g1); // lanes 0 2 of g0, 0 2 of g1
                let b = _mm512_shuffle_f32x4::<0xdd>(g0, g1); // lanes 1 3
                let e = _mm512_shuffle_f32x4::<0x88>(g2, g3);
                let f = _mm512_shuffle_f32x4::<0xdd>(g2, g3);
                _mm512_storeu_ps(dst.add(c * dst_ld), _mm512_shuffle_f32x4::<0x88>(a, e));
                _mm512_storeu_ps(
                    dst.add((4 + c) * dst_ld),
                    _mm512_shuffle_f32x4::<0x88>(b, f),
                );
                _mm512_storeu_ps(
                    dst.add((8 + c) * dst_ld),
                    _mm512_shuffle_f32x4::<0xdd>(a, e),
                );
                _mm512_storeu_ps(
                    dst.add((12 + c) * dst_ld),
                    _mm512_shuffle_f32x4::<0xdd>(b, f),
                );
            }
        }
    }
}
