//! LoRA: y = W₀x + (α/r)·B(A·dropout(x)), arXiv 2106.09685; which projections carry one, with what.

use burn::tensor::{Device, Tensor, TensorData};
use checkpoint::adapter::{Adapter as PeftAdapter, AdapterConfig, AdapterTensor};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::{Decoder, Error, Projection};

/// Shape and strength of a new adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// Inner dimension r of the update.
    pub rank: usize,
    /// α: the update is scaled by α/r.
    pub alpha: f64,
    /// By α/√r instead (arXiv 2312.03732).
    pub use_rslora: bool,
    /// Probability that an input value of A is zeroed in training.
    pub dropout: f64,
    /// Which of the seven projections carry a LoRA.
    pub target_modules: Vec<String>,
}

/// A `[rank, in]` and B `[out, rank]` of one projection.
#[derive(Clone)]
pub(crate) struct LoraPair {
    pub a: Tensor<2>,
    pub b: Tensor<2>,
    pub scaling: f32,
}

/// The pairs of one layer, by [`Projection`].
pub(crate) type LayerLora = [Option<LoraPair>; 7];

/// LoRA weights for a decoder, on its device, outside any tape.
#[derive(Clone)]
pub struct Adapter {
    pub(crate) config: AdapterConfig,
    pub(crate) layers: Vec<LayerLora>,
}

impl Adapter {
    /// A new adapter: A ~ U(±1/√in) (Kaiming with a = √5, as PEFT), B = 0, so that it starts as the
    /// identity. Each A depends on `seed` and its own name only.
    pub fn new(
        decoder: &Decoder,
        config: &LoraConfig,
        base: &str,
        seed: u64,
    ) -> Result<Self, Error> {
        for target in &config.target_modules {
            Projection::by_name(target)?;
        }
        let peft = AdapterConfig {
            base_model_name_or_path: Some(base.to_owned()),
            use_rslora: config.use_rslora,
            ..AdapterConfig::new(
                config.rank,
                config.alpha,
                config.dropout,
                config.target_modules.clone(),
            )
        };
        let pair = |layer: usize, projection: Projection| {
            let carried = config.target_modules.iter().any(|t| t == projection.name());
            carried.then(|| {
                let [out, input] = projection.shape(decoder.config());
                let module = projection.module(layer);
                let mut rng = named_rng(seed, &module);
                let bound = 1.0 / (input as f32).sqrt();
                let a = (0..config.rank * input)
                    .map(|_| (uniform(&mut rng) * 2.0 - 1.0) * bound)
                    .collect();
                LoraPair {
                    a: matrix(a, [config.rank, input], &decoder.device),
                    b: matrix(
                        vec![0.0; out * config.rank],
                        [out, config.rank],
                        &decoder.device,
                    ),
                    scaling: peft.scaling(&module, config.rank) as f32,
                }
            })
        };
        let layers = (0..decoder.layers.len())
            .map(|layer| Projection::ALL.map(|projection| pair(layer, projection)))
            .collect();
        Ok(Self {
            config: peft,
            layers,
        })
    }

    /// An adapter as PEFT stores it, put on the decoder's device.
    pub fn from_peft(decoder: &Decoder, peft: &PeftAdapter) -> Result<Self, Error> {
        let mut used = 0;
        let mut layers = Vec::with_capacity(decoder.layers.len());
        for layer in 0..decoder.layers.len() {
            let mut pairs: LayerLora = Default::default();
            for projection in Projection::ALL {
                let module = projection.module(layer);
                let [a_key, b_key] = keys(&module);
                let (a, b) = match (peft.tensors.get(&a_key), peft.tensors.get(&b_key)) {
                    (None, None) => continue,
                    (Some(a), Some(b)) => (a, b),
                    (None, _) => return Err(Error::AdapterTensorMissing(a_key)),
                    (_, None) => return Err(Error::AdapterTensorMissing(b_key)),
                };
                used += 2;
                let [out, input] = projection.shape(decoder.config());
                let rank = a.shape[0];
                let device = &decoder.device;
                pairs[projection as usize] = Some(LoraPair {
                    a: checked(a, a_key, [rank, input], device)?,
                    b: checked(b, b_key, [out, rank], device)?,
                    scaling: peft.config.scaling(&module, rank) as f32,
                });
            }
            layers.push(pairs);
        }
        if used != peft.tensors.len() {
            let known: std::collections::HashSet<String> = (0..layers.len())
                .flat_map(|layer| Projection::ALL.map(|p| keys(&p.module(layer))))
                .flatten()
                .collect();
            let stranger = peft.tensors.keys().find(|key| !known.contains(*key));
            let stranger = stranger.expect("more tensors than were used").clone();
            return Err(Error::AdapterTensorUnknown(stranger));
        }
        Ok(Self {
            config: peft.config.clone(),
            layers,
        })
    }

