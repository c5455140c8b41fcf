//! What an adapter adds to a linear and to the gradient of its input on a GPU, and its dropout mask.

use super::few_rows::unread;
use super::tensor::{
    Argument, cast, dims, each, elements, fresh, lanes, owned, packed, storage, units,
};
use crate::kernels::cube::dropout::{drop_kernel, row_keys_kernel};
use crate::kernels::cube::low_rank::{ROWS, add_low_rank_kernel};
use crate::kernels::dropout::Dropout;
use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Shared memory of a cube at most, so that three of them fit a multiprocessor.
const SHARED_BYTES: usize = 64 << 10;

/// The dropout mask of an input of some rows and columns, as the kernels want it.
pub(crate) struct Mask {
    keys: CubeTensor,
    threshold: u32,
    scale: f32,
}

impl Mask {
    fn new(dropout: Dropout, like: &CubeTensor) -> Mask {
        let [m, _] = dims(like);
        let keys = fresh(like, [m], DType::U32);
        let client = like.client.clone();
        let (cubes, dim) = each(&client, m);
        row_keys_kernel::launch(
            &client,
            cubes,
            dim,
            keys.clone().argument(),
            m,
            (dropout.seed >> 32) as u32,
            dropout.seed as u32,
        );
        Mask {
            keys,
            threshold: dropout.threshold(),
            scale: dropout.scale(),
        }
    }

    /// x ∘ mask
    fn applied(&self, x: &CubeTensor) -> CubeTensor {
        let [m, k] = dims(x);
        let y = fresh(x, [m, k], x.dtype);
        let client = x.client.clone();
        let lanes = lanes(x.dtype, k);
        let (across, vectors) = (k / lanes, m * k / lanes);
        let (cubes, dim) = each(&client, vectors);
        drop_kernel::launch(
            &client,
            cubes,
            dim,
            lanes,
            x.clone().argument(),
            self.keys.clone().argument(),
            y.clone().argument(),
            vectors,
            across,
            self.threshold,
            self.scale,
            storage(x.dtype),
        );
        y
    }
}

/// drop(x), and the mask that did it.
pub(crate) fn dropped(x: &CubeTensor, dropout: Option<Dropout>) -> (CubeTensor, Option<Mask>) {
    match dropout.map(|d| Mask::new(d, x)) {
        None => (x.clone(), None),
        Some(mask) => (mask.applied(x), Some(mask)),
    }
}

/// How q of [`add`] lies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Factor {
    /// B, `[width, rank]`
    Out,
    /// A, `[rank, width]`
    In,
}

/// y += scaling·p·qᵀ ∘ mask + bias, in place: p `[rows, rank]`, q in f32.
pub(crate) fn add(
    y: CubeTensor,
    p: CubeTensor,
    (q, lies, scaling): (CubeTensor, Factor, f32),
    mask: Option<Mask>,
    bias: Option<CubeTensor>,
) -> CubeTensor {
    let (y, p, q) = (owned(y), packed(p), packed(cast(q, DType::F32)));
    let ([rows, width], [_, rank]) = (dims(&y), dims(&p));
    if elements(&y) == 0 {
        return y;
    }
    let client = y.client.clone();
    let lanes = lanes(y.dtype, width);
    // As many as their q leaves shared memory for; the next power of two is one kernel for some ranks.
    let most_rank = rank.next_power_of_two();
    let fitting = SHARED_BYTES / (most_rank * lanes * y.dtype.size());
    let units = units(&client, fitting.clamp(1, 128));
    let columns = width.div_ceil(lanes * units);
    let (masked, biased) = (mask.is_some(), bias.is_some());
    let (keys, threshold, scale) = match mask {
        Some(mask) => (mask.keys, mask.threshold, mask.scale),
        None => (unread(&y), 0, 1.0),
    };
    let dtype = storage(y.dtype);
    add_low_rank_kernel::launch(
        &client,
        CubeCount::Static(columns as u32, rows.div_ceil(ROWS) as u32, 1),
        CubeDim::new_1d(units as u32),
        lanes,
        y.clone().argument(),
        p.argument(),
        q.argument(),
        bias.map_or_else(|| unread(&y), packed).argument(),
        keys.argument(),
        rows,
        width,
        rank,
        scaling,
        threshold,
        scale,
        most_rank,
        lies == Factor::In,
        biased,
        masked,
        units,
        dtype,
    );
    y
}
