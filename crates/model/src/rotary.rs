//! Rotary position embedding: which angle each position turns each pair of channels by.
//!
//! RoFormer, arXiv 2104.09864; the scalings as in transformers' `modeling_rope_utils.py`.

use burn::tensor::{Device, Tensor, TensorData};
use checkpoint::{Rope, RopeScaling};

/// One inverse frequency per channel pair, `[head_dim / 2]`, radians a position.
#[derive(Clone, Debug)]
pub struct Rotary {
    inv_freq: Vec<f32>,
}

impl Rotary {
    pub fn new(rope: &Rope, head_dim: usize) -> Self {
        let theta = rope.theta as f32;
        let inv_freq = (0..head_dim / 2)
            .map(|i| 1.0 / theta.powf((2 * i) as f32 / head_dim as f32))
            .map(|f| scaled(f, &rope.scaling))
            .collect();
        Self { inv_freq }
    }

    /// Cosines and sines of the given positions, each `[positions, head_dim / 2]`.
    pub fn tables(&self, position_ids: &[u32], device: &Device) -> (Tensor<2>, Tensor<2>) {
        let shape = [position_ids.len(), self.inv_freq.len()];
        let table = |values| Tensor::from_data(TensorData::new(values, shape), device);
        let (cos, sin) = self.angles(position_ids);
        (table(cos), table(sin))
    }

    /// The same on the host.
    pub fn angles(&self, position_ids: &[u32]) -> (Vec<f32>, Vec<f32>) {
        let table = |turn: fn(f32) -> f32| {
            let angles = position_ids
                .iter()
                .flat_map(|&p| self.inv_freq.iter().map(move |f| p as f32 * f));
            angles.map(turn).collect()
        };
        (table(f32::cos), table(f32::sin))
    }
}

fn scaled(inv_freq: f32, scaling: &RopeScaling) -> f32 {
    match *scaling {
        RopeScaling::None => inv_freq,
        RopeScaling::Linear { factor } => inv_freq / factor as f32,
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let original = original_max_position_embeddings as f32;
            let (low, high) = (low_freq_factor as f32, high_freq_factor as f32);
            let wavelength = 2.0 * std::f32::consts::PI / inv_freq;
            if wavelength < original / high {
                inv_freq
            } else if wavelength > original / low {
                inv_freq / factor as f32
            } else {
                let smooth = (original / wavelength - low) / (high - low);
                (1.0 - smooth) * inv_freq / factor as f32 + smooth * inv_freq
            }
        }
    }
}
