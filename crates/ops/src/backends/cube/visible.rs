//! Which keys does each query row see, and which rows meet at all?

use crate::segments::Segments;
use std::ops::Range;

/// Row i sees keys `first[i]..end[i]`: segments, causality and the sliding window are all in it.
pub(crate) struct Visible {
    pub first: Vec<u32>,
    pub end: Vec<u32>,
}

impl Visible {
    pub fn new(segments: &Segments, rows: usize, window: Option<usize>) -> Visible {
        let (mut first, mut end) = (vec![0; rows], vec![0; rows]);
        for s in segments.iter() {
            let past = s.k.len() - s.q.len();
            for i in 0..s.q.len() {
                let last = s.k.start + past + i + 1;
                let start = window.map_or(s.k.start, |w| s.k.start.max(last.saturating_sub(w)));
                first[s.q.start + i] = start as u32;
                end[s.q.start + i] = last as u32;
            }
        }
        Visible { first, end }
    }

    /// The keys that any of these rows sees, and those between them.
    pub fn span(&self, rows: Range<usize>) -> Range<usize> {
        let first = self.first[rows.clone()].iter().min().expect("not empty");
        let end = self.end[rows].iter().max().expect("not empty");
        *first as usize..*end as usize
    }
}

/// For each tile of `tile` keys the query rows that see any of them, and those between; an empty
/// range where none does.
pub(crate) fn query_spans(
    segments: &Segments,
    key_rows: usize,
    window: Option<usize>,
    tile: usize,
) -> Vec<Range<usize>> {
    let mut spans: Vec<Option<Range<usize>>> = vec![None; key_rows.div_ceil(tile)];
    for s in segments.iter() {
        let past = s.k.len() - s.q.len();
        let tiles = s.k.start / tile..s.k.end.div_ceil(tile);
        for (index, span) in tiles.clone().zip(&mut spans[tiles]) {
            // Of the segment: its keys `from..to` lie in this tile.
            let from = (index * tile).saturating_sub(s.k.start);
            let to = (index * tile + tile).min(s.k.end) - s.k.start;
            // Row i sees keys up to past + i, the last `window` of them.
            let first = from.saturating_sub(past);
            let end = window.map_or(s.q.len(), |w| {
                (to - 1 + w).saturating_sub(past).min(s.q.len())
            });
            if first < end {
                let rows = s.q.start + first..s.q.start + end;
                *span = Some(match span.take() {
                    None => rows,
                    Some(others) => others.start.min(rows.start)..others.end.max(rows.end),
                });
            }
        }
    }
    spans.into_iter().map(Option::unwrap_or_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segments::Segment;

    #[test]
    fn the_queries_of_a_tile_of_keys_are_those_that_see_one_of_them() {
        let continued = vec![
            Segment { q: 0..3, k: 2..25 },
            Segment { q: 3..4, k: 25..26 },
            Segment {
                q: 4..30,
                k: 26..60,
            },
        ];
        for segments in [
            Segments::from_offsets(&[0, 5, 6, 40]),
            Segments::from_offsets(&[0, 64]),
            Segments::new(continued),
        ] {
            let rows = segments.iter().map(|s| s.q.end).max().expect("some");
            let key_rows = 70; // more than anybody sees
            for (window, tile) in [(None, 8), (Some(1), 8), (Some(7), 4), (Some(20), 16)] {
                let visible = Visible::new(&segments, rows, window);
                let spans = query_spans(&segments, key_rows, window, tile);
                assert_eq!(spans.len(), key_rows.div_ceil(tile));
                for (index, span) in spans.iter().enumerate() {
                    let keys = index * tile..(index + 1) * tile;
                    let sees = |i: &usize| {
                        (visible.first[*i] as usize) < keys.end
                            && visible.end[*i] as usize > keys.start
                    };
                    let seeing: Vec<usize> = (0..rows).filter(sees).collect();
                    let expected = match (seeing.first(), seeing.last()) {
                        (Some(first), Some(last)) => *first..last + 1,
                        _ => 0..0,
                    };
                    assert_eq!(*span, expected, "{segments:?} {window:?} {keys:?}");
                }
            }
        }
    }
}
