//! The loss of a batch and its gradients, layer by layer.
//!
//! A tape spans one decoder layer, never the model: the forward pass keeps each layer's input, and
//! its tape if there is memory for it; the backward pass walks the layers from the top, runs again
//! the ones whose tape was let go, and hands on the gradient of their input. So recomputing is a
//! choice per layer ([`Recompute`]) and not another code path, and at most one recomputed layer's
//! activations are alive at a time (Chen et al., arXiv 1604.06174).

use burn::tensor::{Int, Tensor, TensorData};
use ops::{FanOut, Segments};

use crate::{
    Adapter, Batch, Decoder, Error, Model, Projection,
    decoder::Pass,
    lora::{LayerLora, LoraPair},
};

/// What a loss is taken over.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Negative log-likelihood summed over the targets, nats.
    pub sum: f64,
    /// How many targets there were.
    pub targets: usize,
}

impl Loss {
    /// Nats a target.
    pub fn mean(&self) -> f64 {
        self.sum / self.targets as f64
    }
}

impl std::ops::AddAssign for Loss {
    fn add_assign(&mut self, other: Self) {
        self.sum += other.sum;
        self.targets += other.targets;
    }
}

/// Which layers' activations are let go after the forward pass and computed again in backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recompute {
    /// All are kept: fastest, and the memory of all layers at once.
    Nothing,
    /// All are recomputed: a quarter more arithmetic, the memory of one layer.
    Everything,
    /// The lowest `n` are recomputed.
    Layers(usize),
}

impl Recompute {
    fn keeps(self, layer: usize) -> bool {
        match self {
            Self::Nothing => true,
            Self::Everything => false,
            Self::Layers(n) => layer >= n,
        }
    }
}

/// Zeroes inputs of A with probability `p`; the mask is a function of `key`, layer, projection and
/// element, so that recomputing a layer finds the same one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    pub p: f32,
    /// Differs between micro-batches; derived from seed and step by the caller.
    pub key: u64,
}

impl Dropout {
    /// The dropout of one micro-batch of one optimizer step.
    pub fn new(p: f32, seed: u64, step: u64, micro_batch: u64) -> Self {
        let key = mix(mix(mix(seed) ^ step) ^ micro_batch);
        Self { p, key }
    }

    pub(crate) fn at(self, layer: usize, projection: Projection) -> ops::Dropout {
        let place = (layer * Projection::ALL.len() + projection as usize) as u64;
        ops::Dropout {
            p: self.p,
            seed: mix(self.key ^ mix(place)),
        }
    }
}

/// SplitMix64's finaliser: a bijection that spreads every input bit.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// d loss / d adapter, in the adapter's order.
#[derive(Clone)]
pub struct Gradients {
    pub(crate) layers: Vec<[Option<[Tensor<2>; 2]>; 7]>,
}

impl Gradients {
    /// No gradient yet.
    pub fn new(adapter: &Adapter) -> Self {
        Self {
            layers: adapter.layers.iter().map(|_| Default::default()).collect(),
        }
    }

    /// ‖g‖₂ over all tensors together, as torch's `clip_grad_norm_`.
    pub fn norm(&self) -> f64 {
        ops::sum_of_squares(self.tensors()).sqrt()
    }

    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor<2>> {
        self.layers.iter().flatten().flatten().flatten()
    }

    fn add(&mut self, layer: usize, projection: Projection, gradient: [Tensor<2>; 2]) {
        let slot = &mut self.layers[layer][projection as usize];
        *slot = Some(match slot.take() {
            None => gradient,
            Some([a, b]) => {
                let [da, db] = gradient;
                [a + da, b + db]
            }
        });
    }

    /// Every gradient under its PEFT key, on the host, row-major.
    pub fn to_host(&self, adapter: &Adapter) -> Vec<(String, Vec<f32>)> {
        let names = adapter.named_tensors().map(|(name, _)| name);
        names.zip(self.tensors().map(crate::lora::host)).collect()
    }
}

/// One layer on its own tape.
struct LayerTape {
    input: Tensor<2>,
    lora: LayerLora,
    end: TapeEnd,
}

/// Where a layer's backward pass begins.
#[allow(clippy::large_enum_variant)] // one a layer: a few hundred bytes of handles
enum TapeEnd {
    /// The layer's output.
    Output(Tensor<2>),
    /// A layer that is computed again ends before down_proj: nobody asks for its output twice. What
    /// down_proj's result is added to, and what it reads.
    BeforeDown(FanOut, Tensor<2>),
}

