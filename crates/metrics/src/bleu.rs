//! BLEU (Papineni et al. 2002) as sacrebleu computes it by default: 13a tokens, exponential smoothing, one reference.

use std::collections::HashMap;

const ORDER: usize = 4;

/// A BLEU score and what it was computed from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bleu {
    /// 0..=100.
    pub score: f64,
    /// Modified n-gram precisions after smoothing, 0..=100.
    pub precisions: [f64; ORDER],
    pub brevity_penalty: f64,
}

/// BLEU of one answer: n-gram orders longer than the answer are left out (sacrebleu's `effective_order`).
pub fn sentence(reference: &str, prediction: &str) -> Bleu {
    let mut counts = Counts::default();
    counts.add(reference, prediction);
    counts.bleu(true)
}

/// BLEU of a corpus of (reference, prediction): counts are summed before the score is taken.
pub fn corpus<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Bleu {
    let mut counts = Counts::default();
    for (reference, prediction) in pairs {
        counts.add(reference, prediction);
    }
    counts.bleu(false)
}

#[derive(Default)]
struct Counts {
    matched: [usize; ORDER],
    total: [usize; ORDER],
    prediction_words: usize,
    reference_words: usize,
}

impl Counts {
    fn add(&mut self, reference: &str, prediction: &str) {
        let (reference, prediction) = (tokenize_13a(reference), tokenize_13a(prediction));
        self.prediction_words += prediction.len();
        self.reference_words += reference.len();
        for order in 0..ORDER {
            let mut left: HashMap<&[String], usize> = HashMap::new();
            for gram in reference.windows(order + 1) {
                *left.entry(gram).or_default() += 1;
            }
            for gram in prediction.windows(order + 1) {
                self.total[order] += 1;
                if let Some(count) = left.get_mut(gram).filter(|count| **count > 0) {
                    *count -= 1;
                    self.matched[order] += 1;
                }
            }
        }
    }

    fn bleu(&self, effective_order: bool) -> Bleu {
        let brevity_penalty = match (self.prediction_words, self.reference_words) {
            (0, reference) if reference > 0 => 0.0,
            (prediction, reference) if prediction < reference => {
                (1.0 - reference as f64 / prediction as f64).exp()
            }
            _ => 1.0,
        };
        let mut precisions = [0.0; ORDER];
        if self.matched.iter().all(|matched| *matched == 0) {
            return Bleu {
                score: 0.0,
                precisions,
                brevity_penalty,
            };
        }
        let mut smoothing = 1.0;
        let mut orders = ORDER;
        for (n, precision) in precisions.iter_mut().enumerate() {
            let (matched, total) = (self.matched[n] as f64, self.total[n] as f64);
            if total == 0.0 {
                break;
            }
            if effective_order {
                orders = n + 1;
            }
            if matched == 0.0 {
                // Method 3 of Chen and Cherry 2014: each empty order counts half of the one before.
                smoothing *= 2.0;
                *precision = 100.0 / (smoothing * total);
            } else {
                *precision = 100.0 * matched / total;
            }
        }
        let mean_log = precisions[..orders].iter().map(|p| p.ln()).sum::<f64>() / orders as f64;
        Bleu {
            score: brevity_penalty * mean_log.exp(),
            precisions,
            brevity_penalty,
        }
    }
}

/// mteval-v13a's tokens: punctuation apart, periods and commas apart unless between digits, a dash apart after a
/// digit.
fn tokenize_13a(text: &str) -> Vec<String> {
    let text = text
        .trim_end()
        .replace("<skipped>", "")
        .replace("-\n", "")
        .replace('\n', " ");
    let text = text
        .replace("&quot;", "\"")
        .replace("&amp;", "&")
        .replace("&lt;", "<")
        .replace("&gt;", ">");
    let mut spaced = vec![' '];
    for c in text.chars() {
        match c {
            '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/' => {
                spaced.extend([' ', c, ' '])
            }
            _ => spaced.push(c),
        }
    }
    spaced.push(' ');
    let stop = |c: char| c == '.' || c == ',';
    let digit = |c: char| c.is_ascii_digit();
    let spaced = rewrite(&spaced, |a, b| {
        (!digit(a) && stop(b)).then_some([a, ' ', b, ' '])
    });
    let spaced = rewrite(&spaced, |a, b| {
        (stop(a) && !digit(b)).then_some([' ', a, ' ', b])
    });
    let spaced = rewrite(&spaced, |a, b| {
        (digit(a) && b == '-').then_some([a, ' ', b, ' '])
    });
    let spaced: String = spaced.into_iter().collect();
    spaced.split_whitespace().map(str::to_string).collect()
}

/// Replaces pairs of neighbours from left to right without overlap, as a regular expression's substitution does.
fn rewrite(text: &[char], rule: impl Fn(char, char) -> Option<[char; 4]>) -> Vec<char> {
    let mut out = Vec::with_capacity(text.len() * 2);
    let mut i = 0;
    while i < text.len() {
        match text.get(i + 1).and_then(|&next| rule(text[i], next)) {
            Some(replacement) => {
                out.extend(replacement);
                i += 2;
            }
            None => {
                out.push(text[i]);
                i += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_points_and_words_lose_theirs() {
        assert_eq!(
            tokenize_13a("3.5mg, at 1,000-2 (end)."),
            ["3.5mg", ",", "at", "1,000", "-", "2", "(", "end", ")", "."]
        );
        assert_eq!(tokenize_13a("a &lt; b"), ["a", "<", "b"]);
    }
}
