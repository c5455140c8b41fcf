//! What attention does between its matmuls on a GPU, and the whole of it for a few rows.
//!
//! A chunk of query rows meets the span of keys that any of them sees: scores `[kv_heads,
//! rows·group, span]`, with the `group` query heads of a key-value head as neighbouring rows. Which
//! keys of the span a row sees is two numbers, `first` and `end`: segments, causality and the
//! sliding window are all in them.

use super::{cube_max, cube_sum};
use cubecl::prelude::*;

/// A score that no key has.
const LOWEST: f32 = -3.0e38;

/// The score as softmax sees it: scaled, and bent by cap·tanh(s / cap).
#[cube]
pub(crate) fn bent(raw: f32, scale: f32, softcap: f32, #[comptime] capped: bool) -> f32 {
    let score = raw * scale;
    if comptime!(capped) {
        // One division for all scores: it does not change from one to the next.
        softcap * (score * (f32::new(1.0) / softcap)).tanh()
    } else {
        score
    }
}

/// p = softmax(scores) over the keys that each row sees, zero elsewhere; lse `[rows, heads]`.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn softmax_kernel<F: Float>(
    scores: &[f32],
    first: &[u32],
    end: &[u32],
    p: &mut [F],
    lse: &mut [f32],
    chunk_start: usize,
    chunk_rows: usize,
    span_start: usize,
    span: usize,
    group: usize,
    heads: usize,
    scale: f32,
    softcap: f32,
    #[comptime] capped: bool,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let index = CUBE_POS;
    let unit = UNIT_POS as usize;
    let within = index % (chunk_rows * group);
    let head = index / (chunk_rows * group) * group + within % group;
    let row = chunk_start + within / group;
    let from = first[row] as usize - span_start;
    let to = end[row] as usize - span_start;
    let at = index * span;

    let mut largest = f32::new(-3.0e38);
    let mut j = from + unit;
    while j < to {
        let score = bent(scores[at + j], scale, softcap, capped);
        if score > largest {
            largest = score;
        }
        j += units;
    }
    let largest = cube_max(largest, units);
    let mut sum = f32::new(0.0);
    let mut j = from + unit;
    while j < to {
        sum += (bent(scores[at + j], scale, softcap, capped) - largest).exp();
        j += units;
    }
    let sum = cube_sum(sum, units);
    if unit == 0 {
        lse[row * heads + head] = largest + sum.ln();
    }
    let mut j = unit;
    while j < span {
        let mut probability = f32::new(0.0);
        if j >= from && j < to {
            probability = (bent(scores[at + j], scale, softcap, capped) - largest).exp() / sum;
        }
        p[at + j] = F::cast_from(probability);
        j += units;
    }
}

/// p again from lse, and ds = scale·p∘(dp − delta)∘slope, with delta = Σ do∘o of the row.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn softmax_backward_kernel<F: Float>(
    scores: &[f32],
    dp: &[f32],
    first: &[u32],
    end: &[u32],
    lse: &[f32],
    delta: &[f32],
    p: &mut [F],
    ds: &mut [F],
    chunk_start: usize,
    chunk_rows: usize,
    span_start: usize,
    span: usize,
    group: usize,
    heads: usize,
    scale: f32,
    softcap: f32,
    elements: usize,
    #[comptime] capped: bool,
    #[define(F)] _dtype: ElemType,
) {
    let i = ABSOLUTE_POS;
    if i < elements {
        let index = i / span;
        let key = span_start + i % span;
        let within = index % (chunk_rows * group);
        let head = index / (chunk_rows * group) * group + within % group;
        let row = chunk_start + within / group;
        let mut probability = f32::new(0.0);
        let mut slope = f32::new(0.0);
        if key >= first[row] as usize && key < end[row] as usize {
            let score = bent(scores[i], scale, softcap, capped);
            probability = (score - lse[row * heads + head]).exp();
            slope = scale * probability * (dp[i] - delta[row * heads + head]);
            if comptime!(capped) {
                let tanh = score * (f32::new(1.0) / softcap);
                slope *= f32::new(1.0) - tanh * tanh;
            }
        }
        p[i] = F::cast_from(probability);
        ds[i] = F::cast_from(slope);
    }
}