/// What a layer's backward pass begins with.
#[allow(clippy::large_enum_variant)] // one a layer: a few hundred bytes of handles
enum Kept {
    Tape(LayerTape),
    /// Of a layer that is computed again, its input.
    Input(Tensor<2>),
}

impl Model {
    /// The loss of a batch, without gradients or dropout.
    pub fn loss(&self, batch: &Batch) -> Result<Loss, Error> {
        let decoder = &self.decoder;
        batch.check(decoder.config.vocab_size)?;
        let (rows, targets) = batch.predictions();
        if targets.is_empty() {
            return Ok(Loss::default());
        }
        let sum = decoder.busy(|| {
            let hidden = decoder.hidden(batch, self.active_adapter());
            decoder.cross_entropy(hidden, &rows, &targets)
        });
        finite(sum.into_scalar::<f32>().into(), targets.len())
    }

    /// Logits of every position, `[tokens * vocab_size]` row-major: for tests and small models.
    pub fn logits(&self, batch: &Batch) -> Result<Vec<f32>, Error> {
        let decoder = &self.decoder;
        batch.check(decoder.config.vocab_size)?;
        let hidden = decoder.hidden(batch, self.active_adapter());
        let logits = decoder.logits(hidden);
        Ok(crate::lora::host(&logits))
    }

    /// Adds d(`scale` · sum of nats)/d(adapter) to `gradients`. With `scale` = 1 / targets of the
    /// whole optimizer step the sum over its micro-batches is the gradient of the mean.
    pub fn accumulate_gradients(
        &self,
        batch: &Batch,
        scale: f64,
        dropout: Option<Dropout>,
        recompute: Recompute,
        gradients: &mut Gradients,
    ) -> Result<Loss, Error> {
        let decoder = &self.decoder;
        batch.check(decoder.config.vocab_size)?;
        let (rows, targets) = batch.predictions();
        if targets.is_empty() {
            return Err(Error::NothingSupervised);
        }
        let predictions = (rows.as_slice(), targets.as_slice());
        decoder.busy(|| {
            self.forward_and_backward(batch, predictions, scale, dropout, recompute, gradients)
        })
    }

    /// [`accumulate_gradients`](Self::accumulate_gradients) of a batch whose rows predict these
    /// targets.
    fn forward_and_backward(
        &self,
        batch: &Batch,
        (rows, targets): (&[usize], &[u32]),
        scale: f64,
        dropout: Option<Dropout>,
        recompute: Recompute,
        gradients: &mut Gradients,
    ) -> Result<Loss, Error> {
        let decoder = &self.decoder;
        let adapter = self.adapter.as_ref().expect("training has an adapter");
        let pass = decoder.pass(&batch.position_ids(), dropout);
        let segments = Segments::from_offsets(&batch.offsets);

        // What lies below every LoRA has no gradient.
        let has_lora = |layer: &LayerLora| layer.iter().any(Option::is_some);
        let lowest = adapter.layers.iter().position(has_lora);
        let lowest = lowest.expect("an adapter adapts something");
        let mut x = ops::embedding(&batch.input_ids, &decoder.embed_tokens);
        let mut kept = Vec::with_capacity(decoder.layers.len() - lowest);
        for (index, lora) in adapter.layers.iter().enumerate() {
            if recompute.keeps(index) && index >= lowest {
                let (input, lora) = on_tape(x, lora, index > lowest);
                let output =
                    decoder.packed_layer(index, input.clone(), Some(&lora), &pass, &segments);
                x = output.clone().inner();
                let end = TapeEnd::Output(output);
                kept.push(Kept::Tape(LayerTape { input, lora, end }));
            } else {
                if index >= lowest {
                    kept.push(Kept::Input(x.clone()));
                }
                x = decoder.packed_layer(index, x, Some(lora), &pass, &segments);
            }
        }

        let top = tracked(x);
        let sum = decoder.cross_entropy(top.clone(), rows, targets);
        let loss = finite(
            sum.clone().inner().into_scalar::<f32>().into(),
            targets.len(),
        )?;
        let mut found = (sum * scale as f32).backward();
        let mut dy = top
            .grad_remove(&mut found)
            .expect("the loss depends on the top");
        drop((found, top));

        for (index, lora) in adapter.layers.iter().enumerate().skip(lowest).rev() {
            let tape = match kept.pop().expect("one for each layer from the lowest on") {
                Kept::Tape(tape) => tape,
                Kept::Input(input) => {
                    let (input, lora) = on_tape(input, lora, index > lowest);
                    let (x, gated) = decoder.packed_layer_before_down(
                        index,
                        input.clone(),
                        &lora,
                        &pass,
                        &segments,
                    );
                    let end = TapeEnd::BeforeDown(x, gated);
                    LayerTape { input, lora, end }
                }
            };
            let scalar = match tape.end {
                TapeEnd::Output(y) => ops::with_gradient(y, dy),
                TapeEnd::BeforeDown(x, gated) => {
                    let lora = Some(&tape.lora);
                    let (down, lora) = decoder.linear(index, Projection::Down, lora, dropout);
                    ops::linear_with_gradient(gated, &down.weight, lora, dy.clone())
                        + ops::with_gradient(x, dy)
                }
            };
            let mut found = scalar.backward();
            for projection in Projection::ALL {
                if let Some(pair) = &tape.lora[projection as usize] {
                    let gradient = [&pair.a, &pair.b].map(|leaf| {
                        leaf.grad_remove(&mut found)
                            .expect("the output depends on every LoRA of its layer")
                    });
                    gradients.add(index, projection, gradient);
                }
            }
            if index == lowest {
                break;
            }
            dy = tape
                .input
                .grad_remove(&mut found)
                .expect("the output depends on the input");
        }
        Ok(loss)
    }
}

