//! x·Wᵀ for 1 to 32 rows of x straight from the 4-bit codes, and x·Aᵀ of the adapters beside it:
//! decoding, where reading W is the cost.
//!
//! What to expect. A token of an 8B reads 3.6 GB of codes and scales and 1.1 GB of head; 250 tokens/s
//! at batch 1 are 1.2 TB/s of an H100's 3.35. Decoding a weight that is rounded to bf16 is some eight
//! instructions (shift, mask, table, scale, round, widen, multiply and add): 132 multiprocessors issue
//! 128 lanes a cycle at 1.75 GHz, 3.7e12 weights or 1.9 TB/s at most. One in f32 is half of them. So
//! the codes are read once whatever the rows, and two kernels share how that is done:
//!
//! - [`project_few_kernel`], up to [`FEW`] rows. A unit holds its 32 columns of every row of x in
//!   registers and walks down a tile of features: sixteen bytes of codes a feature, neighbouring
//!   units neighbouring bytes. Sums of a feature meet once, at the end. Where a weight is not rounded
//!   once it is scaled (f32), the one scale of the 32 multiplies their sum.
//! - [`project_rows_kernel`], up to 32 rows, where multiplying costs more than decoding (32 rows on
//!   plain lanes: 7.5e9 weights in 8 ms, by tensor cores in 3). Codes become a tile of W in shared
//!   memory, x another, and tensor cores multiply them; without these (f32, or CubeCL's CPU runtime,
//!   which so proves all that surrounds it) plain loops do. Beyond 32 rows dequantising W once and
//!   multiplying is cheaper: 2 bytes a weight written and read are 10 ms of an 8B, whatever the rows.
//!
//! A launch serves several weights that read the same x: query, key and value, or gate and up. Sums
//! are f32 `[splits, rows, columns]`, each weight and each A with columns of its own; the kernels of
//! [`super::finish`] make of them what comes next.

use super::dequantize::{block_scale, codebook, nibble};
use super::patch::{Owner, PATCH, multiply, store, zeros};
use cubecl::prelude::*;

/// Rows that fit a unit's registers: 32 values each.
pub(crate) const FEW: usize = 4;
/// Features a cube of [`project_few_kernel`] walks down.
pub(crate) const FEW_FEATURES: usize = 8;
/// Features and columns of a tile of W in [`project_rows_kernel`]: four planes of sixteen features.
pub(crate) const TILE_FEATURES: usize = 64;
pub(crate) const TILE_DEPTH: usize = 128;

/// Words that the table has for each weight, then for each A.
pub(crate) const ENTRY: usize = 8;
// What they are: where its sections begin, the offset's bits, its features, its first column of the
// sums, its first tile and one past its last.
const SCALES_AT: usize = 0;
const NESTED_AT: usize = 1;
const MAP_AT: usize = 2;
const OFFSET: usize = 3;
const FEATURES: usize = 4;
const COLUMN: usize = 5;
const TILE: usize = 6;
const TILES_END: usize = 7;

#[cube]
fn entry(table: &[u32], of: usize, what: usize) -> usize {
    table[of * ENTRY + what] as usize
}

/// Whether this cube's tile is one of entry `of`.
#[cube]
fn mine(table: &[u32], of: usize) -> bool {
    let tile = CUBE_POS_X as usize;
    tile >= entry(table, of, TILE) && tile < entry(table, of, TILES_END)
}

/// The scale of the block that holds value `at` of the weight of entry `of`.
#[cube]
fn scale_at(words: &[u32], table: &[u32], of: usize, at: usize, #[comptime] nested: bool) -> f32 {
    block_scale(
        words,
        at / 64,
        entry(table, of, SCALES_AT),
        entry(table, of, NESTED_AT),
        entry(table, of, MAP_AT),
        f32::reinterpret(table[of * ENTRY + OFFSET]),
        nested,
    )
}

