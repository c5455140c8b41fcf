//! The CPU: Flex tensors as slices, handed to the kernels without copying.

use crate::format::WeightFormat;
use crate::functions::Parameter;
use crate::kernels::adamw::{self, AdamW};
use crate::kernels::dropout::Dropout;
use crate::kernels::linear::LoraView;
use crate::kernels::panel::WeightView;
use crate::kernels::simd::Level;
use crate::kernels::{add, attention, cross_entropy, linear, low_rank, normalize, rotary, swiglu};
use crate::schema::{Adapter, Begun, Dx, Gradients, Ops, SavedAttention, SavedProjection};
use crate::segments::{AttentionOptions, Segments};
use burn::backend::Flex;
use burn::tensor::{Tensor, TensorData};
use burn_flex::FlexTensor;
use std::sync::Arc;

/// The same tensor, its elements in order without gaps: no copy when they already are.
pub(crate) fn packed(t: FlexTensor) -> FlexTensor {
    if t.layout().contiguous_offsets().is_some() {
        t
    } else {
        t.to_contiguous()
    }
}

/// The elements of a [`packed`] f32 tensor.
pub(crate) fn floats(t: &FlexTensor) -> &[f32] {
    t.as_slice().expect("ops compute on f32 tensors")
}

pub(crate) fn matrix(values: Vec<f32>, columns: usize) -> FlexTensor {
    let rows = values.len() / columns.max(1);
    FlexTensor::from_data(TensorData::new(values, [rows, columns]))
}

pub(crate) fn view(words: &FlexTensor, format: WeightFormat) -> WeightView<'_> {
    WeightView::new(
        words
            .as_slice::<u32>()
            .expect("a weight is made of u32 words"),
        format,
    )
}

fn columns(t: &FlexTensor) -> usize {
    t.layout().shape()[1]
}

struct HostAdapter {
    a: FlexTensor,
    b: FlexTensor,
    scaling: f32,
    dropout: Option<Dropout>,
}

impl HostAdapter {
    fn new(adapter: Adapter<Flex>) -> Self {
        let Adapter {
            a,
            b,
            scaling,
            dropout,
        } = adapter;
        HostAdapter {
            a: packed(a),
            b: packed(b),
            scaling,
            dropout,
        }
    }

    fn view(&self) -> LoraView<'_> {
        let rank = self.a.layout().shape()[0];
        LoraView {
            a: floats(&self.a),
            b: floats(&self.b),
            rank,
            scaling: self.scaling,
            dropout: self.dropout,
        }
    }
}

fn saved(u: Vec<f32>, kept: Vec<u8>, lora: &LoraView<'_>) -> SavedProjection<Flex> {
    let bytes = [kept.len()];
    SavedProjection {
        u: matrix(u, lora.rank),
        kept: lora
            .dropout
            .map(|_| FlexTensor::from_data(TensorData::new(kept, bytes))),
    }
}

fn bias_of(bias: &FlexTensor) -> Option<&[f32]> {
    Some(floats(bias)).filter(|b| !b.is_empty())
}

impl Ops for Flex {
    fn linear(
        x: FlexTensor,
        words: FlexTensor,
        bias: FlexTensor,
        format: WeightFormat,
        _: Begun,
    ) -> FlexTensor {
        let (x, bias) = (packed(x), packed(bias));
        let forward = linear::forward(
            Level::best(),
            floats(&x),
            view(&words, format),
            bias_of(&bias),
            None,
        );
        matrix(forward.y, format.out_features)
    }

    fn lora_linear(
        x: FlexTensor,
        words: FlexTensor,
        bias: FlexTensor,
        a: FlexTensor,
        b: FlexTensor,
        format: WeightFormat,
        scaling: f32,
        dropout: Option<Dropout>,
        _: Begun,
    ) -> FlexTensor {
        Self::lora_linear_forward(
            x,
            words,
            bias,
            Adapter {
                a,
                b,
                scaling,
                dropout,
            },
            format,
        )
        .0
    }

    fn embedding(words: FlexTensor, format: WeightFormat, ids: Arc<[u32]>) -> FlexTensor {
        let weight = view(&words, format);
        let width = format.in_features;
        // SAFETY: every row is written below.
        let mut rows = unsafe { crate::kernels::unwritten(ids.len() * width) };
        for (row, id) in rows.chunks_exact_mut(width).zip(ids.iter()) {
            let id = *id as usize;
            weight.rows(Level::best(), id..id + 1, 0..width, row, width);
        }
        matrix(rows, width)
    }

    fn attention(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        segments: Segments,
        options: AttentionOptions,
    ) -> FlexTensor {
        Self::attention_forward(q, k, v, segments, options).o
    }

