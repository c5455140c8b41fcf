//! The next token: the likeliest, or drawn from the nucleus.

use rand_chacha::ChaCha8Rng;

use super::GenerateOptions;
use crate::lora::uniform;

/// The next token by its logits, `[vocab_size]`.
pub(crate) fn choose(logits: &[f32], options: &GenerateOptions, rng: &mut ChaCha8Rng) -> u32 {
    if options.temperature <= 0.0 {
        return argmax(logits);
    }
    let top = logits[argmax(logits) as usize];
    // In f64: of tens of thousands of small odds f32 would lose what each adds to a sum near 1.
    let mut odds: Vec<(u32, f64)> = logits
        .iter()
        .map(|l| f64::from((l - top) / options.temperature).exp())
        .enumerate()
        .map(|(id, odds)| (id as u32, odds))
        .collect();
    odds.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if options.top_p < 1.0 {
        let total: f64 = odds.iter().map(|(_, o)| o).sum();
        let mut nucleus = 0.0;
        let size = odds.iter().position(|(_, o)| {
            nucleus += o;
            nucleus >= f64::from(options.top_p) * total
        });
        odds.truncate(size.map_or(odds.len(), |last| last + 1));
    }
    let mut draw = f64::from(uniform(rng)) * odds.iter().map(|(_, o)| o).sum::<f64>();
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
    use crate::lora::named_rng;

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

    #[test]
    fn many_unlikely_tokens_are_drawn_as_often_as_they_are_together() {
        // Each e⁻¹⁷ = 4.1e-8 of the first, together 0.2 of it.
        let mut logits = vec![-17.0; 4_831_000];
        logits[0] = 0.0;
        let mut rng = named_rng(0, "test");
        let drawn = (0..60).filter(|_| choose(&logits, &options(1.0, 1.0), &mut rng) != 0);
        // 10 expected, σ = 2.9
        assert!((2..22).contains(&drawn.count()));
    }
}
