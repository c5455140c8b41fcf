//! Attention of new tokens to cached keys: where those lie, and who reads them once for all.
//!
//! A cache is made of [`Block`]s of 64 positions. Keys lie transposed, `[kv_heads][head_dim][64]`, so
//! that scores are a matmul against them as they are and no token transposes them again; values lie
//! `[kv_heads][64][head_dim]`. Queries go through the blocks of their sequence in order with an online
//! softmax (arXiv 2205.14135). Blocks begin at multiples of 64 whatever was read at once, and every
//! sum is made in one order whoever else is asking: a query's bits depend on its own sequence alone.
//!
//! Sequences that begin with the same blocks (the few-shot prompt of all cases) ask them together:
//! first all queries go through the common blocks, then each through its own rest.

mod product;

use super::matmul::Strided;
use super::simd::Level;
use super::softmax::softmax_row;
use super::team::Team;
use super::{Shared, unwritten};
use crate::segments::AttentionOptions;
use product::{FEW, product};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Positions of a block: with a head_dim of 64, 16 KiB of keys.
pub(crate) const KEYS: usize = 64;
/// Query rows that go through a block together: 8 KiB of scores.
const QUERIES: usize = 32;

/// Keys and values of [`KEYS`] consecutive positions in one layer.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// The keys of all heads, then the values of all heads.
    floats: Vec<f32>,
    head_dim: usize,
}

impl Block {
    pub(crate) fn new(kv_heads: usize, head_dim: usize) -> Block {
        Block {
            floats: vec![0.0; 2 * kv_heads * head_dim * KEYS],
            head_dim,
        }
    }

    /// Writes position `at` of the block: k (rotated already) and v, `[kv_heads·head_dim]`.
    pub(crate) fn put(&mut self, at: usize, k: &[f32], v: &[f32]) {
        let (keys, values) = self.floats.split_at_mut(k.len() * KEYS);
        for (channel, k) in k.iter().enumerate() {
            keys[channel * KEYS + at] = *k;
        }
        for (head, v) in v.chunks_exact(self.head_dim).enumerate() {
            values[(head * KEYS + at) * self.head_dim..][..self.head_dim].copy_from_slice(v);
        }
    }

    /// `[head_dim][KEYS]`
    fn keys(&self, head: usize) -> &[f32] {
        let size = self.head_dim * KEYS;
        &self.floats[head * size..][..size]
    }

    /// `[KEYS][head_dim]`
    fn values(&self, head: usize) -> &[f32] {
        let size = self.head_dim * KEYS;
        &self.floats[self.floats.len() / 2 + head * size..][..size]
    }

    pub(crate) fn bytes(&self) -> usize {
        self.floats.len() * 4
    }
}

/// One sequence in one layer: its blocks, and which rows of q are its newest positions.
pub(crate) struct View<'a> {
    pub blocks: &'a [Arc<Block>],
    /// Positions before the new ones.
    pub past: usize,
    pub rows: Range<usize>,
}

impl View<'_> {
    /// Keys that row `row` of q sees.
    fn visible(&self, row: usize, window: Option<usize>) -> Range<usize> {
        let end = self.past + row - self.rows.start + 1;
        window.map_or(0, |window| end.saturating_sub(window))..end
    }
}

