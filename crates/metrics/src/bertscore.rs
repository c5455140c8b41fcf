//! BERTScore (Zhang et al., arXiv 1904.09675): each token meets its most similar one on the other side.
//!
//! As bert_score 0.3.13: cosines of the embeddings of one layer, precision over the candidate's tokens,
//! recall over the reference's, each token by its weight. Without idf every token weighs the same but
//! `[CLS]` and `[SEP]`, which weigh nothing, though others may be most similar to them; a text whose
//! tokens all weigh nothing scores zero.

use std::collections::{HashMap, HashSet};

/// A text's tokens as vectors of one length.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedded {
    width: usize,
    /// `[tokens, width]`, each of length 1.
    unit: Vec<f32>,
}

/// How similar each token of two texts is to the most similar one on the other side: all that a score needs of
/// their vectors, whatever the tokens weigh.
#[derive(Clone, Debug, PartialEq)]
pub struct Matching {
    /// A cosine a token of the candidate; −∞ where the reference has none.
    candidate: Vec<f32>,
    /// And of the reference.
    reference: Vec<f32>,
}

/// Inverse document frequencies: how rare a token is among the references of a test set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idf {
    documents: usize,
    /// Of each token the documents that hold it.
    holding: HashMap<u32, usize>,
}

impl Idf {
    /// Over documents as token ids, with the special tokens that are in each of them.
    pub fn over<'a>(documents: impl IntoIterator<Item = &'a [u32]>) -> Idf {
        let mut idf = Idf {
            documents: 0,
            holding: HashMap::new(),
        };
        for document in documents {
            idf.documents += 1;
            for id in document.iter().collect::<HashSet<_>>() {
                *idf.holding.entry(*id).or_default() += 1;
            }
        }
        idf
    }

    /// ln((documents + 1) / (documents that hold the token + 1)): nothing for one that is in all of them.
    pub fn weight(&self, id: u32) -> f64 {
        let holding = self.holding.get(&id).copied().unwrap_or(0);
        ((self.documents + 1) as f64 / (holding + 1) as f64).ln()
    }
}

/// How much of one text is in another, −1..=1; rescaled, 1 at best.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BertScore {
    pub precision: f64,
    pub recall: f64,
    /// 2·precision·recall / (precision + recall)
    pub f1: f64,
}

impl BertScore {
    /// (score − baseline) / (1 − baseline), each of the three by its own: what two unrelated sentences score
    /// becomes 0.
    pub fn rescaled(self, baseline: BertScore) -> BertScore {
        let rescaled = |score: f64, baseline: f64| (score - baseline) / (1.0 - baseline);
        BertScore {
            precision: rescaled(self.precision, baseline.precision),
            recall: rescaled(self.recall, baseline.recall),
            f1: rescaled(self.f1, baseline.f1),
        }
    }
}

impl Embedded {
    /// `vectors` `[tokens, width]`, of any length.
    ///
    /// # Panics
    /// When `vectors` is not a vector for each of `tokens`.
    pub fn new(mut vectors: Vec<f32>, tokens: usize) -> Embedded {
        let width = vectors.len() / tokens.max(1);
        assert_eq!(width * tokens, vectors.len(), "a vector a token");
        for vector in vectors.chunks_exact_mut(width.max(1)) {
            let squares: f64 = vector.iter().map(|v| f64::from(*v).powi(2)).sum();
            // A vector of zeros is similar to nothing.
            let length = squares.sqrt().max(f64::MIN_POSITIVE);
            vector
                .iter_mut()
                .for_each(|v| *v = (f64::from(*v) / length) as f32);
        }
        Embedded {
            width,
            unit: vectors,
        }
    }

    fn vectors(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.unit.chunks_exact(self.width.max(1))
    }
}

impl Matching {
    pub fn new(candidate: &Embedded, reference: &Embedded) -> Matching {
        let mut matching = Matching {
            candidate: vec![f32::NEG_INFINITY; candidate.vectors().len()],
            reference: vec![f32::NEG_INFINITY; reference.vectors().len()],
        };
        for (a, best_a) in candidate.vectors().zip(&mut matching.candidate) {
            for (b, best_b) in reference.vectors().zip(&mut matching.reference) {
                let cosine = cosine(a, b) as f32;
                *best_a = best_a.max(cosine);
                *best_b = best_b.max(cosine);
            }
        }
        matching
    }

