//! The operations burn lacks: one signature each, for every back end.
//!
//! [`Ops`] is what a tensor on any device can be asked for; `#[backend_extension]` writes the
//! dispatch. [`Gradients`] is what a plain back end must add so that autodiff can differentiate
//! them: it names what the forward pass hands to the backward pass. Float tensors are token-major
//! `[tokens, features]`, f32 on the CPU; on a GPU activations may be bf16. An absent bias is a tensor
//! of no elements.

use crate::format::WeightFormat;
use crate::kernels::dropout::Dropout;
use crate::segments::{AttentionOptions, Segments};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata, backend_extension};
use burn::tensor::{FloatDType, Shape};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Whether one of the operations that read a tensor has left a gradient of it, to which the next adds its
/// own instead of the tape's summing them; shared by all of them. By default there is one reader.
#[derive(Clone, Debug, Default)]
pub struct Begun(Option<Arc<AtomicBool>>);

impl Begun {
    /// For a tensor that several operations read.
    pub(crate) fn by_none() -> Self {
        Begun(Some(Arc::default()))
    }

    /// Whether there is a gradient to add to. From now on there is.
    pub(crate) fn begin(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|begun| begun.swap(true, Relaxed))
    }
}

#[backend_extension(Flex, Autodiff, Cube: cfg(feature = "cube"))]
pub trait Ops: Backend {
    /// x itself, whose gradient can be taken out of the tape and be added to; a leaf's cannot.
    fn fan_out(x: FloatTensor<Self>) -> FloatTensor<Self> {
        x
    }

    /// y = x·Wᵀ + bias
    fn linear(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        bias: FloatTensor<Self>,
        format: WeightFormat,
        begun: Begun,
    ) -> FloatTensor<Self>;

    /// y = x·Wᵀ + bias + s·(drop(x)·Aᵀ)·Bᵀ
    #[allow(clippy::too_many_arguments)]
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
    ) -> FloatTensor<Self>;

    /// Rows of W.
    fn embedding(
        words: IntTensor<Self>,
        format: WeightFormat,
        ids: Arc<[u32]>,
    ) -> FloatTensor<Self>;

    /// Causal, block-diagonal, grouped-query attention.
    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        segments: Segments,
        options: AttentionOptions,
    ) -> FloatTensor<Self>;

    /// Σ −log softmax(h·Wᵀ)[target], shape `[1]`
    fn linear_cross_entropy(
        h: FloatTensor<Self>,
        words: IntTensor<Self>,
        format: WeightFormat,
        targets: Arc<[u32]>,
    ) -> FloatTensor<Self>;

    /// x / √(mean(x²) + ε)·weight
    fn rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f32,
        begun: Begun,
    ) -> FloatTensor<Self>;

    /// x + y
    fn add(x: FloatTensor<Self>, y: FloatTensor<Self>, begun: Begun) -> FloatTensor<Self>;

    /// Rotation by the angles of each row, or back by them.
    fn rotary(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        heads: usize,
        inverse: bool,
    ) -> FloatTensor<Self>;

    /// A scalar whose gradient in `y` is `dy`: where a backward pass begins that another tape hands
    /// on. Its value is 0; sum such scalars, but do not scale them.
    fn with_gradient(
        y: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        begun: Begun,
    ) -> FloatTensor<Self> {
        let _ = begun;
        nothing::<Self>(y, dy)
    }

    /// As `with_gradient` of `linear`'s y, which is not computed.
    fn linear_with_gradient(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        dy: FloatTensor<Self>,
        format: WeightFormat,
    ) -> FloatTensor<Self> {
        let _ = (words, format);
        nothing::<Self>(x, dy)
    }

    /// As `with_gradient` of `lora_linear`'s y, which is not computed.
    #[allow(clippy::too_many_arguments)]
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
        let _ = (words, a, b, format, scaling, dropout);
        nothing::<Self>(x, dy)
    }

    /// silu(gate)·up
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// The value of a scalar that is only there for its gradient.
pub(crate) fn nothing<B: Backend>(x: FloatTensor<B>, dy: FloatTensor<B>) -> FloatTensor<B> {
    drop(dy);
    B::float_zeros(Shape::new([1]), &x.device(), FloatDType::F32)
}

/// An adapter as the backward pass needs it.
#[derive(Clone, Debug)]
pub struct Adapter<B: Backend> {
    pub a: FloatTensor<B>,
    pub b: FloatTensor<B>,
    pub scaling: f32,
    pub dropout: Option<Dropout>,
}

/// What the adapter's path keeps: u = drop(x)·Aᵀ, and which elements of x were not dropped, where the
/// back end does not draw them again.
#[derive(Clone, Debug)]
pub struct SavedProjection<B: Backend> {
    pub u: FloatTensor<B>,
    pub kept: Option<IntTensor<B>>,
}

/// What attention keeps: its inputs, its output and one logsumexp per row and head.
#[derive(Clone, Debug)]
pub struct SavedAttention<B: Backend> {
    pub q: FloatTensor<B>,
    pub k: FloatTensor<B>,
    pub v: FloatTensor<B>,
    pub o: FloatTensor<B>,
    pub lse: FloatTensor<B>,
}

/// What becomes of the gradient of an adapted linear's input.
#[derive(Debug)]
pub enum Dx<B: Backend> {
    /// x has none.
    Unwanted,
    Wanted {
        left: Option<FloatTensor<B>>,
    },
}

/// The other half of each operation. A gradient of x is added to `left`, what other readers of x have
/// left of it.
pub trait Gradients: Backend {
    /// dx = dy·W
    fn linear_backward(
        dy: FloatTensor<Self>,
        words: IntTensor<Self>,
        format: WeightFormat,
        left: Option<FloatTensor<Self>>,
    ) -> FloatTensor<Self>;

    /// y, and what is kept for the gradients.
    fn lora_linear_forward(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        bias: FloatTensor<Self>,
        adapter: Adapter<Self>,
        format: WeightFormat,
    ) -> (FloatTensor<Self>, SavedProjection<Self>);

    /// The latter alone, where y is not wanted.
    fn lora_projection(x: FloatTensor<Self>, adapter: Adapter<Self>) -> SavedProjection<Self>;

    /// (dx if wanted, dA, dB)
    #[allow(clippy::too_many_arguments)]
    fn lora_linear_backward(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        saved: SavedProjection<Self>,
        words: IntTensor<Self>,
        adapter: Adapter<Self>,
        format: WeightFormat,
        dx: Dx<Self>,
    ) -> (
        Option<FloatTensor<Self>>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    );

    fn attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        segments: Segments,
        options: AttentionOptions,
    ) -> SavedAttention<Self>;

    /// (dq, dk, dv)
    fn attention_backward(
        d_o: FloatTensor<Self>,
        saved: SavedAttention<Self>,
        segments: Segments,
        options: AttentionOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// (loss, dh for an upstream gradient of 1)
    fn linear_cross_entropy_forward(
        h: FloatTensor<Self>,
        words: IntTensor<Self>,
        format: WeightFormat,
        targets: Arc<[u32]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// `gradient` times the one element of `upstream`.
    fn scaled(gradient: FloatTensor<Self>, upstream: FloatTensor<Self>) -> FloatTensor<Self>;

    fn rms_norm_backward(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        epsilon: f32,
        left: Option<FloatTensor<Self>>,
    ) -> FloatTensor<Self>;

    /// (dgate, dup)
    fn swiglu_backward(
        dy: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}
