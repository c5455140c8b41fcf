//! What the tape keeps of each operation, and what it computes again.
//!
//! linear: the packed weight (a reference), x, u = drop(x)·Aᵀ `[tokens, rank]` and on the CPU a bit for
//! each element of x that dropout kept; W is dequantised again in backward. attention: q, k, v, o and a
//! logsumexp per row and head. linear_cross_entropy: dh, computed with the loss. rms_norm, swiglu:
//! their inputs. rotary: the angles. with_gradient: the gradient. add, fan_out: nothing. Weights of norms,
//! biases and angles are frozen: no gradient.

use crate::format::WeightFormat;
use crate::kernels::dropout::Dropout;
use crate::schema::{
    Adapter, Begun, Dx, Gradients as OpGradients, Ops as QloraOps, SavedAttention, SavedProjection,
    nothing,
};
use crate::segments::{AttentionOptions, Segments};
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend};
use std::sync::Arc;

/// A differentiable back end underneath.
trait Differentiable: QloraOps + OpGradients {}
impl<B: QloraOps + OpGradients> Differentiable for B {}

/// What other readers of a tensor have left of its gradient, taken out to be added to. (burn's
/// `register` adds too: on one thread, into a tensor of its own.)
macro_rules! left {
    ($grads:ident, $begun:expr, $node:expr) => {
        $begun.begin().then(|| $grads.consume::<B>($node))
    };
}

#[derive(Debug)]
struct FanOutStep;

impl<B: Differentiable> Backward<B, 1> for FanOutStep {
    type State = ();

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dx = grads.consume::<B>(&ops.node);
        if let [Some(x)] = ops.parents {
            grads.register::<B>(x.id, dx);
        }
    }
}

#[derive(Debug)]
struct AddStep;

impl<B: Differentiable> Backward<B, 2> for AddStep {
    type State = Begun;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let [x, y] = ops.parents;
        if let Some(x) = x {
            let dx = match left!(grads, ops.state, &x) {
                None => dy.clone(),
                Some(left) => B::add(dy.clone(), left, Begun::default()),
            };
            grads.register::<B>(x.id, dx);
        }
        if let Some(y) = y {
            grads.register::<B>(y.id, dy);
        }
    }
}

#[derive(Debug)]
struct LinearStep;

impl<B: Differentiable> Backward<B, 1> for LinearStep {
    type State = (IntTensor<B>, WeightFormat, Begun);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let (words, format, begun) = ops.state;
        if let [Some(x)] = ops.parents {
            let left = left!(grads, begun, &x);
            grads.register::<B>(x.id, B::linear_backward(dy, words, format, left));
        }
    }
}

#[derive(Debug)]
struct LoraLinearStep;

#[derive(Clone, Debug)]
struct LoraLinearState<B: Backend> {
    x: FloatTensor<B>,
    saved: SavedProjection<B>,
    words: IntTensor<B>,
    adapter: Adapter<B>,
    format: WeightFormat,
}

impl<B: Differentiable> Backward<B, 3> for LoraLinearStep {
    type State = (LoraLinearState<B>, Begun);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let (state, begun) = ops.state;
        let left = ops.parents[0].as_ref();
        let left = left.and_then(|x| left!(grads, begun, x));
        state.backward(dy, left, ops.parents.map(|p| p.map(|p| p.id)), grads);
    }
}

impl<B: Differentiable> LoraLinearState<B> {
    fn backward(
        self,
        dy: FloatTensor<B>,
        left: Option<FloatTensor<B>>,
        parents: [Option<NodeId>; 3],
        grads: &mut Gradients,
    ) {
        let [x_node, a_node, b_node] = parents;
        let LoraLinearState {
            x,
            saved,
            words,
            adapter,
            format,
        } = self;
        let dx = match x_node {
            None => Dx::Unwanted,
            Some(_) => Dx::Wanted { left },
        };
        let (dx, da, db) = B::lora_linear_backward(dy, x, saved, words, adapter, format, dx);
        for (node, gradient) in [(x_node, dx), (a_node, Some(da)), (b_node, Some(db))] {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<B>(node, gradient);
            }
        }
    }
}

/// y = x: its gradient is the state, whatever comes from above.
#[derive(Debug)]
struct WithGradientStep;

impl<B: Differentiable> Backward<B, 1> for WithGradientStep {
    type State = (FloatTensor<B>, Begun);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        grads.consume::<B>(&ops.node);
        let (dy, begun) = ops.state;
        if let [Some(y)] = ops.parents {
            let dy = match left!(grads, begun, &y) {
                None => dy,
                Some(left) => B::add(dy, left, Begun::default()),
            };
            grads.register::<B>(y.id, dy);
        }
    }
}

/// [`LinearStep`] for a dy that is known.
#[derive(Debug)]
struct LinearWithGradientStep;

impl<B: Differentiable> Backward<B, 1> for LinearWithGradientStep {
    type State = (FloatTensor<B>, IntTensor<B>, WeightFormat);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        grads.consume::<B>(&ops.node);
        let (dy, words, format) = ops.state;
        if let [Some(x)] = ops.parents {
            grads.register::<B>(x.id, B::linear_backward(dy, words, format, None));
        }
    }
}

