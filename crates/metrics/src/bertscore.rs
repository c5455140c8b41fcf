//! BERTScore (Zhang et al., arXiv 1904.09675): each token meets its most similar one on the other side.
//!
//! As bert_score 0.3.13 without idf and without rescaling: cosines of the embeddings of one layer,
//! precision over the candidate's tokens, recall over the reference's. Tokens of weight zero (`[CLS]`
//! and `[SEP]`) are not counted, though others may be most similar to them; a text without any other
//! token scores zero.

/// A text's tokens as vectors of one length.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedded {
    width: usize,
    /// `[tokens, width]`, each of length 1.
    unit: Vec<f32>,
    counted: Vec<bool>,
}

/// How much of one text is in another, −1..=1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BertScore {
    pub precision: f64,
    pub recall: f64,
    /// 2·precision·recall / (precision + recall)
    pub f1: f64,
}

impl Embedded {
    /// `vectors` `[tokens, width]`, any length; `counted` a token each.
    ///
    /// # Panics
    /// When there is not a vector for each of `counted`.
    pub fn new(mut vectors: Vec<f32>, counted: Vec<bool>) -> Embedded {
        let width = vectors.len() / counted.len().max(1);
        assert_eq!(width * counted.len(), vectors.len(), "a vector a token");
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
            counted,
        }
    }

    fn vectors(&self) -> impl Iterator<Item = &[f32]> {
        self.unit.chunks_exact(self.width.max(1))
    }

    /// The mean, over the tokens that count, of the largest cosine with a token of `other`.
    fn found_in(&self, other: &Embedded) -> Option<f64> {
        let counted = self.vectors().zip(&self.counted).filter(|(_, c)| **c);
        let (mut sum, mut tokens) = (0.0, 0);
        for (vector, _) in counted {
            let cosines = other.vectors().map(|v| cosine(vector, v));
            sum += cosines.fold(f64::NEG_INFINITY, f64::max);
            tokens += 1;
        }
        (tokens > 0).then(|| sum / f64::from(tokens))
    }
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

/// A candidate against a reference.
pub fn score(candidate: &Embedded, reference: &Embedded) -> BertScore {
    let found = candidate.found_in(reference);
    let Some((precision, recall)) = found.zip(reference.found_in(candidate)) else {
        return BertScore::default();
    };
    let f1 = 2.0 * precision * recall / (precision + recall);
    BertScore {
        precision,
        recall,
        f1: if f1.is_nan() { 0.0 } else { f1 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(vectors: &[[f32; 2]]) -> Embedded {
        Embedded::new(vectors.concat(), vec![true; vectors.len()])
    }

    #[test]
    fn each_token_meets_its_most_similar_one() {
        // Of length 5 and 1: only directions count.
        let reference = text(&[[3.0, 4.0], [1.0, 0.0]]);
        let candidate = text(&[[1.0, 0.0]]);
        let score = score(&candidate, &reference);
        assert!((score.precision - 1.0).abs() < 1e-6);
        assert!((score.recall - 0.8).abs() < 1e-6);
        assert!((score.f1 - 2.0 * 0.8 / 1.8).abs() < 1e-6);
    }

    #[test]
    fn special_tokens_are_met_but_not_counted() {
        let reference = Embedded::new(vec![0.0, 1.0, 1.0, 0.0], vec![false, true]);
        let candidate = text(&[[0.0, 1.0]]);
        let score = score(&candidate, &reference);
        assert_eq!((score.precision, score.recall), (1.0, 0.0));
    }

    #[test]
    fn a_text_of_nothing_but_special_tokens_scores_zero() {
        let empty = Embedded::new(vec![1.0, 0.0], vec![false]);
        let other = text(&[[1.0, 0.0]]);
        assert_eq!(score(&empty, &other), BertScore::default());
        assert_eq!(score(&other, &empty), BertScore::default());
        assert_eq!(
            score(&Embedded::new(Vec::new(), Vec::new()), &other),
            BertScore::default()
        );
    }
}
