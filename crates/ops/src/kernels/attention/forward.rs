//! o and logsumexp: a task is some positions of one group, a tile of them at a time.

use super::KEYS;
use super::tile::Group;
use super::words::{Multiplier, Rows};
use crate::kernels::scratch::scratch_slices;
use crate::kernels::simd::Level;
use crate::kernels::softmax::{LOWEST, softmax_columns};
use crate::kernels::{Shared, unwritten};
use crate::segments::{AttentionOptions, Segments};
use rayon::prelude::*;
use std::ops::Range;

/// Positions of a task: enough to be worth one, few enough that a lone row keeps all threads busy.
const POSITIONS: usize = 96;

/// o `[tokens, heads·head_dim]` and logsumexp `[tokens, heads]`.
///
/// # Panics
/// When the segments do not cover the rows of q once each, or end after the last row of k and v.
pub fn forward(
    level: Level,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    segments: &Segments,
    options: &AttentionOptions,
) -> (Vec<f32>, Vec<f32>) {
    let (width, heads) = (options.heads * options.head_dim, options.heads);
    let (tokens, k_row) = (q.len() / width, options.kv_heads * options.head_dim);
    assert_eq!(k.len(), v.len(), "as many values as keys");
    segments.check(tokens, k.len() / k_row);
    assert!(heads.is_multiple_of(options.kv_heads), "groups of heads");
    // SAFETY: segments cover q, as just checked, and tasks all positions and heads.
    let (mut o, mut lse) = unsafe { (unwritten(tokens * width), unwritten(tokens * heads)) };
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
    let multiplier = Multiplier::new(level, options);
    tasks
        .into_par_iter()
        .with_max_len(1)
        .for_each(|(group, positions)| {
            let span = group.segment.k.start * k_row..group.segment.k.end * k_row;
            let keys = (&k[span.clone()], &v[span]);
            // SAFETY: segments share no row, and tasks no position of a group.
            unsafe { forward_task(multiplier, q, keys, &group, positions, o_at, lse_at) };
        });
    (o, lse)
}

/// Writes o and logsumexp of these positions of a group. Blocks of keys are the outer loop: what
/// is packed of K and V serves every tile from L1.
///
/// # Safety
/// o and lse are as [`forward`] makes them for q, and no other task has these positions of this group.
unsafe fn forward_task(
    multiplier: Multiplier,
    q: &[f32],
    (k, v): (&[f32], &[f32]),
    group: &Group<'_>,
    positions: Range<usize>,
    o: Shared,
    lse: Shared,
) {
    let (d, width, level) = (group.options.head_dim, multiplier.width(), multiplier.level);
    let (_, k_row) = group.strides();
    let tiles = group.tiles(positions.clone(), width);
    let tile_count = tiles.clone().count();
    let queries_size = multiplier.panels_size(width, d);
    let sizes = [
        tile_count * queries_size,
        tile_count * d * width,
        tile_count * 2 * width,
        multiplier.groups_size(KEYS, d),
        multiplier.panels_size(d, KEYS),
        KEYS * width,
        multiplier.groups_size(width, KEYS),
        d * width,
        3 * width,
    ];
    scratch_slices(sizes, |buffers| {
        let [
            queries,
            outs,
            stats,
            keys,
            values,
            scores,
            p,
            natural,
            bounds,
        ] = buffers;
        let (rescale, bounds) = bounds.split_at_mut(width);
        let of_tiles = queries.chunks_exact_mut(queries_size);
        for (tile, queries) in tiles.clone().zip(of_tiles) {
            group.gather(level, q, &tile, natural);
            multiplier.panel_of_rows(Rows::new(natural, d, tile.lanes()), d, queries);
        }
        for stats in stats.chunks_exact_mut(2 * width) {
            stats[..width].fill(LOWEST);
            stats[width..].fill(0.0);
        }
        let seen = group.visible(positions.start).start..group.visible(positions.end - 1).end;
        for start in seen.clone().step_by(KEYS) {
            let block = start..(start + KEYS).min(seen.end);
            let at = start * k_row + group.kv_head * d;
            multiplier.groups(Rows::new(&k[at..], k_row, block.len()), d, keys);
            multiplier.panels(Rows::new(&v[at..], k_row, block.len()), d, values);
            for (i, tile) in tiles.clone().enumerate() {
                let seen = group.seen(&tile);
                let block = start..block.end.min(seen.end);
                if block.is_empty() || seen.start >= block.end {
                    continue;
                }
                let (count, lanes, begun) = (block.len(), tile.lanes(), seen.start < start);
                let queries = &queries[i * queries_size..][..queries_size];
                let out = &mut outs[i * d * width..][..d * width];
                let (largest, sums) = stats[i * 2 * width..][..2 * width].split_at_mut(width);
                // SAFETY: scores hold a block of keys, `width` lanes each.
                unsafe {
                    // [count][lanes] = K·Qᵀ
                    let to = scores.as_mut_ptr();
                    multiplier.multiply([count, lanes, d], keys, queries, to, width, false);
                }
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
                multiplier.groups_of_columns(Rows::new(scores, width, count), lanes, p);
                // SAFETY: out holds `width` rows of `d`.
                unsafe {
                    // [lanes][d] += P·V
                    let to = out.as_mut_ptr();
                    multiplier.multiply([lanes, d, count], p, values, to, d, begun);
                }
            }
        }
        for (i, tile) in tiles.enumerate() {
            let (largest, sums) = stats[i * 2 * width..][..2 * width].split_at(width);
            for (lane, head, position) in tile.queries() {
                let inverse = 1.0 / sums[lane];
                let source = &outs[i * d * width + lane * d..][..d];
                // SAFETY: this task alone writes these positions of this group.
                unsafe {
                    let at = group.q_offset(head, position);
                    let row = o.slice(at, d);
                    row.iter_mut()
                        .zip(source)
                        .for_each(|(o, v)| *o = v * inverse);
                    let at = group.lse_offset(head, position);
                    *lse.at(at) = largest[lane] + sums[lane].ln();
                }
            }
        }
    });
}