    /// This adapter as PEFT stores it: f32 on the host.
    pub fn to_peft(&self) -> PeftAdapter {
        let mut tensors = std::collections::BTreeMap::new();
        for (name, tensor) in self.named_tensors() {
            let values = host(tensor);
            let shape = tensor.dims();
            tensors.insert(name, AdapterTensor { shape, values });
        }
        PeftAdapter {
            config: self.config.clone(),
            tensors,
        }
    }

    /// What adapter_config.json says of it.
    pub fn config(&self) -> &AdapterConfig {
        &self.config
    }

    /// The number of trainable values.
    pub fn parameters(&self) -> usize {
        self.named_tensors()
            .map(|(_, t)| t.dims().iter().product::<usize>())
            .sum()
    }

    /// Every tensor under its PEFT key, layer by layer, A before B.
    pub(crate) fn named_tensors(&self) -> impl Iterator<Item = (String, &Tensor<2>)> {
        self.layers.iter().enumerate().flat_map(|(layer, pairs)| {
            Projection::ALL.into_iter().flat_map(move |projection| {
                let [a_key, b_key] = keys(&projection.module(layer));
                let pair = pairs[projection as usize].as_ref();
                pair.map(|p| [(a_key, &p.a), (b_key, &p.b)])
                    .into_iter()
                    .flatten()
            })
        })
    }

    /// The same tensors in the same order, for the optimizer to replace.
    pub(crate) fn tensors_mut(&mut self) -> impl Iterator<Item = &mut Tensor<2>> {
        self.layers
            .iter_mut()
            .flatten()
            .flatten()
            .flat_map(|pair| [&mut pair.a, &mut pair.b])
    }
}

/// PEFT's names for A and B of a module.
fn keys(module: &str) -> [String; 2] {
    ['A', 'B'].map(|which| checkpoint::adapter::key(module, which))
}

fn checked(
    tensor: &AdapterTensor,
    key: String,
    [rows, cols]: [usize; 2],
    device: &Device,
) -> Result<Tensor<2>, Error> {
    let [got_rows, got_cols] = tensor.shape;
    if [got_rows, got_cols] != [rows, cols] {
        return Err(Error::AdapterShape {
            key,
            rows,
            cols,
            got_rows,
            got_cols,
        });
    }
    Ok(matrix(tensor.values.clone(), tensor.shape, device))
}

pub(crate) fn matrix(values: Vec<f32>, shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// A tensor's values on the host, row-major, bf16 widened.
pub(crate) fn host(tensor: &Tensor<2>) -> Vec<f32> {
    tensor
        .to_data()
        .convert::<f32>()
        .try_into_vec::<f32>()
        .expect("just converted")
}

/// A generator keyed by seed and name, so that the order of construction does not matter.
pub(crate) fn named_rng(seed: u64, name: &str) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    // FNV-1a, 128 bit: any stable hash of the name will do.
    let mut hash: u128 = 0x6c62272e07bb014262b821756295c58d;
    for byte in name.bytes() {
        hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000000001000000000000000000013b);
    }
    key[16..].copy_from_slice(&hash.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

/// Uniform in [0, 1) with 24 bits.
pub(crate) fn uniform(rng: &mut ChaCha8Rng) -> f32 {
    (rng.next_u32() >> 8) as f32 / (1u32 << 24) as f32
}
