//! Causal attention over ragged segments: what is kept is o and one logsumexp per row and head.
//!
//! Flash-style (arXiv 2205.14135), the other way round: scores lie as `[keys][queries]`, a query a
//! lane. The query heads that share keys and values share a tile: heads × positions fill the
//! panel's three vectors (48 lanes: 16 positions of 3 heads), so a short segment fills it too, and
//! K and V are packed once for the whole group. Products are those of the frozen weights' tile, in f32
//! or in bf16 ([`words`]); softmax, statistics and every sum are f32. Largest score, sum and logsumexp
//! are one vector each: softmax runs down the columns and never reduces across lanes. Blocks of 128
//! keys outside the causal triangle or the window are never computed; inside it a tile stops at its
//! last position's keys.
//! Limit: the tile's rate on the pairs that a query sees; exponentials cost a tenth of it in f32 and a
//! quarter in bf16, the triangle's edge half a tile's positions per query.

mod backward;
mod forward;
mod tile;
mod words;

pub use backward::{Saved, backward};
pub use forward::forward;

/// Keys of a block: its scores are 24 KiB, its share of K and V 32 KiB each at 64 a head.
const KEYS: usize = 128;
