//! What does no model at all score? The commonest answer, and the answer to the most similar question.
//!
//! Without these two the numbers of a model deceive: a task that a lookup solves needs no training.

use std::collections::{BTreeSet, HashMap};

use crate::cases::Case;
use crate::metric::Metric;

/// The reference given most often: the commonest label, and the commonest wording of it; the earliest wins a tie.
pub fn majority<'a>(train: &'a [Case], metric: &Metric) -> &'a str {
    let labels: Vec<String> = train
        .iter()
        .map(|case| metric.label(&case.reference).unwrap_or_default())
        .collect();
    let label = commonest(labels.iter().map(String::as_str));
    let with_label = train
        .iter()
        .zip(&labels)
        .filter(|(_, other)| *other == label);
    commonest(with_label.map(|(case, _)| case.reference.as_str()))
}

fn commonest<'a>(texts: impl Iterator<Item = &'a str>) -> &'a str {
    let mut counts: HashMap<&str, (usize, usize)> = HashMap::new(); // count, first seen at
    for (position, text) in texts.enumerate() {
        counts.entry(text).or_insert((0, position)).0 += 1;
    }
    let most = counts
        .into_iter()
        .max_by_key(|(_, (count, first))| (*count, std::cmp::Reverse(*first)));
    most.map_or("", |(text, _)| text)
}

/// The training questions, ready to be searched by shared words.
pub struct Nearest<'a> {
    train: &'a [Case],
    /// Distinct words of each training question.
    word_counts: Vec<usize>,
    /// Which training questions hold a word.
    postings: HashMap<String, Vec<usize>>,
}

impl<'a> Nearest<'a> {
    pub fn new(train: &'a [Case]) -> Nearest<'a> {
        let mut word_counts = Vec::with_capacity(train.len());
        let mut postings: HashMap<String, Vec<usize>> = HashMap::new();
        for (position, case) in train.iter().enumerate() {
            let words = words(&case.question());
            word_counts.push(words.len());
            for word in words {
                postings.entry(word).or_default().push(position);
            }
        }
        Nearest {
            train,
            word_counts,
            postings,
        }
    }

    /// The training example whose question shares most words: largest |A ∩ B| / |A ∪ B| (Jaccard), the earliest wins
    /// a tie; the first example when no word is shared.
    pub fn find(&self, question: &str) -> Option<&'a Case> {
        let words = words(question);
        let mut shared = vec![0usize; self.train.len()];
        for position in words
            .iter()
            .filter_map(|word| self.postings.get(word))
            .flatten()
        {
            shared[*position] += 1;
        }
        let mut best = 0;
        for candidate in 1..self.train.len() {
            // a/b > c/d without division, so that a tie is a tie
            let union = |i: usize| words.len() + self.word_counts[i] - shared[i];
            if shared[candidate] * union(best) > shared[best] * union(candidate) {
                best = candidate;
            }
        }
        self.train.get(best)
    }
}

/// The distinct words of a text: runs of letters and digits, lower case; in scripts that write no spaces every
/// character.
fn words(text: &str) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    for run in text.to_lowercase().split(|c: char| !c.is_alphanumeric()) {
        for word in run.split_inclusive(is_written_without_spaces) {
            let (before, last) = match word.char_indices().next_back() {
                Some((at, c)) if is_written_without_spaces(c) => word.split_at(at),
                _ => (word, ""),
            };
            words.extend([before, last].map(str::to_string));
        }
    }
    words.remove("");
    words
}

/// Thai, Lao and Khmer; kana, and Chinese characters.
fn is_written_without_spaces(c: char) -> bool {
    matches!(c, '\u{0e00}'..='\u{0eff}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{30ff}'
        | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::tests::cases;
    use crate::metric::TextMetric;

    #[test]
    fn the_majority_is_the_commonest_label_in_its_commonest_wording() {
        let train = cases(&[
            ("a", r#"{"code":"A","d":"one"}"#),
            ("b", r#"{"code":"B","d":"x"}"#),
            ("c", r#"{"code":"A","d":"two"}"#),
            ("d", r#"{"code":"A","d":"two"}"#),
            ("e", r#"{"code":"B","d":"x"}"#),
        ]);
        let code = Metric::from(TextMetric::JsonField("code".into()));
        assert_eq!(majority(&train.cases, &code), r#"{"code":"A","d":"two"}"#);
        assert_eq!(
            majority(&train.cases, &TextMetric::Exact.into()),
            r#"{"code":"B","d":"x"}"#,
            "of equally common answers the earliest"
        );
    }

    #[test]
    fn the_nearest_question_shares_the_largest_part_of_its_words() {
        let train = cases(&[
            ("acute pain of the left knee and hip", "long"),
            ("Knee pain", "knee"),
            ("knee pain", "twin"),
            ("headache", "head"),
        ]);
        let index = Nearest::new(&train.cases);
        let answer = |question| index.find(question).unwrap().reference.as_str();
        assert_eq!(answer("pain, knee!"), "knee", "the earliest of equals");
        assert_eq!(answer("HEADACHE"), "head");
        assert_eq!(
            answer("nothing in common"),
            "long",
            "the first when no word is shared"
        );
        assert!(Nearest::new(&[]).find("x").is_none());
        let found = |text| Vec::from_iter(words(text));
        assert_eq!(found("膝の痛みA1"), ["a1", "の", "み", "痛", "膝"]);
        assert_eq!(found("left-knee, Knee"), ["knee", "left"]);
    }
}