/// y `[rows, columns]` of tiles of [`FEW_FEATURES`]; `in_features` is a multiple of 64. `rounded` where
/// R is less than f32.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn project_few_kernel<F: Float, R: Float, C: Size, V: Size>(
    x: &[Vector<F, V>],
    codes: &Sequence<Box<[Vector<u32, C>]>>,
    words: &Sequence<Box<[u32]>>,
    dense: &Sequence<Box<[Vector<f32, C>]>>,
    table: &[u32],
    y: &mut [f32],
    in_features: usize,
    columns: usize,
    #[comptime] weights: usize,
    #[comptime] adapters: usize,
    #[comptime] nested: bool,
    #[comptime] rounded: bool,
    #[comptime] rows: usize,
    #[comptime] units: usize,
    #[define(F, R)] _dtypes: [ElemType; 2],
) {
    let values = codebook(units);
    let unit = UNIT_POS as usize;
    let slots = comptime!(FEW_FEATURES * rows);
    let mut sums = Shared::<[f32]>::new_slice(comptime!(slots * units));
    #[unroll]
    for slot in 0..slots {
        sums[slot * units + unit] = f32::new(0.0);
    }
    let mut xs = Array::<f32>::new(comptime!(rows * 32));
    let mut piece = unit;
    while piece < in_features / 32 {
        let lanes = V::value();
        #[unroll]
        for row in 0..rows {
            #[unroll]
            for part in 0..comptime!(32 / lanes) {
                let vector = x[(row * in_features + piece * 32) / lanes + part];
                #[unroll]
                for lane in 0..lanes {
                    xs[row * 32 + part * lanes + lane] = f32::cast_from(vector.extract(lane));
                }
            }
        }
        #[unroll]
        for weight in 0..weights {
            if mine(table, weight) {
                let first = (CUBE_POS_X as usize - entry(table, weight, TILE)) * FEW_FEATURES;
                let mut count = entry(table, weight, FEATURES) - first;
                if count > FEW_FEATURES {
                    count = FEW_FEATURES.runtime();
                }
                for feature in 0..count {
                    let at = (first + feature) * in_features + piece * 32;
                    let scale = scale_at(&words[weight], table, weight, at, nested);
                    let vector = codes[weight][at / 32];
                    let mut dots = Array::<f32>::new(rows);
                    #[unroll]
                    for row in 0..rows {
                        dots[row] = f32::new(0.0);
                    }
                    #[unroll]
                    for word in 0..4usize {
                        let bits = vector.extract(word);
                        #[unroll]
                        for lane in 0..8usize {
                            let mut value = values[nibble(bits, lane)];
                            if comptime!(rounded) {
                                value = f32::cast_from(R::cast_from(value * scale));
                            }
                            #[unroll]
                            for row in 0..rows {
                                dots[row] += value * xs[row * 32 + word * 8 + lane];
                            }
                        }
                    }
                    #[unroll]
                    for row in 0..rows {
                        let mut dot = dots[row];
                        if comptime!(!rounded) {
                            dot *= scale;
                        }
                        sums[(feature * rows + row) * units + unit] += dot;
                    }
                }
            }
        }
        #[unroll]
        for adapter in 0..adapters {
            if mine(table, weights + adapter) {
                let of = weights + adapter;
                let first = (CUBE_POS_X as usize - entry(table, of, TILE)) * FEW_FEATURES;
                let mut count = entry(table, of, FEATURES) - first;
                if count > FEW_FEATURES {
                    count = FEW_FEATURES.runtime();
                }
                for feature in 0..count {
                    let at = (first + feature) * in_features + piece * 32;
                    let mut dots = Array::<f32>::new(rows);
                    #[unroll]
                    for row in 0..rows {
                        dots[row] = f32::new(0.0);
                    }
                    #[unroll]
                    for part in 0..8usize {
                        let vector = dense[adapter][at / 4 + part];
                        #[unroll]
                        for lane in 0..4usize {
                            #[unroll]
                            for row in 0..rows {
                                dots[row] += vector.extract(lane) * xs[row * 32 + part * 4 + lane];
                            }
                        }
                    }
                    #[unroll]
                    for row in 0..rows {
                        sums[(feature * rows + row) * units + unit] += dots[row];
                    }
                }
            }
        }
        piece += units;
    }
    sync_cube();
    let mut half = CUBE_DIM as usize / 2;
    while half > 0 {
        if unit < half {
            #[unroll]
            for slot in 0..slots {
                let other = sums[slot * units + unit + half];
                sums[slot * units + unit] += other;
            }
        }
        sync_cube();
        half /= 2;
    }
    #[unroll]
    for of in 0..comptime!(weights + adapters) {
        if mine(table, of) {
            let first = (CUBE_POS_X as usize - entry(table, of, TILE)) * FEW_FEATURES;
            let mut slot = unit;
            while slot < slots {
                let feature = first + slot / rows;
                if feature < entry(table, of, FEATURES) {
                    let at = slot % rows * columns + entry(table, of, COLUMN) + feature;
                    y[at] = sums[slot * units];
                }
                slot += units;
            }
        }
    }
}

