//! A base folder onto a device, one projection at a time, quantised on the way.

use burn::tensor::{Device, Tensor, TensorData};
use checkpoint::{Base, Dtype, LinearWeight, TensorView};
use ops::{AttentionKernel, ComputeDtype, DenseDtype, Weight};

use crate::{
    Decoder, DeviceChoice, Error, Model, Projection,
    decoder::{Layer, Linear},
    rotary::Rotary,
};

/// The precision that the decoder layers' linear weights are held in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quantize {
    /// As the base folder stores them.
    #[default]
    AsStored,
    /// 4-bit NormalFloat, QLoRA arXiv 2305.14314; already quantised bases are taken as they are, with what
    /// they have in full.
    Nf4 { double_quant: bool },
    /// Full precision; an already quantised base is refused.
    None,
}

/// How to load a base.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    pub quantize: Quantize,
    /// The type that 4-bit values are rounded to after dequantising, transformers' `dtype=`; by
    /// default what a base stored in 4 bits says, else f32, which rounds nothing.
    pub dtype: Option<Dtype>,
    /// What linear weights and the output head are multiplied in; by default f32, the reference.
    pub compute_dtype: ComputeDtype,
    pub device: DeviceChoice,
}

impl LoadOptions {
    /// Refuses what this base has lost where it is stored in 4 bits.
    pub fn check(&self, base: &Base) -> Result<(), Error> {
        let lost = match self.quantize {
            Quantize::None if base.has_4_bit_weights() => "its full-precision weights",
            Quantize::Nf4 {
                double_quant: false,
            } if base.has_8_bit_scales() => "the 32 bits of its scales",
            _ => return Ok(()),
        };
        let dir = base.dir().to_owned();
        Err(Error::AlreadyQuantized { dir, lost })
    }
}

impl Model {
    /// Reads a base. The file stays mapped only while this runs; at most one projection is in
    /// memory at full precision. `progress` is told (layers done, layers).
    pub fn load(
        base: &Base,
        options: &LoadOptions,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, Error> {
        options.check(base)?;
        let config = base.config().clone();
        let device = options.device.device();
        let reader = Reader {
            base,
            device: &device,
            options,
            is_in_4_bits: base.has_4_bit_weights(),
        };
        let embed_tokens = reader.dense(
            "model.embed_tokens.weight",
            [config.vocab_size, config.hidden_size],
        )?;
        // On a GPU the activations are what the embedding gives.
        let embed_tokens = embed_tokens.with_compute(options.compute_dtype);
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for index in 0..config.num_hidden_layers {
            progress(index, config.num_hidden_layers);
            layers.push(reader.layer(index)?);
        }
        progress(config.num_hidden_layers, config.num_hidden_layers);
        let lm_head = if config.tie_word_embeddings {
            embed_tokens.clone()
        } else {
            reader.dense("lm_head.weight", [config.vocab_size, config.hidden_size])?
        };
        let lm_head = lm_head.with_compute(options.compute_dtype);
        let decoder = Decoder {
            norm: reader.vector("model.norm.weight", config.hidden_size)?,
            rotary: Rotary::new(&config.rope, config.head_dim),
            embed_tokens,
            layers,
            lm_head,
            config,
            device: device.clone(),
            attention: AttentionKernel::default(),
            on_cpu: options.device.is_cpu(),
        };
        Ok(Self {
            decoder,
            adapter: None,
            adapter_enabled: false,
        })
    }

    /// Puts a PEFT adapter on top of the base.
    pub fn load_adapter(&mut self, adapter: &checkpoint::adapter::Adapter) -> Result<(), Error> {
        self.set_adapter(crate::Adapter::from_peft(&self.decoder, adapter)?);
        Ok(())
    }
}

struct Reader<'a> {
    base: &'a Base,
    device: &'a Device,
    options: &'a LoadOptions,
    is_in_4_bits: bool,
}

