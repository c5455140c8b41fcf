//! Causal attention over ragged segments: what is kept is o and one logsumexp per row and head.
//!
//! Flash-style (arXiv 2205.14135): keys come in blocks of 192, transposed to `[head_dim][192]`
//! (48 KiB), scores of 32 query rows live in a scratch tile, softmax is online. Blocks outside the
//! causal triangle or the window are never computed. A task is one query head of one segment
//! (forward: 256 of its rows); the backward of a group's heads goes to separate buffers that are
//! added in order, so the bits do not depend on the threads. A single query (decoding) is dotted
//! with its keys as they lie.

use super::few_rows::dot_rows;
use super::matmul::{Strided, multiply};
use super::panel::transpose;
use super::simd::Level;
use super::softmax::{score_gradient_row, softmax_row};
use super::{Shared, output};
use crate::segments::{AttentionOptions, Segment, Segments};
use rayon::prelude::*;
use std::ops::Range;

const KEYS: usize = 192;
const QUERIES: usize = 32;
const QUERIES_PER_TASK: usize = 256;

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
        for start in (0..segment.q.len()).step_by(QUERIES_PER_TASK) {
            let rows = start..(start + QUERIES_PER_TASK).min(segment.q.len());
            tasks.extend((0..heads).map(|head| (segment, rows.clone(), head)));
        }
    }
    let k_row = options.kv_heads * options.head_dim;
    tasks.into_par_iter().with_max_len(1).for_each_init(
        Vec::new,
        |scratch, (segment, rows, head)| {
            let span = segment.k.start * k_row..segment.k.end * k_row;
            let keys = (&k[span.clone()], &v[span]);
            forward_task(
                level, q, keys, segment, rows, head, options, scratch, o_at, lse_at,
            );
        },
    );
    (o, lse)
}

#[allow(clippy::too_many_arguments)]
fn forward_task(
    level: Level,
    q: &[f32],
    (k, v): (&[f32], &[f32]),
    segment: &Segment,
    rows: Range<usize>,
    head: usize,
    options: &AttentionOptions,
    scratch: &mut Vec<f32>,
    o: Shared,
    lse: Shared,
) {
    let shape = Shape::new(segment, head, options);
    let d = shape.head_dim;
    scratch.resize(d * KEYS + QUERIES * KEYS + rows.len() * 2, 0.0);
    let (keys, rest) = scratch.split_at_mut(d * KEYS);
    let (scores, stats) = rest.split_at_mut(QUERIES * KEYS);
    let (largest, sums) = stats.split_at_mut(rows.len());
    largest.fill(f32::NEG_INFINITY);
    sums.fill(0.0);
    for i in rows.clone() {
        // SAFETY: this task alone writes these rows of this head.
        unsafe { std::slice::from_raw_parts_mut(o.at(shape.q_offset(i)), d) }.fill(0.0);
    }
    let needed = shape.visible(rows.start).start..shape.visible(rows.end - 1).end;
    for block in (0..needed.end).step_by(KEYS) {
        let count = KEYS.min(needed.end - block);
        if block + count <= needed.start {
            continue;
        }
        let at = block * shape.k_row + shape.k_col;
        let decoding = rows.len() == 1; // one query: not worth a transpose
        if !decoding {
            transpose(level, &k[at..], shape.k_row, count, d, keys, KEYS);
        }
        for i in rows.clone().step_by(QUERIES) {
            let some = QUERIES.min(rows.end - i);
            let visible = shape.visible(i).start..shape.visible(i + some - 1).end;
            if visible.end <= block || visible.start >= block + count {
                continue;
            }
            let columns = (visible.end - block).min(count);
            let queries = &q[shape.q_offset(i)..];
            if decoding {
                dot_rows(
                    level,
                    &k[at..],
                    shape.k_row,
                    &queries[..d],
                    &mut scores[..columns],
                );
            } else {
                let a = Strided::rows(queries, shape.q_row);
                let target = scores.as_mut_ptr();
                multiply(
                    level,
                    some,
                    columns,
                    d,
                    a,
                    keys.as_ptr(),
                    KEYS,
                    target,
                    KEYS,
                    false,
                );
            }
            for r in 0..some {
                let span = clip(shape.visible(i + r), block, columns);
                let row = &mut scores[r * KEYS..r * KEYS + columns];
                let (largest, sum) = (
                    &mut largest[i + r - rows.start],
                    &mut sums[i + r - rows.start],
                );
                let rescale = softmax_row(
                    level,
                    row,
                    span.start,
                    span.end,
                    options.scale,
                    options.softcap,
                    largest,
                    sum,
                );
                if rescale != 1.0 {
                    // SAFETY: as above.
                    let row =
                        unsafe { std::slice::from_raw_parts_mut(o.at(shape.q_offset(i + r)), d) };
                    row.iter_mut().for_each(|v| *v *= rescale);
                }
            }
            // SAFETY: as above.
            let target = unsafe { o.at(shape.q_offset(i)) };
            let p = Strided::rows(scores, KEYS);
            multiply(
                level,
                some,
                d,
                columns,
                p,
                v[at..].as_ptr(),
                shape.k_row,
                target,
                shape.q_row,
                true,
            );
        }
    }
    for (at, i) in rows.enumerate() {
        // SAFETY: as above.
        let row = unsafe { std::slice::from_raw_parts_mut(o.at(shape.q_offset(i)), d) };
        let inverse = 1.0 / sums[at];
        row.iter_mut().for_each(|v| *v *= inverse);
        unsafe {
            *lse.at((segment.q.start + i) * options.heads + head) = largest[at] + sums[at].ln()
        };
    }
}

