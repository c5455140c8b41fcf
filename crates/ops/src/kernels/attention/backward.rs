//! dq, dk and dv, with P recomputed from the logsumexp.
//!
//! A task is one group of one segment and a range of its keys: it alone writes dk and dv of these
//! keys, the heads of the group summed in the tile itself. Keys and values are packed once for all
//! queries, queries once for all keys; dq of a tile stays in L1 until it is whole. Long segments are cut
//! into ranges of equal work so that one row keeps several threads busy; each range but the first
//! has a dq of its own, and they are added in order. Ranges follow from the length alone.

use super::KEYS;
use super::tile::Group;
use super::words::{Multiplier, Rows};
use crate::kernels::normalize::get;
use crate::kernels::scratch::scratch_slices;
use crate::kernels::simd::{Level, Simd, for_lanes, simd_dispatch};
use crate::kernels::softmax::score_gradient_columns;
use crate::kernels::{Shared, unwritten};
use crate::segments::{AttentionOptions, Segment, Segments, in_order};
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
///
/// # Panics
/// When the segments do not cover the rows of q once each, end after the last row of k and v, or share keys.
pub fn backward(
    level: Level,
    d_o: &[f32],
    saved: &Saved<'_>,
    segments: &Segments,
    options: &AttentionOptions,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let (q_row, k_row) = (
        options.heads * options.head_dim,
        options.kv_heads * options.head_dim,
    );
    assert_eq!(saved.k.len(), saved.v.len(), "as many values as keys");
    segments.check(saved.q.len() / q_row, saved.k.len() / k_row);
    segments.check_disjoint_keys();
    assert!(
        options.heads.is_multiple_of(options.kv_heads),
        "groups of heads"
    );
    // SAFETY: segments cover q, as just checked; keys that are in none are cleared.
    let (mut dq, mut dk, mut dv) = unsafe {
        let [dq, dk, dv] = [saved.q, saved.k, saved.v].map(|saved| unwritten(saved.len()));
        (dq, dk, dv)
    };
    clear_gaps(segments, options, &mut dk, &mut dv);

    // (rows of dq, where they begin in `partial`) of every range but a segment's first
    let mut later = Vec::new();
    let mut partial_rows = 0;
    let mut planned = Vec::new();
    for segment in segments.iter() {
        for (i, keys) in ranges(segment).enumerate() {
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
    // SAFETY: a task writes each of its rows, as in dq.
    let mut partial = unsafe { unwritten(partial_rows * q_row) };
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
        // SAFETY: segments share no row of q or k, and tasks no key of a group and no dq.
        .for_each(|task| unsafe { backward_task(level, d_o, saved, &task, dk_at, dv_at) });
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
    let rows = dk.len() / k_row;
    let mut clear = |rows: Range<usize>| {
        for gradient in [&mut *dk, &mut *dv] {
            gradient[rows.start * k_row..rows.end * k_row].fill(0.0);
        }
    };
    let mut next = 0;
    in_order(
        segments,
        |s| &s.k,
        |k| {
            clear(next..k.start);
            next = k.end;
        },
    );
    clear(next..rows);
}

/// The segment's keys, cut where the causal triangle's area is cut evenly.
fn ranges(segment: &Segment) -> impl Iterator<Item = Range<usize>> + use<> {
    let length = segment.k.len();
    let parts = match length {
        ..192 => 1,
        192..1024 => 2,
        _ => 4,
    };
    // Keys before x hold 1 − (1 − x)² of the triangle's pairs.
    let cut = move |part: usize| {
        let share = 1.0 - (1.0 - part as f64 / parts as f64).sqrt();
        ((length as f64 * share) as usize)
            .next_multiple_of(16)
            .min(length)
    };
    let cuts = (0..parts).map(move |part| {
        cut(part)..if part + 1 < parts {
            cut(part + 1)
        } else {
            length
        }
    });
    cuts.filter(|keys| !keys.is_empty())
}

/// The first position of the segment that sees this key, or one that comes after it.
fn first_to_see(segment: &Segment, key: usize) -> usize {
    (key + segment.q.len()).saturating_sub(segment.k.len())
}

/// # Safety
/// dk and dv are as long as k and v, the task's dq holds the segment's rows from `first` on, and no other
/// task has these keys of this group or writes to this group's columns of that dq.
unsafe fn backward_task(
    level: Level,
    d_o: &[f32],
    saved: &Saved<'_>,
    task: &Task<'_>,
    dk: Shared,
    dv: Shared,
) {
    let Task { group, first, .. } = task;
    let o = group.options;
    let multiplier = Multiplier::new(level, o);
    let (d, width) = (o.head_dim, multiplier.width());
    let (q_row, k_row) = group.strides();
    let positions = *first..group.segment.q.len();
    let heads = o.heads / o.kv_heads;
    let first_head = group.kv_head * heads;
    // Where a query's gradient lies: the rows of this range's dq begin at `first`.
    let dq_at = |head: usize, i: usize| (i - first) * q_row + head * d;
    let (natural_size, panel_size) = (d * width, multiplier.panels_size(width, d));
    let across_size = multiplier.panels_size(d, width);
    let (groups_size, keys_size) = (
        multiplier.groups_size(KEYS, d),
        multiplier.panels_size(d, KEYS),
    );
    let blocks = task.keys.len().div_ceil(KEYS);
    let sizes = [
        2 * natural_size,
        2 * panel_size,
        2 * across_size,
        2 * blocks * groups_size,
        blocks * keys_size,
        2 * KEYS * width,
        multiplier
            .groups_size(KEYS, width)
            .max(multiplier.groups_size(width, KEYS)),
        natural_size,
        heads * positions.len(),
        4 * width,
    ];
    scratch_slices(sizes, |buffers| {
        let [
            natural,
            panels,
            across,
            groups,
            key_panels,
            scores,
            a,
            out,
            deltas,
            stats,
        ] = buffers;
        let (q_natural, o_natural) = natural.split_at_mut(natural_size);
        let (q_panel, o_panel) = panels.split_at_mut(panel_size);
        let (q_across, o_across) = across.split_at_mut(across_size);
        let (keys, values) = groups.split_at_mut(blocks * groups_size);
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
        }
        let block = |b: usize| {
            let start = task.keys.start + b * KEYS;
            start..(start + KEYS).min(task.keys.end)
        };
        for b in 0..blocks {
            let (at, count) = (group.k_offset(block(b).start), block(b).len());
            let (k, v) = (&saved.k[at..], &saved.v[at..]);
            let (k, v) = (Rows::new(k, k_row, count), Rows::new(v, k_row, count));
            multiplier.groups(k, d, &mut keys[b * groups_size..][..groups_size]);
            multiplier.groups(v, d, &mut values[b * groups_size..][..groups_size]);
            multiplier.panels(k, d, &mut key_panels[b * keys_size..][..keys_size]);
            for j in 0..count {
                for gradient in [dk, dv] {
                    // SAFETY: this task alone writes these keys' rows of this head.
                    unsafe { gradient.slice(at + j * k_row, d) }.fill(0.0);
                }
            }
        }
        for tile in group.tiles(positions.clone(), width) {
            let (seen, lanes) = (group.seen(&tile), tile.lanes());
            for (rows, natural, panel, across) in [
                (saved.q, &mut *q_natural, &mut *q_panel, &mut *q_across),
                (d_o, &mut *o_natural, &mut *o_panel, &mut *o_across),
            ] {
                group.gather(level, rows, &tile, natural);
                let rows = Rows::new(natural, d, lanes);
                multiplier.panel_of_rows(rows, d, panel);
                multiplier.panels(rows, d, across);
            }
            for (lane, head, i) in tile.queries() {
                lse[lane] = saved.lse[group.lse_offset(head, i)];
                delta[lane] = deltas[(i - first) * heads + head - first_head];
            }
            let mut begun = false;
            for b in 0..blocks {
                let block = block(b).start..block(b).end.min(seen.end);
                if block.is_empty() || seen.start >= block.end {
                    continue;
                }
                let (at, count) = (group.k_offset(block.start), block.len());
                let keys = &keys[b * groups_size..][..groups_size];
                let values = &values[b * groups_size..][..groups_size];
                let key_panels = &key_panels[b * keys_size..][..keys_size];
                // SAFETY: a block of keys, `width` lanes each.
                unsafe {
                    // [count][lanes]: K·Qᵀ and V·dOᵀ
                    let size = [count, lanes, d];
                    multiplier.multiply(size, keys, q_panel, p.as_mut_ptr(), width, false);
                    multiplier.multiply(size, values, o_panel, ds.as_mut_ptr(), width, false);
                }
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
                // SAFETY: this task alone writes these keys' rows; out holds `width` rows of `d`.
                unsafe {
                    // [count][d] += dS·Q and P·dO, over the heads of the group at once
                    let size = [count, d, lanes];
                    multiplier.groups(Rows::new(ds, width, count), lanes, a);
                    multiplier.multiply(size, a, q_across, dk.at(at), k_row, true);
                    multiplier.groups(Rows::new(p, width, count), lanes, a);
                    multiplier.multiply(size, a, o_across, dv.at(at), k_row, true);
                    // [lanes][d] += dSᵀ·K
                    multiplier.groups_of_columns(Rows::new(ds, width, count), lanes, a);
                    let size = [lanes, d, count];
                    multiplier.multiply(size, a, key_panels, out.as_mut_ptr(), d, begun);
                }
                begun = true;
            }
            for (lane, head, i) in tile.queries() {
                // SAFETY: this task alone writes this group's columns of its dq, in these rows.
                let row = unsafe { task.dq.slice(dq_at(head, i), d) };
                match begun {
                    true => row.copy_from_slice(&out[lane * d..(lane + 1) * d]),
                    false => row.fill(0.0), // the window hides all of these keys
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
