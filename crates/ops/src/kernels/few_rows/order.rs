//! In which order do the features of x lie, so that packed weights need no shuffling?
//!
//! A vector of weights is cut from the stored words by one shift: nibble `s` of sixteen 16-bit words
//! is every fourth weight, a half of sixteen 32-bit words every second. So x is put in that order
//! once, and every row of W finds its partners there. A vector is sixteen words (eight below
//! AVX-512) of one f32, or of two bf16 where that is what is multiplied ([`Words`]).

use crate::format::{DenseDtype, Encoding, WeightFormat};
use crate::kernels::aligned::Aligned;
use crate::kernels::simd::Level;
use crate::kernels::words::{Words, round_to_bf16};

/// Rows of x whose vectors lie side by side: what one tile reads is one stream.
pub(super) const GROUP: usize = 8;
/// Weights of a block of codes, and the features that are put in order at once.
const BLOCK: usize = nf4::BLOCK_SIZE;

/// The order that one storage format wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Feature after feature; the last vector is filled up with zeros.
    Natural { words: Words, lanes: usize },
    /// f32 for bf16 in 32-bit words of two: the even ones, then the odd ones, of 32.
    Halves,
    /// f32 for NF4 in 16-bit words of four: of 64 those in the low nibbles, then in the next.
    Nibbles,
    /// bf16 for the same: of 64 those in the low nibbles and those in the next in one vector, then
    /// the other two.
    NibblePairs,
}

impl Order {
    /// The order in which rows of this format are multiplied.
    pub(crate) fn of(level: Level, format: WeightFormat) -> Order {
        let (words, lanes) = (Words::of_vectors(level, format.compute), level.lanes());
        let natural = Order::Natural { words, lanes };
        if lanes != 16 || words == Words::Rounded {
            return natural;
        }
        let single = words == Words::F32;
        match format.encoding {
            Encoding::Nf4 { .. } if format.in_features.is_multiple_of(BLOCK) => match single {
                true => Order::Nibbles,
                false => Order::NibblePairs,
            },
            Encoding::Dense(DenseDtype::BF16)
                if single && format.in_features.is_multiple_of(32) =>
            {
                Order::Halves
            }
            _ => natural,
        }
    }

    /// Feature after feature in f32, as an adapter's A lies.
    pub(crate) fn plain(level: Level) -> Order {
        Order::Natural {
            words: Words::F32,
            lanes: level.lanes(),
        }
    }

    pub(crate) fn lanes(self) -> usize {
        match self {
            Order::Natural { lanes, .. } => lanes,
            Order::Halves | Order::Nibbles | Order::NibblePairs => 16,
        }
    }

    /// Features of a vector.
    fn features(self) -> usize {
        match self {
            Order::Natural { words, lanes } => lanes * words.values(),
            Order::Halves | Order::Nibbles => 16,
            Order::NibblePairs => 32,
        }
    }

    /// How `rows` rows of x lie in this order.
    pub(crate) fn layout(self, rows: usize, features: usize) -> Layout {
        Layout {
            order: self,
            rows,
            vectors: features.div_ceil(self.features()),
        }
    }
}

/// Packed rows of x: `[group][vector][row of the group][lane]`, groups of [`GROUP`] rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub order: Order,
    pub rows: usize,
    /// Vectors of a row.
    pub vectors: usize,
}

impl Layout {
    /// Words of all rows.
    pub(crate) fn len(&self) -> usize {
        self.rows * self.vectors * self.order.lanes()
    }

    /// Where a vector of a row begins.
    #[inline(always)]
    pub(super) fn at(&self, vector: usize, row: usize) -> usize {
        let first = row / GROUP * GROUP;
        (first * self.vectors + vector * self.group(row) + row - first) * self.order.lanes()
    }

    /// Rows of the group that this row is in: from vector to vector of a row.
    #[inline(always)]
    pub(super) fn group(&self, row: usize) -> usize {
        GROUP.min(self.rows - row / GROUP * GROUP)
    }