/// [`LoraLinearStep`] for a dy that is known.
#[derive(Debug)]
struct LoraLinearWithGradientStep;

impl<B: Differentiable> Backward<B, 3> for LoraLinearWithGradientStep {
    type State = (FloatTensor<B>, LoraLinearState<B>);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        grads.consume::<B>(&ops.node);
        let (dy, state) = ops.state;
        state.backward(dy, None, ops.parents.map(|p| p.map(|p| p.id)), grads);
    }
}

#[derive(Debug)]
struct AttentionStep;

impl<B: Differentiable> Backward<B, 3> for AttentionStep {
    type State = (SavedAttention<B>, Segments, AttentionOptions);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let d_o = grads.consume::<B>(&ops.node);
        let (saved, segments, options) = ops.state;
        let (dq, dk, dv) = B::attention_backward(d_o, saved, segments, options);
        for (node, gradient) in ops.parents.into_iter().zip([dq, dk, dv]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct LinearCrossEntropyStep;

impl<B: Differentiable> Backward<B, 1> for LinearCrossEntropyStep {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let upstream = grads.consume::<B>(&ops.node);
        if let [Some(h)] = ops.parents {
            grads.register::<B>(h.id, B::scaled(ops.state, upstream));
        }
    }
}

#[derive(Debug)]
struct RmsNormStep;

impl<B: Differentiable> Backward<B, 1> for RmsNormStep {
    type State = (FloatTensor<B>, FloatTensor<B>, f32, Begun);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let (x, weight, epsilon, begun) = ops.state;
        if let [Some(node)] = ops.parents {
            let left = left!(grads, begun, &node);
            let dx = B::rms_norm_backward(dy, x, weight, epsilon, left);
            grads.register::<B>(node.id, dx);
        }
    }
}

#[derive(Debug)]
struct RotaryStep;

#[derive(Clone, Debug)]
struct RotaryState<B: Backend> {
    cos: FloatTensor<B>,
    sin: FloatTensor<B>,
    heads: usize,
    inverse: bool,
}

impl<B: Differentiable> Backward<B, 1> for RotaryStep {
    type State = RotaryState<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let RotaryState {
            cos,
            sin,
            heads,
            inverse,
        } = ops.state;
        if let [Some(x)] = ops.parents {
            grads.register::<B>(x.id, B::rotary(dy, cos, sin, heads, !inverse));
        }
    }
}

#[derive(Debug)]
struct SwigluStep;

impl<B: Differentiable> Backward<B, 2> for SwigluStep {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let (gate, up) = ops.state;
        let (dgate, dup) = B::swiglu_backward(dy, gate, up);
        for (node, gradient) in ops.parents.into_iter().zip([dgate, dup]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: Differentiable, C: CheckpointStrategy> QloraOps for Autodiff<B, C> {
    fn fan_out(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, guard) = x.into_parts();
        match FanOutStep.prepare::<C>([guard]).compute_bound().stateful() {
            OpsKind::Tracked(step) => step.finish((), x),
            OpsKind::UnTracked(step) => step.finish(x),
        }
    }

    fn linear(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        bias: FloatTensor<Self>,
        format: WeightFormat,
        begun: Begun,
    ) -> FloatTensor<Self> {
        let (x, guard) = x.into_parts();
        let bias = bias.into_primitive();
        let y = <B as QloraOps>::linear(x, words.clone(), bias, format, Begun::default());
        match LinearStep.prepare::<C>([guard]).compute_bound().stateful() {
            OpsKind::Tracked(step) => step.finish((words, format, begun), y),
            OpsKind::UnTracked(step) => step.finish(y),
        }
    }

    fn lora_linear(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        bias: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        format: WeightFormat,
        scaling: f32,
        dropout: Option<Dropout>,
        begun: Begun,
    ) -> FloatTensor<Self> {
        let ((x, x_guard), (a, a_guard), (b, b_guard)) =
            (x.into_parts(), a.into_parts(), b.into_parts());
        let bias = bias.into_primitive();
        let adapter = Adapter {
            a,
            b,
            scaling,
            dropout,
        };
        let (y, saved) =
            B::lora_linear_forward(x.clone(), words.clone(), bias, adapter.clone(), format);
        match LoraLinearStep
            .prepare::<C>([x_guard, a_guard, b_guard])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(step) => {
                let state = LoraLinearState {
                    x,
                    saved,
                    words,
                    adapter,
                    format,
                };
                step.finish((state, begun), y)
            }
            OpsKind::UnTracked(step) => step.finish(y),
        }
    }

