//! y = x·Wᵀ for a handful of tokens (decoding): W is read once, as it lies.
//!
//! Read in order: `order` and `layout` (how x lies) → `stored` (how W does) → `packed`, or `bytes` for AVX2 and NEON
//! (weights out of words) → `tile` (the product), or `tiles` where there is AMX.
//! [`Linear`] is a piece of work for a [`crate::kernels::team`], which shares a decoding step out.
//! `int8` is another matter: a product that is only nearly right, of a matrix in half the bytes.
//! Rows of W become words in natural order first where their format has no source of its own: odd
//! widths, f32, f16, and all where there is neither AVX2 nor NEON.
//!
//! As in a product of many rows, bf16 is what both operands are rounded to; the adapter's path, its
//! sum with the weight's and the bias are f32.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod bytes;
mod int8;
mod layout;
mod order;
#[cfg(target_arch = "x86_64")]
mod packed;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod stored;
mod tile;
#[cfg(target_arch = "x86_64")]
mod tiles;

pub(crate) use int8::{Int8, Rounded};
pub(crate) use layout::Layout;
pub(crate) use order::Order;

use super::aligned::Aligned;
use super::panel::WeightView;
#[cfg(target_arch = "aarch64")]
use super::simd::Neon;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::simd::{ByteTables, Isa};
use super::simd::{Level, Simd, simd_dispatch};
use super::tile::Singles;
use super::words::Words;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use bytes::Bytes;
use std::ops::Range;
use tile::{Plain, Product};

/// An adapter's second product: b `[out, rank]` and u = scaling·x·Aᵀ `[rows, rank]`.
#[derive(Clone, Copy)]
pub(crate) struct LowRank<'a> {
    pub b: &'a [f32],
    pub u: &'a [f32],
    pub rank: usize,
}

/// One linear map of a few rows.
#[derive(Clone, Copy)]
pub(crate) struct Linear<'a> {
    pub weight: WeightView<'a>,
    pub bias: Option<&'a [f32]>,
    pub low_rank: Option<LowRank<'a>>,
}

impl Linear<'_> {
    /// Writes `y + i·y_row + j` for every row i of x and j in `range`; x lies as `layout` says, in the
    /// weight's [`Order`].
    ///
    /// # Safety
    /// y must be valid there, and touched by no one else; `y` itself may lie outside.
    #[allow(clippy::too_many_arguments)]
    pub(crate) unsafe fn multiply(
        &self,
        level: Level,
        range: Range<usize>,
        x: &[f32],
        layout: Layout,
        y: *mut f32,
        y_row: usize,
        buffer: &mut Aligned,
    ) {
        let format = self.weight.format;
        assert!(range.end <= format.out_features);
        let expected = Order::of(level, format).layout(layout.rows, format.in_features);
        assert_eq!(layout, expected, "rows packed for this weight");
        assert_eq!(x.len(), layout.len(), "packed rows of x");
        let product = Product {
            level,
            x,
            layout,
            low_rank: self.low_rank,
            bias: self.bias,
            y,
            y_row,
        };
        if let Some(low) = self.low_rank {
            assert!(low.b.len() >= range.end * low.rank && low.u.len() >= layout.rows * low.rank);
        }
        match (Words::new(level, format.compute), level.isa()) {
            // SAFETY: these words exist where the level multiplies them; of the others it has the instructions.
            #[cfg(target_arch = "x86_64")]
            (Words::Tiles, _) => unsafe { tiles::multiply(self.weight, range, &product) },
            #[cfg(target_arch = "x86_64")]
            (Words::Pairs, _) => unsafe { x86::pairs(self.weight, range, &product, buffer) },
            #[cfg(target_arch = "x86_64")]
            (Words::F32, Isa::Avx512) => unsafe {
                x86::singles_of_16(self.weight, range, &product, buffer)
            },
            #[cfg(target_arch = "x86_64")]
            (Words::F32, Isa::Avx2) => unsafe {
                x86::singles_of_8(self.weight, range, &product, buffer)
            },
            // SAFETY: as below.
            #[cfg(target_arch = "aarch64")]
            (Words::F32, Isa::Neon) => unsafe {
                by_the_byte::<Neon>(self.weight, range, &product, buffer)
            },
            // SAFETY: y is there, says the caller, and x and what is added are as long as asserted.
            _ => unsafe { natural(level, self.weight, range, &product, buffer) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::simd::{Avx2, Avx512};
    use super::super::tile::Pairs;
    use super::packed::{HalfPairs, NibblePairs, Nibbles};
    use super::stored::{codes, halves};
    use super::*;

    /// f32 from every weight.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
    pub(super) unsafe fn singles_of_16(
        weight: WeightView<'_>,
        range: Range<usize>,
        product: &Product<'_>,
        buffer: &mut Aligned,
    ) {
        unsafe {
            if let Some(codes) = codes(weight, &range) {
                tile::multiply::<Avx512, Singles, _>(Nibbles(codes), range, product, buffer)
            } else if let Some(halves) = halves(weight, &range) {
                tile::multiply::<Avx512, Singles, _>(halves, range, product, buffer)
            } else {
                natural_generic::<Avx512>(weight, range, product, buffer)
            }
        }
    }

    /// The same.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn singles_of_8(
        weight: WeightView<'_>,
        range: Range<usize>,
        product: &Product<'_>,
        buffer: &mut Aligned,
    ) {
        unsafe { by_the_byte::<Avx2>(weight, range, product, buffer) }
    }

    /// Pairs of bf16 from every weight.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    pub(super) unsafe fn pairs(
        weight: WeightView<'_>,
        range: Range<usize>,
        product: &Product<'_>,
        buffer: &mut Aligned,
    ) {
        unsafe {
            if let Some(codes) = codes(weight, &range) {
                tile::multiply::<Avx512, Pairs, _>(NibblePairs(codes), range, product, buffer)
            } else if let Some(halves) = halves(weight, &range) {
                tile::multiply::<Avx512, Pairs, _>(HalfPairs(halves), range, product, buffer)
            } else {
                for rows in fours(range) {
                    let plain = unpack(weight, rows.clone(), product, buffer);
                    tile::unpacked::<Avx512, Pairs, _>(plain, rows.start, rows, product);
                }
            }
        }
    }
}

