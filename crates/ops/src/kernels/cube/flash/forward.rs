//! o = softmax(scale·q·kᵀ)·v, a cube a tile of query rows and head, with a running softmax.
//!
//! A row's weights are exp(score − reference), and sums are brought to a new reference only where a
//! score exceeds the old one by [`SLACK`]: that is rare after a row's first tile.

use super::{
    COLUMNS, LOWEST, Place, Plan, ROWS, add_weighted, exponential, load_tile, row_patch,
    score_tile, tile, weight_tile, write_tile, write_weights,
};
use crate::kernels::cube::attention::bent;
use crate::kernels::cube::patch::{PATCH, Patch, scale_rows, zeros};
use cubecl::prelude::*;

/// exp(8) is 3000: sums of that many such weights are as exact in f32, and the weights in bf16, as
/// any others.
const SLACK: f32 = 8.0;

/// Cube i has head `i % heads` of tile `tiles − 1 − i / heads`: the last rows see most keys, and
/// cubes that start late should be short. `visible` is of `backends::cube::visible`: `first`, `end`,
/// then the keys that each tile of queries meets.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn flash_forward_kernel<F: Float, N: Size>(
    q: &[Vector<F, N>],
    k: &[Vector<F, N>],
    v: &[Vector<F, N>],
    visible: &[u32],
    o: &mut [Vector<F, N>],
    lse: &mut [f32],
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
    let score_stride = comptime!(plan.score_stride());
    let (parts, units) = comptime!((plan.parts(), plan.units));
    let columns = comptime!(COLUMNS / plan.parts());
    let vectors = comptime!(plan.head_dim / plan.vector());
    let mut queries = tile::<F, N>(ROWS, plan);
    let mut keys = tile::<F, N>(COLUMNS, plan);
    let mut values = tile::<F, N>(COLUMNS, plan);
    let mut scores = Shared::<[f32]>::new_aligned_slice(comptime!(ROWS * score_stride), 32usize);
    let mut weights = weight_tile::<F, N>(plan);
    // Of each row and part, its unit's own; those of all parts but `totals` are equal.
    let mut references = Shared::<[f32]>::new_slice(comptime!(ROWS * parts));
    let mut totals = Shared::<[f32]>::new_slice(comptime!(ROWS * parts));
    let mut shrinks = Shared::<[f32]>::new_slice(ROWS);
    let mut moved = Shared::<[u32]>::new_slice(1usize);

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
    let mut i = unit;
    while i < comptime!(ROWS * parts) {
        references[i] = f32::new(LOWEST);
        totals[i] = f32::new(0.0);
        i += units;
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
        if unit == 0 {
            moved[0] = 0u32;
        }
        sync_cube();
        score_tile::<F, N>(&queries, &keys, &mut scores, plan);
        sync_cube();

        let part = unit % parts;
        let mut row = unit / parts;
        while row < ROWS {
            // Column c is seen where base + c − first < seen, without a sign.
            let mut first = 0u32;
            let mut seen = 0u32;
            if place.row + row < tokens {
                first = visible[place.row + row];
                seen = visible[tokens + place.row + row] - first;
            }
            let start = part * columns;
            let from = (base + start) as u32 - first;
            let mut values = Array::<f32>::new(columns);
            let mut top = f32::new(LOWEST);
            #[unroll]
            for c in 0..columns {
                let score = bent(
                    scores[row * score_stride + start + c],
                    scale,
                    softcap,
                    plan.capped,
                );
                let value = select(from + comptime!(c as u32) < seen, score, f32::new(LOWEST));
                values[c] = value;
                top = top.max(value);
            }
            if comptime!(parts == 2) {
                top = top.max(plane_shuffle_xor(top, 1u32));
            }
            let own = row * parts + part;
            let old = references[own];
            let mut reference = old;
            if top > old + SLACK {
                reference = top;
            }
            let shrink = exponential(old - reference, plan);
            let mut total = totals[own] * shrink;
            // Where a row has seen no key yet, what is masked must not weigh.
            let against = reference.max(f32::new(-1.0e38));
            #[unroll]
            for c in 0..columns {
                let weight = exponential(values[c] - against, plan);
                values[c] = weight;
                total += weight;
            }
            #[unroll]
            for vector in 0..comptime!(columns / plan.vector()) {
                let first = comptime!(vector * plan.vector());
                write_weights::<F, N>(&values, first, &mut weights, row, start + first, plan);
            }
            references[own] = reference;
            totals[own] = total;
            if part == 0 {
                shrinks[row] = shrink;
                if reference > old && old > f32::new(-1.0e38) {
                    moved[0] = 1u32; // whoever writes it writes the same
                }
            }
            row += comptime!(units / parts);
        }
        sync_cube();

        if moved[0] == 1 {
            shrink_sums(&mut sums, &shrinks, plan);
        }
        add_weighted::<F, N>(&mut sums, &weights, &values, plan);
        sync_cube();
        base += COLUMNS;
    }

    let mut row = unit;
    while row < ROWS {
        let mut total = f32::new(0.0);
        for part in 0..parts {
            total += totals[row * parts + part];
        }
        shrinks[row] = total; // from here on what the sums are divided by
        if place.row + row < tokens {
            lse[(place.row + row) * heads + head] = references[row * parts] + total.ln();
        }
        row += units;
    }
    write_tile::<F, N>(&sums, &mut scores, &shrinks, o, &place, plan);
}

/// Multiplies every sum of the plane with its row's number.
#[cube]
fn shrink_sums(sums: &mut Sequence<Patch>, shrinks: &Shared<[f32]>, #[comptime] plan: Plan) {
    let across = comptime!(plan.head_dim / PATCH);
    #[unroll]
    for rows in 0..comptime!(plan.row_patches()) {
        let at = row_patch(rows, plan) * PATCH;
        #[unroll]
        for column in 0..across {
            let patch = sums.index_mut(comptime!(rows * across + column));
            scale_rows(patch, shrinks, at, comptime!(plan.owner()));
        }
    }
}
