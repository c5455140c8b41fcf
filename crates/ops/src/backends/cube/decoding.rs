//! One new token for each of a batch of sequences, through all layers at once, on a GPU.
//!
//! What a step costs beside reading the weights is its launches, some 5 µs each: nine a layer, with
//! adapters or without; ten once a sequence is so long that attention splits its keys.
//!
//! | launch | reads | does |
//! |---|---|---|
//! | norm | the sums of the layer before | x += W·… + B·u, h = RMSNorm(x) |
//! | query, key, value | h | W·h and A·h of all three |
//! | heads | these sums | bias, B·u, each head's norm, rotation, rows of the cache |
//! | attention | q, the cache | a cube a row, key-value head and split of the keys |
//! | merge | what the splits saw | of 256 keys and more, and unless the rows make cubes enough |
//! | output | what the heads saw | W·o, A·o |
//! | norm | these sums | x += …, h = RMSNorm(x) |
//! | gate, up | h | W·h and A·h of both |
//! | SwiGLU | these sums | silu(gate)·up |
//! | down | the product | W·…, A·… |
//!
//! Around the layers: embedding, the last norm, the head's matmul, and its likeliest tokens, of which
//! 32 candidates a row are read back. Ids, slots and angles are copied in once a step.

use super::attention::{Seen, attend};
use super::few_rows::{self, FEW_ROWS, Part, Place, Projection, Sums, unread};
use super::linear::{dense, embedding};
use super::tensor::{
    Argument, cast, dims, each, elements, fresh, owned, packed, product, rows, storage, transposed,
    units, upload, upload_floats,
};
use crate::backends::cube::DeviceKvCache;
use crate::decoding::{DecodingLayer, DecodingLinear};
use crate::format::{ComputeDtype, WeightFormat};
use crate::kernels::cube::finish::{
    finish_heads_kernel, finish_norm_kernel, finish_swiglu_kernel, likeliest_kernel,
};
use crate::segments::AttentionOptions;
use crate::weight::Weight;
use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Parts that a row of logits is searched in: one cube each.
const PARTS: usize = 32;

/// A decoder as decoding on a GPU reads it: its own weights, by reference count.
pub struct DeviceDecoding {
    layers: Vec<Layer>,
    norm: CubeTensor,
    embedding: (CubeTensor, WeightFormat),
    /// `[vocabulary, hidden]` in the activations' type: the weight itself where it is stored so.
    head: CubeTensor,
    attention: AttentionOptions,
    epsilon: f32,
    dtype: DType,
}

struct Layer {
    input_norm: CubeTensor,
    qkv: Projection,
    qkv_added: [Added; 3],
    /// Of each head's query and key.
    head_norms: Option<[CubeTensor; 2]>,
    output: Projection,
    output_added: Added,
    post_attention_norm: CubeTensor,
    gate_up: Projection,
    gate_up_added: [Added; 2],
    down: Projection,
    down_added: Added,
}

/// What is added to a weight's sums.
struct Added {
    place: Place,
    /// `[out, rank]` in f32; like the bias a buffer that nobody reads where there is none.
    b: CubeTensor,
    scaling: f32,
    bias: CubeTensor,
    biased: bool,
}

fn there<const D: usize>(t: &Tensor<D>) -> CubeTensor {
    let t = t.clone().try_into_primitive::<CubeBackend>();
    packed(t.expect("decoding runs on a GPU's tensors, without a tape"))
}

fn words(weight: &Weight) -> CubeTensor {
    let words = weight.words.clone().try_into_primitive::<CubeBackend>();
    words.expect("decoding runs on a GPU's tensors")
}

