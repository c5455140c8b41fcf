//! The 4-bit linear on a GPU: dequantise into scratch, then the tensor cores' matmul.
//!
//! At thousands of tokens a micro-batch, writing W once in the activations' type costs a few per
//! cent of the matmul that reads it; the scratch buffer goes back to the device's pool with the
//! last kernel that reads it, and the next linear gets the same memory. A few rows go another way,
//! [`few_rows`], where W is read as codes and never written out.

use super::few_rows;
use super::low_rank::{self, Factor, dropped};
use super::tensor::{
    Argument, cast, dims, each, elements, float, fresh, in_parts, owned, packed, product,
    product_into, product_onto, reshaped, storage, transposed,
};
use crate::format::{Encoding, WeightFormat};
use crate::kernels::cube::dequantize::{VECTORS, dequantize_kernel};
use crate::kernels::cube::linear::{add_bias_kernel, add_parts_kernel, scale_kernel};
use crate::kernels::dropout::Dropout;
use crate::schema::{Adapter, Dx};
use burn::backend::ops::FloatTensorOps;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

/// Where the sections of a 4-bit weight begin, in words.
pub(crate) struct Sections {
    pub scales_at: usize,
    pub nested_at: usize,
    pub map_at: usize,
    pub offset: f32,
    pub nested: bool,
    pub rounding: DType,
}

pub(crate) fn sections(format: WeightFormat) -> Option<Sections> {
    let Encoding::Nf4 {
        dtype,
        nested_offset,
    } = format.encoding
    else {
        return None;
    };
    let elements = format.out_features * format.in_features;
    let blocks = elements.div_ceil(nf4::BLOCK_SIZE);
    let scales_at = elements.div_ceil(2).div_ceil(4);
    let nested_at = scales_at + blocks.div_ceil(4);
    Some(Sections {
        scales_at,
        nested_at,
        map_at: nested_at + blocks.div_ceil(nf4::NESTED_BLOCK_SIZE),
        offset: nested_offset.unwrap_or(0.0),
        nested: nested_offset.is_some(),
        rounding: match dtype {
            nf4::Dtype::F32 => DType::F32,
            nf4::Dtype::BF16 => DType::BF16,
            nf4::Dtype::F16 => DType::F16,
        },
    })
}

/// The type a dense weight lies in; of a 4-bit one, what it is dequantised to without loss.
fn stored(format: WeightFormat) -> DType {
    match format.encoding {
        Encoding::Dense(stored) => float(stored),
        Encoding::Nf4 { .. } => DType::F32,
    }
}

/// W `[out, in]` in `dtype`: a fresh buffer, or the weight's own where it is stored that way.
pub(crate) fn dense(words: CubeTensor, format: WeightFormat, dtype: DType) -> CubeTensor {
    let shape = [format.out_features, format.in_features];
    let words = packed(words);
    let Some(s) = sections(format) else {
        let (client, device, stored) = (words.client.clone(), words.device.clone(), stored(format));
        let values = CubeTensor::new_contiguous(client, device, shape.into(), words.handle, stored);
        return cast(values, dtype);
    };
    let output = fresh(&words, shape, dtype);
    let count = shape[0] * shape[1];
    let lanes = match (count % 8, dtype.size()) {
        (0, 2) => 8,
        (0 | 4, _) => 4,
        _ => 1,
    };
    let client = words.client.clone();
    let (cubes, dim) = each(&client, (count / lanes).div_ceil(VECTORS));
    let units = dim.num_elems() as usize;
    dequantize_kernel::launch(
        &client,
        cubes,
        dim,
        lanes,
        words.clone().argument(),
        output.clone().argument(),
        count / lanes,
        s.scales_at,
        s.nested_at,
        s.map_at,
        s.offset,
        s.nested,
        units,
        [storage(dtype), storage(s.rounding)],
    );
    output
}

/// x·Wᵀ
fn times_transposed(x: CubeTensor, words: CubeTensor, format: WeightFormat) -> CubeTensor {
    let dtype = x.dtype;
    product(x, transposed(dense(words, format, dtype)), dtype)
}

