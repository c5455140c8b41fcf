//! Flash attention on a GPU: tiles of scores in shared memory, never `[t, t]`; FlashAttention-2,
//! arXiv 2307.08691.
//!
//! A cube keeps the tile of [`ROWS`] rows that its results belong to, queries in `forward` and dq,
//! keys in dk and dv, and meets the [`COLUMNS`] rows of the other side a tile at a time. Which keys a
//! query row sees is two numbers, and which tiles meet at all are two numbers a tile, all made by
//! `backends::cube::visible`: segments, causality and the window are in them, and a tile that is
//! masked for every row is never read. Scores are stored to shared memory, where each unit bends,
//! masks and weighs its share of a row; weights go back through shared memory into the second
//! product. Backward computes probabilities again from the log-sum-exp. Nobody adds to what another
//! cube writes: the order of every sum is fixed.
//!
//! The products are made of [`super::patch`]es of 16x16, of which a plane owns those of its rows. With
//! `tensor_cores` a patch is spread over the plane's lanes (bf16 in, f32 sums); without, the plane has one unit
//! and the patch is an array of f32. Everything else is the same code: that is what a CPU can prove.
//!
//! **Plan**, for a GPU: 4 planes of 32 units, 16 rows a plane. Tiles are read as vectors of 16 bytes.
//! Rows in shared memory are padded by 16 bytes, which spreads an operand's rows over the banks. Two units share a
//! row of scores, half of it each, four at a time, and tell each other the largest.
//!
//! | bf16, head_dim | 64: shared, registers | 128: shared, registers, instructions a tile, of which `mma` |
//! |----------------|-----------------------|------------------------------------------------------------|
//! | forward        | 33 KiB, 72            | 50 KiB, 127, 476, 64                                       |
//! | dq             | 51 KiB, 80            | 75 KiB, 125, 474, 96                                       |
//! | dk and dv      | 56 KiB, 133           | 80 KiB, 234, 734, 128                                      |
//!
//! Registers are the assembler's for sm_80 (`tests::nvrtc` reads them), of 255 a unit and 65536 a
//! multiprocessor; instructions those of its listing for sm_90a, what is rarely done included. An `mma` keeps a
//! tensor core for some six and a half cycles there, in which its scheduler starts as many others. Shared
//! memory above 48 KiB is opted into, which CubeCL does; a multiprocessor has
//! 164 KiB (sm_80), 228 (sm_90), so that two cubes or more are under way on it: one computes while
//! another waits for its tile. Sums of wider heads would not fit the registers.
//!
//! The launch compares [`Plan::shared_bytes`] with the device's limit.

pub(crate) mod backward;
pub(crate) mod forward;

use super::patch::{Owner, PATCH, Patch, multiply, store, zeros};
use cubecl::prelude::*;

/// Rows of the tile that stays.
pub(crate) const ROWS: usize = 64;
/// Rows of each tile that comes by: the columns of a tile of scores.
pub(crate) const COLUMNS: usize = 32;
/// A score that no key has.
const LOWEST: f32 = -3.0e38;

/// How a cube divides its tiles.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) struct Plan {
    /// A multiple of [`COLUMNS`].
    pub head_dim: usize,
    /// Bytes of an activation.
    pub element: usize,
    /// Power of two, at most 4.
    pub planes: usize,
    /// In all planes.
    pub units: usize,
    pub tensor_cores: bool,
    /// Whether scores are bent by cap·tanh(score / cap).
    pub capped: bool,
}

impl Plan {
    /// Activations that are read at once, 16 bytes.
    pub fn vector(&self) -> usize {
        16 / self.element
    }

    /// Activations from one row of a tile in shared memory to the next.
    pub(crate) fn tile_stride(&self) -> usize {
        self.head_dim + self.vector()
    }

    /// The same of a tile of scores, f32.
    pub(crate) fn score_stride(&self) -> usize {
        COLUMNS + 4
    }

    /// The same of a tile of weights, activations.
    pub(crate) fn weight_stride(&self) -> usize {
        COLUMNS + self.vector()
    }

    /// Whose patches are.
    pub(crate) fn owner(&self) -> Owner {
        Owner {
            lanes: self.units / self.planes,
            tensor_cores: self.tensor_cores,
        }
    }

    /// Patches of rows that a plane owns.
    pub(crate) fn row_patches(&self) -> usize {
        ROWS / PATCH / self.planes
    }