/// y `[splits, rows, columns]` of tiles of [`TILE_FEATURES`]; CUBE_POS_Y is the split, which takes
/// `depth` columns of x, a multiple of [`TILE_DEPTH`].
#[cube(launch, create_dummy_kernel)]
pub(crate) fn project_rows_kernel<F: Float, R: Float, C: Size, E: Size>(
    x: &[Vector<F, E>],
    codes: &Sequence<Box<[Vector<u32, C>]>>,
    words: &Sequence<Box<[u32]>>,
    dense: &Sequence<Box<[Vector<f32, C>]>>,
    table: &[u32],
    y: &mut [f32],
    rows: usize,
    in_features: usize,
    columns: usize,
    depth: usize,
    #[comptime] weights: usize,
    #[comptime] adapters: usize,
    #[comptime] nested: bool,
    #[comptime] tile_rows: usize,
    #[comptime] tensor_cores: bool,
    #[comptime] units: usize,
    #[define(F, R)] _dtypes: [ElemType; 2],
) {
    let values = codebook(units);
    let unit = UNIT_POS as usize;
    let lanes = E::value();
    // A row of a tile, in vectors: one more than it needs, so that rows lie in different banks.
    let stride = comptime!(TILE_DEPTH / lanes + 1);
    let outputs = comptime!(tile_rows * TILE_FEATURES);
    let mut xs =
        Shared::<[Vector<F, E>]>::new_aligned_slice(comptime!(tile_rows * stride), 32usize);
    let mut ws =
        Shared::<[Vector<F, E>]>::new_aligned_slice(comptime!(TILE_FEATURES * stride), 32usize);
    let mut sums = Shared::<[f32]>::new_aligned_slice(outputs, 32usize);
    let mut slot = unit;
    while slot < outputs {
        sums[slot] = f32::new(0.0);
        slot += units;
    }
    // Sixteen rows each, in the registers of a plane.
    let row_tiles = comptime!(tile_rows / PATCH);
    let owner = comptime!(Owner {
        lanes: 32,
        tensor_cores,
    });
    let count = comptime!(if tensor_cores { row_tiles } else { 0 });
    let mut patches = zeros(count, owner);
    let plane = UNIT_POS as usize / 32; // its sixteen features

    let start = CUBE_POS_Y as usize * depth;
    let mut end = start + depth;
    if end > in_features {
        end = in_features;
    }
    let mut from = start;
    while from < end {
        sync_cube();
        let mut at = unit;
        while at < comptime!(tile_rows * TILE_DEPTH / lanes) {
            let row = at / comptime!(TILE_DEPTH / lanes);
            let within = at % comptime!(TILE_DEPTH / lanes);
            // Past the last row, whose sums nobody writes, and past the last column, which meets zeros, the last
            // is read again: a choice between a vector and zeros takes a GPU twelve instructions.
            let mut of = row;
            if of >= rows {
                of = rows - 1;
            }
            let mut column = from + within * lanes;
            if column >= end {
                column = end - lanes;
            }
            xs[row * stride + within] = x[(of * in_features + column) / lanes];
            at += units;
        }
        let mut at = unit;
        while at < comptime!(TILE_FEATURES * TILE_DEPTH / 32) {
            let feature = at / comptime!(TILE_DEPTH / 32);
            let within = at % comptime!(TILE_DEPTH / 32);
            let column = from + within * 32;
            let to = feature * stride + within * comptime!(32 / lanes);
            #[unroll]
            for part in 0..comptime!(32 / lanes) {
                ws[to + part] = Vector::<F, E>::new(F::new(0.0));
            }
            #[unroll]
            for weight in 0..weights {
                let tile = CUBE_POS_X as usize - entry(table, weight, TILE);
                let feature = tile * TILE_FEATURES + feature;
                if mine(table, weight) && column < end && feature < entry(table, weight, FEATURES) {
                    let at = feature * in_features + column;
                    let scale = scale_at(&words[weight], table, weight, at, nested);
                    let vector = codes[weight][at / 32];
                    #[unroll]
                    for part in 0..comptime!(32 / lanes) {
                        let bits = vector.extract(comptime!(part * lanes / 8));
                        let mut decoded = Vector::<F, E>::empty();
                        #[unroll]
                        for lane in 0..lanes {
                            let place = comptime!(part * lanes % 8 + lane);
                            let value = R::cast_from(values[nibble(bits, place)] * scale);
                            decoded.insert(lane, F::cast_from(value));
                        }
                        ws[to + part] = decoded;
                    }
                }
            }
            #[unroll]
            for adapter in 0..adapters {
                let of = weights + adapter;
                let tile = CUBE_POS_X as usize - entry(table, of, TILE);
                let feature = tile * TILE_FEATURES + feature;
                if mine(table, of) && column < end && feature < entry(table, of, FEATURES) {
                    let at = feature * in_features + column;
                    #[unroll]
                    for part in 0..comptime!(32 / lanes) {
                        let mut copied = Vector::<F, E>::empty();
                        #[unroll]
                        for quarter in 0..comptime!(lanes / 4) {
                            let vector = dense[adapter][at / 4 + part * lanes / 4 + quarter];
                            #[unroll]
                            for lane in 0..4usize {
                                let value = F::cast_from(vector.extract(lane));
                                copied.insert(comptime!(quarter * 4 + lane), value);
                            }
                        }
                        ws[to + part] = copied;
                    }
                }
            }
            at += units;
        }
        sync_cube();
        if comptime!(tensor_cores) {
            let across = comptime!((stride * lanes, stride * lanes));
            #[unroll]
            for tile in 0..row_tiles {
                multiply::<F, E, E>(
                    &mut patches,
                    &xs,
                    comptime!(tile * PATCH * stride * lanes).runtime(),
                    &ws,
                    plane * comptime!(PATCH * stride * lanes),
                    tile,
                    across,
                    TILE_DEPTH,
                    PATCH,
                    true,
                    owner,
                );
            }
        } else {
            let mut slot = unit;
            while slot < outputs {
                let row = slot / TILE_FEATURES * stride;
                let feature = slot % TILE_FEATURES * stride;
                let mut dot = f32::new(0.0);
                for at in 0..comptime!(TILE_DEPTH / lanes) {
                    let (p, q) = (xs[row + at], ws[feature + at]);
                    #[unroll]
                    for lane in 0..lanes {
                        dot += f32::cast_from(p.extract(lane)) * f32::cast_from(q.extract(lane));
                    }
                }
                sums[slot] += dot;
                slot += units;
            }
        }
        from += TILE_DEPTH;
    }
    if comptime!(tensor_cores) {
        #[unroll]
        for tile in 0..row_tiles {
            let first = plane * PATCH + comptime!(tile * PATCH * TILE_FEATURES);
            store(patches.index(tile), &mut sums, first, TILE_FEATURES, owner);
        }
        sync_cube();
    }
    #[unroll]
    for of in 0..comptime!(weights + adapters) {
        if mine(table, of) {
            let first = (CUBE_POS_X as usize - entry(table, of, TILE)) * TILE_FEATURES;
            let mut slot = unit;
            while slot < outputs {
                let row = slot / TILE_FEATURES;
                let feature = first + slot % TILE_FEATURES;
                if row < rows && feature < entry(table, of, FEATURES) {
                    let row = CUBE_POS_Y as usize * rows + row;
                    y[row * columns + entry(table, of, COLUMN) + feature] = sums[slot];
                }
                slot += units;
            }
        }
    }
}
