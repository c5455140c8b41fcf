//! Prompts to completions: a shared prefix read once, then a token at a time for the whole batch.

use burn::tensor::{Int, Tensor, TensorData};
use ops::KvCache;
use rand_chacha::ChaCha8Rng;

use crate::{
    Error, Model,
    lora::{LayerLora, host, named_rng, uniform},
};

/// How to continue a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Tokens at most, the stop token included.
    pub max_new_tokens: usize,
    /// 0 takes the likeliest token; otherwise logits are divided by it and a token is drawn.
    pub temperature: f32,
    /// Draw from the smallest set of tokens whose probabilities reach this sum (arXiv 1904.09751).
    pub top_p: f32,
    /// With the prompt's index it decides every draw, whatever the batch.
    pub seed: u64,
    /// A completion ends after any of these.
    pub stop_token_ids: Vec<u32>,
    /// Prompts continued at once.
    pub batch_size: usize,
}

/// Why a completion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// With a stop token.
    Stop,
    /// At `max_new_tokens`.
    Length,
}

/// What the model said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// New tokens, the stop token included.
    pub token_ids: Vec<u32>,
    pub finish: Finish,
}

/// One prompt on its way.
struct Sequence {
    index: usize,
    tokens: Vec<u32>,
    rng: ChaCha8Rng,
}

impl Model {
    /// Continues every prompt; `on_done` hears of each completion as it ends, by index.
    pub fn generate(
        &self,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        on_done: &mut dyn FnMut(usize, &Completion),
    ) -> Result<Vec<Completion>, Error> {
        let vocab_size = self.decoder.config.vocab_size;
        if prompts.iter().any(Vec::is_empty) {
            return Err(Error::EmptyPrompt);
        }
        if let Some(&id) = prompts
            .iter()
            .flatten()
            .find(|&&id| id as usize >= vocab_size)
        {
            return Err(Error::TokenId { id, vocab_size });
        }
        let shared = shared_prefix(prompts);
        let mut prefix = self.new_cache();
        if shared > 0 {
            self.extend(&mut prefix, &[&prompts[0][..shared]]);
        }
        let mut done = vec![None; prompts.len()];
        let indices: Vec<usize> = (0..prompts.len()).collect();
        for group in indices.chunks(options.batch_size.max(1)) {
            let mut cache: Vec<KvCache> =
                prefix.iter().map(|c| c.replicate(0, group.len())).collect();
            let rest: Vec<&[u32]> = group.iter().map(|&i| &prompts[i][shared..]).collect();
            let mut logits = self.extend(&mut cache, &rest);
            let mut live: Vec<Sequence> = group
                .iter()
                .map(|&index| Sequence {
                    index,
                    tokens: Vec::new(),
                    rng: named_rng(options.seed, &format!("generate/{index}")),
                })
                .collect();
            loop {
                for (sequence, row) in live.iter_mut().zip(logits.chunks_exact(vocab_size)) {
                    sequence
                        .tokens
                        .push(choose(row, options, &mut sequence.rng));
                }
                let ends: Vec<Option<Finish>> =
                    live.iter().map(|s| finished(&s.tokens, options)).collect();
                let keep: Vec<bool> = ends.iter().map(Option::is_none).collect();
                let mut ends = ends.into_iter();
                live.retain_mut(|sequence| match ends.next().expect("one a sequence") {
                    None => true,
                    Some(finish) => {
                        let completion = Completion {
                            token_ids: std::mem::take(&mut sequence.tokens),
                            finish,
                        };
                        on_done(sequence.index, &completion);
                        done[sequence.index] = Some(completion);
                        false
                    }
                });
                if live.is_empty() {
                    break;
                }
                for layer in &mut cache {
                    layer.retain(&keep);
                }
                let newest: Vec<[u32; 1]> = live
                    .iter()
                    .map(|s| [*s.tokens.last().expect("one was just pushed")])
                    .collect();
                let newest: Vec<&[u32]> = newest.iter().map(<[u32; 1]>::as_slice).collect();
                logits = self.extend(&mut cache, &newest);
            }
        }
        Ok(done
            .into_iter()
            .map(|c| c.expect("every prompt ended"))
            .collect())
    }

    /// An empty cache of one sequence for each layer.
    fn new_cache(&self) -> Vec<KvCache> {
        let config = &self.decoder.config;
        let empty = KvCache::new(1, config.num_key_value_heads, config.head_dim);
        vec![empty; self.decoder.layers.len()]
    }

