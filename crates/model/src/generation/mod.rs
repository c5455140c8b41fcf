//! Prompts to completions: what they share is read once, then a token at a time for the whole batch.
//!
//! A batch stays full: sequences that end leave it, and waiting prompts enter, several at once,
//! because reading a prompt costs nearly as little for eight as for one. What a sequence says does
//! not depend on its company, on the CPU to the last bit.

#[cfg(any(feature = "cuda", feature = "cube-cpu"))]
mod device;
mod sampling;

use std::collections::VecDeque;

use burn::tensor::{Int, Tensor, TensorData};
use ops::{AttentionOptions, Decoding, DecodingLayer, KvCache, Team};
use rand_chacha::ChaCha8Rng;

use crate::{
    Error, Model,
    lora::{LayerLora, host, named_rng},
};

/// Tokens of prompts that are read in one pass, unless one prompt alone has more.
const PASS_TOKENS: usize = 4096;

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

impl Sequence {
    fn new(index: usize, options: &GenerateOptions) -> Self {
        Sequence {
            index,
            tokens: Vec::new(),
            rng: named_rng(options.seed, &format!("generate/{index}")),
        }
    }
}

impl Model {
    /// Continues every prompt; `on_done` hears of each completion as it ends, by index.
    pub fn generate(
        &self,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        on_done: &mut dyn FnMut(usize, &Completion),
    ) -> Result<Vec<Completion>, Error> {
        self.generate_rest(prompts, vec![None; prompts.len()], options, on_done)
    }

    /// The same where some completions are known already; `on_done` hears of the others.
    ///
    /// # Panics
    /// Unless there is a place in `known` for every prompt.
    pub fn generate_rest(
        &self,
        prompts: &[Vec<u32>],
        known: Vec<Option<Completion>>,
        options: &GenerateOptions,
        on_done: &mut dyn FnMut(usize, &Completion),
    ) -> Result<Vec<Completion>, Error> {
        assert_eq!(known.len(), prompts.len(), "completions by prompt");
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
        let waiting = Vec::from_iter((0..prompts.len()).filter(|&index| known[index].is_none()));
        let mut done = known;
        let mut on_done = |index: usize, completion: Completion| {
            on_done(index, &completion);
            done[index] = Some(completion);
        };
        match self.decoder.on_cpu {
            _ if waiting.is_empty() => {}
            #[cfg(any(feature = "cuda", feature = "cube-cpu"))]
            false => self.generate_on_device(prompts, &waiting, options, &mut on_done)?,
            _ => Team::like_rayon(|team| {
                let mut batch = Batch::new(self, prompts, waiting, options);
                while batch.admit(team)? || !batch.live.is_empty() {
                    batch.retire(&mut on_done);
                    batch.step(team)?;
                }
                Ok::<_, Error>(())
            })?,
        }
        let done = done.into_iter();
        Ok(done.map(|c| c.expect("every prompt ended")).collect())
    }
}

/// The sequences that are being continued, and the prompts that wait.
struct Batch<'a> {
    model: &'a Model,
    prompts: &'a [Vec<u32>],
    options: &'a GenerateOptions,
    decoding: Decoding,
    /// Tokens that all prompts begin with, and the cache that holds them.
    shared: usize,
    prefix: KvCache,
    waiting: VecDeque<usize>,
    live: Vec<Sequence>,
    /// Of the live sequences, in their order: all but the newest token of each.
    cache: KvCache,
}

impl<'a> Batch<'a> {
    fn new(
        model: &'a Model,
        prompts: &'a [Vec<u32>],
        waiting: Vec<usize>,
        options: &'a GenerateOptions,
    ) -> Self {
        let config = &model.decoder.config;
        let cache = |sequences| {
            let (heads, head_dim) = (config.num_key_value_heads, config.head_dim);
            KvCache::new(config.num_hidden_layers, sequences, heads, head_dim)
        };
        let shared = shared_prefix(prompts);
        let mut prefix = cache(1);
        if shared > 0 {
            model.read(&mut prefix, &[&prompts[0][..shared]]);
        }
        Batch {
            model,
            prompts,
            options,
            decoding: model.decoding(),
            shared,
            prefix,
            waiting: waiting.into(),
            live: Vec::new(),
            cache: cache(0),
        }
    }

