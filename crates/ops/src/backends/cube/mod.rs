//! GPUs: CubeCL tensors handed to the kernels of [`crate::kernels::cube`] and to burn's matmul.
//!
//! Activations are f32 or bf16, whatever the embedding gives; norms, biases, angles and adapters
//! are f32. Sums are f32 throughout.

mod attention;
mod cache;
mod cross_entropy;
#[cfg(feature = "cuda")]
pub(crate) mod cublas;
mod decoding;
mod few_rows;
pub(crate) mod flash;
pub(crate) mod linear;
mod low_rank;
pub(crate) mod optimizer;
pub(crate) mod quantize;
mod tensor;
mod visible;

pub use cache::DeviceKvCache;
pub use decoding::DeviceDecoding;
pub use quantize::nf4_codes;

use crate::format::{ComputeDtype, WeightFormat};
use crate::kernels::cube::normalize::{rms_norm_backward_kernel, rms_norm_kernel};
use crate::kernels::cube::rotary::rotary_kernel;
use crate::kernels::cube::swiglu::{swiglu_backward_kernel, swiglu_kernel};
use crate::kernels::dropout::Dropout;
use crate::schema::{Adapter, Begun, Dx, Gradients, Ops, SavedAttention, SavedProjection};
use crate::segments::{AttentionOptions, Segments};
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Device, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use std::sync::Arc;
use tensor::{Argument, dims, each, elements, fresh, lanes, packed, rows, storage};

/// Of a device of this back end, if it is one.
pub(crate) fn client(device: &Device) -> Option<Client> {
    let probe = Tensor::<1>::zeros([1], (device, DType::F32));
    let probe = probe.try_into_primitive::<CubeBackend>();
    probe.ok().map(|probe| probe.client)
}

impl Ops for CubeBackend {
    fn linear(
        x: CubeTensor,
        words: CubeTensor,
        bias: CubeTensor,
        format: WeightFormat,
        _: Begun,
    ) -> CubeTensor {
        linear::forward(x, words, bias, format)
    }

    fn lora_linear(
        x: CubeTensor,
        words: CubeTensor,
        bias: CubeTensor,
        a: CubeTensor,
        b: CubeTensor,
        format: WeightFormat,
        scaling: f32,
        dropout: Option<Dropout>,
        _: Begun,
    ) -> CubeTensor {
        let adapter = Adapter {
            a,
            b,
            scaling,
            dropout,
        };
        linear::lora_forward(x, words, bias, adapter, format).0
    }

    fn embedding(words: CubeTensor, format: WeightFormat, ids: Arc<[u32]>) -> CubeTensor {
        let dtype = match format.compute {
            ComputeDtype::F32 => DType::F32,
            ComputeDtype::Bf16 => DType::BF16,
        };
        linear::embedding(words, format, &ids, dtype)
    }

    fn attention(
        q: CubeTensor,
        k: CubeTensor,
        v: CubeTensor,
        segments: Segments,
        options: AttentionOptions,
    ) -> CubeTensor {
        attention::forward(q, k, v, segments, options).o
    }

    fn linear_cross_entropy(
        h: CubeTensor,
        words: CubeTensor,
        format: WeightFormat,
        targets: Arc<[u32]>,
    ) -> CubeTensor {
        cross_entropy::forward(h, words, format, &targets, false).0
    }

    fn rms_norm(x: CubeTensor, weight: CubeTensor, epsilon: f32, _: Begun) -> CubeTensor {
        let (x, weight) = (packed(x), packed(weight));
        let [count, width] = dims(&x);
        let y = fresh(&x, [count, width], x.dtype);
        if count == 0 {
            return y;
        }
        let client = x.client.clone();
        let (cubes, dim, units) = rows(&client, count);
        let (dtype, lanes) = (storage(x.dtype), lanes(x.dtype, width));
        rms_norm_kernel::launch(
            &client,
            cubes,
            dim,
            lanes,
            x.argument(),
            weight.argument(),
            y.clone().argument(),
            width / lanes,
            epsilon,
            units,
            dtype,
        );
        y
    }

    fn add(x: CubeTensor, y: CubeTensor, _: Begun) -> CubeTensor {
        CubeBackend::float_add(x, y)
    }

    fn rotary(
        x: CubeTensor,
        cos: CubeTensor,
        sin: CubeTensor,
        heads: usize,
        inverse: bool,
    ) -> CubeTensor {
        let (x, cos, sin) = (packed(x), packed(cos), packed(sin));
        let y = fresh(&x, dims(&x), x.dtype);
        let half = dims(&cos)[1];
        let (dtype, lanes) = (storage(x.dtype), lanes(x.dtype, half));
        let pairs = elements(&x) / 2 / lanes;
        if pairs == 0 {
            return y;
        }
        let client = x.client.clone();
        let (cubes, dim) = each(&client, pairs);
        rotary_kernel::launch(
            &client,
            cubes,
            dim,
            lanes,
            x.argument(),
            cos.argument(),
            sin.argument(),
            y.clone().argument(),
            pairs,
            heads,
            half / lanes,
            if inverse { -1.0 } else { 1.0 },
            dtype,
        );
        y
    }