/// The weights of one launch, and what is added to the sums of each.
fn together<const N: usize>(linears: [DecodingLinear<'_>; N]) -> Option<(Projection, [Added; N])> {
    let parts = linears.each_ref().map(|linear| Part {
        words: words(linear.weight),
        format: linear.weight.format,
        a: linear.lora.map(|lora| there(lora.a)),
    });
    let projection = Projection::new(parts.into())?;
    let mut index = 0;
    let added = linears.map(|linear| {
        let place = projection.place(index);
        index += 1;
        let nothing = || unread(&words(linear.weight));
        let b = linear
            .lora
            .map(|lora| packed(cast(there(lora.b), DType::F32)));
        Added {
            place,
            b: b.unwrap_or_else(nothing),
            scaling: linear.lora.map_or(0.0, |lora| lora.scaling),
            bias: linear.bias.map_or_else(nothing, there),
            biased: linear.bias.is_some(),
        }
    });
    Some((projection, added))
}

impl Layer {
    fn new(layer: DecodingLayer<'_>) -> Option<Layer> {
        let (qkv, qkv_added) = together([layer.q_proj, layer.k_proj, layer.v_proj])?;
        let (output, [output_added]) = together([layer.o_proj])?;
        let (gate_up, gate_up_added) = together([layer.gate_proj, layer.up_proj])?;
        let (down, [down_added]) = together([layer.down_proj])?;
        let head_norms = layer.q_norm.zip(layer.k_norm);
        Some(Layer {
            input_norm: there(layer.input_layernorm),
            qkv,
            qkv_added,
            head_norms: head_norms.map(|(q, k)| [there(q), there(k)]),
            output,
            output_added,
            post_attention_norm: there(layer.post_attention_layernorm),
            gate_up,
            gate_up_added,
            down,
            down_added,
        })
    }
}

/// What all layers of one step read, copied to the device once.
struct Step {
    rows: usize,
    cos: CubeTensor,
    sin: CubeTensor,
    /// Where each new row lies in the cache, and which rows it sees.
    slots: CubeTensor,
    seen: Seen,
}

impl DeviceDecoding {
    /// Sequences that a step takes at most.
    pub const MOST_SEQUENCES: usize = FEW_ROWS;

    /// `norm` and `head` come after the last layer; `embedding` and `head` are
    /// `[vocabulary, hidden]`, often the same. Nothing where a layer has a weight that is not 4-bit,
    /// or one whose rows are not whole blocks of 64.
    pub fn new<'a>(
        layers: impl IntoIterator<Item = DecodingLayer<'a>>,
        norm: &Tensor<1>,
        embedding: &Weight,
        head: &Weight,
        attention: AttentionOptions,
        epsilon: f32,
    ) -> Option<DeviceDecoding> {
        let layers: Option<Vec<Layer>> = layers.into_iter().map(Layer::new).collect();
        let dtype = match embedding.format.compute {
            ComputeDtype::F32 => DType::F32,
            ComputeDtype::Bf16 => DType::BF16,
        };
        Some(DeviceDecoding {
            layers: layers?,
            norm: there(norm),
            embedding: (words(embedding), embedding.format),
            head: dense(words(head), head.format, dtype),
            attention,
            epsilon,
            dtype,
        })
    }

    /// Reads one new token of each sequence behind what `cache` holds of it, and appends it there.
    /// cos and sin `[ids.len(), head_dim / 2]` are those of the new positions. Returns the logits
    /// after each, `[ids.len(), vocabulary]` in f32.
    ///
    /// # Panics
    /// With more than [`DeviceDecoding::MOST_SEQUENCES`] ids, or another number than sequences.
    pub fn step(
        &self,
        ids: &[u32],
        cos: &[f32],
        sin: &[f32],
        cache: &mut DeviceKvCache,
    ) -> Tensor<2> {
        assert!(!ids.is_empty() && ids.len() <= FEW_ROWS, "1 to 32 tokens");
        let angles = ids.len() * self.attention.head_dim / 2;
        assert_eq!([cos.len(), sin.len()], [angles; 2], "one angle a channel");
        let offsets: Vec<usize> = (0..=ids.len()).collect();
        let (table, format) = &self.embedding;
        let x = owned(embedding(table.clone(), *format, ids, self.dtype));
        let slots = cache.rows(&offsets);
        let (first, end) = cache.seen(&slots, &offsets, self.attention.window);
        let step = Step {
            rows: ids.len(),
            cos: upload_floats(cos, &x),
            sin: upload_floats(sin, &x),
            slots: upload(&slots, &x),
            seen: Seen::new(&first, &end, &x),
        };
        let mut before: Option<(Sums, &Added)> = None;
        for (index, layer) in self.layers.iter().enumerate() {
            let h = self.normed(&x, &layer.input_norm, before.take());
            let width = self.attention.kv_heads * self.attention.head_dim;
            let [k, v] = cache.buffers(index, &x, width);
            let q = self.heads(layer, &step, layer.qkv.of(&h), &k, &v);
            let seen = self.attended(&step, &q, &k, &v);
            let sums = layer.output.of(&seen);
            let sums = Some((sums, &layer.output_added));
            let h = self.normed(&x, &layer.post_attention_norm, sums);
            let gated = self.gated(layer, layer.gate_up.of(&h));
            before = Some((layer.down.of(&gated), &layer.down_added));
        }
        cache.advance(&offsets);
        let h = self.normed(&x, &self.norm, before);
        let logits = product(h, transposed(self.head.clone()), DType::F32);
        Tensor::from_primitive::<CubeBackend>(packed(logits))
    }

    /// x += what the sums say, in place; RMSNorm(x)·weight.
    fn normed(
        &self,
        x: &CubeTensor,
        weight: &CubeTensor,
        sums: Option<(Sums, &Added)>,
    ) -> CubeTensor {
        let [count, width] = dims(x);
        let h = fresh(x, [count, width], x.dtype);
        let client = x.client.clone();
        // A row has one cube, so that what it takes is what a unit does: four columns, or what a cube of
        // a thousand leaves to each.
        let units = units(&client, (width / 4).next_power_of_two().clamp(128, 1024));
        let added = sums.is_some();
        let (b, bias, biased, rank, place, values, columns, splits) = match sums {
            Some((sums, to)) => (
                to.b.clone(),
                to.bias.clone(),
                to.biased,
                to.place.rank,
                to.place.launch(to.scaling),
                sums.values,
                sums.columns,
                sums.splits,
            ),
            None => {
                let nothing = unread(x);
                let place = self.layers[0].down_added.place.launch(0.0);
                (
                    nothing.clone(),
                    nothing.clone(),
                    false,
                    0,
                    place,
                    nothing,
                    0,
                    1,
                )
            }
        };
        finish_norm_kernel::launch(
            &client,
            CubeCount::Static(count as u32, 1, 1),
            CubeDim::new_1d(units as u32),
            few_rows::together(&[rank]),
            values.argument(),
            b.argument(),
            bias.argument(),
            x.clone().argument(),
            weight.clone().argument(),
            h.clone().argument(),
            place,
            count,
            columns,
            width,
            self.epsilon,
            added,
            splits,
            rank,
            biased,
            units,
            storage(x.dtype),
        );
        h
    }

    /// q, rotated; k, rotated, and v go to the cache.
    fn heads(
        &self,
        layer: &Layer,
        step: &Step,
        sums: Sums,
        k: &CubeTensor,
        v: &CubeTensor,
    ) -> CubeTensor {
        let o = &self.attention;
        let q = fresh(k, [step.rows, o.heads * o.head_dim], self.dtype);
        let client = k.client.clone();
        let (cubes, dim, units) = rows(&client, step.rows * (o.heads + 2 * o.kv_heads));
        let added = &layer.qkv_added;
        let norms = layer.head_norms.clone();
        let normed = norms.is_some();
        let [q_norm, k_norm] = norms.unwrap_or_else(|| [unread(k), unread(k)]);
        let ranks = added.each_ref().map(|to| to.place.rank);
        finish_heads_kernel::launch(
            &client,
            cubes,
            dim,
            few_rows::together(&ranks),
            sums.values.argument(),
            added[0].b.clone().argument(),
            added[1].b.clone().argument(),
            added[2].b.clone().argument(),
            added[0].bias.clone().argument(),
            added[1].bias.clone().argument(),
            added[2].bias.clone().argument(),
            q_norm.argument(),
            k_norm.argument(),
            step.cos.clone().argument(),
            step.sin.clone().argument(),
            step.slots.clone().argument(),
            q.clone().argument(),
            k.clone().argument(),
            v.clone().argument(),
            added[0].place.launch(added[0].scaling),
            added[1].place.launch(added[1].scaling),
            added[2].place.launch(added[2].scaling),
            step.rows,
            sums.columns,
            o.heads,
            o.kv_heads,
            self.epsilon,
            o.head_dim,
            sums.splits,
            ranks,
            added.each_ref().map(|to| to.biased),
            normed,
            units,
            storage(self.dtype),
        );
        q
    }

    fn attended(&self, step: &Step, q: &CubeTensor, k: &CubeTensor, v: &CubeTensor) -> CubeTensor {
        let o = &self.attention;
        let out = fresh(q, dims(q), q.dtype);
        let lse = fresh(q, [step.rows, o.heads], DType::F32);
        attend(q, k, v, &step.seen, &out, &lse, o);
        out
    }

    /// silu(gate)·up
    fn gated(&self, layer: &Layer, sums: Sums) -> CubeTensor {
        let [gate, up] = &layer.gate_up_added;
        let y = fresh(&sums.values, [sums.rows, gate.place.features], self.dtype);
        let client = y.client.clone();
        let (cubes, dim) = each(&client, elements(&y));
        finish_swiglu_kernel::launch(
            &client,
            cubes,
            dim,
            few_rows::together(&[gate.place.rank, up.place.rank]),
            sums.values.argument(),
            gate.b.clone().argument(),
            up.b.clone().argument(),
            gate.bias.clone().argument(),
            up.bias.clone().argument(),
            y.clone().argument(),
            gate.place.launch(gate.scaling),
            up.place.launch(up.scaling),
            sums.rows,
            sums.columns,
            gate.place.features,
            sums.splits,
            gate.place.rank,
            up.place.rank,
            gate.biased,
            up.biased,
            storage(self.dtype),
        );
        y
    }

    /// The likeliest token of each row of logits `[rows, vocabulary]`, f32: the first of the largest. `None`
    /// where a row has no number in it.
    pub fn likeliest(logits: &Tensor<2>) -> Option<Vec<u32>> {
        let logits = there(logits);
        let [count, vocabulary] = dims(&logits);
        let best = fresh(&logits, [count * PARTS * 2], DType::U32);
        let client = logits.client.clone();
        let (_, dim, units) = rows(&client, 1);
        likeliest_kernel::launch(
            &client,
            CubeCount::Static(PARTS as u32, count as u32, 1),
            dim,
            logits.argument(),
            best.clone().argument(),
            vocabulary,
            units,
        );
        let best = Tensor::<1, burn::tensor::Int>::from_primitive::<CubeBackend>(best);
        let best = best.into_data();
        let best = best.as_slice::<u32>().expect("the kernel writes u32");
        let pairs = |row: &[u32]| {
            let mut likeliest = None;
            let mut largest = f32::NEG_INFINITY;
            for pair in row.chunks_exact(2) {
                // Of equals the first; a part of NaNs has no place in the vocabulary.
                let (value, place) = (f32::from_bits(pair[0]), pair[1]);
                if value > largest && (place as usize) < vocabulary {
                    (largest, likeliest) = (value, Some(place));
                }
            }
            likeliest
        };
        best.chunks_exact(PARTS * 2).map(pairs).collect()
    }
}
