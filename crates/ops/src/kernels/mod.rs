//! Arithmetic on slices: no tensor, no tape. One idea a file, each with its slow twin in
//! [`crate::reference`].

pub(crate) mod adamw;
pub mod add;
pub(crate) mod aligned;
#[cfg(target_arch = "x86_64")]
mod amx;
pub mod attention;
pub(crate) mod cached_attention;
mod copy_rows;
pub mod cross_entropy;
#[cfg(feature = "cube")]
pub(crate) mod cube;
pub mod dropout;
pub(crate) mod few_rows;
pub mod linear;
pub(crate) mod low_rank;
pub mod matmul;
pub mod normalize;
pub mod panel;
mod product;
pub mod rotary;
mod row_groups;
mod scratch;
pub mod simd;
mod softmax;
pub mod swiglu;
pub(crate) mod team;
pub mod tile;
pub(crate) mod words;

/// A fresh output. Under test it is poisoned, so that an element nobody wrote shows; otherwise it is not
/// even cleared, which at 512 tokens would cost a tenth of what a small linear does.
///
/// # Safety
/// Every element is written before it is read.
#[allow(clippy::uninit_vec)]
pub(crate) unsafe fn unwritten(length: usize) -> Vec<f32> {
    if cfg!(test) {
        return vec![f32::NAN; length];
    }
    let mut values = Vec::with_capacity(length);
    // SAFETY: there is room, and the caller writes what it reads.
    unsafe { values.set_len(length) };
    values
}

/// Asks for `bytes` from `pointer` on, which need not be there: a hint.
#[inline(always)]
pub(crate) fn prefetch(pointer: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..bytes).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: nothing is read.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(pointer.wrapping_add(line).cast()) };
    }
    #[cfg(target_arch = "aarch64")]
    for line in (0..bytes).step_by(64) {
        let line = pointer.wrapping_add(line);
        // SAFETY: nothing is read.
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{line}]", line = in(reg) line,
                options(readonly, nostack, preserves_flags))
        };
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = (pointer, bytes);
}

/// A raw pointer that may cross into rayon tasks which write disjoint elements behind it.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T = f32>(pub *mut T);
// SAFETY: each user partitions the elements among its tasks, which may have them if they may be sent.
unsafe impl<T: Send> Send for Shared<T> {}
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// # Safety
    /// `offset` must lie inside the buffer, and no other task may touch what is written there.
    pub unsafe fn at(self, offset: usize) -> *mut T {
        unsafe { self.0.add(offset) }
    }

    /// # Safety
    /// The elements must lie inside the buffer and be initialised or never read, and no other task may
    /// touch them.
    pub unsafe fn slice<'a>(self, first: usize, count: usize) -> &'a mut [T] {
        unsafe { std::slice::from_raw_parts_mut(self.at(first), count) }
    }
}
