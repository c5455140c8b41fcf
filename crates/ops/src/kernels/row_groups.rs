//! Activations in the words and the layout that the tile broadcasts: groups of `LANES` rows,
//! `[steps][LANES]`; for AMX, which reads rows, `[steps / 16][parts][LANES][16]`.
//!
//! Eight rows side by side are read as one stream of whole cache lines, where row-major activations
//! are eight streams a power of two apart. Each value is rounded to bf16 here, once a call.

use super::panel::transpose;
use super::scratch::scratch_slices;
use super::simd::Level;
#[cfg(target_arch = "x86_64")]
use super::words::TILE_STEPS;
use super::words::{Words, round_to_bf16};

/// The first `k` columns of `x` `[rows, row]`, at most `LANES` rows → `out`; lanes beyond the rows are
/// zero.
pub(crate) fn pack(level: Level, words: Words, x: &[f32], row: usize, k: usize, out: &mut [f32]) {
    let (rows, lanes) = (x.len().div_ceil(row), level.lanes());
    assert!(rows <= lanes, "a group has LANES rows");
    match words {
        Words::F32 => transpose(level, x, row, rows, k, out, lanes),
        Words::Rounded => scratch_slices([rows * k], |[values]| {
            for (x, values) in x.chunks(row).zip(values.chunks_exact_mut(k)) {
                values.copy_from_slice(&x[..k]);
            }
            round_to_bf16(level, values);
            transpose(level, values, k, rows, k, out, lanes);
        }),
        #[cfg(target_arch = "x86_64")]
        Words::Pairs => {
            let steps = words.steps(k);
            scratch_slices([rows * steps], |[natural]| {
                for (x, out) in x.chunks(row).zip(natural.chunks_exact_mut(steps)) {
                    // SAFETY: Pairs exist where the level has AVX512-BF16.
                    unsafe { super::panel::pair_along(&x[..k], super::panel::Parts::ONE, out) };
                }
                transpose(level, natural, steps, rows, steps, out, lanes);
            })
        }
        #[cfg(target_arch = "x86_64")]
        Words::Tiles | Words::Thirds | Words::ThirdsOfBoth => {
            let out = &mut out[..words.row_steps(k) * lanes];
            for (i, x) in x.chunks(row).enumerate() {
                // SAFETY: these words exist where the level has AVX512-BF16 too; a row of the group, and
                // tiles for its words.
                unsafe { super::panel::pair_into_tiles(&x[..k], i, words.parts(), out) };
            }
            for tile in out.chunks_exact_mut(TILE_STEPS * lanes) {
                tile[rows * TILE_STEPS..].fill(0.0);
            }
        }
    }
}