/// o, shaped as q `[rows, heads·head_dim]`: prompts, on rayon's threads.
///
/// # Panics
/// If the sequences' rows do not follow one another to the end of q.
pub(crate) fn prompts(
    level: Level,
    q: &[f32],
    sequences: &[View<'_>],
    options: &AttentionOptions,
) -> Vec<f32> {
    let mut end = 0;
    for view in sequences {
        assert!(
            view.rows.start == end && view.rows.end >= end,
            "rows in order"
        );
        end = view.rows.end;
    }
    assert_eq!(end * options.heads * options.head_dim, q.len(), "all rows");
    // SAFETY: the sequences have all rows, and a row all its heads.
    let mut o = unsafe { unwritten(q.len()) };
    let target = Shared(o.as_mut_ptr());
    let mut tasks = Vec::new();
    for view in sequences {
        for start in view.rows.clone().step_by(QUERIES) {
            let rows = start..(start + QUERIES).min(view.rows.end);
            tasks.extend((0..options.heads).map(|head| (view, rows.clone(), head)));
        }
    }
    tasks.into_par_iter().for_each(|(view, rows, head)| {
        let visible = |i| view.visible(rows.start + i, options.window);
        let mut stats = vec![Stat::NONE; rows.len()];
        // SAFETY: o is as long as q, and this task alone writes these rows of this head.
        unsafe {
            let run = Run::of_rows(q, target, rows.clone(), head, options);
            run.clear();
            run.go_through(level, view.blocks, 0, visible, options, &mut stats);
            run.normalize(&stats);
        }
    });
    o
}

/// The same where every sequence has one new row, on a team.
pub(crate) fn tokens(
    level: Level,
    team: &mut Team<'_>,
    q: &[f32],
    sequences: &[View<'_>],
    options: &AttentionOptions,
    stats: &mut Vec<Stat>,
    o: &mut [f32],
) {
    assert_eq!(o.len(), q.len(), "a row of o for each of q");
    let (count, heads) = (sequences.len(), options.heads);
    let common = common_blocks(sequences);
    // [head][sequence], so that a head's queries are neighbours
    stats.clear();
    stats.resize(count * heads, Stat::NONE);
    o.fill(0.0);
    let target = Shared(o.as_mut_ptr());
    let all = Shared(stats.as_mut_ptr());
    if common > 0 {
        let tiles = count.div_ceil(QUERIES);
        team.run(heads * tiles, |task| {
            let (head, first) = (task / tiles, task % tiles * QUERIES);
            let rows = first..(first + QUERIES).min(count);
            let visible = |i: usize| {
                let all = sequences[first + i].visible(first + i, options.window);
                all.start..common * KEYS
            };
            // SAFETY: o is as long as q, and this task alone has these queries' rows and stats.
            unsafe {
                let run = Run::of_rows(q, target, rows.clone(), head, options);
                let stats = all.slice(head * count + first, rows.len());
                run.go_through(
                    level,
                    &sequences[0].blocks[..common],
                    0,
                    visible,
                    options,
                    stats,
                );
            }
        });
    }
    team.run(count * options.kv_heads, |task| {
        let (row, kv_head) = (task / options.kv_heads, task % options.kv_heads);
        let view = &sequences[row];
        let visible = |_| view.visible(row, options.window);
        // SAFETY: o is as long as q, and this task alone has these queries' rows and stats.
        unsafe {
            let (run, heads) = Run::of_heads(q, target, row, kv_head, options);
            let mut stats: Vec<Stat> = heads
                .map(|head| all.slice(head * count + row, 1)[0])
                .collect();
            run.go_through(
                level,
                &view.blocks[common..],
                common,
                visible,
                options,
                &mut stats,
            );
            run.normalize(&stats);
        }
    });
}

/// Leading blocks that all of several sequences share.
fn common_blocks(sequences: &[View<'_>]) -> usize {
    let Some((first, others)) = sequences.split_first().filter(|(_, o)| !o.is_empty()) else {
        return 0;
    };
    let shares = |i: &usize| {
        let same = |view: &View<'_>| {
            let theirs = view.blocks.get(*i);
            theirs.is_some_and(|block| Arc::ptr_eq(block, &first.blocks[*i]))
        };
        others.iter().all(same)
    };
    (0..first.blocks.len()).take_while(shares).count()
}

/// A query on its way through the blocks.
#[derive(Clone, Copy)]
pub(crate) struct Stat {
    largest: f32,
    sum: f32,
}

impl Stat {
    const NONE: Stat = Stat {
        largest: f32::NEG_INFINITY,
        sum: 0.0,
    };
}

/// Queries that go through the same blocks: rows of one head, or heads of one row.
struct Run {
    q: Strided,
    o: *mut f32,
    count: usize,
    head_dim: usize,
    kv_head: usize,
}

impl Run {
    /// # Safety
    /// o is as long as q.
    unsafe fn of_rows(
        q: &[f32],
        o: Shared,
        rows: Range<usize>,
        head: usize,
        options: &AttentionOptions,
    ) -> Run {
        let d = options.head_dim;
        let at = (rows.start * options.heads + head) * d;
        assert!(rows.end * options.heads * d <= q.len());
        Run {
            q: Strided::rows(&q[at..], options.heads * d),
            // SAFETY: inside q, as just seen, and so inside o.
            o: unsafe { o.at(at) },
            count: rows.len(),
            head_dim: d,
            kv_head: head / (options.heads / options.kv_heads),
        }
    }

    /// The queries of one row that share a head of keys and values, which is read once for all of
    /// them, and which heads they are.
    ///
    /// # Safety
    /// o is as long as q.
    unsafe fn of_heads(
        q: &[f32],
        o: Shared,
        row: usize,
        kv_head: usize,
        options: &AttentionOptions,
    ) -> (Run, Range<usize>) {
        let (d, shared) = (options.head_dim, options.heads / options.kv_heads);
        let heads = kv_head * shared..(kv_head + 1) * shared;
        // SAFETY: says the caller.
        let one = unsafe { Run::of_rows(q, o, row..row + 1, heads.start, options) };
        let run = Run {
            q: Strided { row: d, ..one.q },
            count: shared,
            ..one
        };
        (run, heads)
    }

    /// # Safety
    /// The rows of o belong to the caller alone, here and below; `i` is less than `count`.
    #[allow(clippy::mut_from_ref)]
    unsafe fn row(&self, i: usize) -> &mut [f32] {
        unsafe { std::slice::from_raw_parts_mut(self.o.add(i * self.q.row), self.head_dim) }
    }

    /// # Safety
    /// As [`Run::row`].
    unsafe fn clear(&self) {
        // SAFETY: says the caller.
        (0..self.count).for_each(|i| unsafe { self.row(i) }.fill(0.0));
    }

    /// Adds what the queries see in `blocks`, the first of which is block `first` of the sequence.
    ///
    /// # Safety
    /// As [`Run::row`].
    unsafe fn go_through(
        &self,
        level: Level,
        blocks: &[Arc<Block>],
        first: usize,
        visible: impl Fn(usize) -> Range<usize>,
        options: &AttentionOptions,
        stats: &mut [Stat],
    ) {
        let end = (0..self.count).map(|i| visible(i).end).max().unwrap_or(0);
        let start = (0..self.count).map(|i| visible(i).start).min().unwrap_or(0);
        assert_eq!(stats.len(), self.count, "a query each");
        // SAFETY: of a block only those scores are read that its product wrote.
        let mut scores = unsafe { unwritten(self.count * KEYS) };
        for (block, position) in blocks.iter().zip((first * KEYS..end).step_by(KEYS)) {
            if position + KEYS <= start {
                continue;
            }
            let columns = KEYS.min(end - position);
            // The block is there to its end: a few queries take all of it rather than a ragged piece.
            let width = if self.count <= FEW { KEYS } else { columns };
            let keys = block.keys(self.kv_head).as_ptr();
            let p = scores.as_mut_ptr();
            let d = self.head_dim;
            assert_eq!(block.head_dim, d, "keys as wide as queries");
            // SAFETY: `count` rows of q; the block's `d` rows of keys; `count` rows of scores, KEYS long each.
            unsafe {
                product(
                    level, self.count, width, d, self.q, keys, KEYS, p, KEYS, false,
                );
            }
            for (i, stat) in stats.iter_mut().enumerate() {
                let seen = visible(i);
                let from = seen.start.saturating_sub(position).min(columns);
                let to = seen.end.saturating_sub(position).clamp(from, columns);
                let rescale = softmax_row(
                    level,
                    &mut scores[i * KEYS..i * KEYS + columns],
                    from,
                    to,
                    options.scale,
                    options.softcap,
                    &mut stat.largest,
                    &mut stat.sum,
                );
                if rescale != 1.0 {
                    // SAFETY: says the caller.
                    let row = unsafe { self.row(i) };
                    row.iter_mut().for_each(|o| *o *= rescale);
                }
            }
            let p = Strided::rows(&scores, KEYS);
            let values = block.values(self.kv_head).as_ptr();
            let (o, o_row) = (self.o, self.q.row);
            // SAFETY: `count` rows of scores, of KEYS or less; as many rows of values; the rows of o.
            unsafe { product(level, self.count, d, columns, p, values, d, o, o_row, true) };
        }
    }

    /// # Safety
    /// As [`Run::row`].
    unsafe fn normalize(&self, stats: &[Stat]) {
        for (i, stat) in stats.iter().enumerate().take(self.count) {
            let inverse = 1.0 / stat.sum;
            // SAFETY: says the caller.
            let row = unsafe { self.row(i) };
            row.iter_mut().for_each(|o| *o *= inverse);
        }
    }
}