/// What the backward pass reads.
pub struct Saved<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
    pub o: &'a [f32],
    pub lse: &'a [f32],
}

/// (dq, dk, dv) for d_o.
pub fn backward(
    level: Level,
    d_o: &[f32],
    saved: &Saved<'_>,
    segments: &Segments,
    options: &AttentionOptions,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let group = options.heads / options.kv_heads;
    let mut dq = vec![0.0; saved.q.len()];
    let (mut dk, mut dv) = (
        vec![0.0; saved.k.len() * group],
        vec![0.0; saved.v.len() * group],
    );
    let targets = (
        Shared(dq.as_mut_ptr()),
        Shared(dk.as_mut_ptr()),
        Shared(dv.as_mut_ptr()),
    );
    let tasks: Vec<_> = segments
        .iter()
        .flat_map(|segment| (0..options.heads).map(move |head| (segment, head)))
        .collect();
    tasks
        .into_par_iter()
        .with_max_len(1)
        .for_each_init(Vec::new, |scratch, (segment, head)| {
            backward_task(level, d_o, saved, segment, head, options, scratch, targets);
        });
    if group == 1 {
        return (dq, dk, dv);
    }
    let (dk, dv) = (sum_of_group(&dk, options), sum_of_group(&dv, options));
    (dq, dk, dv)
}

/// `[rows, heads, head_dim]` → `[rows, kv_heads, head_dim]`, the heads of a group added in order.
fn sum_of_group(per_head: &[f32], options: &AttentionOptions) -> Vec<f32> {
    let (d, group) = (options.head_dim, options.heads / options.kv_heads);
    let mut sum = output(per_head.len() / group);
    sum.par_chunks_mut(d)
        .zip(per_head.par_chunks(d * group))
        .with_min_len(256)
        .for_each(|(sum, heads)| {
            sum.copy_from_slice(&heads[..d]);
            for head in heads[d..].chunks_exact(d) {
                sum.iter_mut().zip(head).for_each(|(s, v)| *s += v);
            }
        });
    sum
}

