//! Packed attention on a GPU: flash tiles, or chunks of query rows against the span of keys they
//! see, by matmul, as [`AttentionKernel`] says.
//!
//! Of the chunked path: scores of one chunk are the only matrix of scores there is, forward or backward, and its size is
//! bounded ([`crate::GPU_WORKSPACE_BYTES`]): never `[tokens, tokens]`. The matmuls run on tensor
//! cores; a chunk's span ends where its last row does, so that causality halves the work;
//! neighbouring short segments share a chunk and are told apart by the keys that each row sees. A few
//! rows (decoding) go through one kernel without matmul, which splits the keys where there are many.

use super::few_rows::unread;
use super::flash;
use super::tensor::{
    Argument, cast, dims, each, elements, fresh, narrowed, packed, product, replaced, reshaped,
    rows, storage, transposed, units, upload, zeros,
};
use super::visible::Visible;
use crate::kernels::cube::attention::{
    Few, attend_kernel, delta_kernel, merge_attended_kernel, softmax_backward_kernel,
    softmax_kernel,
};
use crate::schema::SavedAttention;
use crate::segments::{AttentionKernel, AttentionOptions, Segments};
use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::prelude::*;
use std::ops::Range;

/// Query rows of one chunk at most: enough for a matmul's tiles, few enough that causality pays.
const CHUNK: usize = 512;
/// Up to here rows go through the kernel that takes them one at a time.
pub(crate) const FEW_ROWS: usize = 32;

/// Chunks of rows and the keys they meet, so that backward's scores of all heads (two matrices in
/// f32, two in the activations' type) fit the workspace.
fn chunks(visible: &Visible, heads: usize, dtype: DType) -> Vec<(Range<usize>, Range<usize>)> {
    let scores = crate::GPU_WORKSPACE_BYTES / (8 + 2 * dtype.size());
    let rows = visible.first.len();
    let (mut chunks, mut start) = (Vec::new(), 0);
    while start < rows {
        let mut end = (start + CHUNK).min(rows);
        while end - start > 1 && (end - start) * visible.span(start..end).len() * heads > scores {
            end = start + (end - start).div_ceil(2);
        }
        chunks.push((start..end, visible.span(start..end)));
        start = end;
    }
    chunks
}

/// `[rows, kv·group·d]` as `[kv, rows·group, d]`: the query heads of a key-value head together.
fn by_head(t: CubeTensor, kv: usize, group: usize, d: usize) -> CubeTensor {
    let [rows, _] = dims(&t);
    let t = CubeBackend::float_swap_dims(reshaped(t, [rows, kv, group * d]), 0, 1);
    reshaped(t, [kv, rows * group, d])
}

/// The inverse of [`by_head`].
fn by_row(t: CubeTensor, kv: usize, group: usize, d: usize) -> CubeTensor {
    let rows = t.shape()[1] / group;
    let t = CubeBackend::float_swap_dims(reshaped(t, [kv, rows, group * d]), 0, 1);
    reshaped(t, [rows, kv * group * d])
}

/// What both directions of a chunk need.
struct Chunked {
    visible: Visible,
    first: CubeTensor,
    end: CubeTensor,
    group: usize,
}

impl Chunked {
    fn new(q: &CubeTensor, segments: &Segments, options: AttentionOptions) -> Chunked {
        let visible = Visible::new(segments, dims(q)[0], options.window);
        Chunked {
            first: upload(&visible.first, q),
            end: upload(&visible.end, q),
            visible,
            group: options.heads / options.kv_heads,
        }
    }

    /// q·kᵀ of a chunk, `[kv, rows·group, span]` in f32.
    fn scores(&self, q: &CubeTensor, k: &CubeTensor) -> CubeTensor {
        product(q.clone(), transposed(k.clone()), DType::F32)
    }

    fn queries(&self, t: &CubeTensor, rows: &Range<usize>) -> CubeTensor {
        let within = rows.start * self.group..rows.end * self.group;
        narrowed(t.clone(), 1, within)
    }

    fn keys(&self, t: &CubeTensor, span: &Range<usize>) -> CubeTensor {
        narrowed(t.clone(), 1, span.clone())
    }
}

