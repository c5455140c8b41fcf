//! Rotary position embedding, half-split as Hugging Face has it (arXiv 2104.09864).
//!
//! For each head, with x₁ and x₂ its halves: (x₁cos − x₂sin, x₂cos + x₁sin). The backward pass is
//! the rotation by −angle, the same loop with the sign of sin turned.

use super::unwritten;
use rayon::prelude::*;

const ROWS: usize = 64;

/// x `[tokens, heads·head_dim]`, cos and sin `[positions, head_dim / 2]`; `sign` is 1 or −1.
pub fn rotate(
    x: &[f32],
    cos: &[f32],
    sin: &[f32],
    position_ids: &[u32],
    heads: usize,
    sign: f32,
) -> Vec<f32> {
    if x.is_empty() {
        return Vec::new();
    }
    let width = x.len() / position_ids.len();
    let half = width / heads / 2;
    assert!(
        x.len() == width * position_ids.len() && width == heads * 2 * half,
        "whole rows of heads of two halves"
    );
    // SAFETY: as whole rows, heads and halves are written below.
    let mut y = unsafe { unwritten(x.len()) };
    let chunks = y
        .par_chunks_mut(ROWS * width)
        .zip(x.par_chunks(ROWS * width))
        .zip(position_ids.par_chunks(ROWS));
    chunks.for_each(|((y, x), position_ids)| {
        for ((y, x), position) in y
            .chunks_exact_mut(width)
            .zip(x.chunks_exact(width))
            .zip(position_ids)
        {
            let at = *position as usize * half;
            let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
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
