//! dq, dk and dv, with P recomputed from the logsumexp.
//!
//! A task is one group of one segment and a range of its keys, walked in blocks: it alone writes
//! dk and dv of these keys, the heads of the group summed in the tile itself. Long segments are cut
//! into ranges of equal work so that one row keeps several threads busy; each range but the first
//! has a dq of its own, and they are added in order. Ranges follow from the length alone.

use super::KEYS;
use super::tile::Group;
use crate::kernels::matmul::{Strided, multiply};
use crate::kernels::normalize::get;
use crate::kernels::panel::transpose;
use crate::kernels::scratch::scratch_slices;
use crate::kernels::simd::{Level, Simd, for_lanes, simd_dispatch};
use crate::kernels::softmax::score_gradient_columns;
use crate::kernels::{Shared, output};
use crate::segments::{AttentionOptions, Segment, Segments};
use rayon::prelude::*;
use std::ops::Range;

/// What the backward pass reads.
pub struct Saved<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
    pub o: &'a [f32],
    pub lse: &'a [f32],
}

struct Task<'a> {
    group: Group<'a>,
    keys: Range<usize>,
    /// Positions that see any of these keys are the segment's last ones, from here.
    first: usize,
    /// Row `first` of the segment in the dq of this range.
    dq: Shared,
}

/// (dq, dk, dv) for d_o.
pub fn backward(
    level: Level,
    d_o: &[f32],
    saved: &Saved<'_>,
    segments: &Segments,
    options: &AttentionOptions,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let q_row = options.heads * options.head_dim;
    let mut dq = output(saved.q.len());
    let (mut dk, mut dv) = (output(saved.k.len()), output(saved.v.len()));
    clear_gaps(segments, options, &mut dk, &mut dv);

    // (rows of dq, where they begin in `partial`) of every range but a segment's first
    let mut later = Vec::new();
    let mut partial_rows = 0;
    let mut planned = Vec::new();
    for segment in segments.iter() {
        for (i, keys) in ranges(segment).into_iter().enumerate() {
            let first = first_to_see(segment, keys.start);
            let rows = segment.q.start + first..segment.q.end;
            let place = (i > 0).then_some(partial_rows);
            if let Some(place) = place {
                partial_rows += rows.len();
                later.push((rows.clone(), place));
            }
            planned.push((segment, keys, first, place));
        }
    }
    let mut partial = output(partial_rows * q_row);
    let (dq_at, partial_at) = (Shared(dq.as_mut_ptr()), Shared(partial.as_mut_ptr()));
    let tasks: Vec<Task<'_>> = planned
        .into_iter()
        .flat_map(|(segment, keys, first, place)| {
            // SAFETY: both lie inside their buffers, as counted above.
            let dq = Shared(unsafe {
                match place {
                    None => dq_at.at((segment.q.start + first) * q_row),
                    Some(rows) => partial_at.at(rows * q_row),
                }
            });
            (0..options.kv_heads).map(move |kv_head| Task {
                group: Group {
                    segment,
                    kv_head,
                    options,
                },
                keys: keys.clone(),
                first,
                dq,
            })
        })
        .collect();
    let (dk_at, dv_at) = (Shared(dk.as_mut_ptr()), Shared(dv.as_mut_ptr()));
    tasks
        .into_par_iter()
        .with_max_len(1)
        .for_each(|task| backward_task(level, d_o, saved, &task, dk_at, dv_at));
    for (rows, place) in later {
        let sum = &mut dq[rows.start * q_row..rows.end * q_row];
        let part = &partial[place * q_row..(place + rows.len()) * q_row];
        sum.par_chunks_mut(16 * q_row)
            .zip(part.par_chunks(16 * q_row))
            .for_each(|(sum, part)| sum.iter_mut().zip(part).for_each(|(s, p)| *s += p));
    }
    (dq, dk, dv)
}