impl Decoder {
    /// What the last layer says of each token, before the final norm, `[tokens, hidden]`.
    fn hidden(&self, batch: &Batch, adapter: Option<&Adapter>) -> Tensor<2> {
        let pass = self.pass(&batch.position_ids(), None);
        let segments = Segments::from_offsets(&batch.offsets);
        let x = ops::embedding(&batch.input_ids, &self.embed_tokens);
        (0..self.layers.len()).fold(x, |x, index| {
            let lora = adapter.map(|adapter| &adapter.layers[index]);
            self.packed_layer(index, x, lora, &pass, &segments)
        })
    }

    fn packed_layer(
        &self,
        index: usize,
        x: Tensor<2>,
        lora: Option<&LayerLora>,
        pass: &Pass,
        segments: &Segments,
    ) -> Tensor<2> {
        let options = self.attention_options();
        self.layer(index, x, lora, pass, |q, k, v| {
            ops::attention(q, k, v, segments, &options)
        })
    }

    fn packed_layer_before_down(
        &self,
        index: usize,
        x: Tensor<2>,
        lora: &LayerLora,
        pass: &Pass,
        segments: &Segments,
    ) -> (FanOut, Tensor<2>) {
        let options = self.attention_options();
        self.layer_before_down(index, x, Some(lora), pass, |q, k, v| {
            ops::attention(q, k, v, segments, &options)
        })
    }

    /// −Σ log p(target), nats, `[1]`: final norm and head over the predicting rows only.
    fn cross_entropy(&self, hidden: Tensor<2>, rows: &[usize], targets: &[u32]) -> Tensor<1> {
        let indices: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        let indices =
            Tensor::<1, Int>::from_data(TensorData::new(indices, [rows.len()]), &hidden.device());
        let h = ops::rms_norm(
            hidden.select(0, indices),
            &self.norm,
            self.config.rms_norm_eps as f32,
        );
        ops::linear_cross_entropy(h, &self.lm_head, targets)
    }

    /// Scores of every token of the vocabulary, `[tokens, vocab_size]`.
    pub(crate) fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        let h = ops::rms_norm(hidden, &self.norm, self.config.rms_norm_eps as f32);
        ops::linear(h, &self.lm_head, None, None)
    }
}

/// The leaves of a layer's tape: its LoRA, and its input where anything below wants a gradient.
fn on_tape(x: Tensor<2>, lora: &LayerLora, input_too: bool) -> (Tensor<2>, LayerLora) {
    let lora = lora.each_ref().map(|pair| {
        pair.as_ref().map(|pair| LoraPair {
            a: tracked(pair.a.clone()),
            b: tracked(pair.b.clone()),
            scaling: pair.scaling,
        })
    });
    let input = match input_too {
        true => tracked(x),
        false => Tensor::from_inner(x),
    };
    (input, lora)
}

fn tracked(x: Tensor<2>) -> Tensor<2> {
    Tensor::from_inner(x).require_grad()
}

fn finite(sum: f64, targets: usize) -> Result<Loss, Error> {
    if sum.is_finite() {
        Ok(Loss { sum, targets })
    } else {
        Err(Error::NonFiniteLoss(sum))
    }
}
