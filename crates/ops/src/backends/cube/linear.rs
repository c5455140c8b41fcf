//! The 4-bit linear on a GPU: dequantise into scratch, then the tensor cores' matmul.
//!
//! At thousands of tokens a micro-batch, writing W once in the activations' type costs a few per
//! cent of the matmul that reads it; the scratch buffer goes back to the device's pool with the
//! last kernel that reads it, and the next linear gets the same memory. For up to [`FEW_ROWS`] rows
//! W is read as codes, never written out.

use super::tensor::{
    cast, dims, each, elements, float, fresh, owned, packed, product, reshaped, rows, storage,
    transposed, upload_floats,
};
use crate::format::{Encoding, WeightFormat};
use crate::kernels::cube::dequantize::dequantize_kernel;
use crate::kernels::cube::dropout::{add_dropped_kernel, drop_kernel, row_keys_kernel};
use crate::kernels::cube::few_rows::few_rows_kernel;
use crate::kernels::cube::linear::add_to_kernel;
use crate::kernels::dropout::Dropout;
use crate::schema::Adapter;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

/// Up to here one pass over the codes is cheaper than dequantising: registers hold a sum a row.
const FEW_ROWS: usize = 8;

/// Where the sections of a 4-bit weight begin, in words.
struct Sections {
    scales_at: usize,
    nested_at: usize,
    map_at: usize,
    offset: f32,
    nested: bool,
    rounding: DType,
}

fn sections(format: WeightFormat) -> Option<Sections> {
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
    let (cubes, dim) = each(&client, count / lanes);
    dequantize_kernel::launch(
        &client,
        cubes,
        dim,
        lanes,
        words.clone().into_buffer_arg(),
        upload_floats(&nf4::CODEBOOK, &words).into_buffer_arg(),
        output.clone().into_buffer_arg(),
        count / lanes,
        s.scales_at,
        s.nested_at,
        s.map_at,
        s.offset,
        s.nested,
        [storage(dtype), storage(s.rounding)],
    );
    output
}

/// x·Wᵀ
fn times_transposed(x: CubeTensor, words: CubeTensor, format: WeightFormat) -> CubeTensor {
    let [m, k] = dims(&x);
    let few = m <= FEW_ROWS && k.is_multiple_of(nf4::BLOCK_SIZE);
    match sections(format).filter(|_| few) {
        None => {
            let dtype = x.dtype;
            product(x, transposed(dense(words, format, dtype)), dtype)
        }
        Some(s) => {
            let words = packed(words);
            let y = fresh(&x, [m, format.out_features], x.dtype);
            let client = x.client.clone();
            let (cubes, dim, units) = rows(&client, format.out_features);
            let dtypes = [storage(x.dtype), storage(s.rounding)];
            few_rows_kernel::launch(
                &client,
                cubes,
                dim,
                x.into_buffer_arg(),
                words.clone().into_buffer_arg(),
                upload_floats(&nf4::CODEBOOK, &words).into_buffer_arg(),
                y.clone().into_buffer_arg(),
                k,
                format.out_features,
                s.scales_at,
                s.nested_at,
                s.map_at,
                s.offset,
                s.nested,
                m,
                units,
                dtypes,
            );
            y
        }
    }
}

/// The dropout mask of an input of some rows and columns, as the kernels want it.
struct Mask {
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
            keys.clone().into_buffer_arg(),
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
        let (cubes, dim) = each(&client, m * k);
        drop_kernel::launch(
            &client,
            cubes,
            dim,
            x.clone().into_buffer_arg(),
            self.keys.clone().into_buffer_arg(),
            y.clone().into_buffer_arg(),
            m * k,
            k,
            self.threshold,
            self.scale,
            storage(x.dtype),
        );
        y
    }

    /// y + t ∘ mask
    fn added(&self, y: CubeTensor, t: CubeTensor) -> CubeTensor {
        let (y, t) = (owned(y), packed(t));
        let [m, k] = dims(&y);
        let client = y.client.clone();
        let (cubes, dim) = each(&client, m * k);
        let dtype = storage(y.dtype);
        add_dropped_kernel::launch(
            &client,
            cubes,
            dim,
            y.clone().into_buffer_arg(),
            t.into_buffer_arg(),
            self.keys.clone().into_buffer_arg(),
            m * k,
            k,
            self.threshold,
            self.scale,
            dtype,
        );
        y
    }
}

