//! Queries that continue cached sequences, whose keys and values lie in pieces.
//!
//! A single query (decoding) is dotted with its keys as they lie: nothing to share a panel with.

use super::KEYS;
use super::forward::{POSITIONS, forward_task};
use super::tile::Group;
use crate::kernels::few_rows::dot_rows;
use crate::kernels::matmul::{Strided, multiply};
use crate::kernels::scratch::scratch_slices;
use crate::kernels::simd::Level;
use crate::kernels::softmax::softmax_row;
use crate::kernels::{Shared, output};
use crate::segments::{AttentionOptions, Segment};
use rayon::prelude::*;

/// Keys and values of a sequence, in pieces that follow each other: `(k, v)`, each
/// `[rows, kv_heads·head_dim]`.
pub type Pieces<'a> = [(&'a [f32], &'a [f32])];

/// o `[tokens, heads·head_dim]` of queries that continue cached sequences: sequence i has the query
/// rows `offsets[i]..offsets[i + 1]`, the last of its keys.
pub fn forward_cached(
    level: Level,
    q: &[f32],
    offsets: &[usize],
    sequences: &[Vec<(&[f32], &[f32])>],
    options: &AttentionOptions,
) -> Vec<f32> {
    let k_row = options.kv_heads * options.head_dim;
    let mut o = output(q.len());
    let mut lse = output(offsets.last().map_or(0, |last| last * options.heads));
    let (o_at, lse_at) = (Shared(o.as_mut_ptr()), Shared(lse.as_mut_ptr()));
    let mut tasks = Vec::new();
    for (offsets, pieces) in offsets.windows(2).zip(sequences) {
        let length = pieces.iter().map(|(k, _)| k.len() / k_row).sum();
        let segment = Segment {
            q: offsets[0]..offsets[1],
            k: 0..length,
        };
        for start in (0..segment.q.len()).step_by(POSITIONS) {
            let positions = start..(start + POSITIONS).min(segment.q.len());
            tasks.extend(
                (0..options.kv_heads)
                    .map(|kv_head| (segment.clone(), pieces, positions.clone(), kv_head)),
            );
        }
    }
    tasks
        .into_par_iter()
        .for_each(|(segment, pieces, positions, kv_head)| {
            let group = Group {
                segment: &segment,
                kv_head,
                options,
            };
            if segment.q.len() > 1 {
                return forward_task(level, q, pieces, &group, positions, o_at, lse_at);
            }
            let heads = options.heads / options.kv_heads;
            for head in kv_head * heads..(kv_head + 1) * heads {
                let at = group.q_offset(head, 0);
                // SAFETY: this task alone writes this head's row.
                let o = unsafe { std::slice::from_raw_parts_mut(o_at.at(at), options.head_dim) };
                one_query(level, &q[at..], pieces, &group, o);
            }
        });
    o
}

/// o of the segment's only query and one head.
fn one_query(level: Level, q: &[f32], pieces: &Pieces<'_>, group: &Group<'_>, o: &mut [f32]) {
    let (d, (_, k_row)) = (o.len(), group.strides());
    let (scale, softcap) = (group.options.scale, group.options.softcap);
    let seen = group.visible(0);
    let (mut largest, mut sum) = (f32::NEG_INFINITY, 0.0);
    o.fill(0.0);
    scratch_slices([KEYS], |[scores]| {
        let mut first = 0;
        for (k, v) in pieces {
            let end = first + k.len() / k_row;
            let (from, to) = (seen.start.max(first), seen.end.min(end));
            for block in (from..to.max(from)).step_by(KEYS) {
                let count = KEYS.min(to - block);
                let at = (block - first) * k_row + group.kv_head * d;
                let scores = &mut scores[..count];
                dot_rows(level, &k[at..], k_row, &q[..d], scores);
                let rescale = softmax_row(
                    level,
                    scores,
                    0,
                    count,
                    scale,
                    softcap,
                    &mut largest,
                    &mut sum,
                );
                if rescale != 1.0 {
                    o.iter_mut().for_each(|v| *v *= rescale);
                }
                let (p, values) = (Strided::rows(scores, KEYS), v[at..].as_ptr());
                multiply(
                    level,
                    1,
                    d,
                    count,
                    p,
                    values,
                    k_row,
                    o.as_mut_ptr(),
                    d,
                    true,
                );
            }
            first = end;
        }
    });
    let inverse = 1.0 / sum;
    o.iter_mut().for_each(|v| *v *= inverse);
}