/// Zeroes the gradients of keys that belong to no segment: nobody else writes them.
fn clear_gaps(segments: &Segments, options: &AttentionOptions, dk: &mut [f32], dv: &mut [f32]) {
    let k_row = options.kv_heads * options.head_dim;
    let mut keys: Vec<_> = segments.iter().map(|s| s.k.clone()).collect();
    keys.sort_by_key(|k| k.start);
    let mut next = 0;
    let rows = dk.len() / k_row;
    for k in keys.into_iter().chain(std::iter::once(rows..rows)) {
        for gradient in [&mut *dk, &mut *dv] {
            gradient[next * k_row..k.start * k_row].fill(0.0);
        }
        next = k.end;
    }
}

/// The segment's keys, cut where the causal triangle's area is cut evenly.
fn ranges(segment: &Segment) -> Vec<Range<usize>> {
    let length = segment.k.len();
    let parts = match length {
        ..192 => 1,
        192..1024 => 2,
        _ => 4,
    };
    // Keys before x hold 1 − (1 − x)² of the triangle's pairs.
    let cut = |part: usize| {
        let share = 1.0 - (1.0 - part as f64 / parts as f64).sqrt();
        ((length as f64 * share) as usize)
            .next_multiple_of(16)
            .min(length)
    };
    let cuts = (0..parts).map(|part| {
        cut(part)..if part + 1 < parts {
            cut(part + 1)
        } else {
            length
        }
    });
    cuts.filter(|keys| !keys.is_empty()).collect()
}

/// The first position of the segment that sees this key, or one that comes after it.
fn first_to_see(segment: &Segment, key: usize) -> usize {
    (key + segment.q.len()).saturating_sub(segment.k.len())
}

