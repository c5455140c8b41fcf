//! A patch of 16x16 sums of a product, in f32: a tensor core's, spread over the lanes of a plane, or an array.
//!
//! What is done to patches here is all of flash attention that differs between a GPU and the CPU that proves the rest;
//! products of some rows with 4-bit weights are made of them, too.
//!
//! On a GPU a patch is two products of 16x8 (`mma.m16n8k16`) side by side. Lane 4·g + t holds columns 2·t and 2·t + 1
//! of rows g and g + 8 of each (PTX ISA, "Matrix fragments for mma"). Operands come by `ldmatrix`, four matrices of
//! 8x8 at once, to which lane l gives the address of row l % 8 of matrix l / 8: one instruction for 16x16 values,
//! where wmma's loads take four of every lane, through generic addresses, and two more that transpose.

use cubecl::cmma::{MatrixIdent, MmaDefinition};
use cubecl::prelude::*;

/// Rows and columns of a patch, and the depth of one step of its product.
pub(crate) const PATCH: usize = 16;
/// Columns of one instruction's sums, and the rows of a matrix that `ldmatrix` loads.
const HALF: usize = 8;

/// Who has a patch.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Units of a plane.
    pub lanes: usize,
    pub tensor_cores: bool,
}

/// Sums of a 16x8 product: those of row g, those of row g + 8.
type Sums = Array<Vector<f32, Const<2>>>;

/// A lane's share of a patch.
#[derive(CubeType)]
pub(crate) struct Halves {
    left: Sums,
    right: Sums,
}

/// Made by the expansion of [`zeros`], where the compiler does not see it.
#[derive(CubeType)]
#[allow(dead_code)]
pub(crate) enum Patch {
    Spread(Halves),
    Plain(Array<f32>),
}

#[cube]
fn no_sums() -> Sums {
    let mut sums = Sums::new(2usize);
    #[unroll]
    for row in 0..2usize {
        sums[row] = Vector::new(f32::new(0.0));
    }
    sums
}

/// `count` patches of zeros.
#[cube]
pub(crate) fn zeros(#[comptime] count: usize, #[comptime] owner: Owner) -> Sequence<Patch> {
    let mut patches = Sequence::<Patch>::new();
    #[unroll]
    for _ in 0..count {
        if comptime!(owner.tensor_cores) {
            patches.push(Patch::new_Spread(Halves {
                left: no_sums(),
                right: no_sums(),
            }));
        } else {
            let mut sums = Array::<f32>::new(comptime!(PATCH * PATCH));
            for i in 0..comptime!(PATCH * PATCH) {
                sums[i] = f32::new(0.0);
            }
            patches.push(Patch::new_Plain(sums));
        }
    }
    patches
}

#[cube]
fn lane(#[comptime] owner: Owner) -> usize {
    UNIT_POS as usize % owner.lanes
}

