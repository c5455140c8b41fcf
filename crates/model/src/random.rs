//! A decoder with random weights of a real model's shape, to time what a run of it would cost.

use burn::tensor::{Tensor, TensorData};
use checkpoint::ModelConfig;
use ops::{AttentionKernel, ComputeDtype, DenseDtype, Weight};

use crate::{
    Decoder, DeviceChoice, Model, Projection,
    decoder::{Layer, Linear},
    rotary::Rotary,
};

impl Model {
    /// Weights as large as trained ones are, quantised to NF4 (double quantisation) layer by layer
    /// as a base is when it is loaded. Nothing is read; the answer is noise.
    pub fn random(config: ModelConfig, compute: ComputeDtype, choice: DeviceChoice) -> Model {
        let device = choice.device();
        let shapes = Projection::ALL.map(|p| p.shape(&config));
        let largest = shapes.iter().map(|[out, input]| out * input).max();
        let values = noise(largest.unwrap_or(0).max(config.hidden_size));
        let dense = |[rows, columns]: [usize; 2]| {
            let bytes = values.iter().copied().cycle();
            let bytes: Vec<u8> = bytes.take(rows * columns * 2).collect();
            Weight::dense(&bytes, DenseDtype::BF16, [rows, columns], &device).with_compute(compute)
        };
        let ones = |len: usize| {
            let data = TensorData::new(vec![1.0f32; len], [len]);
            Tensor::<1>::from_data(data, &device)
        };
        let linear = |[out, input]: [usize; 2]| Linear {
            weight: quantized(&values[..out * input * 2], [out, input], choice)
                .with_compute(compute),
            bias: None,
        };
        let hidden = config.hidden_size;
        let head_norm = config.qk_norm.then(|| ones(config.head_dim));
        let layers = (0..config.num_hidden_layers)
            .map(|_| Layer {
                input_layernorm: ones(hidden),
                projections: shapes.map(linear),
                q_norm: head_norm.clone(),
                k_norm: head_norm.clone(),
                post_attention_layernorm: ones(hidden),
            })
            .collect();
        let embed_tokens = dense([config.vocab_size, hidden]);
        let lm_head = match config.tie_word_embeddings {
            true => embed_tokens.clone(),
            false => dense([config.vocab_size, hidden]),
        };
        let decoder = Decoder {
            norm: ones(hidden),
            rotary: Rotary::new(&config.rope, config.head_dim),
            embed_tokens,
            layers,
            lm_head,
            config,
            device,
            attention: AttentionKernel::default(),
            on_cpu: choice.is_cpu(),
        };
        Model {
            decoder,
            adapter: None,
            adapter_enabled: false,
        }
    }

    /// Waits until the device has done what it was given.
    pub fn sync(&self) {
        // The CPU is always done; a GPU that fails here has failed in the step before, which said so.
        let _ = self.decoder.device.sync();
    }

    /// Bytes that the device's allocator holds, which never gives back what a step needed once: the
    /// peak. None on the CPU.
    pub fn reserved_bytes(&self) -> Option<u64> {
        let usage = self.decoder.device.memory_pool_usage()?;
        Some(usage.bytes_reserved)
    }
}

/// What a weight's values are rounded to where nobody says `--dtype`, as [`crate::load`] has it.
const ROUNDED_TO: nf4::Dtype = nf4::Dtype::F32;

#[cfg(any(feature = "cuda", feature = "cube-cpu"))]
fn quantized(bytes: &[u8], shape: [usize; 2], choice: DeviceChoice) -> Weight {
    match choice.is_cpu() {
        true => on_the_host(bytes, shape, choice),
        false => {
            let device = choice.device();
            Weight::quantize_on_device(bytes, DenseDtype::BF16, shape, ROUNDED_TO, true, &device)
        }
    }
}

#[cfg(not(any(feature = "cuda", feature = "cube-cpu")))]
fn quantized(bytes: &[u8], shape: [usize; 2], choice: DeviceChoice) -> Weight {
    on_the_host(bytes, shape, choice)
}

fn on_the_host(bytes: &[u8], shape: [usize; 2], choice: DeviceChoice) -> Weight {
    let values: Vec<f32> = bytes
        .as_chunks::<2>()
        .0
        .iter()
        .map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16))
        .collect();
    let quantized = nf4::quantize(&values, shape, ROUNDED_TO, true);
    Weight::nf4(&quantized, &choice.device())
}

/// Little-endian bf16 values in ±0.035, the spread of trained weights.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let value = ((state >> 40) as f32 / 8_388_608.0 - 1.0) * 0.035;
        ((value.to_bits() >> 16) as u16).to_le_bytes()
    };
    (0..count).flat_map(|_| next()).collect()
}