fn backward_task(
    level: Level,
    d_o: &[f32],
    saved: &Saved<'_>,
    task: &Task<'_>,
    dk: Shared,
    dv: Shared,
) {
    let Task { group, first, .. } = task;
    let o = group.options;
    let (d, width) = (o.head_dim, 3 * level.lanes());
    let (q_row, k_row) = group.strides();
    let positions = *first..group.segment.q.len();
    let heads = o.heads / o.kv_heads;
    let first_head = group.kv_head * heads;
    // Where a query's gradient lies: the rows of this range's dq begin at `first`.
    let dq_at = |head: usize, i: usize| unsafe { task.dq.at((i - first) * q_row + head * d) };
    let tile_size = d * width;
    let sizes = [
        2 * tile_size,
        2 * tile_size,
        2 * KEYS * width,
        tile_size,
        positions.len() * heads,
        4 * width,
    ];
    scratch_slices(sizes, |[queries, upstream, scores, out, deltas, stats]| {
        let (q_natural, q_lanes) = queries.split_at_mut(tile_size);
        let (o_natural, o_lanes) = upstream.split_at_mut(tile_size);
        let (p, ds) = scores.split_at_mut(KEYS * width);
        let (lse, stats) = stats.split_at_mut(width);
        let (delta, bounds) = stats.split_at_mut(width);
        for i in positions.clone() {
            let at = group.q_offset(first_head, i);
            let (from, to) = ((i - first) * heads, at + heads * d);
            // Σ dO·O, which is Σ P·dP over the keys
            head_dots(
                level,
                d,
                &d_o[at..to],
                &saved.o[at..to],
                &mut deltas[from..from + heads],
            );
            // SAFETY: this task alone writes this group's columns of its dq, in these rows.
            unsafe { std::slice::from_raw_parts_mut(dq_at(first_head, i), heads * d) }.fill(0.0);
        }
        for start in task.keys.clone().step_by(KEYS) {
            let block = start..(start + KEYS).min(task.keys.end);
            let at = group.k_offset(start);
            // SAFETY: this task alone writes these keys' rows of this head.
            let (dk, dv) = unsafe { (dk.at(at), dv.at(at)) };
            for gradient in [dk, dv] {
                for j in 0..block.len() {
                    unsafe { std::slice::from_raw_parts_mut(gradient.add(j * k_row), d) }.fill(0.0);
                }
            }
            let k = Strided::rows(&saved.k[at..], k_row);
            let v = Strided::rows(&saved.v[at..], k_row);
            for tile in group.tiles(positions.clone(), width) {
                let seen = group.seen(&tile);
                if seen.end <= block.start || seen.start >= block.end {
                    continue;
                }
                let block = block.start..block.end.min(seen.end);
                let (count, lanes) = (block.len(), tile.lanes());
                group.gather(saved.q, &tile, q_natural);
                group.gather(d_o, &tile, o_natural);
                transpose(level, q_natural, d, lanes, d, q_lanes, width);
                transpose(level, o_natural, d, lanes, d, o_lanes, width);
                for (lane, head, i) in tile.queries() {
                    lse[lane] = saved.lse[group.lse_offset(head, i)];
                    delta[lane] = deltas[(i - first) * heads + head - first_head];
                }
                let (p_at, ds_at) = (p.as_mut_ptr(), ds.as_mut_ptr());
                // [count][lanes]: K·Qᵀ and V·dOᵀ
                multiply(
                    level,
                    count,
                    lanes,
                    d,
                    k,
                    q_lanes.as_ptr(),
                    width,
                    p_at,
                    width,
                    false,
                );
                multiply(
                    level,
                    count,
                    lanes,
                    d,
                    v,
                    o_lanes.as_ptr(),
                    width,
                    ds_at,
                    width,
                    false,
                );
                let visible = group.mask(&tile, &block, bounds);
                let (scale, softcap) = (o.scale, o.softcap);
                score_gradient_columns(
                    level,
                    &mut p[..count * width],
                    &mut ds[..count * width],
                    width,
                    lanes,
                    &visible,
                    scale,
                    softcap,
                    lse,
                    delta,
                );
                // [count][d] += dS·Q and P·dO, over the heads of the group at once
                let (p_rows, ds_rows) = (Strided::rows(p, width), Strided::rows(ds, width));
                multiply(
                    level,
                    count,
                    d,
                    lanes,
                    ds_rows,
                    q_natural.as_ptr(),
                    d,
                    dk,
                    k_row,
                    true,
                );
                multiply(
                    level,
                    count,
                    d,
                    lanes,
                    p_rows,
                    o_natural.as_ptr(),
                    d,
                    dv,
                    k_row,
                    true,
                );
                // [lanes][d] = dSᵀ·K
                let (ds_columns, out_at) = (Strided::columns(ds, width), out.as_mut_ptr());
                multiply(
                    level, lanes, d, count, ds_columns, k.pointer, k_row, out_at, d, false,
                );
                for (lane, head, i) in tile.queries() {
                    // SAFETY: as above.
                    let row = unsafe { std::slice::from_raw_parts_mut(dq_at(head, i), d) };
                    let part = &out[lane * d..(lane + 1) * d];
                    row.iter_mut().zip(part).for_each(|(s, p)| *s += p);
                }
            }
        }
    });
}

simd_dispatch! {
    /// `out[i]` = the product of the i-th `d` values of both.
    fn head_dots(d: usize, a: &[f32], b: &[f32], out: &mut [f32]) = head_dots_generic
}

#[inline(always)]
unsafe fn head_dots_generic<S: Simd>(d: usize, a: &[f32], b: &[f32], out: &mut [f32]) {
    for ((a, b), out) in a.chunks_exact(d).zip(b.chunks_exact(d)).zip(out) {
        // SAFETY: both are `d` long.
        unsafe {
            let mut sum = S::splat(0.0);
            for_lanes!(S, d, |j, n| {
                sum = S::fma(get::<S>(a, j, n), get::<S>(b, j, n), sum);
            });
            *out = S::sum(sum);
        }
    }
}
