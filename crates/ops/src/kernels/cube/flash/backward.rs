//! dq, a cube a tile of queries and head; then dk and dv, a cube a tile of keys and key-value head,
//! which meets the tiles of all query heads of its group. Both compute the probabilities again.
//!
//! p = exp(score − lse), dv = pᵀ·do, dp = do·vᵀ, ds = scale·p∘(dp − delta)∘slope of the softcap,
//! dq = ds·k, dk = dsᵀ·q, with delta = Σ do∘o of the row, which dq's cubes compute and leave behind.

use super::{
    COLUMNS, Place, Plan, ROWS, add_weighted, exponential, load_tile, score_tile, tile,
    weight_tile, write_tile, write_weights,
};
use crate::kernels::cube::attention::bent;
use crate::kernels::cube::patch::{PATCH, zeros};
use cubecl::prelude::*;

/// dq, and delta `[tokens, heads]`; cubes as in `forward`.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn flash_dq_kernel<F: Float, N: Size>(
    q: &[Vector<F, N>],
    k: &[Vector<F, N>],
    v: &[Vector<F, N>],
    o: &[Vector<F, N>],
    d_o: &[Vector<F, N>],
    visible: &[u32],
    lse: &[f32],
    delta: &mut [f32],
    dq: &mut [Vector<F, N>],
    tokens: usize,
    key_rows: usize,
    tiles: usize,
    heads: usize,
    kv_heads: usize,
    scale: f32,
    softcap: f32,
    #[comptime] plan: Plan,
    #[define(F)] _dtype: ElemType,
) {
    let stride = comptime!(plan.tile_stride());
    let score_stride = comptime!(plan.score_stride());
    let (parts, units) = comptime!((plan.parts(), plan.units));
    let columns = comptime!(COLUMNS / plan.parts());
    let vectors = comptime!(plan.head_dim / plan.vector());
    let mut queries = tile::<F, N>(ROWS, plan);
    let mut d_outs = tile::<F, N>(ROWS, plan);
    let mut keys = tile::<F, N>(COLUMNS, plan);
    let mut values = tile::<F, N>(COLUMNS, plan);
    let mut scores = Shared::<[f32]>::new_aligned_slice(comptime!(ROWS * score_stride), 32usize);
    let mut dp = Shared::<[f32]>::new_aligned_slice(comptime!(ROWS * score_stride), 32usize);
    let mut ds = weight_tile::<F, N>(plan);
    let mut products = Shared::<[f32]>::new_slice(comptime!(ROWS * parts));
    let mut deltas = Shared::<[f32]>::new_slice(ROWS);
    let mut ones = Shared::<[f32]>::new_slice(ROWS);

    let unit = UNIT_POS as usize;
    let head = CUBE_POS % heads;
    let kv = head / (heads / kv_heads);
    let index = tiles - 1 - CUBE_POS / heads;
    let place = Place {
        row: index * ROWS,
        rows: tokens,
        width: heads * vectors,
        head: head * vectors,
    };
    load_tile::<F, N>(q, &mut queries, &place, ROWS, plan);
    load_tile::<F, N>(d_o, &mut d_outs, &place, ROWS, plan);
    sync_cube();
    let part = unit % parts;
    let mut row = unit / parts;
    while row < ROWS {
        let mut sum = f32::new(0.0);
        if place.row + row < tokens {
            let at = (place.row + row) * place.width + place.head;
            let mut c = part;
            while c < vectors {
                let (out, d_out) = (
                    o[at + c],
                    d_outs[row * comptime!(stride / plan.vector()) + c],
                );
                #[unroll]
                for lane in 0..plan.vector() {
                    sum += f32::cast_from(out.extract(lane)) * f32::cast_from(d_out.extract(lane));
                }
                c += parts;
            }
        }
        products[row * parts + part] = sum;
        row += comptime!(units / parts);
    }
    sync_cube();
    let mut row = unit;
    while row < ROWS {
        let mut sum = f32::new(0.0);
        for part in 0..parts {
            sum += products[row * parts + part];
        }
        deltas[row] = sum;
        ones[row] = f32::new(1.0);
        if place.row + row < tokens {
            delta[(place.row + row) * heads + head] = sum;
        }
        row += units;
    }

    let mut sums = zeros(
        comptime!(plan.row_patches() * plan.head_dim / PATCH),
        comptime!(plan.owner()),
    );
    let mut base = visible[2 * tokens + 2 * index] as usize;
    let to = visible[2 * tokens + 2 * index + 1] as usize;
    while base < to {
        let coming = Place {
            row: base,
            rows: key_rows,
            width: kv_heads * vectors,
            head: kv * vectors,
        };
        load_tile::<F, N>(k, &mut keys, &coming, COLUMNS, plan);
        load_tile::<F, N>(v, &mut values, &coming, COLUMNS, plan);
        sync_cube();
        score_tile::<F, N>(&queries, &keys, &mut scores, plan);
        score_tile::<F, N>(&d_outs, &values, &mut dp, plan);
        sync_cube();
        let mut row = unit / parts;
        while row < ROWS {
            // Column c is seen where base + c − first < seen, without a sign.
            let mut first = 0u32;
            let mut seen = 0u32;
            let mut row_lse = f32::new(0.0);
            if place.row + row < tokens {
                first = visible[place.row + row];
                seen = visible[tokens + place.row + row] - first;
                row_lse = lse[(place.row + row) * heads + head];
            }
            let start = part * columns;
            let from = (base + start) as u32 - first;
            let row_delta = deltas[row];
            #[unroll]
            for vector in 0..comptime!(columns / plan.vector()) {
                let first_lane = comptime!(vector * plan.vector());
                let mut slopes = Array::<f32>::new(comptime!(plan.vector()));
                #[unroll]
                for lane in 0..comptime!(plan.vector()) {
                    let c = comptime!(first_lane + lane);
                    let at = row * score_stride + start + c;
                    let score = bent(scores[at], scale, softcap, plan.capped);
                    let straight = exponential(score - row_lse, plan) * (dp[at] - row_delta);
                    let slope = bent_back(straight, score, scale, softcap, plan.capped);
                    slopes[lane] = select(from + comptime!(c as u32) < seen, slope, f32::new(0.0));
                }
                write_weights::<F, N>(&slopes, 0usize, &mut ds, row, start + first_lane, plan);
            }
            row += comptime!(units / parts);
        }
        sync_cube();
        add_weighted::<F, N>(&mut sums, &ds, &keys, plan);
        sync_cube();
        base += COLUMNS;
    }
    write_tile::<F, N>(&sums, &mut scores, &ones, dq, &place, plan);
}

