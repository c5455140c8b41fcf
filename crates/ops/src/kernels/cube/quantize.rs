//! Values to NF4 codes on a GPU, eight a unit: the codes of [`nf4::quantize`].
//!
//! Bytes, not arithmetic, should be what it costs: two read a value in bf16, half a byte and 1/16
//! written. A unit reads its eight values as vectors of 16 bytes and writes the word of their codes;
//! the eight units of a block meet in shared memory for its absmax. A code is found by bisection of
//! the thresholds, four comparisons, each reading one of fifteen banks.

use cubecl::prelude::*;

/// Codes into the head of `codes`, eight a word, the even value of a byte in its high nibble; absmax
/// of each block of 64. A cube takes `units·each` words, whole blocks of them.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn quantize_kernel<F: Float, E: Size>(
    values: &[Vector<F, E>],
    codes: &mut [u32],
    absmax: &mut [f32],
    words: usize,
    #[comptime] each: usize,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let lanes = E::value();
    let unit = UNIT_POS as usize;
    let mut steps = Shared::<[f32]>::new_slice(15usize);
    #[unroll]
    for step in 0..15usize {
        if unit == comptime!(step % units) {
            steps[step] = f32::new(comptime!(nf4::THRESHOLDS[step]));
        }
    }
    let mut largest = Shared::<[f32]>::new_slice(comptime!(units * each));
    let mut eight = Array::<f32>::new(comptime!(each * 8));
    let first = CUBE_POS * comptime!(units * each);
    #[unroll]
    for of in 0..each {
        let within = of * units + unit;
        let word = first + within;
        let mut top = f32::new(0.0);
        if word < words {
            #[unroll]
            for part in 0..comptime!(8 / lanes) {
                let vector = values[word * comptime!(8 / lanes) + part];
                #[unroll]
                for lane in 0..lanes {
                    let value = f32::cast_from(vector.extract(lane));
                    eight[of * 8 + part * lanes + lane] = value;
                    if value.abs() > top {
                        top = value.abs();
                    }
                }
            }
        }
        largest[within] = top;
    }
    sync_cube();
    #[unroll]
    for of in 0..each {
        let within = of * units + unit;
        let word = first + within;
        if word < words {
            let block = within / 8 * 8;
            let mut top = largest[block];
            for other in 1..8usize {
                if largest[block + other] > top {
                    top = largest[block + other];
                }
            }
            if within == block {
                absmax[word / 8] = top;
            }
            let mut floor = top;
            if floor < f32::new(1e-38) {
                floor = f32::new(1e-38);
            }
            let reciprocal = f32::new(1.0) / floor;
            let mut packed = u32::new(0);
            #[unroll]
            for lane in 0..8usize {
                let scaled = eight[of * 8 + lane] * reciprocal;
                // How many thresholds lie below.
                let mut code = u32::new(0);
                #[unroll]
                for level in 0..4u32 {
                    let half = comptime!(8u32 >> level);
                    if steps[(code + half - 1) as usize] < scaled {
                        code += half;
                    }
                }
                packed |= code << comptime!((lane / 2 * 8 + 4 - lane % 2 * 4) as u32);
            }
            codes[word] = packed;
        }
    }
}