/// delta = Σ do∘o over each head, `[rows, heads]`: a cube a row and head.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn delta_kernel<F: Float>(
    d_o: &[F],
    o: &[F],
    delta: &mut [f32],
    head_dim: usize,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = CUBE_POS * head_dim;
    let mut sum = f32::new(0.0);
    let mut c = UNIT_POS as usize;
    while c < head_dim {
        sum += f32::cast_from(d_o[at + c]) * f32::cast_from(o[at + c]);
        c += units;
    }
    let sum = cube_sum(sum, units);
    if UNIT_POS == 0 {
        delta[CUBE_POS] = sum;
    }
}

/// How attention of single rows is divided: a cube takes a row, some query heads of one key-value head,
/// and a split of the keys that the row sees, a tile of them at a time.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) struct Few {
    pub head_dim: usize,
    /// Activations that are read at once.
    pub lanes: usize,
    /// Query heads of a cube, which read the same keys.
    pub heads: usize,
    /// Keys of a tile.
    pub tile: usize,
    pub units: usize,
    pub capped: bool,
    /// Whether there are several splits, whose sums [`merge_attended_kernel`] puts together.
    pub split: bool,
}

/// Parts of a head's tile of scores, each looked through by one unit.
const PARTS: usize = 16;

impl Few {
    /// Vectors of a head's row.
    fn vectors(&self) -> usize {
        self.head_dim / self.lanes
    }

    /// From one key to the next in shared memory, in vectors: odd, so that units at neighbouring keys
    /// read from different banks.
    fn stride(&self) -> usize {
        self.vectors() | 1
    }

    /// Rows of values that are read at once, a unit a vector.
    fn abreast(&self) -> usize {
        (self.units / self.vectors()).max(1)
    }

    /// Vectors of a row of values that a unit owns: one, unless the row has more than the cube units.
    fn owned(&self) -> usize {
        self.vectors().div_ceil(self.units)
    }

    /// Keys of a tile: as many as 36 KiB hold, 128 at most.
    pub fn tile(head_dim: usize, lanes: usize, element: usize) -> usize {
        let row = ((head_dim / lanes) | 1) * lanes * element;
        1 << ((36 << 10) / row).clamp(1, 128).ilog2()
    }
}

