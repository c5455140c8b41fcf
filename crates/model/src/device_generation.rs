//! Prompts to completions on a GPU: every step is the decoder's layers over the newest tokens.
//!
//! The CPU has a path of its own, which keeps weights and rows where its caches are; a GPU reads each
//! weight once a step whatever the batch, so that the layers as training runs them will do.

use burn::tensor::{Int, Tensor};
use ops::DeviceKvCache;
use rand_chacha::ChaCha8Rng;

use crate::{
    Completion, GenerateOptions, Model,
    generation::{finished, last_rows, sampling::choose, shared_prefix},
    lora::{host, named_rng},
};

struct Sequence {
    index: usize,
    tokens: Vec<u32>,
    rng: ChaCha8Rng,
}

impl Model {
    /// [`Model::generate`] where the weights are on a GPU; the prompts are checked.
    pub(crate) fn generate_on_device(
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
                .map(|&index| Sequence {
                    index,
                    tokens: Vec::new(),
                    rng: named_rng(options.seed, &format!("generate/{index}")),
                })
                .collect();
            let rest: Vec<&[u32]> = group.iter().map(|&i| &prompts[i][shared..]).collect();
            let mut logits = self.read_on_device(&mut cache, &rest);
            loop {
                self.append_next(&logits, options, &mut live);
                let ends: Vec<_> = live.iter().map(|s| finished(&s.tokens, options)).collect();
                let keep: Vec<bool> = ends.iter().map(Option::is_none).collect();
                let mut going_on = Vec::new();
                for (sequence, end) in live.into_iter().zip(ends) {
                    let Some(finish) = end else {
                        going_on.push(sequence);
                        continue;
                    };
                    let completion = Completion {
                        token_ids: sequence.tokens,
                        finish,
                    };
                    on_done(sequence.index, &completion);
                    done[sequence.index] = Some(completion);
                }
                live = going_on;
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
        let decoder = &self.decoder;
        let mut offsets = vec![0];
        let mut position_ids = Vec::new();
        for (sequence, tokens) in new.iter().enumerate() {
            let past = cache.length(sequence);
            position_ids.extend(past as u32..(past + tokens.len()) as u32);
            offsets.push(position_ids.len());
        }
        let pass = decoder.pass(&position_ids, None);
        let options = decoder.attention_options();
        let mut x = ops::embedding(&new.concat(), &decoder.embed_tokens);
        for index in 0..decoder.layers.len() {
            let lora = self.active_adapter().map(|a| &a.layers[index]);
            x = decoder.layer(index, x, lora, &pass, |q, k, v| {
                cache.append(index, k, v, &offsets);
                cache.attend(index, q, &offsets, &options)
            });
        }
        cache.advance(&offsets);
        decoder.logits(last_rows(x, &offsets))
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
        let values = host(logits);
        let rows = values.chunks_exact(values.len() / live.len());
        for (sequence, row) in live.iter_mut().zip(rows) {
            let token = choose(row, options, &mut sequence.rng);
            sequence.tokens.push(token);
        }
    }
}
