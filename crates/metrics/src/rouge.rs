//! ROUGE (Lin 2004) as Google's rouge-score computes it: ROUGE-N, ROUGE-L and ROUGE-Lsum, with or without stemming.

use std::collections::{BTreeSet, HashMap};

use crate::porter;

/// Precision, recall and F-measure, each in 0..=1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rouge {
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
}

/// Whether words of more than three letters are reduced to their Porter stem first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stemming {
    None,
    Porter,
}

/// ROUGE-N: shared n-grams, `n` ≥ 1.
pub fn rouge_n(reference: &str, prediction: &str, n: usize, stemming: Stemming) -> Rouge {
    let (reference, prediction) = (words(reference, stemming), words(prediction, stemming));
    let mut left: HashMap<&[String], usize> = HashMap::new();
    for gram in reference.windows(n) {
        *left.entry(gram).or_default() += 1;
    }
    let mut shared = 0;
    for gram in prediction.windows(n) {
        if let Some(count) = left.get_mut(gram).filter(|count| **count > 0) {
            *count -= 1;
            shared += 1;
        }
    }
    rouge(
        shared,
        reference.windows(n).len(),
        prediction.windows(n).len(),
    )
}

/// ROUGE-L: longest common subsequence of words.
pub fn rouge_l(reference: &str, prediction: &str, stemming: Stemming) -> Rouge {
    let (reference, prediction) = (words(reference, stemming), words(prediction, stemming));
    let length = lcs_length(&reference, &prediction);
    rouge(length, reference.len(), prediction.len())
}

/// ROUGE-Lsum: for each line of the reference, the union of its longest common subsequences with every line of the
/// prediction; each word of either text counts once.
pub fn rouge_l_sum(reference: &str, prediction: &str, stemming: Stemming) -> Rouge {
    let lines = |text: &str| -> Vec<Vec<String>> {
        text.split('\n')
            .filter(|line| !line.is_empty())
            .map(|line| words(line, stemming))
            .collect()
    };
    let (reference, prediction) = (lines(reference), lines(prediction));
    let count = |lines: &[Vec<String>]| {
        let mut counts: HashMap<String, usize> = HashMap::new();
        for word in lines.iter().flatten() {
            *counts.entry(word.clone()).or_default() += 1;
        }
        counts
    };
    let (mut in_reference, mut in_prediction) = (count(&reference), count(&prediction));
    let mut hits = 0;
    for line in &reference {
        let union: BTreeSet<usize> = prediction
            .iter()
            .flat_map(|other| lcs_positions(line, other))
            .collect();
        for position in union {
            let (Some(a), Some(b)) = (
                in_reference.get_mut(&line[position]),
                in_prediction.get_mut(&line[position]),
            ) else {
                continue;
            };
            if *a > 0 && *b > 0 {
                *a -= 1;
                *b -= 1;
                hits += 1;
            }
        }
    }
    rouge(
        hits,
        reference.iter().map(Vec::len).sum(),
        prediction.iter().map(Vec::len).sum(),
    )
}

fn rouge(shared: usize, in_reference: usize, in_prediction: usize) -> Rouge {
    let precision = shared as f64 / in_prediction.max(1) as f64;
    let recall = shared as f64 / in_reference.max(1) as f64;
    let f1 = if precision + recall > 0.0 {
        2.0 * precision * recall / (precision + recall)
    } else {
        0.0
    };
    Rouge {
        precision,
        recall,
        f1,
    }
}

/// Runs of ASCII letters and digits, lower case.
fn words(text: &str, stemming: Stemming) -> Vec<String> {
    let text = text.to_lowercase();
    text.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit())
        .filter(|word| !word.is_empty())
        .map(|word| match stemming {
            Stemming::Porter if word.len() > 3 => porter::stem(word),
            _ => word.to_string(),
        })
        .collect()
}

/// Length of the longest common subsequence, by the last row of [`lcs_table`] alone.
fn lcs_length(a: &[String], b: &[String]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y {
                diagonal + 1
            } else {
                above.max(row[j])
            };
            diagonal = above;
        }
    }
    row[b.len()]
}

/// `table[i][j]`: length of the longest common subsequence of `a[..i]` and `b[..j]`.
fn lcs_table(a: &[String], b: &[String]) -> Vec<Vec<u32>> {
    let mut table = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, x) in a.iter().enumerate() {
        for (j, y) in b.iter().enumerate() {
            table[i + 1][j + 1] = if x == y {
                table[i][j] + 1
            } else {
                table[i][j + 1].max(table[i + 1][j])
            };
        }
    }
    table
}

/// Positions in `a` of one longest common subsequence, by rouge-score's own order of backtracking.
fn lcs_positions(a: &[String], b: &[String]) -> Vec<usize> {
    let table = lcs_table(a, b);
    let (mut i, mut j) = (a.len(), b.len());
    let mut positions = Vec::new();
    while i > 0 && j > 0 {
        if a[i - 1] == b[j - 1] {
            positions.push(i - 1);
            i -= 1;
            j -= 1;
        } else if table[i][j - 1] > table[i - 1][j] {
            j -= 1;
        } else {
            i -= 1;
        }
    }
    positions
}
