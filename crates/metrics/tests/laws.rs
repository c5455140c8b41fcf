//! What must hold for any texts and any numbers.

use metrics::rouge::{Stemming, rouge_l, rouge_l_sum, rouge_n};
use metrics::{bleu, chrf, classification, interval, json, matching, paired};
use proptest::prelude::*;

fn sentence() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof!["[a-d]{1,3}", "[A-Za-zé日0-9.,&-]{1,12}"], 0..12)
        .prop_map(|words| words.join(" "))
}

proptest! {
    #[test]
    fn scores_stay_in_their_range(a in sentence(), b in sentence()) {
        for stemming in [Stemming::None, Stemming::Porter] {
            for rouge in [rouge_n(&a, &b, 1, stemming), rouge_n(&a, &b, 2, stemming),
                rouge_l(&a, &b, stemming), rouge_l_sum(&a, &b, stemming)] {
                prop_assert!((0.0..=1.0).contains(&rouge.f1));
            }
        }
        prop_assert!((0.0..=1.0).contains(&matching::word_f1(&a, &b)));
        prop_assert!((0.0..=100.0 + 1e-9).contains(&bleu::sentence(&a, &b).score));
        prop_assert!((0.0..=100.0 + 1e-9).contains(&chrf::sentence(&a, &b)));
    }

    #[test]
    fn a_text_agrees_with_itself(a in sentence()) {
        prop_assert!(matching::exact(&a, &a) && matching::normalised(&a, &a));
        prop_assert_eq!(matching::word_f1(&a, &a), 1.0);
        let longer = format!("{a}x");
        prop_assert!(!matching::exact(&a, &longer));
    }

    #[test]
    fn every_pair_is_counted_once(labels in proptest::collection::vec((0usize..4, 0usize..5), 0..40)) {
        let names = ["a", "b", "c", "d", "e"];
        let report = classification::report(labels.iter().map(|&(t, p)| (names[t], names[p])));
        let total: usize = report.confusion.iter().flatten().sum();
        prop_assert_eq!(total, labels.len());
        prop_assert_eq!(report.labels.iter().map(|l| l.support).sum::<usize>(), labels.len());
        prop_assert!((report.weighted_average.recall - report.accuracy).abs() < 1e-12);
    }

    #[test]
    fn more_successes_never_lower_the_interval(trials in 1usize..300, step in 0usize..300) {
        let successes = step % trials;
        let of = |successes| interval::wilson(successes as f64 / trials as f64, trials);
        let (low, high) = of(successes);
        let (more_low, more_high) = of(successes + 1);
        prop_assert!(low <= more_low && high <= more_high && low <= high);
    }

    #[test]
    fn swapping_the_systems_turns_the_difference_round(
        scores in proptest::collection::vec((0.0f64..1.0, 0.0f64..1.0), 1..30), seed in any::<u64>()
    ) {
        let (a, b): (Vec<f64>, Vec<f64>) = scores.into_iter().unzip();
        let one = paired::difference(&a, &b, 200, seed);
        let other = paired::difference(&b, &a, 200, seed);
        prop_assert!((one.mean + other.mean).abs() < 1e-12);
        prop_assert!((one.p_value - other.p_value).abs() < 1e-12);
        prop_assert!(one.low <= one.high);
    }

    #[test]
    fn rouge_l_is_symmetric_but_for_what_is_precision_and_what_recall(a in "[abc ]{0,40}", b in "[abc ]{0,40}") {
        let rouge = |a: &str, b: &str| metrics::rouge::rouge_l(a, b, metrics::rouge::Stemming::None);
        let (one, other) = (rouge(&a, &b), rouge(&b, &a));
        prop_assert_eq!((one.precision, one.recall), (other.recall, other.precision));
        // Of one line each, ROUGE-Lsum is ROUGE-L by the whole table, but for words that are there several times.
        let distinct = |text: &str| {
            let mut seen = std::collections::BTreeSet::new();
            text.split_whitespace().all(|word| seen.insert(word.to_owned()))
        };
        if distinct(&a) && distinct(&b) && !a.trim().is_empty() && !b.trim().is_empty() {
            prop_assert_eq!(one, metrics::rouge::rouge_l_sum(&a, &b, metrics::rouge::Stemming::None));
        }
    }

    #[test]
    fn mcnemar_is_symmetric_and_a_probability(b in 0usize..400, c in 0usize..400) {
        let p = paired::mcnemar_exact(b, c);
        prop_assert!((0.0..=1.0).contains(&p));
        prop_assert_eq!(p, paired::mcnemar_exact(c, b));
    }

    #[test]
    fn an_object_is_found_whatever_stands_around_it(before in "[a-z {\\[\"]{0,20}", after in "[ -~]{0,20}") {
        let object = serde_json::json!({"code": "I10", "nested": {"n": [1, 2]}});
        let text = format!("{before}\n{object}{after}");
        let found = json::find_object(&text);
        prop_assert!(found.is_some_and(|found| json::same(&found, &object)), "{}", text);
    }
}
