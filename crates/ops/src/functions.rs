//! The operations as a model calls them, on burn tensors of shape `[tokens, features]`.

use crate::backends::flex;
use crate::kernels::adamw::AdamW;
use crate::kernels::dropout::Dropout;
use crate::schema::{Begun, Ops};
use crate::segments::{AttentionOptions, Segments};
use crate::weight::Weight;
use burn::backend::{Dispatch, Flex};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;

/// A low-rank adapter of one linear: ΔW = scaling·B·A (arXiv 2106.09685).
#[derive(Clone, Copy, Debug)]
pub struct Lora<'a> {
    /// `[rank, in]`
    pub a: &'a Tensor<2>,
    /// `[out, rank]`
    pub b: &'a Tensor<2>,
    pub scaling: f32,
    /// Dropout of the adapter's input; `None` outside training.
    pub dropout: Option<Dropout>,
}

/// A tensor that operations read, each a clone of it: where they are several, each adds its gradient to
/// what the others have left, instead of the tape's summing them on one thread.
///
/// What is made of a tensor by `into()` has one reader, for which it makes no difference.
#[derive(Clone, Debug)]
pub struct FanOut {
    tensor: Tensor<2>,
    begun: Begun,
}

impl FanOut {
    /// For several readers.
    pub fn new(tensor: Tensor<2>) -> Self {
        // What is left of a leaf's gradient stays with the tape, so a leaf has one reader.
        let tensor = match tensor.is_require_grad() {
            true => Tensor::from_dispatch(Dispatch::fan_out(tensor.into_dispatch())),
            false => tensor,
        };
        let begun = Begun::by_none();
        FanOut { tensor, begun }
    }

    /// `[tokens, features]`
    pub fn dims(&self) -> [usize; 2] {
        self.tensor.dims()
    }
}

impl From<Tensor<2>> for FanOut {
    fn from(tensor: Tensor<2>) -> Self {
        FanOut {
            tensor,
            begun: Begun::default(),
        }
    }
}

/// x + y, in y's place where nobody else reads it. Differentiable in both.
pub fn add(x: impl Into<FanOut>, y: Tensor<2>) -> Tensor<2> {
    let FanOut { tensor, begun } = x.into();
    assert_eq!(tensor.dims(), y.dims(), "shapes of x and y");
    Tensor::from_dispatch(Dispatch::add(
        tensor.into_dispatch(),
        y.into_dispatch(),
        begun,
    ))
}

/// y = x·Wᵀ + b + s·(drop(x)·Aᵀ)·Bᵀ, x `[tokens, in]` → `[tokens, out]`.
///
/// Differentiable in x, A and B; the weight and the bias are frozen.
pub fn linear(
    x: impl Into<FanOut>,
    weight: &Weight,
    bias: Option<&Tensor<1>>,
    lora: Option<Lora<'_>>,
) -> Tensor<2> {
    let FanOut { tensor: x, begun } = x.into();
    check_shapes(&x, weight, lora);
    let bias = bias.unwrap_or(&weight.no_bias).clone();
    let (words, bias, format) = (
        weight.words.clone().into_dispatch(),
        bias.into_dispatch(),
        weight.format,
    );
    let y = match lora {
        None => <Dispatch as Ops>::linear(x.into_dispatch(), words, bias, format, begun),
        Some(Lora {
            a,
            b,
            scaling,
            dropout,
        }) => {
            let (a, b) = (a.clone().into_dispatch(), b.clone().into_dispatch());
            let dropout = dropout.filter(|d| d.p > 0.0);
            Dispatch::lora_linear(
                x.into_dispatch(),
                words,
                bias,
                a,
                b,
                format,
                scaling,
                dropout,
                begun,
            )
        }
    };
    Tensor::from_dispatch(y)
}

fn check_shapes(x: &Tensor<2>, weight: &Weight, lora: Option<Lora<'_>>) {
    let format = weight.format;
    let [_, in_features] = x.dims();
    assert_eq!(
        in_features, format.in_features,
        "features of x and of the weight"
    );
    if let Some(Lora { a, b, .. }) = lora {
        let ([rank, a_in], [b_out, b_rank]) = (a.dims(), b.dims());
        assert_eq!(
            [a_in, b_out, b_rank],
            [format.in_features, format.out_features, rank],
            "shape of the adapter"
        );
    }
}

