//! AVX2 with FMA: 8 lanes, 16 registers.

use super::planes::{CODEBOOK, Planes, neighbours, values};
use super::{ByteTables, Simd, fuse};
use std::arch::x86_64::*;

/// 8 lanes, 16 registers.
#[derive(Clone, Copy)]
pub struct Avx2;

#[inline(always)]
unsafe fn lane_mask(n: usize) -> __m256i {
    unsafe {
        let index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), index)
    }
}

/// The 4-bit codes of the lower 8 bytes, each in a byte.
#[inline(always)]
unsafe fn nibbles(bytes: __m128i) -> __m128i {
    unsafe {
        let mask = _mm_set1_epi8(15);
        let low = _mm_and_si128(bytes, mask);
        let high = _mm_and_si128(_mm_srli_epi16::<4>(bytes), mask);
        _mm_unpacklo_epi8(high, low)
    }
}

/// What the lower 8 bytes mean.
#[inline(always)]
unsafe fn look_up(table: &[f32; 16], codes: __m128i) -> __m256 {
    unsafe {
        let index = _mm256_cvtepu8_epi32(codes);
        let of = |half: usize| {
            let values = _mm256_loadu_ps(table.as_ptr().add(8 * half));
            _mm256_permutevar8x32_ps(values, index)
        };
        let upper = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index));
        _mm256_blendv_ps(of(0), of(1), upper)
    }
}

/// A row of a tile of 4 × 3, which takes all 16 registers with one for x. Left alone the compiler loads the next x
/// early, into a second one, and a sum goes through the stack at every step, which halves the tile's rate.
///
/// # Safety
/// `x` can be read.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn add_multiple_of_3(
    [mut a, mut b, mut c]: [__m256; 3],
    x: *const f32,
    [of_a, of_b, of_c]: [__m256; 3],
) -> [__m256; 3] {
    // SAFETY: reads x and writes registers.
    unsafe {
        std::arch::asm!(
            "vbroadcastss {splat}, dword ptr [{x}]",
            "vfmadd231ps {a}, {splat}, {of_a}",
            "vfmadd231ps {b}, {splat}, {of_b}",
            "vfmadd231ps {c}, {splat}, {of_c}",
            x = in(reg) x,
            splat = out(ymm_reg) _,
            a = inout(ymm_reg) a,
            b = inout(ymm_reg) b,
            c = inout(ymm_reg) c,
            of_a = in(ymm_reg) of_a,
            of_b = in(ymm_reg) of_b,
            of_c = in(ymm_reg) of_c,
            options(readonly, nostack, preserves_flags),
        );
    }
    [a, b, c]
}

