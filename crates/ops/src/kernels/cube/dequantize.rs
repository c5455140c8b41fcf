//! NF4 codes to values on a GPU: N neighbouring values at a time, written as one vector; a unit writes [`VECTORS`].
//!
//! The weight lies as [`crate::format`] says. The sixteen codebook values are staged in shared
//! memory: sixteen banks, so that the lanes of a warp never wait for each other there. Staging takes a unit as many
//! instructions as a vector does.
//!
//! Bytes, not arithmetic, should be what it costs: half a byte and 1/64 of a scale read, two written
//! for a value in bf16. Neighbouring units read neighbouring words, 128 bytes a warp, and write 16
//! bytes each, 512 a warp: whole lines both ways. `scripts/gpu-bench` prints what share of a plain
//! copy's bandwidth that reaches.

use cubecl::prelude::*;

/// Vectors that a unit is launched for.
pub(crate) const VECTORS: usize = 4;

/// The scale of a block: its f32, or its 8-bit code through the nested absmax and the map.
#[cube]
pub(crate) fn block_scale(
    words: &[u32],
    block: usize,
    scales_at: usize,
    nested_at: usize,
    map_at: usize,
    offset: f32,
    #[comptime] nested: bool,
) -> f32 {
    if comptime!(nested) {
        let code = (words[scales_at + block / 4] >> ((block % 4) as u32 * 8)) & 255;
        let absmax = f32::reinterpret(words[nested_at + block / 256]);
        f32::reinterpret(words[map_at + code as usize]) * absmax + offset
    } else {
        f32::reinterpret(words[scales_at + block])
    }
}

/// The codebook in shared memory, ready to be read by every unit of the cube.
#[cube]
pub(crate) fn codebook(#[comptime] units: usize) -> Shared<[f32]> {
    let mut table = Shared::<[f32]>::new_slice(16usize);
    #[unroll]
    for code in 0..16usize {
        if UNIT_POS as usize == comptime!(code % units) {
            table[code] = f32::new(comptime!(nf4::CODEBOOK[code]));
        }
    }
    sync_cube();
    table
}

/// The code of value `i` of the eight in a word: the even value is the high nibble of its byte.
#[cube]
pub(crate) fn nibble(word: u32, #[comptime] i: usize) -> usize {
    ((word >> comptime!((i / 2 * 8 + 4 - i % 2 * 4) as u32)) & 15) as usize
}

/// The same where the place in the word is known when it runs only.
#[cube]
fn nibble_at(word: u32, i: usize) -> usize {
    let within = i % 8;
    let shift = (within / 2 * 8 + 4 - within % 2 * 4) as u32;
    ((word >> shift) & 15) as usize
}

/// `R` is the type that the weight's values are rounded to, `F` the one they are stored in here.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn dequantize_kernel<F: Float, R: Float, N: Size>(
    words: &[u32],
    output: &mut [Vector<F, N>],
    vectors: usize,
    scales_at: usize,
    nested_at: usize,
    map_at: usize,
    offset: f32,
    #[comptime] nested: bool,
    #[comptime] units: usize,
    #[define(F, R)] _dtypes: [ElemType; 2],
) {
    let table = codebook(units);
    let together = CUBE_COUNT * CUBE_DIM as usize;
    let mut vector = ABSOLUTE_POS;
    while vector < vectors {
        let first = vector * N::value();
        let scale = block_scale(
            words,
            first / 64,
            scales_at,
            nested_at,
            map_at,
            offset,
            nested,
        );
        let word = words[first / 8];
        let mut values = Vector::<F, N>::empty();
        #[unroll]
        for lane in 0..N::value() {
            let value = R::cast_from(table[nibble_at(word, first + lane)] * scale);
            values.insert(lane, F::cast_from(value));
        }
        output[vector] = values;
        vector += together;
    }
}