    fn linear_cross_entropy(
        h: FlexTensor,
        words: FlexTensor,
        format: WeightFormat,
        targets: Arc<[u32]>,
    ) -> FlexTensor {
        let h = packed(h);
        let (loss, _) = cross_entropy::forward(
            Level::best(),
            floats(&h),
            view(&words, format),
            &targets,
            false,
        );
        FlexTensor::from_data(TensorData::new(vec![loss as f32], [1]))
    }

    fn rms_norm(x: FlexTensor, weight: FlexTensor, epsilon: f32, _: Begun) -> FlexTensor {
        let (x, weight) = (packed(x), packed(weight));
        matrix(
            normalize::forward(Level::best(), floats(&x), floats(&weight), epsilon),
            columns(&x),
        )
    }

    fn add(x: FlexTensor, y: FlexTensor, _: Begun) -> FlexTensor {
        let (x, mut sum) = (packed(x), whole(y));
        add::add(Level::best(), floats(&x), sum.storage_mut());
        sum
    }

    fn rotary(
        x: FlexTensor,
        cos: FlexTensor,
        sin: FlexTensor,
        heads: usize,
        inverse: bool,
    ) -> FlexTensor {
        let (x, cos, sin) = (packed(x), packed(cos), packed(sin));
        let sign = if inverse { -1.0 } else { 1.0 };
        matrix(
            rotary::rotate(
                floats(&x),
                floats(&cos),
                floats(&sin),
                heads,
                columns(&cos),
                sign,
            ),
            columns(&x),
        )
    }

    fn swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        let (gate, up) = (packed(gate), packed(up));
        matrix(
            swiglu::forward(Level::best(), floats(&gate), floats(&up)),
            columns(&gate),
        )
    }
}

/// All parameters on the host in one parallel region; see [`crate::adamw`].
pub(crate) fn adamw(parameters: Vec<Parameter>, options: &AdamW) -> Vec<[Tensor<2>; 3]> {
    let host = |t: Tensor<2>| {
        let t = t.try_into_primitive::<Flex>();
        t.expect("the caller has seen that it lies on the host")
    };
    let mut tensors: Vec<_> = parameters
        .into_iter()
        .map(|p| {
            let grad = packed(host(p.grad));
            (
                grad,
                [p.value, p.exp_avg, p.exp_avg_sq].map(|t| whole(host(t))),
            )
        })
        .collect();
    let arrays = tensors
        .iter_mut()
        .map(|(grad, [value, m, v])| adamw::Arrays {
            param: value.storage_mut(),
            grad: floats(grad),
            exp_avg: m.storage_mut(),
            exp_avg_sq: v.storage_mut(),
        })
        .collect();
    adamw::update_all(arrays, options);
    tensors
        .into_iter()
        .map(|(_, state)| state.map(Tensor::from_primitive::<Flex>))
        .collect()
}

/// A tensor that is all of its buffer, so that it can be changed in place (copied only if shared).
fn whole(t: FlexTensor) -> FlexTensor {
    let elements = t.layout().num_elements();
    if t.layout().contiguous_offsets() == Some((0, elements)) && t.bytes().len() == elements * 4 {
        t
    } else {
        t.to_contiguous()
    }
}

/// dx where it is wanted.
fn added_to(left: &mut Option<FlexTensor>) -> linear::Dx<'_> {
    match left {
        None => linear::Dx::New,
        Some(left) => linear::Dx::AddedTo(left.storage_mut()),
    }
}

impl Gradients for Flex {
    fn linear_backward(
        dy: FlexTensor,
        words: FlexTensor,
        format: WeightFormat,
        left: Option<FlexTensor>,
    ) -> FlexTensor {
        let dy = packed(dy);
        let mut left = left.map(whole);
        let gradients = linear::backward(
            Level::best(),
            floats(&dy),
            &[],
            &[],
            &[],
            view(&words, format),
            None,
            added_to(&mut left),
        );
        let new = gradients.dx.map(|dx| matrix(dx, format.in_features));
        new.or(left).expect("one of them is dx")
    }

    fn lora_linear_forward(
        x: FlexTensor,
        words: FlexTensor,
        bias: FlexTensor,
        adapter: Adapter<Flex>,
        format: WeightFormat,
    ) -> (FlexTensor, SavedProjection<Flex>) {
        let (x, bias, adapter) = (packed(x), packed(bias), HostAdapter::new(adapter));
        let lora = adapter.view();
        let linear::Forward { y, u, kept } = linear::forward(
            Level::best(),
            floats(&x),
            view(&words, format),
            bias_of(&bias),
            Some(lora),
        );
        (matrix(y, format.out_features), saved(u, kept, &lora))
    }