    /// Puts features `first..` of row `row` among the vectors at `packed`.
    ///
    /// # Panics
    /// If `first` is not at the start of a block of 64, or an order that knows whole blocks alone
    /// is given less, or the features are more than a row has.
    ///
    /// # Safety
    /// `packed` must be valid for [`Layout::len`] words; no one else may touch the places of these.
    pub(crate) unsafe fn put(
        self,
        level: Level,
        values: &[f32],
        first: usize,
        row: usize,
        packed: *mut f32,
    ) {
        let step = self.group(row) * self.order.lanes();
        let per_vector = self.order.features();
        assert!(
            first.is_multiple_of(BLOCK) && row < self.rows,
            "a block of one of the rows"
        );
        assert!(
            first + values.len() <= self.vectors * per_vector,
            "a feature beyond the row"
        );
        // SAFETY: the vectors of this row that hold these features, as just seen.
        let mut to = unsafe { packed.add(self.at(first / per_vector, row)) };
        match self.order {
            Order::Natural { words, lanes } => {
                for values in values.chunks(per_vector) {
                    // SAFETY: one vector.
                    unsafe {
                        put_natural(
                            level,
                            words,
                            values,
                            std::slice::from_raw_parts_mut(to, lanes),
                        );
                    }
                    to = to.wrapping_add(step);
                }
            }
            #[cfg(target_arch = "x86_64")]
            order => {
                assert!(
                    values
                        .len()
                        .is_multiple_of(per_vector * order.vectors_at_once())
                );
                // SAFETY: whole runs of vectors, and these orders are chosen where the level is
                // AVX-512, with pairs where it multiplies them.
                unsafe {
                    match order {
                        Order::Nibbles => x86::nibbles(values, to, step),
                        Order::NibblePairs => x86::nibble_pairs(values, to, step),
                        _ => x86::halves(values, to, step),
                    }
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            order => unreachable!("{order:?} is an order of AVX-512"),
        }
    }

    /// All of x, row-major, packed into `packed`.
    pub(crate) fn pack(self, level: Level, x: &[f32], packed: &mut Aligned) {
        packed.resize(self.len());
        for (i, row) in x.chunks_exact(x.len() / self.rows.max(1)).enumerate() {
            // SAFETY: the buffer is ours and has this length.
            unsafe { self.put(level, row, 0, i, packed.as_mut_ptr()) };
        }
    }
}

/// At most one vector of features, rounded to what the words hold.
fn put_natural(level: Level, words: Words, values: &[f32], to: &mut [f32]) {
    match words {
        Words::F32 | Words::Rounded => {
            to[..values.len()].copy_from_slice(values);
            to[values.len()..].fill(0.0);
            if words == Words::Rounded {
                round_to_bf16(level, to);
            }
        }
        #[cfg(target_arch = "x86_64")]
        Words::Pairs | Words::Tiles | Words::Thirds => {
            // SAFETY: these words exist where the level has AVX512-BF16; two values a word.
            unsafe { crate::kernels::panel::pair_along(values, to) };
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Order {
    /// Vectors that are made together.
    fn vectors_at_once(self) -> usize {
        match self {
            Order::Nibbles => 4,
            Order::NibblePairs | Order::Halves => 2,
            Order::Natural { .. } => 1,
        }
    }
}

/// Whole blocks into the orders that packed words want; vectors lie `step` words apart.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use crate::kernels::panel::pairs;
    use std::arch::x86_64::*;

    /// Of four vectors, every fourth value from `first` on: the indices for the first two, whose
    /// result is the lower half.
    const fn every_fourth(first: i32) -> [i32; 16] {
        let (mut index, mut i) = ([0; 16], 0);
        while i < 16 {
            index[i] = first + 4 * (i as i32 % 8);
            i += 1;
        }
        index
    }

    #[inline(always)]
    unsafe fn load_64(p: *const f32) -> [__m512; 4] {
        unsafe {
            [
                _mm512_loadu_ps(p),
                _mm512_loadu_ps(p.add(16)),
                _mm512_loadu_ps(p.add(32)),
                _mm512_loadu_ps(p.add(48)),
            ]
        }
    }

    /// # Safety
    /// AVX-512; whole blocks of 64 and room for as many vectors.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub(super) unsafe fn nibbles(values: &[f32], mut to: *mut f32, step: usize) {
        // A byte holds two codes, the first in the high nibble.
        const FIRSTS: [[i32; 16]; 4] = [
            every_fourth(1),
            every_fourth(0),
            every_fourth(3),
            every_fourth(2),
        ];
        // SAFETY: 64 values and four vectors at a time.
        unsafe {
            for block in values.chunks_exact(64) {
                let v = load_64(block.as_ptr());
                for index in FIRSTS {
                    let index = _mm512_loadu_si512(index.as_ptr().cast());
                    let low = _mm512_permutex2var_ps(v[0], index, v[1]);
                    let high = _mm512_permutex2var_ps(v[2], index, v[3]);
                    _mm512_storeu_ps(to, _mm512_shuffle_f32x4::<0x44>(low, high));
                    to = to.wrapping_add(step);
                }
            }
        }
    }

    /// # Safety
    /// AVX-512; whole runs of 32 and room for as many vectors.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub(super) unsafe fn halves(values: &[f32], mut to: *mut f32, step: usize) {
        // SAFETY: 32 values and two vectors at a time.
        unsafe {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
            for run in values.chunks_exact(32) {
                let low = _mm512_loadu_ps(run.as_ptr());
                let high = _mm512_loadu_ps(run.as_ptr().add(16));
                for index in [even, odd] {
                    _mm512_storeu_ps(to, _mm512_permutex2var_ps(low, index, high));
                    to = to.wrapping_add(step);
                }
            }
        }
    }

    /// # Safety
    /// AVX-512 with BF16; whole blocks of 64 and room for as many vectors.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    pub(super) unsafe fn nibble_pairs(values: &[f32], mut to: *mut f32, step: usize) {
        /// Halves of a vector: every fourth value from each of these on.
        const fn both(firsts: [i16; 2]) -> [i16; 32] {
            let (mut index, mut i) = ([0; 32], 0);
            while i < 32 {
                index[i] = firsts[i / 16] + 4 * (i as i16 % 16);
                i += 1;
            }
            index
        }
        const INDICES: [[i16; 32]; 2] = [both([1, 0]), both([3, 2])];
        // SAFETY: 64 values and two vectors at a time.
        unsafe {
            for block in values.chunks_exact(64) {
                let v = load_64(block.as_ptr());
                let (low, high) = (pairs::both(v[0], v[1]), pairs::both(v[2], v[3]));
                for index in INDICES {
                    let index = _mm512_loadu_si512(index.as_ptr().cast());
                    let words = _mm512_permutex2var_epi16(low, index, high);
                    _mm512_storeu_si512(to.cast(), words);
                    to = to.wrapping_add(step);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ComputeDtype;

    /// (vector, lane, half of the word) of a feature.
    fn place(order: Order, feature: usize) -> (usize, usize, usize) {
        match order {
            Order::Natural { words, lanes } => {
                let word = feature / words.values();
                (word / lanes, word % lanes, feature % words.values())
            }
            Order::Halves => (feature / 32 * 2 + feature % 2, feature % 32 / 2, 0),
            // A byte holds two codes, the first in the high nibble.
            Order::Nibbles => (feature / 64 * 4 + ((feature % 4) ^ 1), feature % 64 / 4, 0),
            Order::NibblePairs => {
                let (word, nibble) = (feature % 64 / 4, (feature % 4) ^ 1);
                let half_lane = nibble % 2 * 16 + word;
                (feature / 64 * 2 + nibble / 2, half_lane / 2, half_lane % 2)
            }
        }
    }

    #[test]
    fn every_feature_of_every_row_lies_where_its_weight_will_look_for_it() {
        let encodings = [
            (Encoding::Dense(DenseDtype::F32), 50),
            (Encoding::Dense(DenseDtype::BF16), 96),
            (
                Encoding::Nf4 {
                    dtype: nf4::Dtype::BF16,
                    nested_offset: None,
                },
                192,
            ),
        ];
        for level in Level::available() {
            for compute in [ComputeDtype::F32, ComputeDtype::Bf16] {
                for (encoding, in_features) in encodings {
                    for rows in [1, 7, 8, 19] {
                        let format = WeightFormat {
                            out_features: 1,
                            in_features,
                            encoding,
                            compute,
                        };
                        let order = Order::of(level, format);
                        let layout = order.layout(rows, in_features);
                        let x: Vec<f32> = (0..rows * in_features).map(|i| i as f32 * 1.7).collect();
                        let mut packed = Aligned::default();
                        layout.pack(level, &x, &mut packed);
                        for (i, value) in x.iter().enumerate() {
                            let (row, feature) = (i / in_features, i % in_features);
                            let (vector, lane, half) = place(order, feature);
                            let word = packed[layout.at(vector, row) + lane].to_bits();
                            let single = matches!(
                                order,
                                Order::Halves
                                    | Order::Nibbles
                                    | Order::Natural {
                                        words: Words::F32,
                                        ..
                                    }
                            );
                            let (got, expected) = match (single, compute) {
                                (true, _) => (f32::from_bits(word), *value),
                                (false, _) => {
                                    let bits = match Words::of_vectors(level, compute).values() {
                                        1 => word,
                                        _ => word >> (16 * half) << 16,
                                    };
                                    let rounded = half::bf16::from_f32(*value).to_f32();
                                    (f32::from_bits(bits), rounded)
                                }
                            };
                            assert_eq!(got, expected, "{order:?}: row {row}, feature {feature}");
                        }
                    }
                }
            }
        }
    }
}
