//! Rows of W as they are stored, where their words can be multiplied as they lie: whole blocks, whole vectors.
//! Unsafe functions here want rows and blocks that are there.

use crate::format::DenseDtype;
use crate::kernels::panel::{Scales, Source, WeightView};
use std::ops::Range;

/// Bytes ahead of the words at hand that are asked for, into L2: the processor's own prefetching stops
/// at every page of 4 KiB, and loads that take turns between rows are no stream to it.
const AHEAD: usize = 16 * 1024;

/// Asks for the lines of a row of `bytes` that lies [`AHEAD`] of this one.
#[inline(always)]
pub(super) unsafe fn ask_ahead(row: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        let line = row.wrapping_add(line + AHEAD);
        // SAFETY: a prefetch of an address that is not there does nothing.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(line.cast())
        };
        // SAFETY: likewise.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            std::arch::asm!("prfm pldl2keep, [{line}]", line = in(reg) line,
                options(readonly, nostack, preserves_flags))
        };
    }
}

/// NF4 with rows of whole blocks.
#[derive(Clone, Copy)]
pub(super) struct Codes<'a> {
    pub codes: &'a [u8],
    pub scales: Scales<'a>,
    pub dtype: nf4::Dtype,
    /// Blocks of a row.
    pub blocks: usize,
}

impl Codes<'_> {
    #[inline(always)]
    pub(super) unsafe fn ask_ahead(self, row: usize) {
        let bytes = self.blocks * 32;
        unsafe { ask_ahead(self.codes.as_ptr().wrapping_add(row * bytes), bytes) }
    }

    /// absmax of a block, and its codes.
    #[inline(always)]
    pub(super) unsafe fn block(self, row: usize, group: usize) -> (f32, *const u8) {
        let block = row * self.blocks + group;
        debug_assert!((block + 1) * 32 <= self.codes.len());
        unsafe {
            let codes = self.codes.as_ptr().add(block * 32);
            (self.scales.get_unchecked(block), codes)
        }
    }
}

/// bf16 with whole vectors in a row.
#[derive(Clone, Copy)]
pub(super) struct Halves<'a> {
    pub values: &'a [u16],
    pub in_features: usize,
}

impl Halves<'_> {
    #[inline(always)]
    pub(super) unsafe fn ask_ahead(self, row: usize) {
        let bytes = self.in_features * 2;
        let values = self.values.as_ptr().cast::<u8>();
        unsafe { ask_ahead(values.wrapping_add(row * bytes), bytes) }
    }
}

/// 4-bit rows of whole blocks.
pub(super) fn codes<'a>(weight: WeightView<'a>, range: &Range<usize>) -> Option<Codes<'a>> {
    let in_features = weight.format.in_features;
    match weight.source {
        Source::Nf4 {
            codes,
            scales,
            dtype,
        } if in_features.is_multiple_of(nf4::BLOCK_SIZE) => {
            let blocks = range.end * (in_features / nf4::BLOCK_SIZE);
            assert!(codes.len() >= blocks * 32 && scales.cover(blocks));
            Some(Codes {
                codes,
                scales,
                dtype,
                blocks: in_features / nf4::BLOCK_SIZE,
            })
        }
        _ => None,
    }
}

/// bf16 rows of whole vectors of pairs.
pub(super) fn halves<'a>(weight: WeightView<'a>, range: &Range<usize>) -> Option<Halves<'a>> {
    let in_features = weight.format.in_features;
    match weight.source {
        Source::Half(values, DenseDtype::BF16) if in_features.is_multiple_of(32) => {
            assert!(values.len() >= range.end * in_features);
            Some(Halves {
                values,
                in_features,
            })
        }
        _ => None,
    }
}