/// dk and dv. Cube i has key-value head `i % kv_heads` of the tile of keys `i / kv_heads`, whose first
/// rows most queries see; `spans_at` is where `visible` has the queries that each tile of keys meets.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn flash_dkdv_kernel<F: Float, N: Size>(
    q: &[Vector<F, N>],
    k: &[Vector<F, N>],
    v: &[Vector<F, N>],
    d_o: &[Vector<F, N>],
    visible: &[u32],
    lse: &[f32],
    delta: &[f32],
    dk: &mut [Vector<F, N>],
    dv: &mut [Vector<F, N>],
    tokens: usize,
    key_rows: usize,
    spans_at: usize,
    heads: usize,
    kv_heads: usize,
    scale: f32,
    softcap: f32,
    #[comptime] plan: Plan,
    #[define(F)] _dtype: ElemType,
) {
    let score_stride = comptime!(plan.score_stride());
    let (parts, units) = comptime!((plan.parts(), plan.units));
    let columns = comptime!(COLUMNS / plan.parts());
    let vectors = comptime!(plan.head_dim / plan.vector());
    let mut keys = tile::<F, N>(ROWS, plan);
    let mut values = tile::<F, N>(ROWS, plan);
    let mut queries = tile::<F, N>(COLUMNS, plan);
    let mut d_outs = tile::<F, N>(COLUMNS, plan);
    // Rows are keys and columns are queries: transposed, as the second products want them.
    let mut scores = Shared::<[f32]>::new_aligned_slice(comptime!(ROWS * score_stride), 32usize);
    let mut dp = Shared::<[f32]>::new_aligned_slice(comptime!(ROWS * score_stride), 32usize);
    let mut p = weight_tile::<F, N>(plan);
    let mut ds = weight_tile::<F, N>(plan);
    let mut firsts = Shared::<[u32]>::new_slice(COLUMNS);
    // A key is seen by a query where key − first < seen, without a sign.
    let mut seen = Shared::<[u32]>::new_slice(COLUMNS);
    let mut lses = Shared::<[f32]>::new_slice(COLUMNS);
    let mut deltas = Shared::<[f32]>::new_slice(COLUMNS);
    let mut ones = Shared::<[f32]>::new_slice(ROWS);

    let unit = UNIT_POS as usize;
    let kv = CUBE_POS % kv_heads;
    let index = CUBE_POS / kv_heads;
    let group = heads / kv_heads;
    let place = Place {
        row: index * ROWS,
        rows: key_rows,
        width: kv_heads * vectors,
        head: kv * vectors,
    };
    load_tile::<F, N>(k, &mut keys, &place, ROWS, plan);
    load_tile::<F, N>(v, &mut values, &place, ROWS, plan);
    let mut row = unit;
    while row < ROWS {
        ones[row] = f32::new(1.0);
        row += units;
    }
    let count = comptime!(plan.row_patches() * plan.head_dim / PATCH);
    let mut dk_sums = zeros(count, comptime!(plan.owner()));
    let mut dv_sums = zeros(count, comptime!(plan.owner()));

    let from = visible[spans_at + 2 * index] as usize;
    let to = visible[spans_at + 2 * index + 1] as usize;
    for member in 0..group {
        let head = kv * group + member;
        let mut base = from;
        while base < to {
            let coming = Place {
                row: base,
                rows: tokens,
                width: heads * vectors,
                head: head * vectors,
            };
            load_tile::<F, N>(q, &mut queries, &coming, COLUMNS, plan);
            load_tile::<F, N>(d_o, &mut d_outs, &coming, COLUMNS, plan);
            let mut column = unit;
            while column < COLUMNS {
                let query = base + column;
                firsts[column] = 0u32;
                seen[column] = 0u32;
                if query < tokens {
                    let first = visible[query];
                    firsts[column] = first;
                    seen[column] = visible[tokens + query] - first;
                    lses[column] = lse[query * heads + head];
                    deltas[column] = delta[query * heads + head];
                }
                column += units;
            }
            sync_cube();
            score_tile::<F, N>(&keys, &queries, &mut scores, plan);
            score_tile::<F, N>(&values, &d_outs, &mut dp, plan);
            sync_cube();
            let part = unit % parts;
            let mut row = unit / parts;
            while row < ROWS {
                let key = (place.row + row) as u32;
                let start = part * columns;
                #[unroll]
                for vector in 0..comptime!(columns / plan.vector()) {
                    let first = start + comptime!(vector * plan.vector());
                    let mut probabilities = Array::<f32>::new(comptime!(plan.vector()));
                    let mut slopes = Array::<f32>::new(comptime!(plan.vector()));
                    #[unroll]
                    for lane in 0..comptime!(plan.vector()) {
                        let column = first + lane;
                        let at = row * score_stride + column;
                        let is_seen = key - firsts[column] < seen[column];
                        let score = bent(scores[at], scale, softcap, plan.capped);
                        let probability = exponential(score - lses[column], plan);
                        let straight = probability * (dp[at] - deltas[column]);
                        let slope = bent_back(straight, score, scale, softcap, plan.capped);
                        probabilities[lane] = select(is_seen, probability, f32::new(0.0));
                        slopes[lane] = select(is_seen, slope, f32::new(0.0));
                    }
                    write_weights::<F, N>(&probabilities, 0usize, &mut p, row, first, plan);
                    write_weights::<F, N>(&slopes, 0usize, &mut ds, row, first, plan);
                }
                row += comptime!(units / parts);
            }
            sync_cube();
            add_weighted::<F, N>(&mut dk_sums, &ds, &queries, plan);
            add_weighted::<F, N>(&mut dv_sums, &p, &d_outs, plan);
            sync_cube();
            base += COLUMNS;
        }
    }
    write_tile::<F, N>(&dk_sums, &mut scores, &ones, dk, &place, plan);
    write_tile::<F, N>(&dv_sums, &mut scores, &ones, dv, &place, plan);
}

/// The gradient of a raw product from that of its bent `score`.
#[cube]
fn bent_back(gradient: f32, score: f32, scale: f32, softcap: f32, #[comptime] capped: bool) -> f32 {
    if comptime!(capped) {
        let tanh = score * (f32::new(1.0) / softcap);
        gradient * scale * (f32::new(1.0) - tanh * tanh)
    } else {
        gradient * scale
    }
}