    /// Units that share a row of scores.
    pub(crate) fn parts(&self) -> usize {
        (self.units / ROWS).max(1)
    }

    /// Bytes of shared memory that suffice for each of the kernels.
    pub fn shared_bytes(&self) -> usize {
        let tiles = 2 * (ROWS + COLUMNS) * self.tile_stride() * self.element;
        let scores = 2 * ROWS * self.score_stride() * 4;
        let weights = 2 * ROWS * self.weight_stride() * self.element;
        let numbers = 4 * (4 * COLUMNS + 4 * ROWS * self.parts());
        tiles + scores + weights + numbers
    }
}

/// exp(x), on a GPU by the instruction for 2^x, which is off by some 2⁻²² + |x|·2⁻²⁴ of itself, where bf16 has 8 bits.
/// `f32::exp` is eight instructions there.
#[cube]
pub(crate) fn exponential(x: f32, #[comptime] plan: Plan) -> f32 {
    if comptime!(plan.tensor_cores) {
        let exponent = x * f32::new(core::f32::consts::LOG2_E);
        let power: f32;
        gpu_asm!(
            "ex2.approx.ftz.f32 {power}, {exponent};",
            power = out(_) power, exponent = in(_) exponent,
            options(nomem),
        );
        power
    } else {
        x.exp()
    }
}

/// Where a head's tile of rows begins in a packed tensor, in vectors.
#[derive(CubeType, Clone, Copy)]
pub(crate) struct Place {
    /// The first row of the tile.
    pub row: usize,
    /// Rows of the tensor, one at least.
    pub rows: usize,
    /// Vectors of a row of the tensor.
    pub width: usize,
    /// Vectors before the head's first.
    pub head: usize,
}

/// Shared memory for some rows of a head.
#[cube]
pub(crate) fn tile<F: Float, N: Size>(
    #[comptime] rows: usize,
    #[comptime] plan: Plan,
) -> Shared<[Vector<F, N>]> {
    Shared::<[Vector<F, N>]>::new_aligned_slice(
        comptime!(rows * plan.tile_stride() / plan.vector()),
        32usize,
    )
}

/// Copies `count` rows of a head to shared memory. Past the tensor's last row it is that row again, whose scores
/// are masked and whose sums are not written: a choice between a row and zeros takes a GPU twelve instructions a
/// vector.
#[cube]
pub(crate) fn load_tile<F: Float, N: Size>(
    from: &[Vector<F, N>],
    tile: &mut Shared<[Vector<F, N>]>,
    place: &Place,
    #[comptime] count: usize,
    #[comptime] plan: Plan,
) {
    let vectors = comptime!(plan.head_dim / plan.vector());
    let stride = comptime!(plan.tile_stride() / plan.vector());
    let steps = comptime!(count * vectors / plan.units);
    let unit = UNIT_POS as usize;
    // Unrolled where it is short, so that all reads are under way at once.
    #[unroll(steps <= 16)]
    for step in 0..steps {
        let i = step * plan.units + unit;
        let row = i / vectors;
        let mut of = place.row + row;
        if of >= place.rows {
            of = place.rows - 1;
        }
        tile[row * stride + i % vectors] = from[of * place.width + place.head + i % vectors];
    }
}

/// Shared memory for a tile of weights.
#[cube]
pub(crate) fn weight_tile<F: Float, N: Size>(#[comptime] plan: Plan) -> Shared<[Vector<F, N>]> {
    Shared::<[Vector<F, N>]>::new_aligned_slice(
        comptime!(ROWS * plan.weight_stride() / plan.vector()),
        32usize,
    )
}

/// Writes a vector of a row's weights, the columns from `column` on: `values` from `first` on.
#[cube]
pub(crate) fn write_weights<F: Float, N: Size>(
    values: &Array<f32>,
    #[comptime] first: usize,
    weights: &mut Shared<[Vector<F, N>]>,
    row: usize,
    column: usize,
    #[comptime] plan: Plan,
) {
    let lanes = comptime!(plan.vector());
    let mut vector = Vector::<F, N>::empty();
    #[unroll]
    for lane in 0..lanes {
        vector.insert(lane, F::cast_from(values[comptime!(first + lane)]));
    }
    weights[row * comptime!(plan.weight_stride() / plan.vector()) + column / lanes] = vector;
}