#[allow(clippy::too_many_arguments)]
fn backward_task(
    level: Level,
    d_o: &[f32],
    saved: &Saved<'_>,
    segment: &Segment,
    head: usize,
    options: &AttentionOptions,
    scratch: &mut Vec<f32>,
    (dq, dk, dv): (Shared, Shared, Shared),
) {
    let shape = Shape::new(segment, head, options);
    let d = shape.head_dim;
    let length = segment.q.len();
    scratch.resize(2 * d * KEYS + 2 * QUERIES * KEYS + length, 0.0);
    let (keys, rest) = scratch.split_at_mut(d * KEYS);
    let (values, rest) = rest.split_at_mut(d * KEYS);
    let (p, rest) = rest.split_at_mut(QUERIES * KEYS);
    let (ds, delta) = rest.split_at_mut(QUERIES * KEYS);
    for (i, delta) in delta.iter_mut().enumerate() {
        let at = shape.q_offset(i);
        *delta = d_o[at..at + d]
            .iter()
            .zip(&saved.o[at..at + d])
            .map(|(a, b)| a * b)
            .sum();
    }
    let first = shape.visible(0).start;
    for block in (first / KEYS * KEYS..segment.k.len()).step_by(KEYS) {
        let count = KEYS.min(segment.k.len() - block);
        transpose(
            level,
            &saved.k[shape.k_offset(block)..],
            shape.k_row,
            count,
            d,
            keys,
            KEYS,
        );
        transpose(
            level,
            &saved.v[shape.k_offset(block)..],
            shape.k_row,
            count,
            d,
            values,
            KEYS,
        );
        for i in (0..length).step_by(QUERIES) {
            let some = QUERIES.min(length - i);
            let visible = shape.visible(i).start..shape.visible(i + some - 1).end;
            if visible.end <= block || visible.start >= block + count {
                continue;
            }
            let columns = (visible.end - block).min(count);
            let queries = Strided::rows(&saved.q[shape.q_offset(i)..], shape.q_row);
            let gradient = Strided::rows(&d_o[shape.q_offset(i)..], shape.q_row);
            multiply(
                level,
                some,
                columns,
                d,
                queries,
                keys.as_ptr(),
                KEYS,
                p.as_mut_ptr(),
                KEYS,
                false,
            );
            multiply(
                level,
                some,
                columns,
                d,
                gradient,
                values.as_ptr(),
                KEYS,
                ds.as_mut_ptr(),
                KEYS,
                false,
            );
            for r in 0..some {
                let span = clip(shape.visible(i + r), block, columns);
                let (p, ds) = (
                    &mut p[r * KEYS..r * KEYS + columns],
                    &mut ds[r * KEYS..r * KEYS + columns],
                );
                let lse = saved.lse[(segment.q.start + i + r) * options.heads + head];
                score_gradient_row(
                    level,
                    p,
                    ds,
                    span.start,
                    span.end,
                    options.scale,
                    options.softcap,
                    lse,
                    delta[i + r],
                );
            }
            // SAFETY: this task alone writes this segment's rows of this head, in all three.
            unsafe {
                let q_at = shape.q_offset(i);
                let k_at = ((segment.k.start + block) * options.heads + head) * d;
                let k_row = options.heads * d;
                multiply(
                    level,
                    some,
                    d,
                    columns,
                    Strided::rows(ds, KEYS),
                    saved.k[shape.k_offset(block)..].as_ptr(),
                    shape.k_row,
                    dq.at(q_at),
                    shape.q_row,
                    true,
                );
                multiply(
                    level,
                    columns,
                    d,
                    some,
                    Strided::columns(ds, KEYS),
                    saved.q[q_at..].as_ptr(),
                    shape.q_row,
                    dk.at(k_at),
                    k_row,
                    true,
                );
                multiply(
                    level,
                    columns,
                    d,
                    some,
                    Strided::columns(p, KEYS),
                    d_o[q_at..].as_ptr(),
                    shape.q_row,
                    dv.at(k_at),
                    k_row,
                    true,
                );
            }
        }
    }
}

/// Where one head of one segment lies.
struct Shape<'a> {
    segment: &'a Segment,
    head_dim: usize,
    q_row: usize,
    q_col: usize,
    k_row: usize,
    k_col: usize,
    window: Option<usize>,
}

impl<'a> Shape<'a> {
    fn new(segment: &'a Segment, head: usize, o: &AttentionOptions) -> Self {
        let kv_head = head / (o.heads / o.kv_heads);
        Shape {
            segment,
            head_dim: o.head_dim,
            q_row: o.heads * o.head_dim,
            q_col: head * o.head_dim,
            k_row: o.kv_heads * o.head_dim,
            k_col: kv_head * o.head_dim,
            window: o.window,
        }
    }

    fn q_offset(&self, i: usize) -> usize {
        (self.segment.q.start + i) * self.q_row + self.q_col
    }

    fn k_offset(&self, j: usize) -> usize {
        (self.segment.k.start + j) * self.k_row + self.k_col
    }

    /// Keys that query row i of the segment sees.
    fn visible(&self, i: usize) -> Range<usize> {
        let end = i + 1 + self.segment.k.len() - self.segment.q.len();
        let start = self.window.map_or(0, |window| end.saturating_sub(window));
        start..end
    }
}

/// `range` relative to `block`, within `columns`.
fn clip(range: Range<usize>, block: usize, columns: usize) -> Range<usize> {
    let start = range.start.saturating_sub(block).min(columns);
    start..range.end.saturating_sub(block).clamp(start, columns)
}