/// A scalar, to be differentiated: its gradient in `y` is `dy`, a tensor without a tape. Where the
/// backward pass of one tape goes on in another. Its value is 0; sum such scalars, do not scale them.
pub fn with_gradient(y: impl Into<FanOut>, dy: Tensor<2>) -> Tensor<1> {
    let FanOut { tensor: y, begun } = y.into();
    assert_eq!(y.dims(), dy.dims(), "shapes of y and its gradient");
    Tensor::from_dispatch(Dispatch::with_gradient(
        y.into_dispatch(),
        dy.into_dispatch(),
        begun,
    ))
}

/// [`with_gradient`] of what [`linear`] would return: its gradients in x, A and B for this dy, without
/// the product that y is.
pub fn linear_with_gradient(
    x: Tensor<2>,
    weight: &Weight,
    lora: Option<Lora<'_>>,
    dy: Tensor<2>,
) -> Tensor<1> {
    check_shapes(&x, weight, lora);
    let format = weight.format;
    let expected = [x.dims()[0], format.out_features];
    assert_eq!(dy.dims(), expected, "shape of the gradient of y");
    let words = weight.words.clone().into_dispatch();
    let (x, dy) = (x.into_dispatch(), dy.into_dispatch());
    Tensor::from_dispatch(match lora {
        None => Dispatch::linear_with_gradient(x, words, dy, format),
        Some(lora) => {
            let (a, b) = (
                lora.a.clone().into_dispatch(),
                lora.b.clone().into_dispatch(),
            );
            let dropout = lora.dropout.filter(|d| d.p > 0.0);
            let scaling = lora.scaling;
            Dispatch::lora_linear_with_gradient(x, words, a, b, dy, format, scaling, dropout)
        }
    })
}

/// Rows `ids` of the table `[vocabulary, hidden]` → `[ids.len(), hidden]`, in f32 (on a GPU in the type
/// that the table is multiplied in), not differentiable.
pub fn embedding(ids: &[u32], table: &Weight) -> Tensor<2> {
    let vocabulary = table.format.out_features;
    assert!(
        ids.iter().all(|id| (*id as usize) < vocabulary),
        "a token id outside the vocabulary of {vocabulary}"
    );
    Tensor::from_dispatch(<Dispatch as Ops>::embedding(
        table.words.clone().into_dispatch(),
        table.format,
        ids.into(),
    ))
}

/// Causal attention within each segment: q `[rows, heads·head_dim]`, k and v
/// `[rows, kv_heads·head_dim]` → o, shaped as q. Differentiable where segments share no keys.
pub fn attention(
    q: Tensor<2>,
    k: Tensor<2>,
    v: Tensor<2>,
    segments: &Segments,
    options: &AttentionOptions,
) -> Tensor<2> {
    let ([q_rows, q_width], [k_rows, k_width]) = (q.dims(), k.dims());
    assert_eq!(k.dims(), v.dims(), "shapes of k and v");
    assert_eq!(
        [q_width, k_width],
        [options.heads, options.kv_heads].map(|h| h * options.head_dim),
        "heads of q and k"
    );
    assert_eq!(
        options.heads % options.kv_heads,
        0,
        "key-value heads divide the heads"
    );
    segments.check(q_rows, k_rows);
    Tensor::from_dispatch(<Dispatch as Ops>::attention(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        segments.clone(),
        *options,
    ))
}

/// Σ −log softmax(h·Wᵀ)[target] in nats, shape `[1]`. `h` `[targets.len(), hidden]` holds only the
/// rows that predict a target. Logits are never kept; differentiable in h.
pub fn linear_cross_entropy(h: Tensor<2>, weight: &Weight, targets: &[u32]) -> Tensor<1> {
    let format = weight.format;
    assert_eq!(
        h.dims(),
        [targets.len(), format.in_features],
        "one row of h for each target"
    );
    assert!(
        targets.iter().all(|t| (*t as usize) < format.out_features),
        "a target outside the vocabulary"
    );
    let loss = Dispatch::linear_cross_entropy(
        h.into_dispatch(),
        weight.words.clone().into_dispatch(),
        format,
        targets.into(),
    );
    Tensor::from_dispatch(loss)
}