/// y + bias, in place.
fn with_bias(y: CubeTensor, bias: Option<CubeTensor>) -> CubeTensor {
    let Some(bias) = bias else { return y };
    let y = owned(y);
    let (count, [_, width]) = (elements(&y), dims(&y));
    let client = y.client.clone();
    let (cubes, dim) = each(&client, count);
    let dtype = storage(y.dtype);
    add_bias_kernel::launch(
        &client,
        cubes,
        dim,
        y.clone().argument(),
        packed(bias).argument(),
        count,
        width,
        dtype,
    );
    y
}

fn bias_of(bias: CubeTensor) -> Option<CubeTensor> {
    Some(bias).filter(|b| elements(b) > 0)
}

/// y = x·Wᵀ + bias
pub(crate) fn forward(
    x: CubeTensor,
    words: CubeTensor,
    bias: CubeTensor,
    format: WeightFormat,
) -> CubeTensor {
    let x = packed(x);
    if dims(&x)[0] == 0 {
        return fresh(&x, [0, format.out_features], x.dtype);
    }
    let bias = bias_of(bias);
    match few_rows::linear(&x, words.clone(), bias.clone(), None, format) {
        Some((y, _)) => y,
        None => with_bias(times_transposed(x, words, format), bias),
    }
}

/// dx = dy·W, and what was `left` of it.
pub(crate) fn backward(
    dy: CubeTensor,
    words: CubeTensor,
    format: WeightFormat,
    left: Option<CubeTensor>,
) -> CubeTensor {
    let dy = packed(dy);
    if dims(&dy)[0] == 0 {
        return fresh(&dy, [0, format.in_features], dy.dtype);
    }
    let dtype = dy.dtype;
    let w = dense(words, format, dtype);
    match left {
        Some(left) => product_onto(left, dy, w),
        None => product(dy, w, dtype),
    }
}

/// (y, u), u = drop(x)·Aᵀ in the activations' type.
pub(crate) fn lora_forward(
    x: CubeTensor,
    words: CubeTensor,
    bias: CubeTensor,
    adapter: Adapter<CubeBackend>,
    format: WeightFormat,
) -> (CubeTensor, CubeTensor) {
    let x = packed(x);
    let (dtype, [m, _], rank) = (x.dtype, dims(&x), dims(&adapter.a)[0]);
    if m == 0 {
        let y = fresh(&x, [0, format.out_features], dtype);
        return (y, fresh(&x, [0, rank], dtype));
    }
    if adapter.dropout.is_none() {
        let low_rank = (adapter.a.clone(), adapter.b.clone(), adapter.scaling);
        let (words, bias) = (words.clone(), bias_of(bias.clone()));
        if let Some(found) = few_rows::linear(&x, words, bias, Some(low_rank), format) {
            return found;
        }
    }
    let u = onto_a(&x, adapter.a, adapter.dropout);
    let y = times_transposed(x, words, format);
    let b = (adapter.b, Factor::Out, adapter.scaling);
    (low_rank::add(y, u.clone(), b, None, bias_of(bias)), u)
}

/// u alone.
pub(crate) fn lora_projection(x: CubeTensor, adapter: Adapter<CubeBackend>) -> CubeTensor {
    let x = packed(x);
    match dims(&x)[0] {
        0 => fresh(&x, [0, dims(&adapter.a)[0]], x.dtype),
        _ => onto_a(&x, adapter.a, adapter.dropout),
    }
}

/// drop(x)·Aᵀ
fn onto_a(x: &CubeTensor, a: CubeTensor, dropout: Option<Dropout>) -> CubeTensor {
    let (seen, _) = dropped(x, dropout);
    let u = fresh(x, [dims(x)[0], dims(&a)[0]], x.dtype);
    product_into(u, seen, transposed(cast(packed(a), x.dtype)))
}