    fn with_gradient(
        y: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        begun: Begun,
    ) -> FloatTensor<Self> {
        let (y, guard) = y.into_parts();
        let dy = dy.into_primitive();
        let value = nothing::<B>(y, dy.clone());
        match WithGradientStep
            .prepare::<C>([guard])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(step) => step.finish((dy, begun), value),
            OpsKind::UnTracked(step) => step.finish(value),
        }
    }

    fn linear_with_gradient(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        dy: FloatTensor<Self>,
        format: WeightFormat,
    ) -> FloatTensor<Self> {
        let (x, guard) = x.into_parts();
        let dy = dy.into_primitive();
        let value = nothing::<B>(x, dy.clone());
        match LinearWithGradientStep
            .prepare::<C>([guard])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(step) => step.finish((dy, words, format), value),
            OpsKind::UnTracked(step) => step.finish(value),
        }
    }

    fn lora_linear_with_gradient(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        format: WeightFormat,
        scaling: f32,
        dropout: Option<Dropout>,
    ) -> FloatTensor<Self> {
        let ((x, x_guard), (a, a_guard), (b, b_guard)) =
            (x.into_parts(), a.into_parts(), b.into_parts());
        let dy = dy.into_primitive();
        let value = nothing::<B>(x.clone(), dy.clone());
        let adapter = Adapter {
            a,
            b,
            scaling,
            dropout,
        };
        match LoraLinearWithGradientStep
            .prepare::<C>([x_guard, a_guard, b_guard])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(step) => {
                let saved = B::lora_projection(x.clone(), adapter.clone());
                let state = LoraLinearState {
                    x,
                    saved,
                    words,
                    adapter,
                    format,
                };
                step.finish((dy, state), value)
            }
            OpsKind::UnTracked(step) => step.finish(value),
        }
    }

    fn embedding(
        words: IntTensor<Self>,
        format: WeightFormat,
        ids: Arc<[u32]>,
    ) -> FloatTensor<Self> {
        <Self as burn::backend::AutodiffBackend>::from_inner(<B as QloraOps>::embedding(
            words, format, ids,
        ))
    }

    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        segments: Segments,
        options: AttentionOptions,
    ) -> FloatTensor<Self> {
        let ((q, q_guard), (k, k_guard), (v, v_guard)) =
            (q.into_parts(), k.into_parts(), v.into_parts());
        let saved = B::attention_forward(q, k, v, segments.clone(), options);
        let o = saved.o.clone();
        match AttentionStep
            .prepare::<C>([q_guard, k_guard, v_guard])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(step) => {
                segments.check_disjoint_keys();
                step.finish((saved, segments, options), o)
            }
            OpsKind::UnTracked(step) => step.finish(o),
        }
    }

    fn linear_cross_entropy(
        h: FloatTensor<Self>,
        words: IntTensor<Self>,
        format: WeightFormat,
        targets: Arc<[u32]>,
    ) -> FloatTensor<Self> {
        let (h, guard) = h.into_parts();
        match LinearCrossEntropyStep
            .prepare::<C>([guard])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(step) => {
                let (loss, dh) = B::linear_cross_entropy_forward(h, words, format, targets);
                step.finish(dh, loss)
            }
            OpsKind::UnTracked(step) => {
                step.finish(B::linear_cross_entropy(h, words, format, targets))
            }
        }
    }

    fn rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f32,
        begun: Begun,
    ) -> FloatTensor<Self> {
        let ((x, guard), weight) = (x.into_parts(), weight.into_primitive());
        let y = B::rms_norm(x.clone(), weight.clone(), epsilon, Begun::default());
        match RmsNormStep.prepare::<C>([guard]).compute_bound().stateful() {
            OpsKind::Tracked(step) => step.finish((x, weight, epsilon, begun), y),
            OpsKind::UnTracked(step) => step.finish(y),
        }
    }

    fn add(x: FloatTensor<Self>, y: FloatTensor<Self>, begun: Begun) -> FloatTensor<Self> {
        let ((x, x_guard), (y, y_guard)) = (x.into_parts(), y.into_parts());
        let sum = <B as QloraOps>::add(x, y, Begun::default());
        match AddStep
            .prepare::<C>([x_guard, y_guard])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(step) => step.finish(begun, sum),
            OpsKind::UnTracked(step) => step.finish(sum),
        }
    }

    fn rotary(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        heads: usize,
        inverse: bool,
    ) -> FloatTensor<Self> {
        let ((x, guard), cos, sin) = (x.into_parts(), cos.into_primitive(), sin.into_primitive());
        let y = B::rotary(x, cos.clone(), sin.clone(), heads, inverse);
        match RotaryStep.prepare::<C>([guard]).compute_bound().stateful() {
            OpsKind::Tracked(step) => step.finish(
                RotaryState {
                    cos,
                    sin,
                    heads,
                    inverse,
                },
                y,
            ),
            OpsKind::UnTracked(step) => step.finish(y),
        }
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((gate, gate_guard), (up, up_guard)) = (gate.into_parts(), up.into_parts());
        let y = B::swiglu(gate.clone(), up.clone());
        match SwigluStep
            .prepare::<C>([gate_guard, up_guard])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(step) => step.finish((gate, up), y),
            OpsKind::UnTracked(step) => step.finish(y),
        }
    }
}