    /// Reads waiting prompts into free places, a quarter of the batch at a time, and chooses the first
    /// token of each. Says whether it did.
    fn admit(&mut self, team: &mut Team<'_>) -> Result<bool, Error> {
        let places = self.options.batch_size.max(1);
        let free = places - self.live.len();
        if self.waiting.is_empty() || (free < places.div_ceil(4) && free < self.waiting.len()) {
            return Ok(false);
        }
        let mut tokens = 0;
        let mut fresh = Vec::new();
        while let Some(&index) = self.waiting.front().filter(|_| fresh.len() < free) {
            tokens += self.prompts[index].len() - self.shared;
            if tokens > PASS_TOKENS && !fresh.is_empty() {
                break;
            }
            self.waiting.pop_front();
            fresh.push(Sequence::new(index, self.options));
        }
        let rest: Vec<&[u32]> = fresh
            .iter()
            .map(|sequence| &self.prompts[sequence.index][self.shared..])
            .collect();
        let mut cache = self.prefix.replicate(0, fresh.len());
        let hidden = self.model.read(&mut cache, &rest);
        self.cache.absorb(cache);
        let first = self.live.len();
        self.live.extend(fresh);
        self.choose(team, &hidden, first)?;
        Ok(true)
    }

    /// Hands over the sequences that have ended; the others move together.
    fn retire(&mut self, on_done: &mut dyn FnMut(usize, Completion)) {
        let keep = retire(&mut self.live, self.options, on_done);
        self.cache.retain(&keep);
    }

    /// Reads the newest token of every live sequence and chooses the next.
    fn step(&mut self, team: &mut Team<'_>) -> Result<(), Error> {
        if self.live.is_empty() {
            return Ok(());
        }
        let newest: Vec<u32> = self
            .live
            .iter()
            .map(|s| {
                *s.tokens
                    .last()
                    .expect("a live sequence has its first token")
            })
            .collect();
        let positions: Vec<u32> = (0..self.live.len())
            .map(|i| self.cache.length(i) as u32)
            .collect();
        let (cos, sin) = self.model.decoder.rotary.angles(&positions);
        let hidden = self
            .decoding
            .step(team, &newest, &cos, &sin, &mut self.cache)
            .to_vec();
        self.choose(team, &hidden, 0)
    }

    /// The next token of the live sequences from `first` on, by the hidden states after their last.
    fn choose(&mut self, team: &mut Team<'_>, hidden: &[f32], first: usize) -> Result<(), Error> {
        if !hidden.iter().all(|value| value.is_finite()) {
            return Err(Error::NonFiniteState);
        }
        let live = &mut self.live[first..];
        if self.options.temperature <= 0.0 {
            let chosen = self.decoding.likeliest(team, hidden);
            append(chosen.ok_or(Error::NonFiniteState)?, live);
            return Ok(());
        }
        draw(&self.decoding.logits(team, hidden), self.options, live)
    }
}

impl Model {
    /// Reads new tokens of every sequence behind what its cache holds; answers with the hidden state
    /// after each sequence's last token, `[sequences, hidden]`.
    fn read(&self, cache: &mut KvCache, new: &[&[u32]]) -> Vec<f32> {
        let offsets = offsets(new);
        let past: Vec<usize> = (0..new.len()).map(|i| cache.length(i)).collect();
        let hidden = self.decoder.busy(|| {
            self.last_hidden(new, &past, |layer, q, k, v, options| {
                cache.append(layer, k, v, &offsets);
                cache.attend(layer, q, &offsets, options)
            })
        });
        cache.advance(&offsets);
        host(&hidden)
    }

    /// The decoder's layers over new tokens of every sequence, behind the `past` tokens that its
    /// cache holds: the hidden state after each sequence's last token, `[sequences, hidden]`.
    /// `attend` hears of the layer and maps its rotated queries and keys, and values, to what the
    /// heads saw.
    fn last_hidden(
        &self,
        new: &[&[u32]],
        past: &[usize],
        mut attend: impl FnMut(usize, Tensor<2>, Tensor<2>, Tensor<2>, &AttentionOptions) -> Tensor<2>,
    ) -> Tensor<2> {
        let decoder = &self.decoder;
        let positions: Vec<u32> = past
            .iter()
            .zip(new)
            .flat_map(|(&past, tokens)| past as u32..(past + tokens.len()) as u32)
            .collect();
        let pass = decoder.pass(&positions, None);
        let options = decoder.attention_options();
        let mut x = ops::embedding(&new.concat(), &decoder.embed_tokens);
        for index in 0..decoder.layers.len() {
            let lora: Option<&LayerLora> = self.active_adapter().map(|a| &a.layers[index]);
            x = decoder.layer(index, x, lora, &pass, |q, k, v| {
                attend(index, q, k, v, &options)
            });
        }
        last_rows(x, &offsets(new))
    }

