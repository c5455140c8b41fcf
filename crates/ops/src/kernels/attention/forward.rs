//! o and logsumexp: a task is some positions of one group, a tile of them at a time.

use super::KEYS;
use super::tile::Group;
use crate::kernels::matmul::{Strided, multiply};
use crate::kernels::panel::transpose;
use crate::kernels::scratch::scratch_slices;
use crate::kernels::simd::Level;
use crate::kernels::softmax::{LOWEST, softmax_columns};
use crate::kernels::{Shared, output};
use crate::segments::{AttentionOptions, Segments};
use rayon::prelude::*;
use std::ops::Range;

/// Positions of a task: enough to be worth one, few enough that a lone row keeps all threads busy.
const POSITIONS: usize = 96;

/// o `[tokens, heads·head_dim]` and logsumexp `[tokens, heads]`.
pub fn forward(
    level: Level,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    segments: &Segments,
    options: &AttentionOptions,
) -> (Vec<f32>, Vec<f32>) {
    let (width, heads) = (options.heads * options.head_dim, options.heads);
    let tokens = q.len() / width;
    let (mut o, mut lse) = (output(tokens * width), output(tokens * heads));
    let (o_at, lse_at) = (Shared(o.as_mut_ptr()), Shared(lse.as_mut_ptr()));
    let mut tasks = Vec::new();
    for segment in segments.iter() {
        for start in (0..segment.q.len()).step_by(POSITIONS) {
            let positions = start..(start + POSITIONS).min(segment.q.len());
            tasks.extend((0..options.kv_heads).map(|kv_head| {
                let group = Group {
                    segment,
                    kv_head,
                    options,
                };
                (group, positions.clone())
            }));
        }
    }
    let k_row = options.kv_heads * options.head_dim;
    tasks
        .into_par_iter()
        .with_max_len(1)
        .for_each(|(group, positions)| {
            let span = group.segment.k.start * k_row..group.segment.k.end * k_row;
            let keys = (&k[span.clone()], &v[span]);
            forward_task(level, q, keys, &group, positions, o_at, lse_at);
        });
    (o, lse)
}

/// Writes o and logsumexp of these positions of a group.
fn forward_task(
    level: Level,
    q: &[f32],
    (k, v): (&[f32], &[f32]),
    group: &Group<'_>,
    positions: Range<usize>,
    o: Shared,
    lse: Shared,
) {
    let (d, width) = (group.options.head_dim, 3 * level.lanes());
    let (_, k_row) = group.strides();
    let sizes = [d * width, d * width, KEYS * width, d * width, 5 * width];
    scratch_slices(sizes, |[natural, queries, scores, out, stats]| {
        let (largest, stats) = stats.split_at_mut(width);
        let (sums, stats) = stats.split_at_mut(width);
        let (rescale, bounds) = stats.split_at_mut(width);
        for tile in group.tiles(positions.clone(), width) {
            let lanes = tile.lanes();
            group.gather(q, &tile, natural);
            transpose(level, natural, d, lanes, d, queries, width);
            largest.fill(LOWEST);
            sums.fill(0.0);
            let seen = group.seen(&tile);
            let mut begun = false;
            for start in seen.clone().step_by(KEYS) {
                let block = start..(start + KEYS).min(seen.end);
                let at = start * k_row + group.kv_head * d;
                let (keys, values) = (Strided::rows(&k[at..], k_row), v[at..].as_ptr());
                let (scores_at, queries_at) = (scores.as_mut_ptr(), queries.as_ptr());
                let count = block.len();
                // [count][lanes] = K·Qᵀ
                multiply(
                    level, count, lanes, d, keys, queries_at, width, scores_at, width, false,
                );
                let visible = group.mask(&tile, &block, bounds);
                let (scale, softcap) = (group.options.scale, group.options.softcap);
                softmax_columns(
                    level,
                    &mut scores[..count * width],
                    width,
                    lanes,
                    &visible,
                    scale,
                    softcap,
                    largest,
                    sums,
                    rescale,
                );
                if begun {
                    let rows = out.chunks_exact_mut(d).zip(&*rescale).take(lanes);
                    for (row, by) in rows.filter(|(_, by)| **by != 1.0) {
                        row.iter_mut().for_each(|v| *v *= by);
                    }
                }
                // [lanes][d] += P·V
                let p = Strided::columns(scores, width);
                let out_at = out.as_mut_ptr();
                multiply(level, lanes, d, count, p, values, k_row, out_at, d, begun);
                begun = true;
            }
            for (lane, head, i) in tile.queries() {
                let inverse = 1.0 / sums[lane];
                let source = &out[lane * d..(lane + 1) * d];
                // SAFETY: this task alone writes these positions of this group.
                unsafe {
                    let row = std::slice::from_raw_parts_mut(o.at(group.q_offset(head, i)), d);
                    row.iter_mut()
                        .zip(source)
                        .for_each(|(o, v)| *o = v * inverse);
                    *lse.at(group.lse_offset(head, i)) = largest[lane] + sums[lane].ln();
                }
            }
        }
    });
}
