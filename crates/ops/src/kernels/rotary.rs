//! Rotary position embedding, half-split as Hugging Face has it (arXiv 2104.09864).
//!
//! For each head, with x₁ and x₂ its halves: (x₁cos − x₂sin, x₂cos + x₁sin). The backward pass is
//! the rotation by −angle, the same loop with the sign of sin turned.

use super::unwritten;
use rayon::prelude::*;

const ROWS: usize = 64;

/// x `[tokens, heads·2·half]`, cos and sin `[tokens, half]`; `sign` is 1 or −1.
pub fn rotate(
    x: &[f32],
    cos: &[f32],
    sin: &[f32],
    heads: usize,
    half: usize,
    sign: f32,
) -> Vec<f32> {
    let width = heads * 2 * half;
    assert_eq!(
        [x.len(), cos.len()],
        [sin.len() * 2 * heads, sin.len()],
        "an angle for each pair of a token's channels"
    );
    // SAFETY: as whole rows, heads and halves are written below.
    let mut y = unsafe { unwritten(x.len()) };
    let chunks = y
        .par_chunks_mut(ROWS * width)
        .zip(x.par_chunks(ROWS * width))
        .zip(cos.par_chunks(ROWS * half).zip(sin.par_chunks(ROWS * half)));
    chunks.for_each(|((y, x), (cos, sin))| {
        for ((y, x), (cos, sin)) in y
            .chunks_exact_mut(width)
            .zip(x.chunks_exact(width))
            .zip(cos.chunks_exact(half).zip(sin.chunks_exact(half)))
        {
            for (y, x) in y.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half)) {
                let ((y1, y2), (x1, x2)) = (y.split_at_mut(half), x.split_at(half));
                for j in 0..half {
                    let (c, s) = (cos[j], sign * sin[j]);
                    y1[j] = x1[j] * c - x2[j] * s;
                    y2[j] = x2[j] * c + x1[j] * s;
                }
            }
        }
    });
    y
}
