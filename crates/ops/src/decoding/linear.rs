//! A linear map with its adapter, as a decoding step reads it.

use super::{HostWeight, host};
use crate::backends::flex::floats;
use crate::format::{ComputeDtype, DenseDtype, Encoding, WeightFormat};
use crate::functions::Lora;
use crate::kernels::few_rows::{Linear, LowRank, Order};
use crate::kernels::panel::WeightView;
use crate::kernels::simd::Level;
use crate::weight::Weight;
use burn::tensor::Tensor;
use burn_flex::FlexTensor;

/// A frozen linear map and what is added to it.
pub struct DecodingLinear<'a> {
    pub weight: &'a Weight,
    pub bias: Option<&'a Tensor<1>>,
    pub lora: Option<Lora<'a>>,
}

pub(super) struct HostLinear {
    weight: HostWeight,
    bias: Option<FlexTensor>,
    lora: Option<HostLora>,
}

struct HostLora {
    /// `[rank, in]`
    a: FlexTensor,
    /// `[out, rank]`
    b: FlexTensor,
    rank: usize,
    scaling: f32,
}

impl HostLinear {
    pub(super) fn new(linear: DecodingLinear<'_>) -> HostLinear {
        let format = linear.weight.format;
        let lora = linear.lora.map(|lora| {
            let [rank, in_features] = lora.a.dims();
            assert_eq!(
                [in_features, format.out_features],
                [format.in_features, lora.b.dims()[0]],
                "shape of the adapter"
            );
            HostLora {
                a: host(lora.a),
                b: host(lora.b),
                rank,
                scaling: lora.scaling,
            }
        });
        HostLinear {
            weight: HostWeight::new(linear.weight),
            bias: linear.bias.map(host),
            lora,
        }
    }

    pub(super) fn format(&self) -> WeightFormat {
        self.weight.format
    }

    /// The orders in which its inputs are read: by the weight, and by the adapter in f32.
    pub(super) fn orders(&self, level: Level) -> impl Iterator<Item = Order> {
        let adapter = self.lora.as_ref().map(|_| Order::plain(level));
        std::iter::once(self.order(level)).chain(adapter)
    }

    pub(super) fn order(&self, level: Level) -> Order {
        Order::of(level, self.format())
    }

    /// 0 without an adapter.
    pub(super) fn rank(&self) -> usize {
        self.lora.as_ref().map_or(0, |lora| lora.rank)
    }

    /// y = x·Wᵀ + b + u·Bᵀ
    pub(super) fn whole<'a>(&'a self, u: &'a [f32]) -> Linear<'a> {
        let low_rank = self.lora.as_ref().map(|lora| LowRank {
            b: floats(&lora.b),
            u,
            rank: lora.rank,
        });
        Linear {
            weight: self.weight.view(),
            bias: self.bias.as_ref().map(floats),
            low_rank,
        }
    }

    /// u = x·Aᵀ, still to be scaled: (the map, the scaling).
    pub(super) fn first_product(&self) -> Option<(Linear<'_>, f32)> {
        let lora = self.lora.as_ref()?;
        let format = WeightFormat {
            out_features: lora.rank,
            in_features: self.format().in_features,
            encoding: Encoding::Dense(DenseDtype::F32),
            compute: ComputeDtype::F32,
        };
        let linear = Linear {
            weight: WeightView::new(bytemuck::cast_slice(floats(&lora.a)), format),
            bias: None,
            low_rank: None,
        };
        Some((linear, lora.scaling))
    }
}
