//! Prompts to completions on a GPU: prompts through the decoder's layers as training runs them, then a
//! token of each sequence at a time.
//!
//! A step of up to 32 sequences over 4-bit weights is [`ops::DeviceDecoding`]'s: few launches, each
//! weight read once as it lies. Larger batches and weights in full precision take the layers again.

use burn::tensor::{DType, Tensor};
use ops::{DeviceDecoding, DeviceKvCache};

use super::{Sequence, append, draw, offsets, retire, shared_prefix};
use crate::{Completion, Error, GenerateOptions, Model, lora::host};

impl Model {
    /// [`Model::generate_rest`] where the weights are on a GPU, of the prompts `waiting`; they are checked.
    pub(super) fn generate_on_device(
        &self,
        prompts: &[Vec<u32>],
        waiting: &[usize],
        options: &GenerateOptions,
        on_done: &mut dyn FnMut(usize, Completion),
    ) -> Result<(), Error> {
        let layers = self.decoder.layers.len();
        let decoding = self.device_decoding();
        let shared = shared_prefix(prompts);
        let mut prefix = DeviceKvCache::new(layers, 1, shared.max(1));
        if shared > 0 {
            self.read_on_device(&mut prefix, &[&prompts[0][..shared]]);
        }
        for group in waiting.chunks(options.batch_size.max(1)) {
            let longest = group.iter().map(|&i| prompts[i].len()).max().unwrap_or(0);
            let mut cache = prefix.replicate(group.len(), longest + options.max_new_tokens);
            let mut live: Vec<Sequence> = group
                .iter()
                .map(|&index| Sequence::new(index, options))
                .collect();
            let rest: Vec<&[u32]> = group.iter().map(|&i| &prompts[i][shared..]).collect();
            let mut logits = self.read_on_device(&mut cache, &rest);
            loop {
                self.append_next(&logits, options, &mut live)?;
                let keep = retire(&mut live, options, on_done);
                if live.is_empty() {
                    break;
                }
                cache.retain(&keep);
                let newest: Vec<u32> = live
                    .iter()
                    .map(|s| *s.tokens.last().expect("it has its first token"))
                    .collect();
                logits = match &decoding {
                    Some(decoding) if newest.len() <= DeviceDecoding::MOST_SEQUENCES => {
                        let lengths = 0..newest.len();
                        let positions: Vec<u32> = lengths.map(|i| cache.length(i) as u32).collect();
                        let (cos, sin) = self.decoder.rotary.angles(&positions);
                        decoding.step(&newest, &cos, &sin, &mut cache)
                    }
                    _ => {
                        let newest: Vec<&[u32]> = newest.chunks(1).collect();
                        self.read_on_device(&mut cache, &newest)
                    }
                };
            }
        }
        Ok(())
    }

    /// The decoder, with the adapter if it is enabled, as decoding on a GPU reads it; nothing where its
    /// weights are not 4-bit.
    fn device_decoding(&self) -> Option<DeviceDecoding> {
        let decoder = &self.decoder;
        DeviceDecoding::new(
            self.decoding_layers(),
            &decoder.norm,
            &decoder.embed_tokens,
            &decoder.lm_head,
            decoder.attention_options(),
            decoder.config.rms_norm_eps as f32,
        )
    }

    /// Reads new tokens of every sequence behind what its cache holds; the logits after each
    /// sequence's last token, `[sequences, vocabulary]` in f32.
    fn read_on_device(&self, cache: &mut DeviceKvCache, new: &[&[u32]]) -> Tensor<2> {
        let offsets = offsets(new);
        let past: Vec<usize> = (0..new.len()).map(|i| cache.length(i)).collect();
        let hidden = self.last_hidden(new, &past, |layer, q, k, v, options| {
            cache.append(layer, k, v, &offsets);
            cache.attend(layer, q, &offsets, options)
        });
        cache.advance(&offsets);
        self.decoder.logits(hidden).cast(DType::F32)
    }

    /// Chooses a token for each sequence; the likeliest is found on the device.
    fn append_next(
        &self,
        logits: &Tensor<2>,
        options: &GenerateOptions,
        live: &mut [Sequence],
    ) -> Result<(), Error> {
        if options.temperature > 0.0 {
            return draw(&host(logits), options, live);
        }
        let likeliest = DeviceDecoding::likeliest(logits).ok_or(Error::NonFiniteState)?;
        append(likeliest, live);
        Ok(())
    }
}
