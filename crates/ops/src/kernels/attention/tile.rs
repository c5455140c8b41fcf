//! Which queries share a panel of scores, and where their rows lie.

use crate::kernels::copy_rows::copy_rows;
use crate::kernels::simd::Level;
use crate::kernels::softmax::Visible;
use crate::segments::{AttentionOptions, Segment};
use std::ops::Range;

/// The query heads of one key-value head, in one segment.
#[derive(Clone, Copy)]
pub(super) struct Group<'a> {
    pub segment: &'a Segment,
    pub kv_head: usize,
    pub options: &'a AttentionOptions,
}

/// Some heads of a group × some positions of its segment: lane = head · positions + position.
#[derive(Clone)]
pub(super) struct Tile {
    heads: Range<usize>,
    positions: Range<usize>,
}

impl Tile {
    pub fn lanes(&self) -> usize {
        self.heads.len() * self.positions.len()
    }

    /// `(lane, head, position)` of each query.
    pub fn queries(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let (heads, positions) = (self.heads.clone(), self.positions.clone());
        heads
            .flat_map(move |head| positions.clone().map(move |i| (head, i)))
            .enumerate()
            .map(|(lane, (head, i))| (lane, head, i))
    }
}

impl Group<'_> {
    /// Floats of a row of q, and of k.
    pub fn strides(&self) -> (usize, usize) {
        let o = self.options;
        (o.heads * o.head_dim, o.kv_heads * o.head_dim)
    }

    fn heads(&self) -> Range<usize> {
        let group = self.options.heads / self.options.kv_heads;
        self.kv_head * group..(self.kv_head + 1) * group
    }

    /// Tiles of at most `width` lanes that cover these positions.
    pub fn tiles(
        &self,
        positions: Range<usize>,
        width: usize,
    ) -> impl Iterator<Item = Tile> + Clone + use<> {
        let heads = self.heads();
        let step = (width / heads.len()).max(1);
        let parts = heads
            .clone()
            .step_by(width)
            .map(move |first| first..(first + width).min(heads.end));
        parts.flat_map(move |heads| {
            let end = positions.end;
            positions.clone().step_by(step).map(move |first| Tile {
                heads: heads.clone(),
                positions: first..(first + step).min(end),
            })
        })
    }

    /// Where a query's row begins in q, o and their gradients.
    pub fn q_offset(&self, head: usize, position: usize) -> usize {
        (self.segment.q.start + position) * self.strides().0 + head * self.options.head_dim
    }

    /// Where a query's logsumexp lies.
    pub fn lse_offset(&self, head: usize, position: usize) -> usize {
        (self.segment.q.start + position) * self.options.heads + head
    }

    /// Where this group's part of a key's row begins, keys counted from the segment's first.
    pub fn k_offset(&self, key: usize) -> usize {
        (self.segment.k.start + key) * self.strides().1 + self.kv_head * self.options.head_dim
    }

    /// Keys that the query at this position sees.
    pub fn visible(&self, position: usize) -> Range<usize> {
        let end = position + 1 + self.segment.k.len() - self.segment.q.len();
        let window = self.options.window;
        window.map_or(0, |window| end.saturating_sub(window))..end
    }

    /// Keys that any query of the tile sees.
    pub fn seen(&self, tile: &Tile) -> Range<usize> {
        let (first, last) = (tile.positions.start, tile.positions.end - 1);
        self.visible(first).start..self.visible(last).end
    }

    /// The tile's queries one after the other, `[lanes][head_dim]`.
    pub fn gather(&self, level: Level, rows: &[f32], tile: &Tile, out: &mut [f32]) {
        let (d, count) = (self.options.head_dim, tile.positions.len());
        for (head, out) in tile.heads.clone().zip(out.chunks_exact_mut(count * d)) {
            let rows = &rows[self.q_offset(head, tile.positions.start)..];
            copy_rows(level, rows, self.strides().0, [count, d], out, d);
        }
    }

    /// Which of the keys `block` each lane sees; `bounds` holds two vectors of the panel's width.
    pub fn mask<'a>(
        &self,
        tile: &Tile,
        block: &Range<usize>,
        bounds: &'a mut [f32],
    ) -> Visible<'a> {
        let width = bounds.len() / 2;
        let (starts, ends) = bounds.split_at_mut(width);
        let (mut first, mut last) = (0, block.len());
        for (lane, _, i) in tile.queries() {
            let seen = self.visible(i);
            let start = seen.start.saturating_sub(block.start);
            let end = seen.end.saturating_sub(block.start);
            (first, last) = (first.max(start), last.min(end));
            starts[lane] = start as f32; // exact: a block has few keys, and what is beyond is only compared
            ends[lane] = end as f32;
        }
        Visible {
            open: first..last,
            starts,
            ends,
        }
    }
}