/// x / √(mean(x²) + ε)·weight over the last dimension (arXiv 1910.07467). Differentiable in x.
pub fn rms_norm(x: impl Into<FanOut>, weight: &Tensor<1>, eps: f32) -> Tensor<2> {
    let FanOut { tensor: x, begun } = x.into();
    assert_eq!(x.dims()[1], weight.dims()[0], "width of x and of the norm");
    Tensor::from_dispatch(Dispatch::rms_norm(
        x.into_dispatch(),
        weight.clone().into_dispatch(),
        eps,
        begun,
    ))
}

/// Rotary position embedding, half-split: x `[tokens, heads·head_dim]`, cos and sin of each token's position
/// `[tokens, head_dim / 2]`. Differentiable in x.
pub fn rotary(x: Tensor<2>, cos: &Tensor<2>, sin: &Tensor<2>, heads: usize) -> Tensor<2> {
    let [tokens, half] = cos.dims();
    assert_eq!(sin.dims(), cos.dims(), "shapes of cos and sin");
    assert_eq!(
        x.dims(),
        [tokens, heads * half * 2],
        "x against positions and heads"
    );
    let (cos, sin) = (cos.clone().into_dispatch(), sin.clone().into_dispatch());
    Tensor::from_dispatch(Dispatch::rotary(x.into_dispatch(), cos, sin, heads, false))
}

/// silu(gate)·up (arXiv 2002.05202). Differentiable in both.
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    assert_eq!(gate.dims(), up.dims(), "shapes of gate and up");
    Tensor::from_dispatch(Dispatch::swiglu(gate.into_dispatch(), up.into_dispatch()))
}

/// A trainable matrix, its gradient and its moments, without a tape (`.inner()`).
pub struct Parameter {
    pub value: Tensor<2>,
    pub grad: Tensor<2>,
    pub exp_avg: Tensor<2>,
    pub exp_avg_sq: Tensor<2>,
}

/// One step of torch.optim.AdamW over all parameters: `[value, exp_avg, exp_avg_sq]` of each after
/// it, in place where the tensors are not shared. On the CPU one parallel region serves them all, on
/// a GPU a launch up to 64 of them.
pub fn adamw(parameters: Vec<Parameter>, options: &AdamW) -> Vec<[Tensor<2>; 3]> {
    for p in &parameters {
        let shapes = [p.grad.dims(), p.exp_avg.dims(), p.exp_avg_sq.dims()];
        assert!(
            shapes == [p.value.dims(); 3],
            "shapes of a parameter and its state"
        );
    }
    if parameters.iter().all(|p| on_host(&p.value).is_some()) {
        return flex::adamw(parameters, options);
    }
    on_device(parameters, options)
}

#[cfg(feature = "cube")]
use crate::backends::cube::optimizer::adamw as on_device;

#[cfg(not(feature = "cube"))]
fn on_device(_: Vec<Parameter>, _: &AdamW) -> Vec<[Tensor<2>; 3]> {
    unreachable!("without a GPU back end every tensor lies on the host")
}

/// Σ t² over all tensors. On the CPU summed in f64: each tensor in its order, then the tensors in
/// theirs. On a GPU parts of some thousand elements are summed in f32, the parts in f64.
pub fn sum_of_squares<'a>(tensors: impl Iterator<Item = &'a Tensor<2>>) -> f64 {
    let tensors: Vec<&Tensor<2>> = tensors.collect();
    #[cfg(feature = "cube")]
    {
        use burn_cubecl::CubeBackend;
        let there = tensors
            .iter()
            .map(|t| (*t).clone().try_into_primitive::<CubeBackend>().ok());
        if let Some(there) = there.collect::<Option<Vec<_>>>().filter(|t| !t.is_empty()) {
            return crate::backends::cube::optimizer::sum_of_squares(there);
        }
    }
    let tensors: Vec<FlexTensor> = tensors
        .into_iter()
        .map(|t| on_host(t).unwrap_or_else(|| FlexTensor::from_data(t.to_data())))
        .map(flex::packed)
        .collect();
    let sums: Vec<f64> = tensors
        .par_iter()
        .map(|t| {
            flex::floats(t)
                .iter()
                .map(|v| (*v as f64) * (*v as f64))
                .sum()
        })
        .collect();
    sums.iter().sum()
}

/// The tensor itself where it lies in the host's memory.
fn on_host(t: &Tensor<2>) -> Option<FlexTensor> {
    t.clone().try_into_primitive::<Flex>().ok()
}
