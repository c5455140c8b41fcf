//! o = softmax(scale·q·kᵀ)·v, a cube a tile of query rows and head, with a running softmax.
//!
//! A row's weights are exp(score − reference), and sums are brought to a new reference only where a
//! score exceeds the old one by [`SLACK`]: that is rare after a row's first tile, and it is the one
//! thing that takes the sums out of their fragments before the end.

use super::patch::{PATCH, Patch, load, zeros};
use super::{
    COLUMNS, LOWEST, Place, Plan, ROWS, add_weighted, load_tile, row_patch, score_tile,
    store_panel, tile, write_tile,
};
use crate::kernels::cube::attention::bent;
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
    let weight_stride = comptime!(plan.weight_stride());
    let (parts, units) = comptime!((plan.parts(), plan.units));
    let vectors = comptime!(plan.head_dim / plan.vector());
    let mut queries = tile::<F, N>(ROWS, plan);
    let mut keys = tile::<F, N>(COLUMNS, plan);
    let mut values = tile::<F, N>(COLUMNS, plan);
    let mut scores = Shared::<[f32]>::new_aligned_slice(comptime!(ROWS * score_stride), 32usize);
    let mut weights = Shared::<[Vector<F, Const<1>>]>::new_aligned_slice(
        comptime!(ROWS * weight_stride),
        32usize,
    );
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
    let mut sums = zeros(comptime!(plan.row_patches() * plan.head_dim / PATCH), plan);

    let mut base = visible[2 * tokens + 2 * index] as usize;
    let to = visible[2 * tokens + 2 * index + 1] as usize;
    while base < to {
        let seen = Place {
            row: base,
            rows: key_rows,
            width: kv_heads * vectors,
            head: kv * vectors,
        };
        load_tile::<F, N>(k, &mut keys, &seen, COLUMNS, plan);
        load_tile::<F, N>(v, &mut values, &seen, COLUMNS, plan);
        if unit == 0 {
            moved[0] = 0u32;
        }
        sync_cube();
        score_tile::<F, N>(&queries, &keys, &mut scores, plan);
        sync_cube();

        let part = unit % parts;
        let mut row = unit / parts;
        while row < ROWS {
            let mut first = 1usize;
            let mut end = 0usize;
            if place.row + row < tokens {
                first = visible[place.row + row] as usize;
                end = visible[tokens + place.row + row] as usize;
            }
            let at = row * score_stride;
            let mut top = f32::new(LOWEST);
            for c in 0..COLUMNS {
                let column = (c + row) % COLUMNS;
                let score = bent(scores[at + column], scale, softcap, plan.capped);
                if base + column >= first && base + column < end && score > top {
                    top = score;
                }
            }
            let own = row * parts + part;
            let old = references[own];
            let mut reference = old;
            if top > old + SLACK {
                reference = top;
            }
            let shrink = (old - reference).exp();
            let mut total = totals[own] * shrink;
            for c in 0..comptime!(COLUMNS / parts) {
                let column =
                    part * comptime!(COLUMNS / parts) + (c + row) % comptime!(COLUMNS / parts);
                let mut weight = f32::new(0.0);
                if base + column >= first && base + column < end {
                    let score = bent(scores[at + column], scale, softcap, plan.capped);
                    weight = (score - reference).exp();
                }
                total += weight;
                weights[row * weight_stride + column] = Vector::new(F::cast_from(weight));
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
            shrink_sums(&mut sums, &mut scores, &shrinks, plan);
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

/// Multiplies every sum with its row's number. The fragments' layout is the device's secret, so they
/// go through shared memory; all units must call it.
#[cube]
fn shrink_sums(
    sums: &mut Sequence<Patch>,
    panel: &mut Shared<[f32]>,
    shrinks: &Shared<[f32]>,
    #[comptime] plan: Plan,
) {
    let stride = comptime!(plan.score_stride());
    #[unroll]
    for index in 0..comptime!(plan.head_dim / COLUMNS) {
        store_panel(&*sums, panel, index, plan);
        sync_cube();
        let mut i = UNIT_POS as usize;
        while i < comptime!(ROWS * COLUMNS) {
            panel[i / COLUMNS * stride + i % COLUMNS] *= shrinks[i / COLUMNS];
            i += plan.units;
        }
        sync_cube();
        #[unroll]
        for rows in 0..comptime!(plan.row_patches()) {
            let at = row_patch(rows, plan) * PATCH * stride;
            #[unroll]
            for columns in 0..comptime!(COLUMNS / PATCH) {
                let patch =
                    comptime!(rows * plan.head_dim / PATCH + index * (COLUMNS / PATCH) + columns);
                load(sums.index_mut(patch), &*panel, at + columns * PATCH, stride);
            }
        }
        sync_cube(); // before the next panel is stored
    }
}
