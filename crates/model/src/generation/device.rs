//! Prompts to completions on a GPU: every step is the decoder's layers over the newest tokens.
//!
//! The CPU has a path of its own, which keeps weights and rows where its caches are; a GPU reads each
//! weight once a step whatever the batch, so that the layers as training runs them will do.

use burn::tensor::{Int, Tensor};
use ops::DeviceKvCache;

use super::{Sequence, draw, offsets, retire, shared_prefix};
use crate::{Completion, GenerateOptions, Model, lora::host};

impl Model {
    /// [`Model::generate`] where the weights are on a GPU; the prompts are checked.
    pub(super) fn generate_on_device(
        &self,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        on_done: &mut dyn FnMut(usize, &Completion),
    ) -> Vec<Completion> {
        let layers = self.decoder.layers.len();
        let shared = shared_prefix(prompts);
        let mut prefix = DeviceKvCache::new(layers, 1, shared.max(1));
        if shared > 0 {
            self.read_on_device(&mut prefix, &[&prompts[0][..shared]]);
        }
        let mut done: Vec<Option<Completion>> = vec![None; prompts.len()];
        let indices: Vec<usize> = (0..prompts.len()).collect();
        for group in indices.chunks(options.batch_size.max(1)) {
            let longest = group.iter().map(|&i| prompts[i].len()).max().unwrap_or(0);
            let mut cache = prefix.replicate(group.len(), longest + options.max_new_tokens);
            let mut live: Vec<Sequence> = group
                .iter()
                .map(|&index| Sequence::new(index, options))
                .collect();
            let rest: Vec<&[u32]> = group.iter().map(|&i| &prompts[i][shared..]).collect();
            let mut logits = self.read_on_device(&mut cache, &rest);
            loop {
                self.append_next(&logits, options, &mut live);
                let keep = retire(&mut live, options, &mut |index, completion| {
                    on_done(index, &completion);
                    done[index] = Some(completion);
                });
                if live.is_empty() {
                    break;
                }
                cache.retain(&keep);
                let newest: Vec<&[u32]> = live
                    .iter()
                    .map(|s| &s.tokens[s.tokens.len() - 1..])
                    .collect();
                logits = self.read_on_device(&mut cache, &newest);
            }
        }
        let all = done.into_iter();
        all.map(|c| c.expect("every prompt ended")).collect()
    }

    /// Reads new tokens of every sequence behind what its cache holds; the logits after each
    /// sequence's last token, `[sequences, vocabulary]`.
    fn read_on_device(&self, cache: &mut DeviceKvCache, new: &[&[u32]]) -> Tensor<2> {
        let offsets = offsets(new);
        let past: Vec<usize> = (0..new.len()).map(|i| cache.length(i)).collect();
        let hidden = self.last_hidden(new, &past, |layer, q, k, v, options| {
            cache.append(layer, k, v, &offsets);
            cache.attend(layer, q, &offsets, options)
        });
        cache.advance(&offsets);
        self.decoder.logits(hidden)
    }

    /// Chooses a token for each sequence; the likeliest is found on the device.
    fn append_next(&self, logits: &Tensor<2>, options: &GenerateOptions, live: &mut [Sequence]) {
        if options.temperature <= 0.0 {
            let best: Tensor<2, Int> = logits.clone().argmax(1);
            let best = best.into_data().convert::<i64>();
            let best = best.as_slice::<i64>().expect("just converted");
            for (sequence, token) in live.iter_mut().zip(best) {
                sequence.tokens.push(*token as u32);
            }
            return;
        }
        draw(&host(logits), options, live);
    }
}
