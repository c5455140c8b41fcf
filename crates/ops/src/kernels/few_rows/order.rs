//! In which order do the features of x lie, so that packed weights need no shuffling?
//!
//! A vector of weights is cut from the stored words by one shift: nibble `s` of sixteen 16-bit words
//! is every fourth weight, a half of sixteen 32-bit words every second. So x is put in that order
//! once, and every row of W finds its partners there: `[vector][row of x][lane]`.

use crate::format::{DenseDtype, Encoding, WeightFormat};
use crate::kernels::aligned::Aligned;
use crate::kernels::simd::Level;

/// The order that one storage format wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Feature after feature; the last vector is filled up with zeros.
    Natural { lanes: usize },
    /// bf16 in 32-bit words of two: the even ones, then the odd ones, of 32.
    Halves,
    /// NF4 in 16-bit words of four: of 64 those in the low nibbles, then in the next.
    Nibbles,
}

impl Order {
    /// The order in which rows of this format are multiplied.
    pub(crate) fn of(level: Level, format: WeightFormat) -> Order {
        let direct = level.lanes() == 16;
        match format.encoding {
            Encoding::Nf4 { .. } if direct && format.in_features.is_multiple_of(64) => {
                Order::Nibbles
            }
            Encoding::Dense(DenseDtype::BF16)
                if direct && format.in_features.is_multiple_of(32) =>
            {
                Order::Halves
            }
            _ => Order::Natural {
                lanes: level.lanes(),
            },
        }
    }

    pub(crate) fn lanes(self) -> usize {
        match self {
            Order::Natural { lanes } => lanes,
            Order::Halves | Order::Nibbles => 16,
        }
    }

    /// Vectors that hold `features` of one row.
    pub(crate) fn vectors(self, features: usize) -> usize {
        features.div_ceil(self.lanes())
    }

    /// (vector, lane) of a feature.
    #[inline(always)]
    fn place(self, feature: usize) -> (usize, usize) {
        match self {
            Order::Natural { lanes } => (feature / lanes, feature % lanes),
            Order::Halves => (feature / 32 * 2 + feature % 2, feature % 32 / 2),
            // A byte holds two codes, the first in the high nibble.
            Order::Nibbles => (feature / 64 * 4 + ((feature % 4) ^ 1), feature % 64 / 4),
        }
    }

    /// Puts features `first..` of row `row` of `rows` among the vectors at `packed`.
    ///
    /// # Safety
    /// `packed` must be valid for `length` values; no one else may touch the places of these.
    pub(crate) unsafe fn put(
        self,
        values: &[f32],
        first: usize,
        row: usize,
        rows: usize,
        packed: *mut f32,
        length: usize,
    ) {
        let lanes = self.lanes();
        for (feature, value) in (first..).zip(values) {
            let (vector, lane) = self.place(feature);
            let at = (vector * rows + row) * lanes + lane;
            assert!(at < length, "a feature beyond the packed rows");
            // SAFETY: inside, as just seen.
            unsafe { *packed.add(at) = *value };
        }
    }

    /// All of x `[rows, features]`, packed into `packed`.
    pub(crate) fn pack(self, x: &[f32], features: usize, packed: &mut Aligned) {
        let rows = x.len() / features;
        packed.resize(self.vectors(features) * rows * self.lanes());
        if !features.is_multiple_of(self.lanes()) {
            packed.fill(0.0);
        }
        for (i, row) in x.chunks_exact(features).enumerate() {
            let length = packed.len();
            // SAFETY: the buffer is ours.
            unsafe { self.put(row, 0, i, rows, packed.as_mut_ptr(), length) };
        }
    }
}