fn dropped(x: &CubeTensor, dropout: Option<Dropout>) -> (CubeTensor, Option<Mask>) {
    match dropout.map(|d| Mask::new(d, x)) {
        None => (x.clone(), None),
        Some(mask) => (mask.applied(x), Some(mask)),
    }
}

/// y + scaling·t + bias, in place.
fn with_additions(
    y: CubeTensor,
    adapted: Option<(CubeTensor, f32)>,
    bias: Option<CubeTensor>,
) -> CubeTensor {
    if adapted.is_none() && bias.is_none() {
        return y;
    }
    let y = owned(y);
    let (count, [_, width]) = (elements(&y), dims(&y));
    let (has_adapter, has_bias) = (adapted.is_some(), bias.is_some());
    // An input that the kernel does not read must still be a buffer: any will do.
    let unread = |dtype| fresh(&y, [1], dtype);
    let (t, scaling) = match adapted {
        Some((t, scaling)) => (packed(t), scaling),
        None => (unread(y.dtype), 0.0),
    };
    let bias = bias.map_or_else(|| unread(DType::F32), packed);
    let client = y.client.clone();
    let (cubes, dim) = each(&client, count);
    let dtype = storage(y.dtype);
    add_to_kernel::launch(
        &client,
        cubes,
        dim,
        y.clone().into_buffer_arg(),
        t.into_buffer_arg(),
        bias.into_buffer_arg(),
        count,
        width,
        scaling,
        has_adapter,
        has_bias,
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
    with_additions(times_transposed(x, words, format), None, bias_of(bias))
}

/// dx = dy·W
pub(crate) fn backward(dy: CubeTensor, words: CubeTensor, format: WeightFormat) -> CubeTensor {
    let dy = packed(dy);
    if dims(&dy)[0] == 0 {
        return fresh(&dy, [0, format.in_features], dy.dtype);
    }
    let dtype = dy.dtype;
    product(dy, dense(words, format, dtype), dtype)
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
    let (a, b) = (
        cast(packed(adapter.a), dtype),
        cast(packed(adapter.b), dtype),
    );
    let (seen, _) = dropped(&x, adapter.dropout);
    let u = product(seen, transposed(a), dtype);
    let t = product(u.clone(), transposed(b), dtype);
    let y = times_transposed(x, words, format);
    let y = with_additions(y, Some((t, adapter.scaling)), bias_of(bias));
    (y, u)
}

/// (dx if wanted, dA, dB), the last two in f32.
pub(crate) fn lora_backward(
    dy: CubeTensor,
    x: CubeTensor,
    u: CubeTensor,
    words: CubeTensor,
    adapter: Adapter<CubeBackend>,
    format: WeightFormat,
    want_dx: bool,
) -> (Option<CubeTensor>, CubeTensor, CubeTensor) {
    let (dy, x) = (packed(dy), packed(x));
    let (dtype, [m, _], [rank, k]) = (x.dtype, dims(&x), dims(&adapter.a));
    if m == 0 {
        let zeros = |shape| super::tensor::zeros(&x.device, shape);
        let dx = want_dx.then(|| fresh(&x, [0, format.in_features], dtype));
        return (dx, zeros([rank, k]), zeros([format.out_features, rank]));
    }
    let (a, b) = (
        cast(packed(adapter.a), dtype),
        cast(packed(adapter.b), dtype),
    );
    let (seen, mask) = dropped(&x, adapter.dropout);
    // t = s·dy·B carries the scaling to dA and dx; dB takes it from u.
    let t = scaled(product(dy.clone(), b, dtype), adapter.scaling);
    let da = product(transposed(t.clone()), seen, DType::F32);
    let db = scaled(
        product(transposed(dy.clone()), u, DType::F32),
        adapter.scaling,
    );
    let dx = want_dx.then(|| {
        let through = product(t, a, dtype);
        let dx = backward(dy, words, format);
        match mask {
            None => with_additions(dx, Some((through, 1.0)), None),
            Some(mask) => mask.added(dx, through),
        }
    });
    (dx, da, db)
}

fn scaled(t: CubeTensor, factor: f32) -> CubeTensor {
    let one = upload_floats(&[1.0], &t);
    times(t, one, factor)
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
    crate::kernels::cube::linear::scale_kernel::launch(
        &client,
        cubes,
        dim,
        t.clone().into_buffer_arg(),
        cast(packed(upstream), DType::F32).into_buffer_arg(),
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
    use burn::backend::ops::FloatTensorOps;
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
