//! In which order do the features of x lie, so that packed weights need no shuffling?
//!
//! A vector of weights is cut from the stored words by one shift: nibble `s` of sixteen 16-bit words
//! is every fourth weight, a half of sixteen 32-bit words every second. So x is put in that order
//! once, and every row of W finds its partners there; below AVX-512 likewise in the order in which
//! bytes are unpacked. A vector is sixteen words (eight below AVX-512) of one f32, or of two bf16 where
//! that is what is multiplied ([`Words`]). Where its words then lie is the [`Layout`]'s business.

use super::layout::Layout;
use crate::format::{DenseDtype, Encoding, WeightFormat};
#[cfg(target_arch = "x86_64")]
use crate::kernels::panel::{Parts, pair_along};
#[cfg(target_arch = "x86_64")]
use crate::kernels::simd::Isa;
use crate::kernels::simd::Level;
use crate::kernels::words::{Words, round_to_bf16};

/// Weights of a block of codes, and the features that are put in order at once.
pub(super) const BLOCK: usize = nf4::BLOCK_SIZE;

/// The order that one storage format wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // the orders of packed words are x86's
pub(crate) enum Order {
    /// Feature after feature; the last vector is filled up with zeros.
    Natural { words: Words, lanes: usize },
    /// f32 for bf16 in 32-bit words of two: the even ones, then the odd ones, of 32.
    Halves,
    /// f32 for NF4 in 16-bit words of four: of 64 those in the low nibbles, then in the next.
    Nibbles,
    /// f32 for NF4 in bytes of two (AVX2): of 64 those in the high nibbles, then in the low, of either
    /// four times four in the lower half of a vector and the four 32 further on in the upper.
    Planes,
    /// bf16 for [`Order::Nibbles`]' words: of 64 those in the low nibbles and those in the next in one vector, then
    /// the other two.
    NibblePairs,
    /// The same, for tiles.
    NibbleTiles,
}

impl Order {
    /// The order in which rows of this format are multiplied.
    pub(crate) fn of(level: Level, format: WeightFormat) -> Order {
        let (words, lanes) = (Words::new(level, format.compute), level.lanes());
        let natural = Order::Natural { words, lanes };
        let single = words == Words::F32;
        #[cfg(target_arch = "x86_64")]
        if level.isa() == Isa::Avx2 && single {
            return match format.encoding {
                Encoding::Nf4 { .. } if format.in_features.is_multiple_of(BLOCK) => Order::Planes,
                _ => natural,
            };
        }
        if lanes != 16 || words == Words::Rounded {
            return natural;
        }
        match format.encoding {
            Encoding::Nf4 { .. } if format.in_features.is_multiple_of(BLOCK) => match natural {
                _ if single => Order::Nibbles,
                _ if natural.tiled() => Order::NibbleTiles,
                _ => Order::NibblePairs,
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
            Order::Planes => 8,
            Order::Halves | Order::Nibbles | Order::NibblePairs | Order::NibbleTiles => 16,
        }
    }

    /// Whether the words lie as tiles are loaded.
    #[inline(always)]
    pub(super) fn tiled(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Order::Natural {
                words: Words::Tiles,
                ..
            } => true,
            Order::NibbleTiles => true,
            _ => false,
        }
    }

    /// Features of a vector.
    pub(super) fn features(self) -> usize {
        match self {
            Order::Natural { words, lanes } => lanes * words.values(),
            Order::Planes => 8,
            Order::Halves | Order::Nibbles => 16,
            Order::NibblePairs | Order::NibbleTiles => 32,
        }
    }

    /// Vectors that are made together.
    pub(super) fn vectors_at_once(self) -> usize {
        match self {
            Order::Planes => 8,
            Order::Nibbles => 4,
            Order::NibblePairs | Order::NibbleTiles | Order::Halves => 2,
            Order::Natural { .. } => 1,
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

/// At most one vector of features, rounded to what the words hold.
pub(super) fn put_natural(level: Level, words: Words, values: &[f32], to: &mut [f32]) {
    match words {
        Words::F32 | Words::Rounded => {
            to[..values.len()].copy_from_slice(values);
            to[values.len()..].fill(0.0);
            if words == Words::Rounded {
                round_to_bf16(level, to);
            }
        }
        #[cfg(target_arch = "x86_64")]
        Words::Pairs | Words::Tiles | Words::Thirds | Words::ThirdsOfBoth => {
            // SAFETY: these words exist where the level has AVX512-BF16; two values a word.
            unsafe { pair_along(values, Parts::ONE, to) };
        }
    }
}

/// Whole blocks into the orders that packed words want; vectors lie `step` words apart.
#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
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
    pub(in super::super) unsafe fn nibbles(values: &[f32], mut to: *mut f32, step: usize) {
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
    /// AVX2; whole blocks of 64 and room for as many vectors.
    #[target_feature(enable = "avx2")]
    pub(in super::super) unsafe fn planes(values: &[f32], mut to: *mut f32, step: usize) {
        /// Every second value of both, those of `a` first.
        #[inline(always)]
        unsafe fn every_second<const FROM_FIRST: bool>(a: __m256, b: __m256) -> __m256i {
            unsafe {
                // Of a, b, a, b two each.
                let turns = match FROM_FIRST {
                    true => _mm256_shuffle_ps::<0b10_00_10_00>(a, b),
                    false => _mm256_shuffle_ps::<0b11_01_11_01>(a, b),
                };
                _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_castps_si256(turns))
            }
        }
        // SAFETY: 64 values and eight vectors at a time.
        unsafe {
            for block in values.chunks_exact(64) {
                for v in 0..8 {
                    let from = block.as_ptr().add(v % 4 * 8);
                    let (a, b) = (_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(32)));
                    // A byte holds two codes, the first in the high nibble.
                    let vector = match v / 4 {
                        0 => every_second::<true>(a, b),
                        _ => every_second::<false>(a, b),
                    };
                    _mm256_storeu_si256(to.cast(), vector);
                    to = to.wrapping_add(step);
                }
            }
        }
    }

    /// # Safety
    /// AVX-512; whole runs of 32 and room for as many vectors.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub(in super::super) unsafe fn halves(values: &[f32], mut to: *mut f32, step: usize) {
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
    pub(in super::super) unsafe fn nibble_pairs(values: &[f32], mut to: *mut f32, step: usize) {
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
    use crate::kernels::aligned::Aligned;

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
            Order::Planes => {
                let byte = feature % 64 / 2;
                let vector = feature / 64 * 8 + feature % 2 * 4 + byte % 16 / 4;
                (vector, byte / 16 * 4 + byte % 4, 0)
            }
            Order::NibblePairs | Order::NibbleTiles => {
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
                    for rows in [1, 3, 7, 8, 19, 33] {
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
                            let at = match order.tiled() {
                                true => layout.tile_at(vector, row) + 16 * lane + row % 16,
                                false => layout.at(vector, row) + lane,
                            };
                            let word = packed[at].to_bits();
                            let single = matches!(
                                order,
                                Order::Halves
                                    | Order::Nibbles
                                    | Order::Planes
                                    | Order::Natural {
                                        words: Words::F32,
                                        ..
                                    }
                            );
                            let (got, expected) = match (single, compute) {
                                (true, _) => (f32::from_bits(word), *value),
                                (false, _) => {
                                    let bits = match Words::new(level, compute).values() {
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
