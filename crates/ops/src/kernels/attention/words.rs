//! How do queries, keys, values and scores become the words that the tile multiplies?
//!
//! The tile reads rows of A in groups of `LANES`, `[steps][LANES]` (AMX: `[steps / 16][LANES][16]`),
//! and lanes of B in panels, `[steps][3·LANES]`; a step is one f32 or two bf16 along the depth. Where
//! the depth runs along memory (head_dim, for scores) words are made along the rows and transposed;
//! where it runs across rows (keys or queries, for outputs and gradients) two rows become one and
//! nothing is transposed but the A of AMX.
//! A bf16 operand is rounded here and nowhere else.

use crate::kernels::copy_rows::copy_rows;
use crate::kernels::panel::transpose;
#[cfg(target_arch = "x86_64")]
use crate::kernels::panel::{Parts, pair_along, pair_rows};
use crate::kernels::row_groups;
use crate::kernels::scratch::scratch_slices;
use crate::kernels::simd::Level;
use crate::kernels::tile::{Piece, VECTORS, multiply_words};
#[cfg(target_arch = "x86_64")]
use crate::kernels::words::TILE_STEPS;
use crate::kernels::words::{Words, round_to_bf16};
use crate::segments::AttentionOptions;

/// How this attention multiplies.
#[derive(Clone, Copy)]
pub(super) struct Multiplier {
    pub level: Level,
    pub words: Words,
}

/// Rows of `values`, `row` floats apart.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub values: &'a [f32],
    pub row: usize,
    pub count: usize,
}

impl<'a> Rows<'a> {
    pub fn new(values: &'a [f32], row: usize, count: usize) -> Self {
        Rows { values, row, count }
    }
}

impl Multiplier {
    pub fn new(level: Level, options: &AttentionOptions) -> Self {
        Multiplier {
            level,
            words: Words::new(level, options.compute),
        }
    }

    /// Lanes of a panel.
    pub fn width(self) -> usize {
        VECTORS * self.level.lanes()
    }

    /// Words of `rows` rows as groups, `depth` deep.
    pub fn groups_size(self, rows: usize, depth: usize) -> usize {
        rows.next_multiple_of(self.level.lanes()) * self.words.steps(depth)
    }

    /// Words of a matrix `lanes` wide as panels, up to `depth` deep.
    pub fn panels_size(self, lanes: usize, depth: usize) -> usize {
        lanes.div_ceil(self.panel_lanes(lanes)) * self.width() * self.words.steps(depth)
    }

    /// Lanes that share a panel: the vectors are shared out evenly, 64 lanes are 32 + 32, not 48 + 16.
    fn panel_lanes(self, lanes: usize) -> usize {
        let vectors = lanes.div_ceil(self.level.lanes()).max(1);
        vectors.div_ceil(vectors.div_ceil(VECTORS)) * self.level.lanes()
    }

    /// A = X: the depth is the first `depth` columns.
    pub fn groups(self, x: Rows<'_>, depth: usize, out: &mut [f32]) {
        let height = self.level.lanes();
        let size = self.groups_size(height, depth);
        for (first, out) in (0..x.count).step_by(height).zip(out.chunks_exact_mut(size)) {
            let last = (first + height).min(x.count) - 1;
            let values = &x.values[first * x.row..last * x.row + depth];
            row_groups::pack(self.level, self.words, values, x.row, depth, out);
        }
    }

    /// A = Xᵀ of `columns` columns: the depth is the rows.
    pub fn groups_of_columns(self, x: Rows<'_>, columns: usize, out: &mut [f32]) {
        let height = self.level.lanes();
        let size = self.groups_size(height, x.count);
        for (first, out) in (0..columns).step_by(height).zip(out.chunks_exact_mut(size)) {
            let width = height.min(columns - first);
            match self.words {
                // The tile reads rows here: the words of sixteen columns are turned.
                #[cfg(target_arch = "x86_64")]
                Words::Tiles => scratch_slices([size], |[turned]| {
                    self.across(x, first, width, turned, height);
                    let blocks = turned.chunks_exact(TILE_STEPS * height);
                    for (from, to) in blocks.zip(out.chunks_exact_mut(TILE_STEPS * height)) {
                        transpose(self.level, from, height, TILE_STEPS, height, to, TILE_STEPS);
                    }
                }),
                _ => self.across(x, first, width, out, height),
            }
        }
    }

