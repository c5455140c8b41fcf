//! Floats that begin on a cache line: a 64-byte vector read across two lines costs two reads.

use std::ops::{Deref, DerefMut};

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// A buffer of floats whose first lies at the start of a cache line.
#[derive(Default)]
pub(crate) struct Aligned {
    lines: Vec<Line>,
    length: usize,
}

impl Aligned {
    /// Makes it `length` long. What it held before may be anything; what is new is zero.
    pub(crate) fn resize(&mut self, length: usize) {
        self.lines.resize(length.div_ceil(16), Line([0.0; 16]));
        self.length = length;
    }
}

impl Deref for Aligned {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: a line is sixteen floats without padding, and there are enough of them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.length) }
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.length) }
    }
}
