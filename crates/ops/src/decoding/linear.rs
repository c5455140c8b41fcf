//! A linear map with its adapter, as a decoding step reads it.

use super::{HostWeight, host};
use crate::backends::flex::floats;
use crate::format::{ComputeDtype, DenseDtype, Encoding, WeightFormat};
use crate::functions::Lora;
use crate::kernels::aligned::Aligned;
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
    /// `[rank, in]`, the features of each row in the order of the weight's packed inputs.
    a: Vec<f32>,
    /// `[out, rank]`
    b: FlexTensor,
    rank: usize,
    scaling: f32,
}

impl HostLinear {
    pub(super) fn new(level: Level, linear: DecodingLinear<'_>) -> HostLinear {
        let format = linear.weight.format;
        let lora = linear.lora.map(|lora| {
            let [rank, in_features] = lora.a.dims();
            assert_eq!(
                [in_features, format.out_features],
                [format.in_features, lora.b.dims()[0]],
                "shape of the adapter"
            );
            let order = Order::of(level, format);
            let mut a = Vec::new();
            let (mut row, source) = (Aligned::default(), host(lora.a));
            for values in floats(&source).chunks_exact(in_features) {
                order.pack(values, in_features, &mut row);
                a.extend_from_slice(&row);
            }
            HostLora {
                a,
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
    pub(super) fn first_product(&self, level: Level) -> Option<(Linear<'_>, f32)> {
        let lora = self.lora.as_ref()?;
        let order = Order::of(level, self.format());
        let format = WeightFormat {
            out_features: lora.rank,
            in_features: order.vectors(self.format().in_features) * order.lanes(),
            encoding: Encoding::Dense(DenseDtype::F32),
            compute: ComputeDtype::F32,
        };
        let weight = WeightView::new(bytemuck::cast_slice(&lora.a), format);
        let linear = Linear {
            weight,
            bias: None,
            low_rank: None,
        };
        Some((linear, lora.scaling))
    }
}