impl Simd for Avx2 {
    const LANES: usize = 8;
    const TILE_ROWS: usize = 4;
    type V = __m256;
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m256) {
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_partial(p: *const f32, n: usize) -> __m256 {
        unsafe { _mm256_maskload_ps(p, lane_mask(n)) }
    }
    #[inline(always)]
    unsafe fn store_partial(p: *mut f32, v: __m256, n: usize) {
        unsafe { _mm256_maskstore_ps(p, lane_mask(n), v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn add_multiple<const N: usize>(
        sums: &mut [__m256; N],
        x: *const f32,
        lanes: &[__m256; N],
    ) {
        // SAFETY: says the caller.
        match (&mut sums[..], &lanes[..]) {
            ([a, b, c], [of_a, of_b, of_c]) => unsafe {
                [*a, *b, *c] = add_multiple_of_3([*a, *b, *c], x, [*of_a, *of_b, *of_c]);
            },
            (sums, lanes) => unsafe { fuse::<Self>(sums, Self::splat(*x), lanes) },
        }
    }
    #[inline(always)]
    unsafe fn round(a: __m256) -> __m256 {
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn scale_by_power(p: __m256, n: __m256) -> __m256 {
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        }
    }
    #[inline(always)]
    unsafe fn zero_below(v: __m256, x: __m256, limit: __m256) -> __m256 {
        unsafe { _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(x, limit), v) }
    }
    #[inline(always)]
    unsafe fn sum(v: __m256) -> f32 {
        unsafe {
            let q = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let d = _mm_add_ps(q, _mm_movehl_ps(q, q));
            _mm_cvtss_f32(_mm_add_ss(d, _mm_shuffle_ps::<1>(d, d)))
        }
    }
    #[inline(always)]
    unsafe fn largest(v: __m256) -> f32 {
        unsafe {
            let q = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let d = _mm_max_ps(q, _mm_movehl_ps(q, q));
            _mm_cvtss_f32(_mm_max_ss(d, _mm_shuffle_ps::<1>(d, d)))
        }
    }
    #[inline(always)]
    unsafe fn look_up_8(table: &[f32; 16], codes: *const u8, out: *mut f32) {
        unsafe {
            let index = nibbles(_mm_cvtsi32_si128(codes.cast::<i32>().read_unaligned()));
            _mm256_storeu_ps(out, look_up(table, index));
        }
    }
    #[inline(always)]
    unsafe fn look_up_16(table: &[f32; 16], codes: *const u8, out: *mut f32) {
        unsafe {
            let index = nibbles(_mm_loadl_epi64(codes as *const __m128i));
            _mm256_storeu_ps(out, look_up(table, index));
            _mm256_storeu_ps(out.add(8), look_up(table, _mm_srli_si128::<8>(index)));
        }
    }
    #[inline(always)]
    unsafe fn decode_64(absmax: f32, codes: *const u8, out: *mut f32) {
        unsafe {
            let (planes, absmax) = (CODEBOOK.load(), _mm256_set1_ps(absmax));
            for half in 0..2 {
                let codes = neighbours(codes.add(16 * half));
                for v in 0..4 {
                    let values = _mm256_mul_ps(values(planes, codes, v), absmax);
                    _mm256_storeu_ps(out.add(32 * half + 8 * v), values);
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn at_least_16(values: &[u32; 16], limit: u32) -> u16 {
        unsafe {
            let limit = _mm256_set1_epi32(limit as i32);
            let bits = |p: *const u32| {
                let v = _mm256_loadu_si256(p.cast());
                let at_least = _mm256_cmpeq_epi32(_mm256_max_epu32(v, limit), v);
                _mm256_movemask_ps(_mm256_castsi256_ps(at_least)) as u16
            };
            bits(values.as_ptr()) | bits(values.as_ptr().add(8)) << 8
        }
    }
    #[inline(always)]
    unsafe fn keep_16(bits: u16, factor: f32, values: *const f32, out: *mut f32) {
        unsafe {
            let lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            for half in 0..2 {
                let bits = _mm256_set1_epi32(i32::from(bits >> (8 * half)));
                let kept = _mm256_cmpeq_epi32(_mm256_and_si256(bits, lane), lane);
                let product = _mm256_mul_ps(
                    _mm256_loadu_ps(values.add(8 * half)),
                    _mm256_set1_ps(factor),
                );
                let product = _mm256_and_ps(product, _mm256_castsi256_ps(kept));
                _mm256_storeu_ps(out.add(8 * half), product);
            }
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> __m256 {
        unsafe {
            let half = _mm_loadu_si128(p as *const __m128i);
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half)))
        }
    }
    #[inline(always)]
    unsafe fn transpose(src: *const f32, ld: usize, dst: *mut f32, dst_ld: usize) {
        unsafe {
            let mut r = [_mm256_setzero_ps(); 8];
            for (i, v) in r.iter_mut().enumerate() {
                *v = _mm256_loadu_ps(src.add(i * ld));
            }
            for g in 0..2 {
                let (a, b, c, d) = (r[4 * g], r[4 * g + 1], r[4 * g + 2], r[4 * g + 3]);
                let (ab0, ab1) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
                let (cd0, cd1) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
                r[4 * g] = _mm256_shuffle_ps::<0x44>(ab0, cd0);
                r[4 * g + 1] = _mm256_shuffle_ps::<0xee>(ab0, cd0);
                r[4 * g + 2] = _mm256_shuffle_ps::<0x44>(ab1, cd1);
                r[4 * g + 3] = _mm256_shuffle_ps::<0xee>(ab1, cd1);
            }
            for c in 0..4 {
                let (top, bottom) = (r[c], r[4 + c]);
                _mm256_storeu_ps(
                    dst.add(c * dst_ld),
                    _mm256_permute2f128_ps::<0x20>(top, bottom),
                );
                _mm256_storeu_ps(
                    dst.add((4 + c) * dst_ld),
                    _mm256_permute2f128_ps::<0x31>(top, bottom),
                );
            }
        }
    }
}

/// Four vectors of the codes in the high nibbles of a block, and as many of those in the low ones.
impl ByteTables for Avx2 {
    type Planes = [__m256i; 4];
    type Codes = __m256i;
    #[inline(always)]
    unsafe fn codebook() -> [__m256i; 4] {
        unsafe { CODEBOOK.load() }
    }
    #[inline(always)]
    unsafe fn planes(table: &[f32; 16]) -> [__m256i; 4] {
        unsafe { Planes::of(table).load() }
    }
    #[inline(always)]
    unsafe fn codes(bytes: *const u8) -> __m256i {
        unsafe { _mm256_loadu_si256(bytes.cast()) }
    }
    #[inline(always)]
    unsafe fn values(planes: [__m256i; 4], codes: __m256i, v: usize) -> __m256 {
        unsafe {
            let codes = match v / 4 {
                0 => _mm256_srli_epi16::<4>(codes),
                _ => codes,
            };
            let codes = _mm256_and_si256(codes, _mm256_set1_epi8(15));
            values(planes, codes, v % 4)
        }
    }
}