/// o, and one logsumexp a row and head.
pub(crate) fn forward(
    q: CubeTensor,
    k: CubeTensor,
    v: CubeTensor,
    segments: Segments,
    o: AttentionOptions,
) -> SavedAttention<CubeBackend> {
    let (q, k, v) = (packed(q), packed(k), packed(v));
    let [tokens, width] = dims(&q);
    let lse = fresh(&q, [tokens, o.heads], DType::F32);
    if tokens <= FEW_ROWS {
        let out = fresh(&q, [tokens, width], q.dtype);
        if tokens > 0 {
            let visible = Visible::new(&segments, tokens, o.window);
            let seen = Seen::new(&visible.first, &visible.end, &q);
            attend(&q, &k, &v, &seen, &out, &lse, &o);
        }
        return SavedAttention {
            q,
            k,
            v,
            o: out,
            lse,
        };
    }
    if o.kernel == AttentionKernel::Flash {
        return flash::forward(q, k, v, &segments, &o);
    }
    let c = Chunked::new(&q, &segments, o);
    let (kv, d, dtype) = (o.kv_heads, o.head_dim, q.dtype);
    let qh = by_head(q.clone(), kv, c.group, d);
    let (kh, vh) = (by_head(k.clone(), kv, 1, d), by_head(v.clone(), kv, 1, d));
    let mut parts = Vec::new();
    for (rows_of, span) in chunks(&c.visible, o.heads, dtype) {
        let scores = c.scores(&c.queries(&qh, &rows_of), &c.keys(&kh, &span));
        let count = rows_of.len() * o.heads;
        let p = fresh(&q, [kv, rows_of.len() * c.group, span.len()], q.dtype);
        let client = q.client.clone();
        let (cubes, dim, units) = rows(&client, count);
        softmax_kernel::launch(
            &client,
            cubes,
            dim,
            packed(scores).argument(),
            c.first.clone().argument(),
            c.end.clone().argument(),
            p.clone().argument(),
            lse.clone().argument(),
            rows_of.start,
            rows_of.len(),
            span.start,
            span.len(),
            c.group,
            o.heads,
            o.scale,
            o.softcap.unwrap_or(0.0),
            o.softcap.is_some(),
            units,
            storage(q.dtype),
        );
        parts.push(product(p, c.keys(&vh, &span), q.dtype));
    }
    let out = by_row(CubeBackend::float_cat(parts, 1), kv, c.group, d);
    SavedAttention {
        q,
        k,
        v,
        o: packed(out),
        lse,
    }
}

/// (dq, dk, dv)
pub(crate) fn backward(
    d_o: CubeTensor,
    saved: SavedAttention<CubeBackend>,
    segments: Segments,
    o: AttentionOptions,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let (tokens, d_o) = (dims(&saved.q)[0], packed(d_o));
    if o.kernel == AttentionKernel::Flash && tokens > 0 {
        return flash::backward(d_o, saved, &segments, &o);
    }
    let SavedAttention {
        q,
        k,
        v,
        o: out,
        lse,
    } = saved;
    let out = packed(out);
    let ([_, width], [key_rows, kv_width]) = (dims(&q), dims(&k));
    let dtype = q.dtype;
    if tokens == 0 {
        let none = |columns| fresh(&q, [0, columns], dtype);
        return (none(width), none(kv_width), none(kv_width));
    }
    let c = Chunked::new(&q, &segments, o);
    let (kv, d) = (o.kv_heads, o.head_dim);
    let client = q.client.clone();
    let delta = fresh(&q, [tokens, o.heads], DType::F32);
    let (cubes, dim, units) = rows(&client, tokens * o.heads);
    delta_kernel::launch(
        &client,
        cubes,
        dim,
        d_o.clone().argument(),
        out.argument(),
        delta.clone().argument(),
        d,
        units,
        storage(dtype),
    );

    let (qh, doh) = (by_head(q, kv, c.group, d), by_head(d_o, kv, c.group, d));
    let (kh, vh) = (by_head(k, kv, 1, d), by_head(v, kv, 1, d));
    // Keys are seen by rows of several chunks: their gradients are summed in f32.
    let mut dk = zeros(&qh.device, [kv, key_rows, d]);
    let mut dv = zeros(&qh.device, [kv, key_rows, d]);
    let mut parts = Vec::new();
    for (rows_of, span) in chunks(&c.visible, o.heads, dtype) {
        let (qc, doc) = (c.queries(&qh, &rows_of), c.queries(&doh, &rows_of));
        let (kc, vc) = (c.keys(&kh, &span), c.keys(&vh, &span));
        let scores = packed(c.scores(&qc, &kc));
        let dp = packed(c.scores(&doc, &vc));
        let shape = [kv, rows_of.len() * c.group, span.len()];
        let (p, ds) = (fresh(&qh, shape, dtype), fresh(&qh, shape, dtype));
        let count = elements(&p);
        let (cubes, dim) = each(&client, count);
        softmax_backward_kernel::launch(
            &client,
            cubes,
            dim,
            scores.argument(),
            dp.argument(),
            c.first.clone().argument(),
            c.end.clone().argument(),
            lse.clone().argument(),
            delta.clone().argument(),
            p.clone().argument(),
            ds.clone().argument(),
            rows_of.start,
            rows_of.len(),
            span.start,
            span.len(),
            c.group,
            o.heads,
            o.scale,
            o.softcap.unwrap_or(0.0),
            count,
            o.softcap.is_some(),
            storage(dtype),
        );
        parts.push(product(ds.clone(), kc, dtype));
        dk = accumulated(dk, &span, product(transposed(ds), qc, DType::F32));
        dv = accumulated(dv, &span, product(transposed(p), doc, DType::F32));
    }
    let dq = by_row(CubeBackend::float_cat(parts, 1), kv, c.group, d);
    let back = |t| packed(by_row(cast(t, dtype), kv, 1, d));
    (packed(dq), back(dk), back(dv))
}

