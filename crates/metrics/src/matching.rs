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
/// articles, single spaces. Otherwise than SQuAD's it leaves articles, and then punctuation, where nothing else is: the
/// answers "A" and "+" are not empty ones.
pub fn normalise(text: &str) -> String {
    let text = text.to_lowercase();
    let bare = text.replace(|c: char| c.is_ascii_punctuation(), "");
    let is_article = |word: &&str| matches!(*word, "a" | "an" | "the");
    let mut words: Vec<&str> = bare
        .split_whitespace()
        .filter(|word| !is_article(word))
        .collect();
    for more in [&bare, &text] {
        if words.is_empty() {
            words = more.split_whitespace().collect();
        }
    }
    words.join(" ")
}

/// SQuAD's F1 over the multiset of normalised words, in 0..=1. Two empty texts agree.
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
    fn an_answer_of_nothing_but_an_article_or_a_sign_is_not_an_empty_one() {
        for (a, b, same) in [
            ("A", "", false),
            ("A", "(a).", true),
            ("A", "An", false),
            ("A", "a cat", false),
            ("+", "", false),
            ("+", "-", false),
            ("+ ", " +", true),
            ("", " ", true),
        ] {
            assert_eq!(normalised(a, b), same, "{a:?} {b:?}");
        }
    }

    #[test]
    fn word_f1_counts_repeated_words_once_each() {
        assert_eq!(word_f1("cat cat mat", "cat mat mat"), 2.0 / 3.0);
        assert_eq!(word_f1("", " "), 1.0);
        assert_eq!(word_f1("", "the"), 0.0);
        assert_eq!(word_f1("cat", ""), 0.0);
    }
}
