//! A patch of 16x16 sums of a product, in f32: a tensor core's fragment, or an array.
//!
//! The three calls of a fragment, [`multiply`], [`store`] and [`load`], are all of flash attention
//! that differs between a GPU and the CPU that proves the rest.

use super::Plan;
use cubecl::cmma::{self, Matrix, MatrixIdent, MatrixLayout};
use cubecl::prelude::*;

/// Rows and columns of a patch, and the depth of one step of its product.
pub(crate) const PATCH: usize = 16;

/// Made by the expansion of [`zeros`], where the compiler does not see it.
#[derive(CubeType)]
#[allow(dead_code)]
pub(crate) enum Patch {
    Fragment(Matrix<f32>),
    Plain(Array<f32>),
}

/// `count` patches of zeros.
#[cube]
pub(crate) fn zeros(#[comptime] count: usize, #[comptime] plan: Plan) -> Sequence<Patch> {
    let mut patches = Sequence::<Patch>::new();
    #[unroll]
    for _ in 0..count {
        if comptime!(plan.tensor_cores) {
            patches.push(Patch::new_Fragment(Matrix::<f32>::from_value(
                MatrixIdent::Accumulator,
                PATCH,
                PATCH,
                PATCH,
                MatrixLayout::Undefined,
                0.0,
            )));
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

/// Patches `first..first + columns / 16` of a row of patches += left·right, over `depth`.
///
/// `left` is `[16, depth]` from `left_at` on; `right` is `[depth, columns]`, or `[columns, depth]`
/// where it is `transposed`; both lie row by row, strides in elements.
#[cube]
pub(crate) fn multiply<F: Float, A: Size, B: Size>(
    patches: &mut Sequence<Patch>,
    left: &Shared<[Vector<F, A>]>,
    left_at: usize,
    right: &Shared<[Vector<F, B>]>,
    #[comptime] first: usize,
    #[comptime] strides: (usize, usize),
    #[comptime] depth: usize,
    #[comptime] columns: usize,
    #[comptime] transposed: bool,
    #[comptime] plan: Plan,
) {
    let across = comptime!(columns / PATCH);
    if comptime!(plan.tensor_cores) {
        #[unroll]
        for step in 0..comptime!(depth / PATCH) {
            let a = fragment::<F, A>(
                left,
                left_at + comptime!(step * PATCH),
                strides.0,
                MatrixIdent::A,
                MatrixLayout::RowMajor,
            );
            #[unroll]
            for column in 0..across {
                let (at, layout) = comptime!(match transposed {
                    true => (
                        column * PATCH * strides.1 + step * PATCH,
                        MatrixLayout::ColMajor
                    ),
                    false => (
                        step * PATCH * strides.1 + column * PATCH,
                        MatrixLayout::RowMajor
                    ),
                });
                let b = fragment::<F, B>(right, at.runtime(), strides.1, MatrixIdent::B, layout);
                match patches.index_mut(comptime!(first + column)) {
                    Patch::Fragment(sums) => cmma::execute(&a, &b, &*sums, &*sums),
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
                Patch::Fragment(_) => panic!("patches are of one kind"),
                Patch::Plain(sums) => {
                    for i in 0..comptime!(PATCH * PATCH) {
                        let l = left_at + i / PATCH * strides.0;
                        let r = (i % PATCH + column * PATCH) * between;
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

/// A 16x16 operand from shared memory.
#[cube]
fn fragment<F: Float, N: Size>(
    tile: &Shared<[Vector<F, N>]>,
    at: usize,
    #[comptime] stride: usize,
    #[comptime] ident: MatrixIdent,
    #[comptime] layout: MatrixLayout,
) -> Matrix<F> {
    let mut matrix = unsafe { Matrix::<F>::uninitialized(ident, PATCH, PATCH, PATCH, layout) };
    let end = tile.len();
    cmma::load(
        &mut matrix,
        &tile[at / N::value()..end],
        comptime!(stride as u32),
    );
    matrix
}

/// Writes a patch to shared memory.
#[cube]
pub(crate) fn store(patch: &Patch, to: &mut Shared<[f32]>, at: usize, #[comptime] stride: usize) {
    let end = to.len();
    match patch {
        Patch::Fragment(sums) => cmma::store(
            &mut to[at..end],
            sums,
            comptime!(stride as u32),
            MatrixLayout::RowMajor,
        ),
        Patch::Plain(sums) => {
            for i in 0..comptime!(PATCH * PATCH) {
                to[at + i / PATCH * stride + i % PATCH] = sums[i];
            }
        }
    }
}

/// Reads a patch back.
#[cube]
pub(crate) fn load(patch: &mut Patch, from: &Shared<[f32]>, at: usize, #[comptime] stride: usize) {
    let end = from.len();
    match patch {
        Patch::Fragment(sums) => cmma::load_with_layout(
            sums,
            &from[at..end],
            comptime!(stride as u32),
            MatrixLayout::RowMajor,
        ),
        Patch::Plain(sums) => {
            for i in 0..comptime!(PATCH * PATCH) {
                sums[i] = from[at + i / PATCH * stride + i % PATCH];
            }
        }
    }
}