/// The tile left·rightᵀ of the rows that stay and those that come by, raw.
#[cube]
pub(crate) fn score_tile<F: Float, N: Size>(
    left: &Shared<[Vector<F, N>]>,
    right: &Shared<[Vector<F, N>]>,
    scores: &mut Shared<[f32]>,
    #[comptime] plan: Plan,
) {
    let (stride, score_stride) = comptime!((plan.tile_stride(), plan.score_stride()));
    #[unroll]
    for rows in 0..comptime!(plan.row_patches()) {
        let from = row_patch(rows, plan) * PATCH;
        let mut patches = zeros(comptime!(COLUMNS / PATCH), comptime!(plan.owner()));
        multiply::<F, N, N>(
            &mut patches,
            left,
            from * stride,
            right,
            0usize,
            0usize,
            comptime!((stride, stride)),
            comptime!(plan.head_dim),
            COLUMNS,
            true,
            comptime!(plan.owner()),
        );
        #[unroll]
        for column in 0..comptime!(COLUMNS / PATCH) {
            store(
                patches.index(column),
                scores,
                from * score_stride + column * PATCH,
                score_stride,
                comptime!(plan.owner()),
            );
        }
    }
}

/// sums += weights·rows, the plane's patches of it.
#[cube]
pub(crate) fn add_weighted<F: Float, N: Size>(
    sums: &mut Sequence<Patch>,
    weights: &Shared<[Vector<F, N>]>,
    rows: &Shared<[Vector<F, N>]>,
    #[comptime] plan: Plan,
) {
    let strides = comptime!((plan.weight_stride(), plan.tile_stride()));
    #[unroll]
    for own in 0..comptime!(plan.row_patches()) {
        multiply::<F, N, N>(
            sums,
            weights,
            row_patch(own, plan) * PATCH * strides.0,
            rows,
            0usize,
            comptime!(own * plan.head_dim / PATCH),
            strides,
            COLUMNS,
            comptime!(plan.head_dim),
            false,
            comptime!(plan.owner()),
        );
    }
}

/// Writes the plane's sums to rows of a head, each divided by `divisors[row]`, by way of the scores'
/// shared memory, a panel of columns at a time. All units must call it.
#[cube]
pub(crate) fn write_tile<F: Float, N: Size>(
    sums: &Sequence<Patch>,
    panel: &mut Shared<[f32]>,
    divisors: &Shared<[f32]>,
    to: &mut [Vector<F, N>],
    place: &Place,
    #[comptime] plan: Plan,
) {
    let stride = comptime!(plan.score_stride());
    let vectors = comptime!(COLUMNS / plan.vector());
    #[unroll]
    for panel_index in 0..comptime!(plan.head_dim / COLUMNS) {
        store_panel(sums, panel, panel_index, plan);
        sync_cube();
        let mut i = UNIT_POS as usize;
        while i < ROWS * vectors {
            let row = i / vectors;
            let first = i % vectors * plan.vector();
            if place.row + row < place.rows {
                let mut value = Vector::<F, N>::empty();
                #[unroll]
                for lane in 0..plan.vector() {
                    let sum = panel[row * stride + first + lane] / divisors[row];
                    value.insert(lane, F::cast_from(sum));
                }
                let at = (place.row + row) * place.width + place.head;
                to[at + comptime!(panel_index * COLUMNS / plan.vector()) + i % vectors] = value;
            }
            i += plan.units;
        }
        sync_cube();
    }
}

/// Stores the plane's sums of the columns of one panel, to be read by others after a barrier.
#[cube]
pub(crate) fn store_panel(
    sums: &Sequence<Patch>,
    panel: &mut Shared<[f32]>,
    #[comptime] index: usize,
    #[comptime] plan: Plan,
) {
    let stride = comptime!(plan.score_stride());
    let across = comptime!(plan.head_dim / PATCH);
    #[unroll]
    for rows in 0..comptime!(plan.row_patches()) {
        let at = row_patch(rows, plan) * PATCH * stride;
        #[unroll]
        for columns in 0..comptime!(COLUMNS / PATCH) {
            let patch = comptime!(rows * across + index * (COLUMNS / PATCH) + columns);
            let own = sums.index(patch);
            store(
                own,
                panel,
                at + columns * PATCH,
                stride,
                comptime!(plan.owner()),
            );
        }
    }
}

/// Which patch of rows is the plane's `index`th.
#[cube]
pub(crate) fn row_patch(#[comptime] index: usize, #[comptime] plan: Plan) -> usize {
    let lanes = comptime!(plan.units / plan.planes);
    UNIT_POS as usize / lanes + comptime!(index * plan.planes)
}
