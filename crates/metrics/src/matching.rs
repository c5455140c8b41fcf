//! Is the answer the reference? Exactly, after SQuAD's normalisation, or word by word.

use std::collections::HashMap;

/// Equal but for white space at the ends.
pub fn exact(reference: &str, prediction: &str) -> bool {
    reference.trim() == prediction.trim()
}

/// Equal after [`normalise`].
pub fn normalised(reference: &str, prediction: &str) -> bool {
    normalise(reference) == normalise(prediction)
}

/// SQuAD's normalisation (Rajpurkar et al., arXiv 1606.05250): lower case, no ASCII punctuation, no English
/// articles, single spaces.
pub fn normalise(text: &str) -> String {
    let text: String = text
        .to_lowercase()
        .chars()
        .filter(|c| !c.is_ascii_punctuation())
        .collect();
    let words: Vec<&str> = text
        .split_whitespace()
        .filter(|word| !matches!(*word, "a" | "an" | "the"))
        .collect();
    words.join(" ")
}

/// SQuAD's F1 over the multiset of normalised words, in 0..=1. Two texts without words agree.
pub fn word_f1(reference: &str, prediction: &str) -> f64 {
    let (reference, prediction) = (normalise(reference), normalise(prediction));
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in reference.split(' ').filter(|word| !word.is_empty()) {
        *left.entry(word).or_default() += 1;
    }
    let reference_words: usize = left.values().sum();
    let mut prediction_words = 0;
    let mut shared = 0;
    for word in prediction.split(' ').filter(|word| !word.is_empty()) {
        prediction_words += 1;
        if let Some(count) = left.get_mut(word).filter(|count| **count > 0) {
            *count -= 1;
            shared += 1;
        }
    }
    match (reference_words, prediction_words) {
        (0, 0) => 1.0,
        _ => 2.0 * shared as f64 / (reference_words + prediction_words) as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_at_the_ends_does_not_count_and_inside_it_does() {
        assert!(exact("I10", " I10\n"));
        assert!(!exact("type 2", "type  2"));
    }

    #[test]
    fn normalisation_forgets_case_articles_and_punctuation() {
        assert!(normalised("The Cat's mat.", "cats mat"));
        assert!(!normalised("cat", "cat mat"));
    }

    #[test]
    fn word_f1_counts_repeated_words_once_each() {
        assert_eq!(word_f1("cat cat mat", "cat mat mat"), 2.0 / 3.0);
        assert_eq!(word_f1("", "the"), 1.0);
        assert_eq!(word_f1("cat", ""), 0.0);
    }
}