impl Reader<'_> {
    fn layer(&self, index: usize) -> Result<Layer, Error> {
        let config = self.base.config();
        let name = |part: &str| format!("model.layers.{index}.{part}.weight");
        let norm = |part: &str, width| self.vector(&name(part), width);
        let head_norm = |part: &str| {
            config
                .qk_norm
                .then(|| norm(part, config.head_dim))
                .transpose()
        };
        let mut projections = Vec::with_capacity(7);
        for projection in Projection::ALL {
            projections.push(self.linear(&projection.module(index), projection.shape(config))?);
        }
        Ok(Layer {
            input_layernorm: norm("input_layernorm", config.hidden_size)?,
            projections: projections.try_into().ok().expect("seven were pushed"),
            q_norm: head_norm("self_attn.q_norm")?,
            k_norm: head_norm("self_attn.k_norm")?,
            post_attention_layernorm: norm("post_attention_layernorm", config.hidden_size)?,
        })
    }

    fn linear(&self, module: &str, shape: [usize; 2]) -> Result<Linear, Error> {
        let weight = match self.base.linear(module)? {
            LinearWeight::Nf4(mut quantized) => {
                check_shape(module, &quantized.shape, shape)?;
                if let Some(dtype) = self.options.dtype {
                    quantized.dtype = nf4_dtype(dtype);
                }
                Weight::nf4(&quantized, self.device)
            }
            LinearWeight::Dense(view) => {
                check_shape(module, &view.shape, shape)?;
                match self.options.quantize {
                    // What is dense beside 4-bit weights was left so by whoever quantised the base.
                    Quantize::Nf4 { double_quant } if !self.is_in_4_bits => {
                        let dtype = nf4_dtype(self.options.dtype.unwrap_or(Dtype::F32));
                        self.quantized(module, &view, shape, dtype, double_quant)?
                    }
                    _ => dense(&view, shape, self.device)?,
                }
            }
        };
        // Base::open refuses a bias that config.json does not account for.
        let bias = format!("{module}.bias");
        let bias = match self.base.contains(&bias) {
            true => Some(self.vector(&bias, shape[0])?),
            false => None,
        };
        Ok(Linear {
            weight: weight.with_compute(self.options.compute_dtype),
            bias,
        })
    }

    /// A GPU quantises what it can hold whole blocks of; the host does the rest, and on either way makes
    /// sure first that there is a number to quantise: four bits would make one of anything.
    fn quantized(
        &self,
        module: &str,
        view: &TensorView<'_>,
        shape: [usize; 2],
        dtype: nf4::Dtype,
        double_quant: bool,
    ) -> Result<Weight, Error> {
        if !view.is_finite() {
            return Err(Error::NonFiniteWeight(module.to_owned()));
        }
        #[cfg(any(feature = "cuda", feature = "cube-cpu"))]
        if !self.options.device.is_cpu() && (shape[0] * shape[1]).is_multiple_of(nf4::BLOCK_SIZE) {
            let stored = match view.dtype {
                Dtype::BF16 => Some(DenseDtype::BF16),
                Dtype::F16 => Some(DenseDtype::F16),
                Dtype::F32 => Some(DenseDtype::F32),
                _ => None,
            };
            if let Some(stored) = stored {
                return Ok(Weight::quantize_on_device(
                    view.bytes,
                    stored,
                    shape,
                    dtype,
                    double_quant,
                    self.device,
                ));
            }
        }
        let values = view.to_f32()?;
        let quantized = nf4::quantize(&values, shape, dtype, double_quant);
        Ok(Weight::nf4(&quantized, self.device))
    }

    fn dense(&self, name: &str, shape: [usize; 2]) -> Result<Weight, Error> {
        let view = self.base.tensor(name)?;
        check_shape(name, &view.shape, shape)?;
        Ok(dense(&view, shape, self.device)?)
    }

    fn vector(&self, name: &str, len: usize) -> Result<Tensor<1>, Error> {
        let values = self.base.tensor(name)?.to_f32()?;
        if values.len() != len {
            return Err(Error::TensorSize {
                tensor: name.to_owned(),
                expected: len,
                got: values.len(),
            });
        }
        Ok(Tensor::from_data(
            TensorData::new(values, [len]),
            self.device,
        ))
    }
}

/// A full-precision weight, in the type it is stored in: f32 holds any of them exactly.
fn dense(
    view: &TensorView<'_>,
    shape: [usize; 2],
    device: &Device,
) -> Result<Weight, checkpoint::Error> {
    Ok(match view.dtype {
        Dtype::BF16 => Weight::dense(view.bytes, DenseDtype::BF16, shape, device),
        Dtype::F16 => Weight::dense(view.bytes, DenseDtype::F16, shape, device),
        _ => Weight::dense_f32(&view.to_f32()?, shape, device),
    })
}

/// What 4-bit values are rounded to.
fn nf4_dtype(dtype: Dtype) -> nf4::Dtype {
    match dtype {
        Dtype::BF16 => nf4::Dtype::BF16,
        Dtype::F16 => nf4::Dtype::F16,
        _ => nf4::Dtype::F32,
    }
}

fn check_shape(module: &str, got: &[usize], [out, input]: [usize; 2]) -> Result<(), Error> {
    if got == [out, input] {
        return Ok(());
    }
    Err(Error::WeightShape {
        module: module.to_owned(),
        out,
        input,
        got_out: got.first().copied().unwrap_or(0),
        got_in: got.get(1).copied().unwrap_or(0),
    })
}
