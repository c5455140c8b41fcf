//! Which vector instructions does this processor have, and how does one kernel serve them all?
//!
//! A kernel is written once, generic over [`Simd`] and `#[inline(always)]`; `simd_dispatch!`
//! instantiates it under `#[target_feature]` for each [`Level`] and chooses at run time.
//! The summation order of a matmul does not depend on the lane count, so the levels with a fused
//! multiply-add give the same bits there. AMX sums in an order of its own: what goes to it, all of
//! bf16 and f32 products of many rows with a weight, has other bits than on the vectors.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
#[cfg(target_arch = "x86_64")]
pub(crate) mod planes;
mod portable;

use super::panel::table;
#[cfg(target_arch = "aarch64")]
pub use neon::Neon;
pub use portable::Portable;
use std::sync::LazyLock;
#[cfg(target_arch = "x86_64")]
pub use {avx2::Avx2, avx512::Avx512};

/// A proven-to-exist set of vector instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    isa: Isa,
    bf16: Bf16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    Neon,
    Portable,
}

/// Which instruction multiplies bf16 values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bf16 {
    None,
    /// AVX512-BF16, pairs of them in vectors.
    #[cfg(target_arch = "x86_64")]
    Pairs,
    /// AMX-BF16, 16 × 32 of them in a tile, and AVX512-BF16 beside it.
    #[cfg(target_arch = "x86_64")]
    Tiles,
}

impl Level {
    /// Every level this processor has, fastest first.
    pub fn available() -> Vec<Level> {
        let mut levels = Vec::new();
        let mut add = |isa, bf16| levels.push(Level { isa, bf16 });
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if avx2
                && is_x86_feature_detected!("f16c")
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
            {
                if is_x86_feature_detected!("avx512bf16") {
                    if super::amx::available() {
                        add(Isa::Avx512, Bf16::Tiles);
                    }
                    add(Isa::Avx512, Bf16::Pairs);
                }
                add(Isa::Avx512, Bf16::None);
            }
            if avx2 {
                add(Isa::Avx2, Bf16::None);
            }
        }
        #[cfg(target_arch = "aarch64")]
        add(Isa::Neon, Bf16::None);
        add(Isa::Portable, Bf16::None);
        levels
    }

    /// The fastest level this processor has, looked up once.
    pub fn best() -> Level {
        static BEST: LazyLock<Level> = LazyLock::new(|| Level::available()[0]);
        *BEST
    }

    /// Whether products of bf16 values have an instruction here (AVX512-BF16, AMX-BF16).
    pub fn multiplies_bf16(self) -> bool {
        self.bf16 != Bf16::None
    }

    pub(crate) fn bf16(self) -> Bf16 {
        self.bf16
    }

    pub(crate) fn isa(self) -> Isa {
        self.isa
    }

    /// Lanes of the widest f32 vector.
    pub fn lanes(self) -> usize {
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => 16,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => 8,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => 8,
            Isa::Portable => 8,
        }
    }
}

