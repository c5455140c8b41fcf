//! Flash attention on a GPU: can the device, and the launches of its kernels.

use super::tensor::{Argument, dims, fresh, makes_patches, storage, units, upload};
use super::visible::{Visible, query_spans};
use crate::format::ComputeDtype;
use crate::kernels::cube::flash::backward::{flash_dkdv_kernel, flash_dq_kernel};
use crate::kernels::cube::flash::forward::flash_forward_kernel;
use crate::kernels::cube::flash::{COLUMNS, Plan, ROWS};
use crate::schema::SavedAttention;
use crate::segments::{AttentionOptions, Segments};
use burn::tensor::{DType, Device};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::prelude::*;

/// Sums of a wider head do not fit a unit's registers.
const WIDEST_HEAD: usize = 128;

/// Whether a device, of any back end, can; an error says why not.
pub(crate) fn on(
    device: &Device,
    compute: ComputeDtype,
    options: &AttentionOptions,
) -> Result<(), String> {
    let dtype = match compute {
        ComputeDtype::F32 => DType::F32,
        ComputeDtype::Bf16 => DType::BF16,
    };
    let client = super::client(device).ok_or("the CPU has a kernel of its own")?;
    plan(&client, dtype, options).map(|_| ())
}

/// How this device computes it; an error says why it cannot.
pub(crate) fn plan(client: &Client, dtype: DType, o: &AttentionOptions) -> Result<Plan, String> {
    let d = o.head_dim;
    if d == 0 || !d.is_multiple_of(COLUMNS) || d > WIDEST_HEAD {
        return Err(format!(
            "heads of {d} values: it takes multiples of {COLUMNS} up to {WIDEST_HEAD}"
        ));
    }
    let properties = client.properties();
    let hardware = &properties.hardware;
    let mut plan = Plan {
        head_dim: d,
        element: dtype.size(),
        planes: 4,
        units: 128,
        tensor_cores: true,
        capped: o.softcap.is_some(),
    };
    // A CPU has planes of one unit, a patch each, and shared memory without a limit.
    if hardware.num_cpu_cores.is_some() {
        plan.units = units(client, 4);
        plan.planes = plan.units;
        plan.tensor_cores = false;
        return Ok(plan);
    }
    makes_patches(client, dtype)?;
    let (needed, most) = (plan.shared_bytes(), hardware.max_shared_memory_size);
    if needed > most {
        return Err(format!(
            "{needed} bytes of shared memory are needed, and there are {most}"
        ));
    }
    Ok(plan)
}

/// What the kernels are told of segments: `first` and `end` of each query row, the keys from and to
/// that each tile of queries meets, the queries that each tile of keys meets.
pub(crate) fn visible(
    segments: &Segments,
    [tokens, key_rows]: [usize; 2],
    window: Option<usize>,
) -> Vec<u32> {
    let seen = Visible::new(segments, tokens, window);
    let mut spans: Vec<_> = (0..tokens.div_ceil(ROWS))
        .map(|tile| seen.span(tile * ROWS..((tile + 1) * ROWS).min(tokens)))
        .collect();
    spans.extend(query_spans(segments, key_rows, window, ROWS));
    let mut visible = seen.first;
    visible.extend(seen.end);
    visible.extend(spans.iter().flat_map(|s| [s.start as u32, s.end as u32]));
    visible
}

/// What both directions need.
struct Launch {
    client: Client,
    plan: Plan,
    dim: CubeDim,
    visible: CubeTensor,
    tokens: usize,
    key_rows: usize,
    query_tiles: usize,
    key_tiles: usize,
    softcap: f32,
}

impl Launch {
    fn new(q: &CubeTensor, k: &CubeTensor, segments: &Segments, o: &AttentionOptions) -> Launch {
        let client = q.client.clone();
        let plan = plan(&client, q.dtype, o).expect("flash_attention() was asked before");
        let (tokens, key_rows) = (dims(q)[0], dims(k)[0]);
        let visible = visible(segments, [tokens, key_rows], o.window);
        Launch {
            dim: CubeDim::new_1d(plan.units as u32),
            visible: upload(&visible, q),
            tokens,
            key_rows,
            query_tiles: tokens.div_ceil(ROWS),
            key_tiles: key_rows.div_ceil(ROWS),
            softcap: o.softcap.unwrap_or(0.0),
            client,
            plan,
        }
    }
}

/// o, and one logsumexp a row and head.
pub(super) fn forward(
    q: CubeTensor,
    k: CubeTensor,
    v: CubeTensor,
    segments: &Segments,
    o: &AttentionOptions,
) -> SavedAttention<CubeBackend> {
    let l = Launch::new(&q, &k, segments, o);
    let out = fresh(&q, dims(&q), q.dtype);
    let lse = fresh(&q, [l.tokens, o.heads], DType::F32);
    flash_forward_kernel::launch(
        &l.client,
        CubeCount::Static((l.query_tiles * o.heads) as u32, 1, 1),
        l.dim,
        l.plan.vector(),
        q.clone().argument(),
        k.clone().argument(),
        v.clone().argument(),
        l.visible.argument(),
        out.clone().argument(),
        lse.clone().argument(),
        l.tokens,
        l.key_rows,
        l.query_tiles,
        o.heads,
        o.kv_heads,
        o.scale,
        l.softcap,
        l.plan,
        storage(q.dtype),
    );
    SavedAttention {
        q,
        k,
        v,
        o: out,
        lse,
    }
}

/// (dq, dk, dv)
pub(super) fn backward(
    d_o: CubeTensor,
    saved: SavedAttention<CubeBackend>,
    segments: &Segments,
    o: &AttentionOptions,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let SavedAttention {
        q,
        k,
        v,
        o: out,
        lse,
    } = saved;
    let l = Launch::new(&q, &k, segments, o);
    let dtype = storage(q.dtype);
    let delta = fresh(&q, [l.tokens, o.heads], DType::F32);
    let dq = fresh(&q, dims(&q), q.dtype);
    let (dk, dv) = (fresh(&k, dims(&k), k.dtype), fresh(&v, dims(&v), v.dtype));
    flash_dq_kernel::launch(
        &l.client,
        CubeCount::Static((l.query_tiles * o.heads) as u32, 1, 1),
        l.dim,
        l.plan.vector(),
        q.clone().argument(),
        k.clone().argument(),
        v.clone().argument(),
        out.argument(),
        d_o.clone().argument(),
        l.visible.clone().argument(),
        lse.clone().argument(),
        delta.clone().argument(),
        dq.clone().argument(),
        l.tokens,
        l.key_rows,
        l.query_tiles,
        o.heads,
        o.kv_heads,
        o.scale,
        l.softcap,
        l.plan,
        dtype,
    );
    flash_dkdv_kernel::launch(
        &l.client,
        CubeCount::Static((l.key_tiles * o.kv_heads) as u32, 1, 1),
        l.dim,
        l.plan.vector(),
        q.argument(),
        k.argument(),
        v.argument(),
        d_o.argument(),
        l.visible.argument(),
        lse.argument(),
        delta.argument(),
        dk.clone().argument(),
        dv.clone().argument(),
        l.tokens,
        l.key_rows,
        2 * (l.tokens + l.query_tiles),
        o.heads,
        o.kv_heads,
        o.scale,
        l.softcap,
        l.plan,
        dtype,
    );
    (dq, dk, dv)
}