    /// B = Xᵀ of at most a panel's rows: the depth is the first `depth` columns.
    pub fn panel_of_rows(self, x: Rows<'_>, depth: usize, out: &mut [f32]) {
        let (level, width, steps) = (self.level, self.width(), self.words.steps(depth));
        if self.words == Words::F32 {
            return transpose(level, x.values, x.row, x.count, depth, out, width);
        }
        scratch_slices([x.count * steps], |[natural]| {
            for (i, natural) in natural.chunks_exact_mut(steps).enumerate() {
                words_along(self, &x.values[i * x.row..i * x.row + depth], natural);
            }
            transpose(level, natural, steps, x.count, steps, out, width);
        });
    }

    /// B = X of `lanes` columns: the depth is the rows, at most what `out` was made for.
    pub fn panels(self, x: Rows<'_>, lanes: usize, out: &mut [f32]) {
        let share = self.panel_lanes(lanes);
        let size = out.len() / lanes.div_ceil(share);
        for (first, out) in (0..lanes).step_by(share).zip(out.chunks_exact_mut(size)) {
            self.across(x, first, share.min(lanes - first), out, self.width());
        }
    }

    /// Words across the rows, of `width` columns from `first`, each step `stride` words on.
    fn across(self, x: Rows<'_>, first: usize, width: usize, out: &mut [f32], stride: usize) {
        let (values, size) = (&x.values[first..], [x.count, width]);
        match self.words {
            Words::F32 => copy_rows(self.level, values, x.row, size, out, stride),
            Words::Rounded => {
                copy_rows(self.level, values, x.row, size, out, stride);
                for out in out.chunks_mut(stride).take(x.count) {
                    round_to_bf16(self.level, &mut out[..width]);
                }
            }
            #[cfg(target_arch = "x86_64")]
            Words::Pairs | Words::Tiles | Words::Thirds | Words::ThirdsOfBoth => {
                // SAFETY: these words exist where the level has AVX512-BF16.
                unsafe { pair_rows(values, x.row, size, out, stride) };
                let written = x.count.div_ceil(2) * stride;
                out[written..self.words.steps(x.count) * stride].fill(0.0);
            }
        }
    }

    /// C `[rows][lanes]` (+)= A·B of groups and panels as made above; the panels may be deeper.
    ///
    /// # Safety
    /// `c` holds these rows, `c_row` floats apart, and nobody else touches them.
    pub unsafe fn multiply(
        self,
        [rows, lanes, depth]: [usize; 3],
        a: &[f32],
        b: &[f32],
        c: *mut f32,
        c_row: usize,
        accumulate: bool,
    ) {
        let (height, steps) = (self.level.lanes(), self.words.steps(depth));
        let share = self.panel_lanes(lanes);
        assert!(a.len() >= self.groups_size(rows, depth));
        assert!(b.len() >= self.panels_size(lanes, depth));
        let panels = b.chunks_exact(b.len() / lanes.div_ceil(share));
        for (first_lane, b) in (0..lanes).step_by(share).zip(panels) {
            for (first, a) in (0..rows)
                .step_by(height)
                .zip(a.chunks_exact(height * steps))
            {
                let piece = Piece {
                    rows: height.min(rows - first),
                    lanes: share.min(lanes - first_lane),
                    steps,
                    a_group: height * steps,
                    b_row: self.width(),
                    c_row,
                    accumulate,
                    streamed: false,
                };
                // SAFETY: the operands hold what was asserted, C what the caller promises.
                unsafe {
                    let c = c.add(first * c_row + first_lane);
                    multiply_words(self.level, self.words, piece, a.as_ptr(), b.as_ptr(), c);
                }
            }
        }
    }
}

fn words_along(multiplier: Multiplier, values: &[f32], out: &mut [f32]) {
    match multiplier.words {
        Words::F32 => out.copy_from_slice(values),
        Words::Rounded => {
            out.copy_from_slice(values);
            round_to_bf16(multiplier.level, out);
        }
        // SAFETY: these words exist where the level has AVX512-BF16.
        #[cfg(target_arch = "x86_64")]
        Words::Pairs | Words::Tiles | Words::Thirds | Words::ThirdsOfBoth => unsafe {
            pair_along(values, Parts::ONE, out)
        },
    }
}
