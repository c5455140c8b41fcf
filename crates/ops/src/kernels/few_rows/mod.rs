//! y = x·Wᵀ for a handful of tokens (decoding): W is read once, as it lies.
//!
//! Read in order: `order` (how x lies) → `packed` (weights out of words) → `tile` (the product).
//! [`Linear`] is a piece of work for whoever shares it out: rayon for a single product, a
//! [`crate::kernels::team`] for a decoding step. Rows of W are dequantised to natural order first
//! where their format has no source of its own: odd widths, f16, and all 4-bit weights below AVX-512.

mod order;
#[cfg(target_arch = "x86_64")]
mod packed;
mod tile;

pub(crate) use order::Order;

use super::aligned::Aligned;
use super::linear::LoraView;
use super::panel::{Source, WeightView};
use super::simd::{Level, Simd, simd_dispatch};
use super::{Shared, output};
use rayon::prelude::*;
use std::ops::Range;
use tile::{Plain, Product};

/// Up to this many tokens it pays to read W as it lies.
pub(crate) const MOST: usize = 32;
/// Rows of W of a task: 64 are what one block of the next layer's input needs.
pub(crate) const TASK: usize = 64;

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
    /// Number of tasks of [`TASK`] rows of W.
    pub(crate) fn tasks(&self) -> usize {
        self.weight.format.out_features.div_ceil(TASK)
    }

    /// The rows of W of one task.
    pub(crate) fn rows(&self, task: usize) -> Range<usize> {
        task * TASK..((task + 1) * TASK).min(self.weight.format.out_features)
    }

    /// Writes `y + i·y_row + j` for every row i of x and j in `range`; x `[rows, in]` is packed in
    /// the weight's [`Order`].
    ///
    /// # Safety
    /// y must be valid there, and touched by no one else.
    #[allow(clippy::too_many_arguments)]
    pub(crate) unsafe fn multiply(
        &self,
        level: Level,
        range: Range<usize>,
        x: &[f32],
        rows: usize,
        y: *mut f32,
        y_row: usize,
        buffer: &mut Aligned,
    ) {
        let format = self.weight.format;
        assert!(range.end <= format.out_features);
        let order = Order::of(level, format);
        let vectors = order.vectors(format.in_features);
        assert_eq!(x.len(), vectors * rows * order.lanes(), "packed rows of x");
        let product = Product {
            x,
            rows,
            vectors,
            low_rank: self.low_rank,
            bias: self.bias,
            y,
            y_row,
        };
        if let Some(low) = self.low_rank {
            assert!(low.b.len() >= range.end * low.rank && low.u.len() >= rows * low.rank);
        }
        match order {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: these orders are chosen where the level is AVX-512.
            Order::Nibbles | Order::Halves => unsafe {
                avx512(self.weight, range, &product, buffer)
            },
            _ => dequantized(level, self.weight, range, &product, buffer),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
unsafe fn avx512(
    weight: WeightView<'_>,
    range: Range<usize>,
    product: &Product<'_>,
    buffer: &mut Aligned,
) {
    use super::simd::Avx512;
    let in_features = weight.format.in_features;
    match weight.source {
        Source::Nf4 {
            codes,
            scales,
            dtype,
        } => {
            let blocks = in_features / nf4::BLOCK_SIZE;
            assert!(codes.len() >= range.end * in_features / 2);
            let source = packed::Nibbles {
                codes,
                scales,
                dtype,
                blocks,
            };
            unsafe { tile::multiply::<Avx512, _>(source, range, product, buffer) }
        }
        Source::Half(values, _) => {
            assert!(values.len() >= range.end * in_features);
            let source = packed::Halves {
                values,
                in_features,
            };
            unsafe { tile::multiply::<Avx512, _>(source, range, product, buffer) }
        }
        Source::F32(_) => unreachable!("f32 weights lie in natural order"),
    }
}

simd_dispatch! {
    /// Four rows of W at a time, dequantised to natural order.
    fn dequantized(weight: WeightView<'_>, range: Range<usize>, product: &Product<'_>, buffer: &mut Aligned) = dequantized_generic
}

#[inline(always)]
unsafe fn dequantized_generic<S: Simd>(
    weight: WeightView<'_>,
    range: Range<usize>,
    product: &Product<'_>,
    buffer: &mut Aligned,
) {
    let (k, stride) = (weight.format.in_features, product.vectors * S::LANES);
    buffer.resize(4 * stride);
    buffer.fill(0.0); // what is beyond k stays zero
    for first in range.clone().step_by(4) {
        let rows = first..(first + 4).min(range.end);
        unsafe {
            super::panel::fill_generic::<S>(weight, rows.clone(), 0..k, buffer, stride);
            let plain = Plain {
                pointer: buffer.as_ptr(),
                stride,
            };
            tile::unpacked::<S>(plain, rows, product);
        }
    }
}

/// `y` `[m, out]` from x `[m, in]`; `u` = drop(x)·Aᵀ `[m, rank]` where there is an adapter.
pub(crate) fn forward(
    level: Level,
    x: &[f32],
    u: &[f32],
    weight: WeightView<'_>,
    bias: Option<&[f32]>,
    lora: Option<LoraView<'_>>,
    y: &mut [f32],
) {
    let (n, k) = (weight.format.out_features, weight.format.in_features);
    let rows = x.len() / k;
    let mut packed = Aligned::default();
    Order::of(level, weight.format).pack(x, k, &mut packed);
    let mut scaled = output(u.len());
    let scaling = lora.map_or(0.0, |l| l.scaling);
    scaled.iter_mut().zip(u).for_each(|(s, u)| *s = scaling * u);
    let linear = Linear {
        weight,
        bias,
        low_rank: lora.map(|lora| LowRank {
            b: lora.b,
            u: &scaled,
            rank: lora.rank,
        }),
    };
    let target = Shared(y.as_mut_ptr());
    (0..linear.tasks())
        .into_par_iter()
        .for_each_init(Aligned::default, |buffer, task| {
            // SAFETY: this task alone writes these columns of y.
            unsafe {
                linear.multiply(
                    level,
                    linear.rows(task),
                    &packed,
                    rows,
                    target.at(0),
                    n,
                    buffer,
                )
            };
        });
}