/// `sum` with `part` added to its keys `span`.
fn accumulated(sum: CubeTensor, span: &Range<usize>, part: CubeTensor) -> CubeTensor {
    let before = narrowed(sum.clone(), 1, span.clone());
    let after = CubeBackend::float_add(before, part);
    replaced(sum, 1, span.clone(), after)
}

/// Which keys some rows see, on the device: row i those of `first[i]..end[i]`.
pub(crate) struct Seen {
    first: CubeTensor,
    end: CubeTensor,
    /// The most that one of them sees.
    longest: usize,
}

impl Seen {
    pub(crate) fn new(first: &[u32], end: &[u32], like: &CubeTensor) -> Seen {
        let lengths = first.iter().zip(end).map(|(first, end)| end - first);
        Seen {
            first: upload(first, like),
            end: upload(end, like),
            longest: lengths.max().unwrap_or(0) as usize,
        }
    }
}

/// Keys that are worth a cube of their own.
const SPLIT_KEYS: usize = 128;
/// Query heads of a cube at most: their sums are in registers.
const MOST_HEADS: usize = 8;

/// Into how many splits the keys go, and how many are in each, where one split makes `cubes`: two cubes
/// for each multiprocessor, but none of less than [`SPLIT_KEYS`].
fn splits(client: &Client, cubes: usize, longest: usize, tile: usize) -> (usize, usize) {
    let multiprocessors = client.properties().hardware.num_streaming_multiprocessors;
    let wanted = 2 * multiprocessors.unwrap_or(4) as usize;
    let wanted = wanted.div_ceil(cubes);
    if wanted == 1 || longest < 2 * SPLIT_KEYS {
        return (1, longest);
    }
    let span = longest.div_ceil(wanted).max(SPLIT_KEYS);
    let span = span.next_multiple_of(tile);
    (longest.div_ceil(span), span)
}

/// One kernel for all rows of q, and one more where the keys are split.
pub(crate) fn attend(
    q: &CubeTensor,
    k: &CubeTensor,
    v: &CubeTensor,
    seen: &Seen,
    out: &CubeTensor,
    lse: &CubeTensor,
    o: &AttentionOptions,
) {
    let client = q.client.clone();
    let [count, _] = dims(q);
    let group = o.heads / o.kv_heads;
    let divides = |n: &usize| group.is_multiple_of(*n);
    let heads = (1..=MOST_HEADS).rev().find(divides).expect("one does");
    let mut lanes = 16 / q.dtype.size();
    while !o.head_dim.is_multiple_of(lanes) {
        lanes /= 2;
    }
    let tile = Few::tile(o.head_dim, lanes, q.dtype.size());
    let (splits, span) = splits(&client, count * o.heads / heads, seen.longest, tile);
    let few = Few {
        head_dim: o.head_dim,
        lanes,
        heads,
        tile,
        units: units(&client, 128),
        capped: o.softcap.is_some(),
        split: splits > 1,
    };
    let partial = match few.split {
        true => fresh(q, [count * o.heads * splits, o.head_dim + 2], DType::F32),
        false => unread(q),
    };
    attend_kernel::launch(
        &client,
        CubeCount::Static(splits as u32, (o.heads / heads) as u32, count as u32),
        CubeDim::new_1d(few.units as u32),
        lanes,
        q.clone().argument(),
        k.clone().argument(),
        v.clone().argument(),
        seen.first.clone().argument(),
        seen.end.clone().argument(),
        out.clone().argument(),
        lse.clone().argument(),
        partial.clone().argument(),
        o.heads,
        o.kv_heads,
        span,
        o.scale,
        o.softcap.unwrap_or(0.0),
        few,
        storage(q.dtype),
    );
    if !few.split {
        return;
    }
    let (cubes, dim, _) = rows(&client, count * o.heads);
    merge_attended_kernel::launch(
        &client,
        cubes,
        dim,
        partial.argument(),
        out.clone().argument(),
        lse.clone().argument(),
        splits,
        o.head_dim,
        storage(q.dtype),
    );
}