    /// The decoder, with the adapter if it is enabled, as decoding reads it.
    fn decoding(&self) -> Decoding {
        let decoder = &self.decoder;
        Decoding::new(
            self.decoding_layers(),
            &decoder.norm,
            &decoder.embed_tokens,
            &decoder.lm_head,
            decoder.attention_options(),
            decoder.config.rms_norm_eps as f32,
        )
    }

    fn decoding_layers(&self) -> impl Iterator<Item = DecodingLayer<'_>> {
        (0..self.decoder.layers.len()).map(|index| {
            let lora = self.active_adapter().map(|a| &a.layers[index]);
            self.decoder.decoding_layer(index, lora)
        })
    }
}

/// Where each sequence's new tokens begin among all, and where the last ones end.
fn offsets(new: &[&[u32]]) -> Vec<usize> {
    let mut offsets = vec![0];
    for tokens in new {
        offsets.push(offsets[offsets.len() - 1] + tokens.len());
    }
    offsets
}

/// The hidden state after each sequence's last token.
fn last_rows(x: Tensor<2>, offsets: &[usize]) -> Tensor<2> {
    let ends: Vec<i64> = offsets[1..].iter().map(|&end| end as i64 - 1).collect();
    let rows = TensorData::new(ends, [offsets.len() - 1]);
    let rows = Tensor::<1, Int>::from_data(rows, &x.device());
    x.select(0, rows)
}

/// Tokens that all of several prompts begin with; at least one of each is left over.
fn shared_prefix(prompts: &[Vec<u32>]) -> usize {
    let Some((first, others)) = prompts.split_first().filter(|(_, o)| !o.is_empty()) else {
        return 0; // a single prompt is read in one pass
    };
    let shortest = prompts.iter().map(Vec::len).min().unwrap_or(0);
    (0..shortest.saturating_sub(1))
        .take_while(|&i| others.iter().all(|other| other[i] == first[i]))
        .count()
}

/// Hands over the sequences that have ended; the others move together. Says of each whether it goes on.
fn retire(
    live: &mut Vec<Sequence>,
    options: &GenerateOptions,
    on_done: &mut dyn FnMut(usize, Completion),
) -> Vec<bool> {
    let mut keep = Vec::with_capacity(live.len());
    for sequence in std::mem::take(live) {
        let end = finished(&sequence.tokens, options);
        keep.push(end.is_none());
        match end {
            None => live.push(sequence),
            Some(finish) => {
                let token_ids = sequence.tokens;
                on_done(sequence.index, Completion { token_ids, finish });
            }
        }
    }
    keep
}

fn append(tokens: Vec<u32>, live: &mut [Sequence]) {
    for (sequence, token) in live.iter_mut().zip(tokens) {
        sequence.tokens.push(token);
    }
}

/// Draws a token for each sequence by its row of the logits.
fn draw(logits: &[f32], options: &GenerateOptions, live: &mut [Sequence]) -> Result<(), Error> {
    if logits.iter().any(|logit| logit.is_nan()) {
        return Err(Error::NonFiniteState);
    }
    let rows = logits.chunks_exact(logits.len() / live.len());
    for (sequence, row) in live.iter_mut().zip(rows) {
        let token = sampling::choose(row, options, &mut sequence.rng);
        sequence.tokens.push(token);
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shared_prefix_leaves_every_prompt_a_token() {
        assert_eq!(shared_prefix(&[vec![1, 2, 3], vec![1, 2, 4]]), 2);
        assert_eq!(shared_prefix(&[vec![1, 2], vec![1, 2]]), 1);
        assert_eq!(shared_prefix(&[vec![7]]), 0);
        assert_eq!(shared_prefix(&[]), 0);
    }
}