    fn swiglu(gate: CubeTensor, up: CubeTensor) -> CubeTensor {
        let (gate, up) = (packed(gate), packed(up));
        let y = fresh(&gate, dims(&gate), gate.dtype);
        let count = elements(&gate);
        if count == 0 {
            return y;
        }
        let client = gate.client.clone();
        let (dtype, lanes) = (storage(gate.dtype), lanes(gate.dtype, count));
        let (cubes, dim) = each(&client, count / lanes);
        swiglu_kernel::launch(
            &client,
            cubes,
            dim,
            lanes,
            gate.argument(),
            up.argument(),
            y.clone().argument(),
            count / lanes,
            dtype,
        );
        y
    }
}

impl Gradients for CubeBackend {
    fn linear_backward(
        dy: CubeTensor,
        words: CubeTensor,
        format: WeightFormat,
        left: Option<CubeTensor>,
    ) -> CubeTensor {
        linear::backward(dy, words, format, left)
    }

    fn lora_linear_forward(
        x: CubeTensor,
        words: CubeTensor,
        bias: CubeTensor,
        adapter: Adapter<CubeBackend>,
        format: WeightFormat,
    ) -> (CubeTensor, SavedProjection<CubeBackend>) {
        let (y, u) = linear::lora_forward(x, words, bias, adapter, format);
        (y, SavedProjection { u, kept: None })
    }

    fn lora_projection(
        x: CubeTensor,
        adapter: Adapter<CubeBackend>,
    ) -> SavedProjection<CubeBackend> {
        let u = linear::lora_projection(x, adapter);
        SavedProjection { u, kept: None }
    }

    fn lora_linear_backward(
        dy: CubeTensor,
        x: CubeTensor,
        saved: SavedProjection<CubeBackend>,
        words: CubeTensor,
        adapter: Adapter<CubeBackend>,
        format: WeightFormat,
        dx: Dx<CubeBackend>,
    ) -> (Option<CubeTensor>, CubeTensor, CubeTensor) {
        linear::lora_backward(dy, x, saved.u, words, adapter, format, dx)
    }

    fn attention_forward(
        q: CubeTensor,
        k: CubeTensor,
        v: CubeTensor,
        segments: Segments,
        options: AttentionOptions,
    ) -> SavedAttention<CubeBackend> {
        attention::forward(q, k, v, segments, options)
    }

    fn attention_backward(
        d_o: CubeTensor,
        saved: SavedAttention<CubeBackend>,
        segments: Segments,
        options: AttentionOptions,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        attention::backward(d_o, saved, segments, options)
    }

    fn linear_cross_entropy_forward(
        h: CubeTensor,
        words: CubeTensor,
        format: WeightFormat,
        targets: Arc<[u32]>,
    ) -> (CubeTensor, CubeTensor) {
        let (loss, dh) = cross_entropy::forward(h, words, format, &targets, true);
        (loss, dh.expect("asked for"))
    }

    fn scaled(gradient: CubeTensor, upstream: CubeTensor) -> CubeTensor {
        linear::times(gradient, upstream, 1.0)
    }

    fn rms_norm_backward(
        dy: CubeTensor,
        x: CubeTensor,
        weight: CubeTensor,
        epsilon: f32,
        left: Option<CubeTensor>,
    ) -> CubeTensor {
        let (dy, x, weight) = (packed(dy), packed(x), packed(weight));
        let [count, width] = dims(&x);
        let dx = fresh(&x, [count, width], x.dtype);
        if count == 0 {
            return dx;
        }
        let client = x.client.clone();
        let (cubes, dim, units) = rows(&client, count);
        let (dtype, lanes) = (storage(x.dtype), lanes(x.dtype, width));
        let added = left.is_some();
        let left = left.map_or_else(|| dy.clone(), packed); // not read where there is none
        rms_norm_backward_kernel::launch(
            &client,
            cubes,
            dim,
            lanes,
            dy.argument(),
            x.argument(),
            weight.argument(),
            left.argument(),
            dx.clone().argument(),
            width / lanes,
            epsilon,
            added,
            units,
            dtype,
        );
        dx
    }

    fn swiglu_backward(
        dy: CubeTensor,
        gate: CubeTensor,
        up: CubeTensor,
    ) -> (CubeTensor, CubeTensor) {
        let (dy, gate, up) = (packed(dy), packed(gate), packed(up));
        let (dgate, dup) = (
            fresh(&gate, dims(&gate), gate.dtype),
            fresh(&gate, dims(&gate), gate.dtype),
        );
        let count = elements(&gate);
        if count == 0 {
            return (dgate, dup);
        }
        let client = gate.client.clone();
        let (dtype, lanes) = (storage(gate.dtype), lanes(gate.dtype, count));
        let (cubes, dim) = each(&client, count / lanes);
        swiglu_backward_kernel::launch(
            &client,
            cubes,
            dim,
            lanes,
            dy.argument(),
            gate.argument(),
            up.argument(),
            dgate.clone().argument(),
            dup.clone().argument(),
            count / lanes,
            dtype,
        );
        (dgate, dup)
    }
}
