//! Attention to a cache at every level: several blocks, windows within and across them, shared and own ones.

use super::{Random, close};
use crate::kernels::cached_attention::{Block, KEYS, View, prompts, tokens};
use crate::kernels::simd::Level;
use crate::reference::{self, widen};
use crate::{AttentionOptions, ComputeDtype, Segment, Segments, Team};
use std::sync::Arc;

const HEADS: usize = 4;
const KV_HEADS: usize = 2;

fn options(head_dim: usize, window: Option<usize>) -> AttentionOptions {
    AttentionOptions {
        heads: HEADS,
        kv_heads: KV_HEADS,
        head_dim,
        scale: (head_dim as f32).powf(-0.5),
        window,
        softcap: None,
        compute: ComputeDtype::F32,
        kernel: Default::default(),
    }
}

/// A sequence's rows of k and v in blocks, the first of them those of `shared`.
fn blocks(shared: &[Arc<Block>], k: &[f32], v: &[f32], head_dim: usize) -> Vec<Arc<Block>> {
    let width = KV_HEADS * head_dim;
    let mut blocks = shared.to_vec();
    let own = shared.len() * KEYS * width;
    for (k, v) in k[own..]
        .chunks(KEYS * width)
        .zip(v[own..].chunks(KEYS * width))
    {
        let mut block = Block::new(KV_HEADS, head_dim);
        for (at, (k, v)) in k.chunks_exact(width).zip(v.chunks_exact(width)).enumerate() {
            block.put(at, k, v);
        }
        blocks.push(Arc::new(block));
    }
    blocks
}

/// Sequences of these lengths that begin with the same 200 positions; the newest `new` rows of each are asked.
fn check(level: Level, lengths: &[usize], new: usize, o: &AttentionOptions) {
    let (width, q_width) = (KV_HEADS * o.head_dim, HEADS * o.head_dim);
    let mut random = Random::new(lengths.len() as u64);
    let (prompt_k, prompt_v) = (random.values(200 * width), random.values(200 * width));
    let whole = 200 / KEYS * KEYS * width;
    let shared = blocks(&[], &prompt_k[..whole], &prompt_v[..whole], o.head_dim);
    let (mut all_k, mut all_v) = (Vec::new(), Vec::new());
    let (mut caches, mut segments, mut keys) = (Vec::new(), Vec::new(), 0);
    for (i, length) in lengths.iter().enumerate() {
        let own = (length - 200) * width;
        let k = [prompt_k.clone(), random.values(own)].concat();
        let v = [prompt_v.clone(), random.values(own)].concat();
        caches.push(blocks(&shared, &k, &v, o.head_dim));
        segments.push(Segment {
            q: i * new..(i + 1) * new,
            k: keys..keys + length,
        });
        keys += length;
        all_k.extend(k);
        all_v.extend(v);
    }
    let q = random.values(lengths.len() * new * q_width);
    let views = caches.iter().zip(lengths).enumerate();
    let views = views.map(|(i, (blocks, length))| View {
        blocks,
        past: length - new,
        rows: i * new..(i + 1) * new,
    });
    let views: Vec<View<'_>> = views.collect();
    let segments = Segments::new(segments);
    let expected =
        reference::attention::forward(&widen(&q), &widen(&all_k), &widen(&all_v), &segments, o);
    let what = format!("{level:?}, {lengths:?}, {new} new, {o:?}");
    close(&prompts(level, &q, &views, o), &expected, 2e-6, &what);
    if new == 1 {
        let (mut stats, mut out) = (Vec::new(), vec![f32::NAN; q.len()]);
        Team::like_rayon(|team| tokens(level, team, &q, &views, o, &mut stats, &mut out));
        close(&out, &expected, 2e-6, &what);
    }
}

#[test]
fn a_cache_is_seen_as_far_as_the_window_goes_at_every_level() {
    for level in Level::available() {
        for head_dim in [20, 64] {
            for window in [None, Some(1), Some(30), Some(64), Some(100), Some(500)] {
                let o = options(head_dim, window);
                check(level, &[201], 1, &o);
                check(level, &[201, 256, 257, 300, 203], 1, &o);
                check(level, &[240, 333], 40, &o);
            }
        }
    }
}
