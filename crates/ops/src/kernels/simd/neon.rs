//! NEON, which every AArch64 has: eight lanes in two registers of 32.
//!
//! A table of sixteen f32 is 64 bytes, which `tbl` reads as four planes of bytes, one for each byte of an f32: four
//! look-ups of sixteen codes and twelve unpackings make four registers of values, in the codes' own order.

use super::{ByteTables, Simd};
use std::arch::aarch64::*;

/// 8 lanes, two registers each: a tile of 4 × 3 has its sums in 24 of the 32, and B in 6.
#[derive(Clone, Copy)]
pub struct Neon;

/// Lanes 0..4 and 4..8.
#[derive(Clone, Copy)]
pub struct Pair(float32x4_t, float32x4_t);

impl Pair {
    #[inline(always)]
    fn map(self, f: impl Fn(float32x4_t) -> float32x4_t) -> Pair {
        Pair(f(self.0), f(self.1))
    }

    #[inline(always)]
    fn zip(self, other: Pair, f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> Pair {
        Pair(f(self.0, other.0), f(self.1, other.1))
    }
}

/// Four rows of four, turned.
#[inline(always)]
unsafe fn transpose_4(rows: [float32x4_t; 4]) -> [float32x4_t; 4] {
    let [a, b, c, d] = rows;
    unsafe {
        let [even_ab, odd_ab, even_cd, odd_cd] = [
            vtrn1q_f32(a, b),
            vtrn2q_f32(a, b),
            vtrn1q_f32(c, d),
            vtrn2q_f32(c, d),
        ]
        .map(|v| vreinterpretq_f64_f32(v));
        [
            vtrn1q_f64(even_ab, even_cd),
            vtrn1q_f64(odd_ab, odd_cd),
            vtrn2q_f64(even_ab, even_cd),
            vtrn2q_f64(odd_ab, odd_cd),
        ]
        .map(|v| vreinterpretq_f32_f64(v))
    }
}

/// The 32 codes of 16 bytes, the first of each in the high nibble: 16 in order, and 16.
#[inline(always)]
unsafe fn split(bytes: uint8x16_t) -> [uint8x16_t; 2] {
    unsafe {
        let high = vshrq_n_u8::<4>(bytes);
        let low = vandq_u8(bytes, vdupq_n_u8(15));
        [vzip1q_u8(high, low), vzip2q_u8(high, low)]
    }
}

/// What eight of sixteen codes mean: the first for `half` 0. The compiler makes look-ups that both share once.
#[inline(always)]
unsafe fn values(planes: uint8x16x4_t, codes: uint8x16_t, half: usize) -> Pair {
    unsafe {
        let bytes = [planes.0, planes.1, planes.2, planes.3].map(|p| vqtbl1q_u8(p, codes));
        let words = |a: uint8x16_t, b: uint8x16_t| {
            vreinterpretq_u16_u8(match half {
                0 => vzip1q_u8(a, b),
                _ => vzip2q_u8(a, b),
            })
        };
        let (low, high) = (words(bytes[0], bytes[1]), words(bytes[2], bytes[3]));
        Pair(
            vreinterpretq_f32_u16(vzip1q_u16(low, high)),
            vreinterpretq_f32_u16(vzip2q_u16(low, high)),
        )
    }
}

/// Bit i of `bits` in lane i.
#[inline(always)]
unsafe fn lane_bits(quarter: usize) -> uint32x4_t {
    const BITS: [u32; 16] = {
        let (mut bits, mut i) = ([0; 16], 0);
        while i < 16 {
            bits[i] = 1 << i;
            i += 1;
        }
        bits
    };
    // SAFETY: four of sixteen.
    unsafe { vld1q_u32(BITS.as_ptr().add(4 * quarter)) }
}

impl Simd for Neon {
    const LANES: usize = 8;
    const TILE_ROWS: usize = 4;
    type V = Pair;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Pair {
        unsafe { Pair(vdupq_n_f32(x), vdupq_n_f32(x)) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Pair {
        unsafe { Pair(vld1q_f32(p), vld1q_f32(p.add(4))) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Pair) {
        unsafe {
            vst1q_f32(p, v.0);
            vst1q_f32(p.add(4), v.1);
        }
    }
    #[inline(always)]
    unsafe fn load_partial(p: *const f32, n: usize) -> Pair {
        let mut v = [0.0; 8];
        for (i, x) in v.iter_mut().enumerate().take(n) {
            *x = unsafe { *p.add(i) };
        }
        unsafe { Self::load(v.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn store_partial(p: *mut f32, v: Pair, n: usize) {
        let mut values = [0.0; 8];
        unsafe { Self::store(values.as_mut_ptr(), v) };
        for (i, x) in values.into_iter().enumerate().take(n) {
            unsafe { *p.add(i) = x };
        }
    }
    #[inline(always)]
    unsafe fn add(a: Pair, b: Pair) -> Pair {
        a.zip(b, |a, b| unsafe { vaddq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn sub(a: Pair, b: Pair) -> Pair {
        a.zip(b, |a, b| unsafe { vsubq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn mul(a: Pair, b: Pair) -> Pair {
        a.zip(b, |a, b| unsafe { vmulq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn div(a: Pair, b: Pair) -> Pair {
        a.zip(b, |a, b| unsafe { vdivq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn max(a: Pair, b: Pair) -> Pair {
        // `fmax` gives what is not a number wherever it stands.
        a.zip(b, |a, b| unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) })
    }
    #[inline(always)]
    unsafe fn min(a: Pair, b: Pair) -> Pair {
        a.zip(b, |a, b| unsafe { vbslq_f32(vcltq_f32(a, b), a, b) })
    }
    #[inline(always)]
    unsafe fn fma(a: Pair, b: Pair, c: Pair) -> Pair {
        unsafe { Pair(vfmaq_f32(c.0, a.0, b.0), vfmaq_f32(c.1, a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn round(a: Pair) -> Pair {
        a.map(|a| unsafe { vrndnq_f32(a) })
    }
    #[inline(always)]
    unsafe fn scale_by_power(p: Pair, n: Pair) -> Pair {
        p.zip(n, |p, n| unsafe {
            let exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
            vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent)))
        })
    }
    #[inline(always)]
    unsafe fn zero_below(v: Pair, x: Pair, limit: Pair) -> Pair {
        let below = x.zip(limit, |x, limit| unsafe {
            vreinterpretq_f32_u32(vcltq_f32(x, limit))
        });
        v.zip(below, |v, below| unsafe {
            let (v, below) = (vreinterpretq_u32_f32(v), vreinterpretq_u32_f32(below));
            vreinterpretq_f32_u32(vbicq_u32(v, below))
        })
    }
    #[inline(always)]
    unsafe fn sum(v: Pair) -> f32 {
        unsafe {
            let q = vaddq_f32(v.0, v.1);
            vpadds_f32(vadd_f32(vget_low_f32(q), vget_high_f32(q)))
        }
    }
    #[inline(always)]
    unsafe fn sum_4(v: [Pair; 4]) -> [f32; 4] {
        unsafe {
            let [a, b, c, d] = v.map(|v| vaddq_f32(v.0, v.1));
            let halves = |a, b| {
                let low = vcombine_f32(vget_low_f32(a), vget_low_f32(b));
                vaddq_f32(low, vcombine_f32(vget_high_f32(a), vget_high_f32(b)))
            };
            let mut sums = [0.0; 4];
            vst1q_f32(sums.as_mut_ptr(), vpaddq_f32(halves(a, b), halves(c, d)));
            sums
        }
    }
    #[inline(always)]
    unsafe fn largest(v: Pair) -> f32 {
        unsafe { vmaxnmvq_f32(vmaxnmq_f32(v.0, v.1)) }
    }
    #[inline(always)]
    unsafe fn look_up_8(table: &[f32; 16], codes: *const u8, out: *mut f32) {
        unsafe {
            let bytes = u64::from(codes.cast::<u32>().read_unaligned());
            let bytes = vreinterpretq_u8_u64(vdupq_n_u64(bytes));
            Self::store(out, values(Self::planes(table), split(bytes)[0], 0));
        }
    }
    #[inline(always)]
    unsafe fn look_up_16(table: &[f32; 16], codes: *const u8, out: *mut f32) {
        unsafe {
            let bytes = vcombine_u8(vld1_u8(codes), vdup_n_u8(0));
            let (planes, codes) = (Self::planes(table), split(bytes)[0]);
            Self::store(out, values(planes, codes, 0));
            Self::store(out.add(8), values(planes, codes, 1));
        }
    }
    #[inline(always)]
    unsafe fn look_up_64(table: &[f32; 16], codes: *const u8, out: *mut f32) {
        unsafe {
            let (planes, codes) = (Self::planes(table), Self::codes(codes));
            for v in 0..8 {
                let values = <Self as ByteTables>::values(planes, codes, v);
                Self::store(out.add(8 * v), values);
            }
        }
    }
    #[inline(always)]
    unsafe fn at_least_16(values: &[u32; 16], limit: u32) -> u16 {
        unsafe {
            let limit = vdupq_n_u32(limit);
            let bits = |quarter: usize| {
                let v = vld1q_u32(values.as_ptr().add(4 * quarter));
                vandq_u32(vcgeq_u32(v, limit), lane_bits(quarter))
            };
            let (low, high) = (vorrq_u32(bits(0), bits(1)), vorrq_u32(bits(2), bits(3)));
            vaddvq_u32(vorrq_u32(low, high)) as u16
        }
    }
    #[inline(always)]
    unsafe fn keep_16(bits: u16, factor: f32, values: *const f32, out: *mut f32) {
        unsafe {
            let bits = vdupq_n_u32(u32::from(bits));
            for quarter in 0..4 {
                let kept = vtstq_u32(bits, lane_bits(quarter));
                let product = vmulq_n_f32(vld1q_f32(values.add(4 * quarter)), factor);
                let product = vandq_u32(vreinterpretq_u32_f32(product), kept);
                vst1q_f32(out.add(4 * quarter), vreinterpretq_f32_u32(product));
            }
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Pair {
        unsafe {
            let (zero, halves) = (vdupq_n_u16(0), vld1q_u16(p));
            Pair(
                vreinterpretq_f32_u16(vzip1q_u16(zero, halves)),
                vreinterpretq_f32_u16(vzip2q_u16(zero, halves)),
            )
        }
    }
    #[inline(always)]
    unsafe fn transpose(src: *const f32, ld: usize, dst: *mut f32, dst_ld: usize) {
        for (i, j) in [(0, 0), (0, 4), (4, 0), (4, 4)] {
            unsafe {
                let rows = [0, 1, 2, 3].map(|r| vld1q_f32(src.add((i + r) * ld + j)));
                for (c, column) in transpose_4(rows).into_iter().enumerate() {
                    vst1q_f32(dst.add((j + c) * dst_ld + i), column);
                }
            }
        }
    }
}

/// In the codes' own order.
impl ByteTables for Neon {
    type Planes = uint8x16x4_t;
    type Codes = [uint8x16_t; 4];
    #[inline(always)]
    unsafe fn codebook() -> uint8x16x4_t {
        unsafe { Self::planes(&nf4::CODEBOOK) }
    }
    #[inline(always)]
    unsafe fn planes(table: &[f32; 16]) -> uint8x16x4_t {
        // SAFETY: 64 bytes.
        unsafe { vld4q_u8(table.as_ptr().cast()) }
    }
    #[inline(always)]
    unsafe fn codes(bytes: *const u8) -> [uint8x16_t; 4] {
        unsafe {
            let [[a, b], [c, d]] = [0, 16].map(|at| split(vld1q_u8(bytes.add(at))));
            [a, b, c, d]
        }
    }
    #[inline(always)]
    unsafe fn values(planes: uint8x16x4_t, codes: [uint8x16_t; 4], v: usize) -> Pair {
        unsafe { values(planes, codes[v / 2], v % 2) }
    }
}
