//! How do ggml's blocks of 256 become numbers again? They are what llama-quantize's Q4_K_M and the like
//! are made of, and what it writes output and embedding in even where the rest is Q4_0.
//!
//! A block is divided into groups of 16 or 32 elements. `d` and `dmin`, f16, belong to the block, a
//! scale and a minimum of 4 or 6 bits to a group: `d · scale · q − dmin · minimum`. All arithmetic is in
//! ggml's order, so that values are those of llama.cpp to the last bit.

use super::blocks::half_at;

/// Elements of a block.
pub(super) const SUPER_BLOCK: usize = 256;
type Values = [f32; SUPER_BLOCK];

/// Scales and minima of sixteen groups in the nibbles of 16 bytes, codes of two bits in 64, d, dmin.
pub(super) fn q2_k(block: &[u8; 84], values: &mut Values) {
    let (scales, codes) = (&block[..16], &block[16..80]);
    let (d, dmin) = (half_at(block, 80), half_at(block, 82));
    for (group, values) in values.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(scales[group] & 15);
        let minimum = dmin * f32::from(scales[group] >> 4);
        let (bytes, shift) = two_bits(group);
        for (value, byte) in values.iter_mut().zip(&codes[bytes..]) {
            *value = scale * f32::from(byte >> shift & 3) - minimum;
        }
    }
}

/// The third bits of all codes in 32 bytes, two bits of each in 64, sixteen signed scales of six
/// bits in 12, d.
pub(super) fn q3_k(block: &[u8; 110], values: &mut Values) {
    let (third, codes, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half_at(block, 108);
    for (group, values) in values.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let low = scales[group % 8] >> (4 * (group / 8)) & 15;
        let high = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
        let scale = d * (f32::from(high << 4 | low) - 32.0);
        let (bytes, shift) = two_bits(group);
        let third = &third[group % 2 * 16..];
        for ((value, byte), third) in values.iter_mut().zip(&codes[bytes..]).zip(third) {
            let code = (byte >> shift & 3) | (third >> (group / 2) & 1) << 2;
            *value = scale * (f32::from(code) - 4.0);
        }
    }
}

/// Where the sixteen two-bit codes of a group begin, and by how much they are shifted: four groups
/// that lie 32 elements apart share their bytes.
fn two_bits(group: usize) -> (usize, usize) {
    (group / 8 * 32 + group % 2 * 16, group % 8 / 2 * 2)
}

/// d, dmin, scales and minima of eight groups in 12 bytes, 256 nibbles.
pub(super) fn q4_k(block: &[u8; 144], values: &mut Values) {
    let codes = &block[16..];
    for (group, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_minimum(block, group);
        for (value, code) in values.iter_mut().zip(nibbles(codes, group)) {
            *value = scale * f32::from(code) - minimum;
        }
    }
}

/// As `q4_k`, with the fifth bits of all codes in 32 bytes before the nibbles.
pub(super) fn q5_k(block: &[u8; 176], values: &mut Values) {
    let (fifth, codes) = (&block[16..48], &block[48..]);
    for (group, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_minimum(block, group);
        for ((value, code), fifth) in values.iter_mut().zip(nibbles(codes, group)).zip(fifth) {
            let code = code | (fifth >> group & 1) << 4;
            *value = scale * f32::from(code) - minimum;
        }
    }
}

/// The 32 nibbles of a group; two groups share their bytes, the first has the low ones.
fn nibbles(codes: &[u8], group: usize) -> impl Iterator<Item = u8> {
    let bytes = &codes[group / 2 * 32..][..32];
    bytes.iter().map(move |byte| byte >> (4 * (group % 2)) & 15)
}

/// `d · scale` and `dmin · minimum` of a group. The first four groups' six bits are the low ones of
/// eight bytes; the others' are nibbles of four bytes and the two bits that were left over.
fn scale_and_minimum(block: &[u8], group: usize) -> (f32, f32) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let packed = &block[4..16];
    let (scale, minimum) = match group {
        0..4 => (packed[group] & 63, packed[group + 4] & 63),
        _ => (
            packed[group + 4] & 15 | packed[group - 4] >> 6 << 4,
            packed[group + 4] >> 4 | packed[group] >> 6 << 4,
        ),
    };
    (d * f32::from(scale), dmin * f32::from(minimum))
}

/// Four bits of all codes in 128 bytes, two more in 64, sixteen scales of eight bits, d.
pub(super) fn q6_k(block: &[u8; 210], values: &mut Values) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for (group, values) in values.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(scales[group] as i8);
        // In a half of eight groups, groups 0 to 3 are the low nibbles of 64 bytes, 4 to 7 the high.
        let low = &low[group / 8 * 64 + group % 4 * 16..];
        let (high_bytes, high_shift) = two_bits(group);
        let high = &high[high_bytes..];
        for ((value, low), high) in values.iter_mut().zip(low).zip(high) {
            let low = low >> (group % 8 / 4 * 4) & 15;
            let code = low | (high >> high_shift & 3) << 4;
            *value = scale * (f32::from(code) - 32.0);
        }
    }
}

/// What the nibbles of `IQ4_NL` and `IQ4_XS` stand for (ggml-common.h, kvalues_iq4nl).
const TABLE: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// 32 values from the low nibbles of sixteen bytes, then the high.
pub(super) fn from_table(scale: f32, codes: &[u8], values: &mut [f32]) {
    for (i, byte) in codes.iter().enumerate() {
        values[i] = scale * f32::from(TABLE[usize::from(byte & 15)]);
        values[i + 16] = scale * f32::from(TABLE[usize::from(byte >> 4)]);
    }
}

/// d, two bits of eight groups' scales in two bytes, four more in four, 256 nibbles.
pub(super) fn iq4_xs(block: &[u8; 136], values: &mut Values) {
    let d = half_at(block, 0);
    let high = u16::from_le_bytes([block[2], block[3]]);
    let (low, codes) = (&block[4..8], &block[8..]);
    for (group, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let low = low[group / 2] >> (4 * (group % 2)) & 15;
        let high = (high >> (2 * group) & 3) as u8;
        let scale = d * (f32::from(high << 4 | low) - 32.0);
        from_table(scale, &codes[16 * group..][..16], values);
    }
}