/// (dx if wanted, dA, dB), the last two in f32.
pub(crate) fn lora_backward(
    dy: CubeTensor,
    x: CubeTensor,
    u: CubeTensor,
    words: CubeTensor,
    adapter: Adapter<CubeBackend>,
    format: WeightFormat,
    wanted: Dx<CubeBackend>,
) -> (Option<CubeTensor>, CubeTensor, CubeTensor) {
    let (dy, x) = (packed(dy), packed(x));
    let (dtype, [m, _], [rank, k]) = (x.dtype, dims(&x), dims(&adapter.a));
    if m == 0 {
        let zeros = |shape| super::tensor::zeros(&x.device, shape);
        let dx = match wanted {
            Dx::Unwanted => None,
            Dx::Wanted { .. } => Some(fresh(&x, [0, format.in_features], dtype)),
        };
        return (dx, zeros([rank, k]), zeros([format.out_features, rank]));
    }
    let b = cast(packed(adapter.b), dtype);
    let (seen, mask) = dropped(&x, adapter.dropout);
    let t = product_into(fresh(&dy, [m, rank], dtype), dy.clone(), b);
    let da = summed(&t, &seen, adapter.scaling);
    let db = summed(&dy, &packed(u), adapter.scaling);
    let dx = match wanted {
        Dx::Unwanted => None,
        Dx::Wanted { left } => {
            let dx = backward(dy, words, format, left);
            let a = (adapter.a, Factor::In, adapter.scaling);
            Some(low_rank::add(dx, t, a, mask, None))
        }
    };
    (dx, da, db)
}

/// From how many rows on a sum over them is cut into [`PARTS`].
const MANY_ROWS: usize = 1024;
const PARTS: usize = 8;

/// factor·pᵀ·q in f32, of packed p and q with the same rows.
///
/// An adapter's gradient has some tiles, 8 to 112 for an 8B, where a GPU has more multiprocessors, and
/// each would walk along thousands of rows by itself. So the rows are cut into parts, which are one
/// batched matmul; what is left over and the sum of all is one launch more.
fn summed(p: &CubeTensor, q: &CubeTensor, factor: f32) -> CubeTensor {
    let ([rows, height], [_, width]) = (dims(p), dims(q));
    let y = fresh(p, [height, width], DType::F32);
    if rows < MANY_ROWS {
        let y = product_into(y, transposed(p.clone()), q.clone());
        return CubeBackend::float_mul_scalar(y, factor.into());
    }
    let parts = product_into(
        fresh(p, [PARTS, height, width], DType::F32),
        transposed(in_parts(p, PARTS)),
        in_parts(q, PARTS),
    );
    let client = p.client.clone();
    let (cubes, dim) = each(&client, height * width);
    add_parts_kernel::launch(
        &client,
        cubes,
        dim,
        parts.argument(),
        p.clone().argument(),
        q.clone().argument(),
        y.clone().argument(),
        height,
        width,
        rows - rows % PARTS,
        rows,
        factor,
        PARTS,
        storage(p.dtype),
    );
    y
}

/// `t` times the one element of `upstream` and `factor`, in place.
pub(crate) fn times(t: CubeTensor, upstream: CubeTensor, factor: f32) -> CubeTensor {
    let t = owned(t);
    let count = elements(&t);
    if count == 0 {
        return t;
    }
    let client = t.client.clone();
    let (cubes, dim) = each(&client, count);
    let dtype = storage(t.dtype);
    scale_kernel::launch(
        &client,
        cubes,
        dim,
        t.clone().argument(),
        packed(cast(upstream, DType::F32)).argument(),
        count,
        factor,
        dtype,
    );
    t
}

/// Rows `ids` of W, in `dtype`.
pub(crate) fn embedding(
    words: CubeTensor,
    format: WeightFormat,
    ids: &[u32],
    dtype: DType,
) -> CubeTensor {
    if ids.is_empty() {
        return fresh(&words, [0, format.in_features], dtype);
    }
    // A dense table is selected from where it lies. A 4-bit one, which no checkpoint has, is
    // dequantised whole first.
    let indices = super::tensor::upload(ids, &words);
    let table = dense(words, format, stored(format));
    let rows = CubeBackend::float_select(table, 0, indices);
    cast(reshaped(rows, [ids.len(), format.in_features]), dtype)
}