/// Defines `$name(level, args…)`: the generic kernel compiled once for each level.
///
/// A generic needs the instructions of its `S`, which a [`Level`] proves. One that holds its slices
/// against each other needs no more and becomes a safe `fn`; one over pointers becomes an `unsafe fn`,
/// which says what they must be: with a pointer among its arguments a safe one does not compile.
macro_rules! simd_dispatch {
    ($(#[$meta:meta])* $vis:vis fn $($rest:tt)*) => {
        simd_dispatch! { @ [] [Send] [$(#[$meta])* $vis] $($rest)* }
    };
    ($(#[$meta:meta])* $vis:vis unsafe fn $($rest:tt)*) => {
        simd_dispatch! { @ [unsafe] [Sized] [$(#[$meta])* $vis] $($rest)* }
    };
    (@ [$($unsafe:tt)?] [$bound:ident] [$($head:tt)*] $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $generic:ident) => {
        #[allow(clippy::too_many_arguments)]
        $($head)* $($unsafe)? fn $name(level: $crate::kernels::simd::Level, $($arg: $ty),*) $(-> $ret)? {
            // SAFETY: these are the instructions of `S`; what else the generic needs, the caller promises.
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx512($($arg: $ty),*) $(-> $ret)? {
                unsafe { $generic::<$crate::kernels::simd::Avx512>($($arg),*) }
            }
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx2($($arg: $ty),*) $(-> $ret)? {
                unsafe { $generic::<$crate::kernels::simd::Avx2>($($arg),*) }
            }
            fn taken<T: $bound>(_: &T) {} // a pointer is not `Send`, nor is what holds one
            $(taken(&$arg);)*
            // SAFETY: a `Level` exists only where the processor has its instructions.
            match level.isa() {
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::simd::Isa::Avx512 => unsafe { avx512($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::simd::Isa::Avx2 => unsafe { avx2($($arg),*) },
                #[cfg(target_arch = "aarch64")]
                $crate::kernels::simd::Isa::Neon => unsafe { $generic::<$crate::kernels::simd::Neon>($($arg),*) },
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

/// Adds x·lanes to sums.
///
/// # Safety
/// The caller is compiled for the instructions of `S`.
#[inline(always)]
unsafe fn fuse<S: Simd>(sums: &mut [S::V], x: S::V, lanes: &[S::V]) {
    for (sum, lanes) in sums.iter_mut().zip(lanes) {
        *sum = unsafe { S::fma(x, *lanes, *sum) };
    }
}

/// Tables of sixteen f32 looked up by the byte, 64 four-bit codes at a time.
///
/// # Safety
/// As [`Simd`].
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[allow(clippy::missing_safety_doc)]
pub(crate) trait ByteTables: Simd {
    /// Byte k of every value of a table.
    type Planes: Copy;
    /// 64 codes.
    type Codes: Copy;
    /// Of [`nf4::CODEBOOK`].
    unsafe fn codebook() -> Self::Planes;
    unsafe fn planes(table: &[f32; 16]) -> Self::Planes;
    /// Of 32 bytes, the first code of each in the high nibble.
    unsafe fn codes(bytes: *const u8) -> Self::Codes;
    /// Vector `v` of eight, in the order in which unpacking leaves them.
    unsafe fn values(planes: Self::Planes, codes: Self::Codes, v: usize) -> Self::V;
}

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
    /// b where either is not a number, as in `min`.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// a·b + c
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Adds x·lanes to sums, x being one value for all of them: a row of a matmul tile.
    #[inline(always)]
    unsafe fn add_multiple<const N: usize>(
        sums: &mut [Self::V; N],
        x: *const f32,
        lanes: &[Self::V; N],
    ) {
        unsafe { fuse::<Self>(sums, Self::splat(*x), lanes) }
    }
    unsafe fn round(a: Self::V) -> Self::V;
    /// p·2ⁿ for whole n in -126..=127
    unsafe fn scale_by_power(p: Self::V, n: Self::V) -> Self::V;
    /// v where x ≥ limit, else 0
    unsafe fn zero_below(v: Self::V, x: Self::V, limit: Self::V) -> Self::V;
    unsafe fn sum(v: Self::V) -> f32;
    /// The sums of four vectors, each in the same order.
    #[inline(always)]
    unsafe fn sum_4(v: [Self::V; 4]) -> [f32; 4] {
        unsafe {
            [
                Self::sum(v[0]),
                Self::sum(v[1]),
                Self::sum(v[2]),
                Self::sum(v[3]),
            ]
        }
    }
    unsafe fn largest(v: Self::V) -> f32;
    /// 8 four-bit codes (4 bytes, high nibble first) looked up in `table`.
    #[inline(always)]
    unsafe fn look_up_8(table: &[f32; 16], codes: *const u8, out: *mut f32) {
        for j in 0..4 {
            unsafe {
                let byte = usize::from(*codes.add(j));
                *out.add(2 * j) = table[byte >> 4];
                *out.add(2 * j + 1) = table[byte & 15];
            }
        }
    }
    /// 16 of them (8 bytes).
    #[inline(always)]
    unsafe fn look_up_16(table: &[f32; 16], codes: *const u8, out: *mut f32) {
        for j in 0..2 {
            unsafe { Self::look_up_8(table, codes.add(4 * j), out.add(8 * j)) };
        }
    }
    /// 64 four-bit codes (32 bytes): a whole NF4 block.
    #[inline(always)]
    unsafe fn look_up_64(table: &[f32; 16], codes: *const u8, out: *mut f32) {
        for j in 0..4 {
            unsafe { Self::look_up_16(table, codes.add(8 * j), out.add(16 * j)) };
        }
    }
    /// What 64 codes mean in a block with this absmax, unrounded.
    #[inline(always)]
    unsafe fn decode_64(absmax: f32, codes: *const u8, out: *mut f32) {
        unsafe { Self::look_up_64(&table::<Self>(absmax, nf4::Dtype::F32), codes, out) };
    }
    /// Bit i: the i-th value is `limit` or more.
    unsafe fn at_least_16(values: &[u32; 16], limit: u32) -> u16;
    /// `factor` times the value whose bit is set, 0 for the others.
    unsafe fn keep_16(bits: u16, factor: f32, values: *const f32, out: *mut f32);
    /// `LANES` bf16 values widened.
    unsafe fn load_bf16(p: *const u16) -> Self::V;
    /// A `LANES`×`LANES` block of `src` (row stride `ld`) transposed into `dst` (row stride `dst_ld`).
    unsafe fn transpose(src: *const f32, ld: usize, dst: *mut f32, dst_ld: usize);

    /// eˣ within 2 ulp up to x = 88.37, and the value there above it; 0 below the range of normal results; not a
    /// number of what is none.
    #[inline(always)]
    unsafe fn exp(x: Self::V) -> Self::V {
        unsafe {
            let lowest = Self::splat(-87.336_54);
            // Of a value that is not a number these give the second operand.
            let clamped = Self::min(Self::splat(88.376_26), Self::max(lowest, x));
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