/// Patches `first..first + columns / 16` of a row of patches += left·right, over `depth`.
///
/// `left` is `[16, depth]` from `left_at` on; `right` is `[depth, columns]`, or `[columns, depth]`
/// where it is `transposed`, from `right_at` on; both lie row by row, strides in elements.
#[cube]
pub(crate) fn multiply<F: Float, A: Size, B: Size>(
    patches: &mut Sequence<Patch>,
    left: &Shared<[Vector<F, A>]>,
    left_at: usize,
    right: &Shared<[Vector<F, B>]>,
    right_at: usize,
    #[comptime] first: usize,
    #[comptime] strides: (usize, usize),
    #[comptime] depth: usize,
    #[comptime] columns: usize,
    #[comptime] transposed: bool,
    #[comptime] owner: Owner,
) {
    let across = comptime!(columns / PATCH);
    if comptime!(owner.tensor_cores) {
        let mma = MmaDefinition::<F, F, f32>::new(PATCH, HALF, PATCH);
        let lane = lane(owner);
        // Of `left` the matrices are: upper left, lower left, upper right, lower right; of `right`, as the
        // product has it: the upper and lower half of the first eight columns, then of the others.
        let left_row = left_at + lane % PATCH * strides.0 + lane / PATCH * HALF;
        let (outer, inner) = (lane / PATCH, lane / HALF % 2);
        let mut right_row = right_at + (inner * HALF + lane % HALF) * strides.1 + outer * HALF;
        if comptime!(transposed) {
            right_row = right_at + (outer * HALF + lane % HALF) * strides.1 + inner * HALF;
        }
        #[unroll]
        for step in 0..comptime!(depth / PATCH) {
            let a = matrices::<F, A>(
                &mma,
                left,
                left_row + comptime!(step * PATCH),
                MatrixIdent::A,
                false,
            );
            #[unroll]
            for column in 0..across {
                let at = comptime!(match transposed {
                    true => column * PATCH * strides.1 + step * PATCH,
                    false => step * PATCH * strides.1 + column * PATCH,
                });
                let b = matrices::<F, B>(
                    &mma,
                    right,
                    right_row + at,
                    MatrixIdent::B,
                    comptime!(!transposed),
                );
                let mut b_left = Array::<Vector<F, Const<2>>>::new(2usize);
                let mut b_right = Array::<Vector<F, Const<2>>>::new(2usize);
                #[unroll]
                for half in 0..2usize {
                    b_left[half] = b[half];
                    b_right[half] = b[comptime!(half + 2)];
                }
                match patches.index_mut(comptime!(first + column)) {
                    Patch::Spread(sums) => {
                        mma.execute_inplace(&a, &b_left, &mut sums.left);
                        mma.execute_inplace(&a, &b_right, &mut sums.right);
                    }
                    Patch::Plain(_) => panic!("patches are of one kind"),
                }
            }
        }
    } else {
        let left = left.with_vector_size::<Const<1>>();
        let right = right.with_vector_size::<Const<1>>();
        let (along, between) = comptime!(match transposed {
            true => (1, strides.1),
            false => (strides.1, 1),
        });
        #[unroll]
        for column in 0..across {
            match patches.index_mut(comptime!(first + column)) {
                Patch::Spread(_) => panic!("patches are of one kind"),
                Patch::Plain(sums) => {
                    for i in 0..comptime!(PATCH * PATCH) {
                        let l = left_at + i / PATCH * strides.0;
                        let r = right_at + (i % PATCH + column * PATCH) * between;
                        let mut sum = sums[i];
                        for k in 0..depth {
                            sum += f32::cast_from(left[l + k].extract(0usize))
                                * f32::cast_from(right[r + k * along].extract(0usize));
                        }
                        sums[i] = sum;
                    }
                }
            }
        }
    }
}

/// Four matrices of 8x8, of which this lane names the row that begins at `at`; each of them transposed if asked for.
#[cube]
fn matrices<F: Float, N: Size>(
    mma: &MmaDefinition<F, F, f32>,
    tile: &Shared<[Vector<F, N>]>,
    at: usize,
    #[comptime] ident: MatrixIdent,
    #[comptime] transpose: bool,
) -> Array<Vector<F, Const<2>>> {
    let end = tile.len();
    let row = &tile[at / N::value()..end];
    mma.load_matrix::<Vector<F, N>, Const<2>>(row, ident, 4usize, transpose)
}

/// Writes a patch to shared memory.
#[cube]
pub(crate) fn store(
    patch: &Patch,
    to: &mut Shared<[f32]>,
    at: usize,
    #[comptime] stride: usize,
    #[comptime] owner: Owner,
) {
    match patch {
        Patch::Spread(sums) => {
            let lane = lane(owner);
            let at = at + lane / 4 * stride + lane % 4 * 2;
            #[unroll]
            for row in 0..2usize {
                #[unroll]
                for column in 0..2usize {
                    let own = at + comptime!(row * HALF * stride + column);
                    to[own] = sums.left[row].extract(column);
                    to[own + HALF] = sums.right[row].extract(column);
                }
            }
        }
        Patch::Plain(sums) => {
            for i in 0..comptime!(PATCH * PATCH) {
                to[at + i / PATCH * stride + i % PATCH] = sums[i];
            }
        }
    }
}

/// Multiplies every row of a patch with its number, the first row's being `factors[at]`.
#[cube]
pub(crate) fn scale_rows(
    patch: &mut Patch,
    factors: &Shared<[f32]>,
    at: usize,
    #[comptime] owner: Owner,
) {
    match patch {
        Patch::Spread(sums) => {
            let at = at + lane(owner) / 4;
            #[unroll]
            for row in 0..2usize {
                let factor = Vector::new(factors[at + row * HALF]);
                sums.left[row] *= factor;
                sums.right[row] *= factor;
            }
        }
        Patch::Plain(sums) => {
            for i in 0..comptime!(PATCH * PATCH) {
                sums[i] *= factors[at + i / PATCH];
            }
        }
    }
}
