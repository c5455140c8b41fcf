//! Which vector instructions does this processor have, and how does one kernel serve them all?
//!
//! A kernel is written once, generic over [`Simd`] and `#[inline(always)]`; `simd_dispatch!`
//! instantiates it under `#[target_feature]` for each [`Level`] and chooses at run time.
//! The summation order of a matmul does not depend on the lane count, so the levels with a fused
//! multiply-add give the same bits there.

/// A proven-to-exist set of vector instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(Isa);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Level {
    /// Every level this processor has, fastest first.
    pub fn available() -> Vec<Level> {
        let mut levels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
            {
                levels.push(Level(Isa::Avx512));
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                levels.push(Level(Isa::Avx2));
            }
        }
        levels.push(Level(Isa::Portable));
        levels
    }

    /// The fastest level this processor has.
    pub fn best() -> Level {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
            {
                return Level(Isa::Avx512);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Level(Isa::Avx2);
            }
        }
        Level(Isa::Portable)
    }

    pub(crate) fn isa(self) -> Isa {
        self.0
    }

    /// Lanes of the widest f32 vector.
    pub fn lanes(self) -> usize {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => 16,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => 8,
            Isa::Portable => 8,
        }
    }
}

/// Defines `$name(level, args…)`: the generic kernel compiled once for each level.
macro_rules! simd_dispatch {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $generic:ident) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name(level: $crate::kernels::simd::Level, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx512($($arg: $ty),*) $(-> $ret)? {
                unsafe { $generic::<$crate::kernels::simd::Avx512>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx2($($arg: $ty),*) $(-> $ret)? {
                unsafe { $generic::<$crate::kernels::simd::Avx2>($($arg),*) }
            }
            // SAFETY: a `Level` exists only where the processor has its instructions.
            match level.isa() {
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::simd::Isa::Avx512 => unsafe { avx512($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::simd::Isa::Avx2 => unsafe { avx2($($arg),*) },
                $crate::kernels::simd::Isa::Portable => unsafe { $generic::<$crate::kernels::simd::Portable>($($arg),*) },
            }
        }
    };
}
pub(crate) use simd_dispatch;

/// Runs the body for each vector of a slice: `j` its first element, `n` how many of it there are.
/// A macro, because a closure with two call sites is not inlined under `#[target_feature]`.
macro_rules! for_lanes {
    ($simd:ident, $length:expr, |$j:ident, $n:ident| $body:block) => {{
        let length: usize = $length;
        let mut $j = 0;
        while $j + $simd::LANES <= length {
            let $n = $simd::LANES;
            $body
            $j += $simd::LANES;
        }
        if $j < length {
            let $n = length - $j;
            $body
        }
    }};
}
pub(crate) use for_lanes;

/// The vector operations that kernels are made of.
///
/// # Safety
/// Every method needs the instructions of its level and pointers valid for the lanes it touches.
#[allow(clippy::missing_safety_doc)]
pub trait Simd: Copy {
    const LANES: usize;
    /// Rows of the matmul tile that fit the register file beside three vectors.
    const TILE_ROWS: usize;
    type V: Copy;
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    /// The first `n` lanes, the others zero.
    unsafe fn load_partial(p: *const f32, n: usize) -> Self::V;
    unsafe fn store_partial(p: *mut f32, v: Self::V, n: usize);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// a·b + c
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn round(a: Self::V) -> Self::V;
    unsafe fn sqrt(a: Self::V) -> Self::V;
    /// p·2ⁿ for whole n in -126..=127
    unsafe fn scale_by_power(p: Self::V, n: Self::V) -> Self::V;
    /// v where x ≥ limit, else 0
    unsafe fn zero_below(v: Self::V, x: Self::V, limit: Self::V) -> Self::V;
    unsafe fn sum(v: Self::V) -> f32;
    unsafe fn largest(v: Self::V) -> f32;
    /// 16 four-bit codes (8 bytes, high nibble first) looked up in `table`.
    unsafe fn look_up_16(table: &[f32; 16], codes: *const u8, out: *mut f32);
    /// `LANES` bf16 values widened.
    unsafe fn load_bf16(p: *const u16) -> Self::V;
    /// A `LANES`×`LANES` block of `src` (row stride `ld`) transposed into `dst` (row stride `dst_ld`).
    unsafe fn transpose(src: *const f32, ld: usize, dst: *mut f32, dst_ld: usize);

    /// eˣ within 2 ulp on the range of normal results, 0 below it.
    #[inline(always)]
    unsafe fn exp(x: Self::V) -> Self::V {
        unsafe {
            let lowest = Self::splat(-87.336_54);
            let clamped = Self::min(Self::max(x, lowest), Self::splat(88.376_26));
            let n = Self::round(Self::mul(clamped, Self::splat(std::f32::consts::LOG2_E)));
            let r = Self::fma(n, Self::splat(-0.693_359_4), clamped);
            let r = Self::fma(n, Self::splat(2.121_944_4e-4), r);
            let p = Self::splat(1.987_569_1e-4); // Cephes expf
            let p = Self::fma(p, r, Self::splat(1.398_199_9e-3));
            let p = Self::fma(p, r, Self::splat(8.333_452e-3));
            let p = Self::fma(p, r, Self::splat(4.166_579_6e-2));
            let p = Self::fma(p, r, Self::splat(1.666_666_5e-1));
            let p = Self::fma(p, r, Self::splat(0.5));
            let p = Self::fma(p, Self::mul(r, r), Self::add(r, Self::splat(1.0)));
            Self::zero_below(Self::scale_by_power(p, n), x, lowest)
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
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
        unsafe fn sqrt(a: __m512) -> __m512 {
            unsafe { _mm512_sqrt_ps(a) }
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
        unsafe fn round(a: __m256) -> __m256 {
            unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
        }
        #[inline(always)]
        unsafe fn sqrt(a: __m256) -> __m256 {
            unsafe { _mm256_sqrt_ps(a) }
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
        unsafe fn look_up_16(table: &[f32; 16], codes: *const u8, out: *mut f32) {
            unsafe {
                let bytes = _mm_loadl_epi64(codes as *const __m128i);
                let mask = _mm_set1_epi8(15);
                let low = _mm_and_si128(bytes, mask);
                let high = _mm_and_si128(_mm_srli_epi16::<4>(bytes), mask);
                let index = _mm_unpacklo_epi8(high, low);
                let (first, second) = (
                    _mm256_loadu_ps(table.as_ptr()),
                    _mm256_loadu_ps(table.as_ptr().add(8)),
                );
                for (half, codes) in [index, _mm_srli_si128::<8>(index)].into_iter().enumerate() {
                    let index = _mm256_cvtepu8_epi32(codes);
                    let a = _mm256_permutevar8x32_ps(first, index);
                    let b = _mm256_permutevar8x32_ps(second, index);
                    let upper = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index));
                    _mm256_storeu_ps(out.add(8 * half), _mm256_blendv_ps(a, b, upper));
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
}

/// Eight plain floats: what the compiler makes of them is its business (NEON on AArch64).
#[derive(Clone, Copy)]
pub struct Portable;

#[inline(always)]
fn map(a: [f32; 8], f: impl Fn(f32) -> f32) -> [f32; 8] {
    let mut out = a;
    for x in &mut out {
        *x = f(*x);
    }
    out
}

#[inline(always)]
fn zip(a: [f32; 8], b: [f32; 8], f: impl Fn(f32, f32) -> f32) -> [f32; 8] {
    let mut out = a;
    for (x, y) in out.iter_mut().zip(b) {
        *x = f(*x, y);
    }
    out
}

impl Simd for Portable {
    const LANES: usize = 8;
    const TILE_ROWS: usize = 4;
    type V = [f32; 8];
    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 8] {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> [f32; 8] {
        unsafe { (p as *const [f32; 8]).read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: [f32; 8]) {
        unsafe { (p as *mut [f32; 8]).write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_partial(p: *const f32, n: usize) -> [f32; 8] {
        let mut v = [0.0; 8];
        for (i, x) in v.iter_mut().enumerate().take(n) {
            *x = unsafe { *p.add(i) };
        }
        v
    }
    #[inline(always)]
    unsafe fn store_partial(p: *mut f32, v: [f32; 8], n: usize) {
        for (i, x) in v.into_iter().enumerate().take(n) {
            unsafe { *p.add(i) = x };
        }
    }
    #[inline(always)]
    unsafe fn add(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |x, y| x + y)
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |x, y| x - y)
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |x, y| x * y)
    }
    #[inline(always)]
    unsafe fn div(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |x, y| x / y)
    }
    #[inline(always)]
    unsafe fn max(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    unsafe fn min(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        zip(a, b, |x, y| if x < y { x } else { y })
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        let mut out = c;
        for i in 0..8 {
            // Without the instruction a fused multiply-add is a library call.
            out[i] = if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
                a[i].mul_add(b[i], c[i])
            } else {
                a[i] * b[i] + c[i]
            };
        }
        out
    }
    #[inline(always)]
    unsafe fn round(a: [f32; 8]) -> [f32; 8] {
        // |a| < 2²² here; adding 1.5·2²³ rounds to even without a library call.
        map(a, |x| (x + 12_582_912.0) - 12_582_912.0)
    }
    #[inline(always)]
    unsafe fn sqrt(a: [f32; 8]) -> [f32; 8] {
        map(a, f32::sqrt)
    }
    #[inline(always)]
    unsafe fn scale_by_power(p: [f32; 8], n: [f32; 8]) -> [f32; 8] {
        zip(p, n, |p, n| {
            p * f32::from_bits((((n as i32) + 127) << 23) as u32)
        })
    }
    #[inline(always)]
    unsafe fn zero_below(v: [f32; 8], x: [f32; 8], limit: [f32; 8]) -> [f32; 8] {
        let mut out = v;
        for i in 0..8 {
            if x[i] < limit[i] {
                out[i] = 0.0;
            }
        }
        out
    }
    #[inline(always)]
    unsafe fn sum(v: [f32; 8]) -> f32 {
        ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
    }
    #[inline(always)]
    unsafe fn largest(v: [f32; 8]) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn look_up_16(table: &[f32; 16], codes: *const u8, out: *mut f32) {
        for i in 0..8 {
            unsafe {
                let byte = *codes.add(i);
                *out.add(2 * i) = table[(byte >> 4) as usize];
                *out.add(2 * i + 1) = table[(byte & 15) as usize];
            }
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> [f32; 8] {
        let mut v = [0.0; 8];
        for (i, x) in v.iter_mut().enumerate() {
            *x = f32::from_bits((unsafe { p.add(i).read_unaligned() } as u32) << 16);
        }
        v
    }
    #[inline(always)]
    unsafe fn transpose(src: *const f32, ld: usize, dst: *mut f32, dst_ld: usize) {
        for i in 0..8 {
            for j in 0..8 {
                unsafe { *dst.add(j * dst_ld + i) = *src.add(i * ld + j) };
            }
        }
    }
}