    fn lora_projection(x: FlexTensor, adapter: Adapter<Flex>) -> SavedProjection<Flex> {
        let (x, adapter) = (packed(x), HostAdapter::new(adapter));
        let lora = adapter.view();
        let (u, kept) = low_rank::project(Level::best(), floats(&x), columns(&x), &lora);
        saved(u, kept, &lora)
    }

    fn lora_linear_backward(
        dy: FlexTensor,
        x: FlexTensor,
        saved: SavedProjection<Flex>,
        words: FlexTensor,
        adapter: Adapter<Flex>,
        format: WeightFormat,
        dx: Dx<Flex>,
    ) -> (Option<FlexTensor>, FlexTensor, FlexTensor) {
        let (dy, x, adapter) = (packed(dy), packed(x), HostAdapter::new(adapter));
        let lora = adapter.view();
        let weight = view(&words, format);
        let kept = saved.kept.as_ref().map_or(&[][..], |kept| {
            kept.as_slice::<u8>().expect("bits are made of bytes")
        });
        let (is_wanted, mut left) = match dx {
            Dx::Unwanted => (false, None),
            Dx::Wanted { left } => (true, left.map(whole)),
        };
        let gradients = linear::backward(
            Level::best(),
            floats(&dy),
            floats(&x),
            floats(&saved.u),
            kept,
            weight,
            Some(lora),
            match is_wanted {
                true => added_to(&mut left),
                false => linear::Dx::Unwanted,
            },
        );
        let (da, db) = gradients.da_db.expect("there is an adapter");
        let new = gradients.dx.map(|dx| matrix(dx, format.in_features));
        (
            new.or(left),
            matrix(da, format.in_features),
            matrix(db, lora.rank),
        )
    }

    fn attention_forward(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        segments: Segments,
        options: AttentionOptions,
    ) -> SavedAttention<Flex> {
        let (q, k, v) = (packed(q), packed(k), packed(v));
        let (o, lse) = attention::forward(
            Level::best(),
            floats(&q),
            floats(&k),
            floats(&v),
            &segments,
            &options,
        );
        let (o, lse) = (matrix(o, columns(&q)), matrix(lse, options.heads));
        SavedAttention { q, k, v, o, lse }
    }

    fn attention_backward(
        d_o: FlexTensor,
        saved: SavedAttention<Flex>,
        segments: Segments,
        options: AttentionOptions,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let d_o = packed(d_o);
        let slices = attention::Saved {
            q: floats(&saved.q),
            k: floats(&saved.k),
            v: floats(&saved.v),
            o: floats(&saved.o),
            lse: floats(&saved.lse),
        };
        let (dq, dk, dv) =
            attention::backward(Level::best(), floats(&d_o), &slices, &segments, &options);
        (
            matrix(dq, columns(&saved.q)),
            matrix(dk, columns(&saved.k)),
            matrix(dv, columns(&saved.v)),
        )
    }

    fn linear_cross_entropy_forward(
        h: FlexTensor,
        words: FlexTensor,
        format: WeightFormat,
        targets: Arc<[u32]>,
    ) -> (FlexTensor, FlexTensor) {
        let h = packed(h);
        let (loss, dh) = cross_entropy::forward(
            Level::best(),
            floats(&h),
            view(&words, format),
            &targets,
            true,
        );
        (
            FlexTensor::from_data(TensorData::new(vec![loss as f32], [1])),
            matrix(dh, format.in_features),
        )
    }

    fn scaled(gradient: FlexTensor, upstream: FlexTensor) -> FlexTensor {
        let factor = floats(&packed(upstream))[0];
        let mut gradient = whole(gradient);
        gradient
            .storage_mut::<f32>()
            .iter_mut()
            .for_each(|v| *v *= factor);
        gradient
    }

    fn rms_norm_backward(
        dy: FlexTensor,
        x: FlexTensor,
        weight: FlexTensor,
        epsilon: f32,
        left: Option<FlexTensor>,
    ) -> FlexTensor {
        let (dy, x, weight) = (packed(dy), packed(x), packed(weight));
        let (level, width) = (Level::best(), columns(&x));
        let (dy, x, weight) = (floats(&dy), floats(&x), floats(&weight));
        match left.map(whole) {
            None => matrix(normalize::backward(level, dy, x, weight, epsilon), width),
            Some(mut sum) => {
                normalize::add_backward(level, dy, x, weight, epsilon, sum.storage_mut());
                sum
            }
        }
    }

    fn swiglu_backward(
        dy: FlexTensor,
        gate: FlexTensor,
        up: FlexTensor,
    ) -> (FlexTensor, FlexTensor) {
        let (dy, gate, up) = (packed(dy), packed(gate), packed(up));
        let (dgate, dup) = swiglu::backward(Level::best(), floats(&dy), floats(&gate), floats(&up));
        (matrix(dgate, columns(&gate)), matrix(dup, columns(&gate)))
    }
}