    /// The score where tokens weigh this much, each at least 0.
    ///
    /// # Panics
    /// When there is not a weight for each token.
    pub fn score(&self, candidate: &[f64], reference: &[f64]) -> BertScore {
        let found = mean(&self.candidate, candidate);
        let Some((precision, recall)) = found.zip(mean(&self.reference, reference)) else {
            return BertScore::default();
        };
        let f1 = 2.0 * precision * recall / (precision + recall);
        BertScore {
            precision,
            recall,
            f1: if f1.is_nan() { 0.0 } else { f1 },
        }
    }
}

/// The mean over the tokens by their weight, if any weighs something.
fn mean(cosines: &[f32], weights: &[f64]) -> Option<f64> {
    assert_eq!(cosines.len(), weights.len(), "a weight a token");
    let weighed = cosines
        .iter()
        .zip(weights)
        .filter(|(_, weight)| **weight > 0.0);
    let sum: f64 = weighed
        .map(|(cosine, weight)| f64::from(*cosine) * weight)
        .sum();
    let total: f64 = weights.iter().sum();
    (total > 0.0).then(|| sum / total)
}

/// Of unit vectors.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    // Eight sums side by side: the loop becomes vector instructions.
    let mut sums = [0.0f32; 8];
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    for (a, b) in a.iter().zip(b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(a, b)| f64::from(a * b));
    sums.iter().map(|s| f64::from(*s)).sum::<f64>() + rest.sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors, each with its weight.
    fn scored(candidate: &[([f32; 2], f64)], reference: &[([f32; 2], f64)]) -> BertScore {
        let text = |tokens: &[([f32; 2], f64)]| {
            let vectors = tokens.iter().flat_map(|(vector, _)| *vector).collect();
            let weights: Vec<f64> = tokens.iter().map(|(_, weight)| *weight).collect();
            (Embedded::new(vectors, tokens.len()), weights)
        };
        let [candidate, reference] = [text(candidate), text(reference)];
        Matching::new(&candidate.0, &reference.0).score(&candidate.1, &reference.1)
    }

    #[test]
    fn each_token_meets_its_most_similar_one() {
        // Of length 5 and 1: only directions count.
        let reference = [([3.0, 4.0], 1.0), ([1.0, 0.0], 1.0)];
        let score = scored(&[([1.0, 0.0], 1.0)], &reference);
        assert!((score.precision - 1.0).abs() < 1e-6);
        assert!((score.recall - 0.8).abs() < 1e-6);
        assert!((score.f1 - 2.0 * 0.8 / 1.8).abs() < 1e-6);
    }

    #[test]
    fn a_token_counts_by_its_weight() {
        let reference = [([3.0, 4.0], 3.0), ([1.0, 0.0], 1.0)];
        let score = scored(&[([1.0, 0.0], 0.5)], &reference);
        assert!((score.precision - 1.0).abs() < 1e-6);
        assert!((score.recall - (3.0 * 0.6 + 1.0) / 4.0).abs() < 1e-6);
    }

    #[test]
    fn special_tokens_are_met_but_not_counted() {
        let reference = [([0.0, 1.0], 0.0), ([1.0, 0.0], 1.0)];
        let score = scored(&[([0.0, 1.0], 1.0)], &reference);
        assert_eq!((score.precision, score.recall), (1.0, 0.0));
    }

    #[test]
    fn a_text_of_nothing_but_special_tokens_scores_zero() {
        let (empty, other) = ([([1.0, 0.0], 0.0)], [([1.0, 0.0], 1.0)]);
        assert_eq!(scored(&empty, &other), BertScore::default());
        assert_eq!(scored(&other, &empty), BertScore::default());
        assert_eq!(scored(&[], &other), BertScore::default());
    }

    #[test]
    fn a_token_weighs_less_the_more_documents_hold_it() {
        let documents: [&[u32]; 3] = [&[0, 5, 5, 1], &[0, 5, 6, 1], &[0, 1]];
        let idf = Idf::over(documents);
        assert_eq!((idf.weight(0), idf.weight(1)), (0.0, 0.0));
        assert_eq!(idf.weight(5), (4.0f64 / 3.0).ln());
        assert_eq!(idf.weight(6), 2f64.ln());
        assert_eq!(idf.weight(7), 4f64.ln(), "in none of them");
    }

    #[test]
    fn each_number_is_rescaled_by_its_own_baseline() {
        let [score, baseline] =
            [[1.0, 0.5, 0.75], [0.5, 0.75, 0.5]].map(|[precision, recall, f1]| BertScore {
                precision,
                recall,
                f1,
            });
        let rescaled = score.rescaled(baseline);
        assert_eq!(
            [rescaled.precision, rescaled.recall, rescaled.f1],
            [1.0, -1.0, 0.5]
        );
    }
}