/// Attention of single rows with a running softmax: for decoding, where a matmul would have one row.
/// Keys and values are read from slots: row j of the query's sequence is row `first[row] + j` of k and v.
///
/// What it costs is reading them once, and waiting for them: neighbouring units read neighbouring
/// vectors, keys into shared memory, where a unit then has a key for all heads of the cube, values as
/// they lie, where a unit has a vector of columns of some keys and its sums in registers. Splits
/// (`CUBE_POS_X`, of `span` keys) make cubes enough to keep the device busy with one sequence. A split's
/// sums go to `partial` `[rows, heads, splits, head_dim + 2]` as they are, with the largest score and
/// the total of weights behind them; of one split o and lse are written at once.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn attend_kernel<F: Float, N: Size>(
    q: &[Vector<F, N>],
    k: &[Vector<F, N>],
    v: &[Vector<F, N>],
    first: &[u32],
    end: &[u32],
    o: &mut [F],
    lse: &mut [f32],
    partial: &mut [f32],
    heads: usize,
    kv_heads: usize,
    span: usize,
    scale: f32,
    softcap: f32,
    #[comptime] few: Few,
    #[define(F)] _dtype: ElemType,
) {
    let lanes = N::value();
    let (units, tile_keys, own_heads) = comptime!((few.units, few.tile, few.heads));
    let (head_dim, vectors, stride) = comptime!((few.head_dim, few.vectors(), few.stride()));
    let (abreast, owned) = comptime!((few.abreast(), few.owned()));
    let mut queries = Shared::<[Vector<F, N>]>::new_slice(comptime!(own_heads * vectors));
    let mut keys = Shared::<[Vector<F, N>]>::new_slice(comptime!(tile_keys * stride));
    // Of each head: scores of a tile, then their weights; the largest of each part, and the running sum
    // of its weights; by what a tile shrinks all sums before it.
    let mut weights = Shared::<[f32]>::new_slice(comptime!(own_heads * tile_keys));
    let mut tops = Shared::<[f32]>::new_slice(comptime!(own_heads * PARTS));
    let mut totals = Shared::<[f32]>::new_slice(comptime!(own_heads * PARTS));
    let mut shrinks = Shared::<[f32]>::new_slice(own_heads);
    // [abreast, heads, head_dim], at the end
    let mut parts = Shared::<[f32]>::new_slice(comptime!(abreast * own_heads * head_dim));

    let unit = UNIT_POS as usize;
    let split = CUBE_POS_X as usize;
    let head = CUBE_POS_Y as usize * own_heads; // the first of them
    let row = CUBE_POS_Z as usize;
    let kv = head / (heads / kv_heads);
    let mut i = unit;
    while i < comptime!(own_heads * vectors) {
        queries[i] = q[(row * heads + head) * vectors + i];
        i += units;
    }
    let mut i = unit;
    while i < comptime!(own_heads * PARTS) {
        totals[i] = f32::new(0.0); // its unit's own
        i += units;
    }
    let mut largest = Array::<f32>::new(own_heads);
    #[unroll]
    for h in 0..own_heads {
        largest[h] = f32::new(LOWEST);
    }
    let mut sums = Array::<f32>::new(comptime!(owned * own_heads * lanes));
    #[unroll]
    for i in 0..comptime!(owned * own_heads * lanes) {
        sums[i] = f32::new(0.0);
    }

    let mut tile = first[row] as usize + split * span;
    let mut to = end[row] as usize;
    if tile + span < to {
        to = tile + span;
    }
    while tile < to {
        let mut count = to - tile;
        if count > tile_keys {
            count = tile_keys.runtime();
        }
        let mut i = unit;
        while i < count * vectors {
            let (key, within) = (i / vectors, i % vectors);
            keys[key * stride + within] = k[((tile + key) * kv_heads + kv) * vectors + within];
            i += units;
        }
        sync_cube();

        let mut key = unit;
        while key < count {
            let mut dots = Array::<f32>::new(own_heads);
            #[unroll]
            for h in 0..own_heads {
                dots[h] = f32::new(0.0);
            }
            for part in 0..vectors {
                let of_key = keys[key * stride + part];
                #[unroll]
                for h in 0..own_heads {
                    let of_query = queries[h * vectors + part];
                    #[unroll]
                    for lane in 0..lanes {
                        dots[h] += f32::cast_from(of_query.extract(lane))
                            * f32::cast_from(of_key.extract(lane));
                    }
                }
            }
            #[unroll]
            for h in 0..own_heads {
                weights[h * tile_keys + key] = bent(dots[h], scale, softcap, few.capped);
            }
            key += units;
        }
        sync_cube();

        let mut i = unit;
        while i < comptime!(own_heads * PARTS) {
            let mut top = f32::new(LOWEST);
            let mut key = i % PARTS;
            while key < count {
                let score = weights[i / PARTS * tile_keys + key];
                if score > top {
                    top = score;
                }
                key += PARTS;
            }
            tops[i] = top;
            i += units;
        }
        sync_cube();

        #[unroll]
        for h in 0..own_heads {
            let mut next = largest[h];
            #[unroll]
            for part in 0..PARTS {
                let top = tops[comptime!(h * PARTS + part)];
                if top > next {
                    next = top;
                }
            }
            if unit == 0 {
                shrinks[h] = (largest[h] - next).exp();
            }
            largest[h] = next;
            let mut key = unit;
            while key < count {
                let at = h * tile_keys + key;
                let score = weights[at];
                weights[at] = (score - next).exp();
                key += units;
            }
        }
        sync_cube();

        let mut i = unit;
        while i < comptime!(own_heads * PARTS) {
            let mut total = totals[i] * shrinks[i / PARTS];
            let mut key = i % PARTS;
            while key < count {
                total += weights[i / PARTS * tile_keys + key];
                key += PARTS;
            }
            totals[i] = total;
            i += units;
        }
        #[unroll]
        for own in 0..owned {
            let column = unit % vectors + own * units;
            let mut key = unit / vectors;
            if key < abreast && column < vectors {
                #[unroll]
                for h in 0..own_heads {
                    let shrink = shrinks[h];
                    #[unroll]
                    for lane in 0..lanes {
                        sums[(own * own_heads + h) * lanes + lane] *= shrink;
                    }
                }
                while key < count {
                    let value = v[((tile + key) * kv_heads + kv) * vectors + column];
                    #[unroll]
                    for h in 0..own_heads {
                        let weight = weights[h * tile_keys + key];
                        #[unroll]
                        for lane in 0..lanes {
                            sums[(own * own_heads + h) * lanes + lane] +=
                                weight * f32::cast_from(value.extract(lane));
                        }
                    }
                    key += abreast;
                }
            }
        }
        // The next tile of keys is written where nobody reads since the scores, and its scores after a
        // barrier that all have reached who read these weights.
        tile += tile_keys;
    }

    #[unroll]
    for own in 0..owned {
        let column = unit % vectors + own * units;
        let which = unit / vectors;
        if which < abreast && column < vectors {
            #[unroll]
            for h in 0..own_heads {
                #[unroll]
                for lane in 0..lanes {
                    parts[(which * own_heads + h) * head_dim + column * lanes + lane] =
                        sums[(own * own_heads + h) * lanes + lane];
                }
            }
        }
    }
    sync_cube();
    #[unroll]
    for h in 0..own_heads {
        let mut total = f32::new(0.0);
        #[unroll]
        for part in 0..PARTS {
            total += totals[comptime!(h * PARTS + part)];
        }
        let at = row * heads + head + h;
        let to = (at * CUBE_COUNT_X as usize + split) * comptime!(head_dim + 2);
        let mut c = unit;
        while c < head_dim {
            let mut sum = f32::new(0.0);
            for which in 0..abreast {
                sum += parts[(which * own_heads + h) * head_dim + c];
            }
            if comptime!(few.split) {
                partial[to + c] = sum;
            } else {
                o[at * head_dim + c] = F::cast_from(sum / total);
            }
            c += units;
        }
        if unit == 0 {
            if comptime!(few.split) {
                partial[to + head_dim] = largest[h];
                partial[to + head_dim + 1] = total;
            } else {
                lse[at] = largest[h] + total.ln();
            }
        }
    }
}