    /// Reads new tokens of every sequence behind what its cache holds; answers with the logits
    /// after each sequence's last token, `[sequences * vocab_size]`.
    fn extend(&self, cache: &mut [KvCache], new: &[&[u32]]) -> Vec<f32> {
        let decoder = &self.decoder;
        let mut offsets = vec![0];
        let mut position_ids = Vec::new();
        for (sequence, tokens) in new.iter().enumerate() {
            let past = cache[0].length(sequence);
            position_ids.extend(past as u32..(past + tokens.len()) as u32);
            offsets.push(position_ids.len());
        }
        let pass = decoder.pass(&position_ids, None);
        let options = decoder.attention_options();
        let mut x = ops::embedding(&new.concat(), &decoder.embed_tokens);
        for (index, cache) in cache.iter_mut().enumerate() {
            let lora: Option<&LayerLora> = self.active_adapter().map(|a| &a.layers[index]);
            x = decoder.layer(index, x, lora, &pass, |q, k, v| {
                cache.append(k, v, &offsets);
                cache.attend(q, &offsets, &options)
            });
        }
        host(&decoder.logits(last_rows(x, &offsets)))
    }
}

/// The hidden state after each sequence's last token.
fn last_rows(x: Tensor<2>, offsets: &[usize]) -> Tensor<2> {
    let ends: Vec<i64> = offsets[1..].iter().map(|&end| end as i64 - 1).collect();
    let rows = TensorData::new(ends, [offsets.len() - 1]);
    let rows = Tensor::<1, Int>::from_data(rows, &x.device());
    x.select(0, rows)
}

/// Tokens that all prompts begin with; at least one of each is left over.
fn shared_prefix(prompts: &[Vec<u32>]) -> usize {
    let Some((first, others)) = prompts.split_first() else {
        return 0;
    };
    let shortest = prompts.iter().map(Vec::len).min().unwrap_or(0);
    (0..shortest.saturating_sub(1))
        .take_while(|&i| others.iter().all(|other| other[i] == first[i]))
        .count()
}

fn finished(tokens: &[u32], options: &GenerateOptions) -> Option<Finish> {
    let last = tokens.last()?;
    if options.stop_token_ids.contains(last) {
        Some(Finish::Stop)
    } else if tokens.len() >= options.max_new_tokens {
        Some(Finish::Length)
    } else {
        None
    }
}

/// The next token by its logits, `[vocab_size]`.
fn choose(logits: &[f32], options: &GenerateOptions, rng: &mut ChaCha8Rng) -> u32 {
    if options.temperature <= 0.0 {
        return argmax(logits);
    }
    let top = logits[argmax(logits) as usize];
    let mut odds: Vec<(u32, f32)> = logits
        .iter()
        .map(|l| ((l - top) / options.temperature).exp())
        .enumerate()
        .map(|(id, odds)| (id as u32, odds))
        .collect();
    odds.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let total: f32 = odds.iter().map(|(_, o)| o).sum();
    let mut nucleus = 0.0;
    let size = odds.iter().position(|(_, o)| {
        nucleus += o;
        nucleus >= options.top_p * total
    });
    odds.truncate(size.map_or(odds.len(), |last| last + 1));
    let mut draw = uniform(rng) * odds.iter().map(|(_, o)| o).sum::<f32>();
    for (id, odds) in &odds {
        draw -= odds;
        if draw < 0.0 {
            return *id;
        }
    }
    odds[odds.len() - 1].0
}

/// The first of the largest.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(temperature: f32, top_p: f32) -> GenerateOptions {
        GenerateOptions {
            max_new_tokens: 4,
            temperature,
            top_p,
            seed: 0,
            stop_token_ids: vec![2],
            batch_size: 8,
        }
    }

    #[test]
    fn the_shared_prefix_leaves_every_prompt_a_token() {
        assert_eq!(shared_prefix(&[vec![1, 2, 3], vec![1, 2, 4]]), 2);
        assert_eq!(shared_prefix(&[vec![1, 2], vec![1, 2]]), 1);
        assert_eq!(shared_prefix(&[vec![7]]), 0);
        assert_eq!(shared_prefix(&[]), 0);
    }

    #[test]
    fn draws_follow_the_odds_and_stay_in_the_nucleus() {
        let logits = [0.0, 3f32.ln(), f32::NEG_INFINITY];
        let mut counts = [0; 3];
        let mut rng = named_rng(0, "test");
        for _ in 0..4000 {
            counts[choose(&logits, &options(1.0, 1.0), &mut rng) as usize] += 1;
        }
        assert_eq!(counts[2], 0);
        // 3000 expected, σ = 27
        assert!((2860..3140).contains(&counts[1]), "{counts:?}");
        assert!((0..100).all(|_| choose(&logits, &options(1.0, 0.7), &mut rng) == 1));
        assert_eq!(choose(&logits, &options(0.0, 1.0), &mut rng), 1);
    }
}
