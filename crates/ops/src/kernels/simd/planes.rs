//! Tables of sixteen f32 as four planes of bytes (AVX2).
//!
//! No look-up of AVX2 reads a table of 64 bytes, but `vpshufb` looks 32 codes up at once in one of sixteen
//! bytes. So a table lies in four planes, one for each byte of an f32: four look-ups and eight unpackings make
//! four vectors. `vpermps` takes five instructions for each, two of them of double cost.
//! Unsafe functions here want AVX2.

use std::arch::x86_64::*;

/// Byte k of every value of a table.
#[repr(align(64))]
pub(crate) struct Planes([[u8; 16]; 4]);

pub(crate) static CODEBOOK: Planes = Planes::of(&nf4::CODEBOOK);

impl Planes {
    #[inline(always)]
    pub(crate) const fn of(table: &[f32; 16]) -> Planes {
        let (mut planes, mut code) = ([[0; 16]; 4], 0);
        while code < 16 {
            let (bytes, mut k) = (table[code].to_bits().to_le_bytes(), 0);
            while k < 4 {
                planes[k][code] = bytes[k];
                k += 1;
            }
            code += 1;
        }
        Planes(planes)
    }

    /// Each for both halves of a vector.
    #[inline(always)]
    pub(crate) unsafe fn load(&self) -> [__m256i; 4] {
        unsafe { [self.plane(0), self.plane(1), self.plane(2), self.plane(3)] }
    }

    #[inline(always)]
    unsafe fn plane(&self, k: usize) -> __m256i {
        unsafe { _mm256_broadcastsi128_si256(_mm_load_si128(self.0[k].as_ptr().cast())) }
    }
}

/// Of the values of 32 codes, one a byte, vector `v` of four: in either half those of the four codes from `4·v`
/// on. The compiler makes look-ups and unpackings that vectors share once.
#[inline(always)]
pub(crate) unsafe fn values(planes: [__m256i; 4], codes: __m256i, v: usize) -> __m256 {
    unsafe {
        let bytes = |k: usize| _mm256_shuffle_epi8(planes[k], codes);
        let words = |k: usize| match v / 2 {
            0 => _mm256_unpacklo_epi8(bytes(k), bytes(k + 1)),
            _ => _mm256_unpackhi_epi8(bytes(k), bytes(k + 1)),
        };
        _mm256_castsi256_ps(match v % 2 {
            0 => _mm256_unpacklo_epi16(words(0), words(2)),
            _ => _mm256_unpackhi_epi16(words(0), words(2)),
        })
    }
}

/// 32 codes of 16 bytes, the first of each in the high nibble, where [`values`] makes vectors of neighbours of
/// them: four in the lower half, the next four in the upper, and so on.
#[inline(always)]
pub(crate) unsafe fn neighbours(bytes: *const u8) -> __m256i {
    unsafe {
        let bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128(bytes.cast()));
        let place = _mm256_setr_epi8(
            0, 0, 1, 1, 4, 4, 5, 5, 8, 8, 9, 9, 12, 12, 13, 13, //
            2, 2, 3, 3, 6, 6, 7, 7, 10, 10, 11, 11, 14, 14, 15, 15,
        );
        let twice = _mm256_shuffle_epi8(bytes, place);
        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(twice), _mm256_set1_epi16(0x000f));
        let low = _mm256_and_si256(twice, _mm256_set1_epi16(0x0f00));
        _mm256_or_si256(high, low)
    }
}