/// f32 from every weight, codes looked up by the byte.
///
/// # Safety
/// As [`tile::multiply`].
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
unsafe fn by_the_byte<S: ByteTables>(
    weight: WeightView<'_>,
    range: Range<usize>,
    product: &Product<'_>,
    buffer: &mut Aligned,
) {
    unsafe {
        if let Some(codes) = stored::codes(weight, &range) {
            if codes.dtype == nf4::Dtype::F32 {
                let bytes = Bytes::<false>(codes);
                tile::multiply::<S, Singles, _>(bytes, range, product, buffer)
            } else {
                let bytes = Bytes::<true>(codes);
                tile::multiply::<S, Singles, _>(bytes, range, product, buffer)
            }
        } else if let Some(halves) = stored::halves(weight, &range) {
            tile::multiply::<S, Singles, _>(halves, range, product, buffer)
        } else {
            natural_generic::<S>(weight, range, product, buffer)
        }
    }
}

simd_dispatch! {
    /// Four rows of W at a time, as words in natural order.
    ///
    /// # Safety
    /// As [`tile::multiply`].
    unsafe fn natural(weight: WeightView<'_>, range: Range<usize>, product: &Product<'_>, buffer: &mut Aligned) = natural_generic
}

#[inline(always)]
unsafe fn natural_generic<S: Simd>(
    weight: WeightView<'_>,
    range: Range<usize>,
    product: &Product<'_>,
    buffer: &mut Aligned,
) {
    for rows in fours(range) {
        let plain = unpack(weight, rows.clone(), product, buffer);
        unsafe { tile::unpacked::<S, Singles, _>(plain, rows.start, rows, product) };
    }
}

/// The rows, as many at a time as the buffer holds.
fn fours(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range
        .step_by(tile::BUFFER)
        .map(move |first| first..(first + tile::BUFFER).min(end))
}

/// Rows of W in the buffer, filled up with zeros.
fn unpack(
    weight: WeightView<'_>,
    rows: Range<usize>,
    product: &Product<'_>,
    buffer: &mut Aligned,
) -> Plain {
    let format = weight.format;
    let stride = product.layout.vectors * product.layout.order.lanes();
    let words = Words::new(product.level, format.compute);
    buffer.resize(tile::BUFFER * stride);
    for row in buffer.chunks_exact_mut(stride) {
        row[words.steps(format.in_features)..].fill(0.0);
    }
    weight.row_words(
        product.level,
        words,
        rows,
        0..format.in_features,
        buffer,
        stride,
    );
    Plain {
        pointer: buffer.as_ptr(),
        stride,
    }
}
