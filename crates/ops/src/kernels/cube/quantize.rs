//! Values to NF4 codes on a GPU: a unit a block of 64, the codes of [`nf4::quantize`].

use cubecl::prelude::*;

/// Codes into the head of `words`, eight a word, the even value of a byte in its high nibble; absmax
/// of each block. `thresholds` are the 15 midpoints of the codebook.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn quantize_kernel<F: Float>(
    values: &[F],
    thresholds: &[f32],
    words: &mut [u32],
    absmax: &mut [f32],
    blocks: usize,
    #[define(F)] _dtype: ElemType,
) {
    let mut steps = Shared::<[f32]>::new_slice(15usize);
    let mut entry = UNIT_POS as usize;
    while entry < 15 {
        steps[entry] = thresholds[entry];
        entry += CUBE_DIM as usize;
    }
    sync_cube();
    let block = ABSOLUTE_POS;
    if block < blocks {
        let start = block * 64;
        let mut largest = f32::new(0.0);
        for i in 0..64usize {
            let magnitude = f32::cast_from(values[start + i]).abs();
            if magnitude > largest {
                largest = magnitude;
            }
        }
        absmax[block] = largest;
        let mut floor = largest;
        if floor < f32::new(1e-38) {
            floor = f32::new(1e-38);
        }
        let reciprocal = f32::new(1.0) / floor;
        for word in 0..8usize {
            let mut packed = u32::new(0);
            for lane in 0..8usize {
                let scaled = f32::cast_from(values[start + word * 8 + lane]) * reciprocal;
                let mut code = u32::new(0);
                #[unroll]
                for step in 0..15usize {
                    code += select(steps[step] < scaled, u32::new(1), u32::new(0));
                }
                let shift = (lane / 2 * 8 + 4 - lane % 2 * 4) as u32;
                packed |= code << shift;
            }
            words[block * 8 + word] = packed;
        }
    }
}