/// o and lse of the `splits` of `partial`, as [`attend_kernel`] writes it: a cube a row and head.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn merge_attended_kernel<F: Float>(
    partial: &[f32],
    o: &mut [F],
    lse: &mut [f32],
    splits: usize,
    head_dim: usize,
    #[define(F)] _dtype: ElemType,
) {
    let width = head_dim + 2;
    let from = CUBE_POS * splits * width;
    let mut largest = f32::new(LOWEST);
    for split in 0..splits {
        let top = partial[from + split * width + head_dim];
        if top > largest {
            largest = top;
        }
    }
    // A split that a shorter sequence leaves empty has no total and no sums.
    let mut total = f32::new(0.0);
    for split in 0..splits {
        let at = from + split * width + head_dim;
        total += (partial[at] - largest).exp() * partial[at + 1];
    }
    let mut c = UNIT_POS as usize;
    while c < head_dim {
        let mut sum = f32::new(0.0);
        for split in 0..splits {
            let at = from + split * width;
            sum += (partial[at + head_dim] - largest).exp() * partial[at + c];
        }
        o[CUBE_POS * head_dim + c] = F::cast_from(sum / total);
        c += CUBE_DIM as usize;
    }
    if UNIT_POS == 0 {
        lse[CUBE_POS] = largest + total.ln();
    }
}

/// Copies row i of `rows` to row `slots[i]` of `cache`.
#[cube(launch, create_dummy_kernel)]
pub(crate) fn write_rows_kernel<F: Float>(
    rows: &[F],
    slots: &[u32],
    cache: &mut [F],
    elements: usize,
    width: usize,
    #[define(F)] _dtype: ElemType,
) {
    let i = ABSOLUTE_POS;
    if i < elements {
        cache[slots[i / width] as usize * width + i % width] = rows[i];
    }
}
