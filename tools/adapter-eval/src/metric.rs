//! By which measure is an answer judged?

use std::fmt::{self, Display};
use std::str::FromStr;

use metrics::bertscore::BertScore;
use metrics::rouge::{self, Stemming};
use metrics::{bleu, chrf, json, matching};
use serde::{Serialize, Serializer};

/// A measure of one answer against its reference, 1 at best, larger is better.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Metric {
    Text(TextMetric),
    /// An encoder's work ([`crate::judge`]), rarely below 0; rescaled by a baseline, often.
    BertScore(Side),
}

/// A measure that the two texts alone decide, 0..=1.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TextMetric {
    /// Equal text, white space at the ends aside.
    Exact,
    /// Equal after SQuAD's normalisation.
    Normalised,
    /// The whole answer parses as JSON.
    JsonValid,
    /// The whole answer is the reference's JSON value; key order is irrelevant.
    JsonMatch,
    /// The answer parses as JSON and this field holds what the reference's does.
    JsonField(String),
    /// The first JSON object anywhere in the answer holds it: what a forgiving reader could save.
    JsonFound(String),
    /// The answer parses as JSON: F1 of this field's values, a list in any order.
    JsonSet(String),
    /// SQuAD's F1 over words.
    WordF1,
    Rouge1,
    Rouge2,
    RougeL,
    /// ROUGE-L line by line.
    RougeLsum,
    /// Sentence BLEU / 100.
    Bleu,
    /// chrF2 / 100.
    Chrf,
}

/// Which of BERTScore's three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    F1,
    Precision,
    Recall,
}

impl Side {
    pub fn of(self, score: BertScore) -> f64 {
        match self {
            Side::F1 => score.f1,
            Side::Precision => score.precision,
            Side::Recall => score.recall,
        }
    }
}

impl From<TextMetric> for Metric {
    fn from(metric: TextMetric) -> Metric {
        Metric::Text(metric)
    }
}

/// The label of an answer that gives none.
pub const NO_LABEL: &str = "(no answer)";
/// The label of an answer that no reference has.
pub const OTHER_LABEL: &str = "(other)";
/// The label of a reference that gives none: no answer is right.
pub const NO_REFERENCE: &str = "(no reference)";
/// The label of a reference of nothing, and of the answers that are right by it.
pub const EMPTY_LABEL: &str = "(empty)";

impl TextMetric {
    /// Scores one answer.
    pub fn score(&self, reference: &str, output: &str) -> f64 {
        let stemming = Stemming::Porter;
        match self {
            TextMetric::Exact => f64::from(matching::exact(reference, output)),
            TextMetric::Normalised => f64::from(matching::normalised(reference, output)),
            TextMetric::JsonValid => f64::from(json::parse(output).is_some()),
            TextMetric::JsonMatch => f64::from(
                json::parse(reference)
                    .zip(json::parse(output))
                    .is_some_and(|(reference, output)| json::same(&reference, &output)),
            ),
            TextMetric::JsonField(name) => {
                f64::from(same_field(reference, json::parse(output), name))
            }
            TextMetric::JsonFound(name) => {
                f64::from(same_field(reference, json::find_object(output), name))
            }
            TextMetric::JsonSet(name) => json::parse(reference)
                .zip(json::parse(output))
                .and_then(|(reference, output)| {
                    let [reference, output] =
                        [json::field(&reference, name)?, json::field(&output, name)?];
                    Some(json::set_f1(reference, output))
                })
                .unwrap_or(0.0),
            TextMetric::WordF1 => matching::word_f1(reference, output),
            TextMetric::Rouge1 => rouge::rouge_n(reference, output, 1, stemming).f1,
            TextMetric::Rouge2 => rouge::rouge_n(reference, output, 2, stemming).f1,
            TextMetric::RougeL => rouge::rouge_l(reference, output, stemming).f1,
            TextMetric::RougeLsum => rouge::rouge_l_sum(reference, output, stemming).f1,
            TextMetric::Bleu => bleu::sentence(reference, output).score / 100.0,
            TextMetric::Chrf => chrf::sentence(reference, output) / 100.0,
        }
    }

    /// Right or wrong, nothing between.
    pub fn is_binary(&self) -> bool {
        match self {
            TextMetric::Exact | TextMetric::Normalised => true,
            TextMetric::JsonValid | TextMetric::JsonMatch => true,
            TextMetric::JsonField(_) | TextMetric::JsonFound(_) => true,
            TextMetric::JsonSet(_) => false,
            TextMetric::WordF1 | TextMetric::Bleu | TextMetric::Chrf => false,
            TextMetric::Rouge1 | TextMetric::Rouge2 => false,
            TextMetric::RougeL | TextMetric::RougeLsum => false,
        }
    }
}

impl Metric {
    /// Right or wrong, nothing between.
    pub fn is_binary(&self) -> bool {
        matches!(self, Metric::Text(metric) if metric.is_binary())
    }

    /// What class this text names when answers are classes: a field's value, or the whole text; none without the field.
    pub fn label(&self, text: &str) -> Option<String> {
        let (value, name) = match self {
            Metric::Text(TextMetric::JsonField(name) | TextMetric::JsonSet(name)) => {
                (json::parse(text), name)
            }
            Metric::Text(TextMetric::JsonFound(name)) => (json::find_object(text), name),
            Metric::Text(TextMetric::Normalised) => return Some(matching::normalise(text)),
            _ => return Some(text.trim().to_string()),
        };
        json::field(&value?, name).map(json::label)
    }

    /// The measures worth reporting beside the primary one: those of JSON answers when every reference is a JSON
    /// object, with the fields that all of them have, those of prose otherwise. The primary one comes first.
    pub fn beside<'a>(&self, references: impl IntoIterator<Item = &'a str>) -> Vec<Metric> {
        let mut all = vec![self.clone()];
        let beside = if let Some(fields) = common_fields(references) {
            let fields = fields.into_iter().take(MOST_FIELDS);
            let fields = fields.map(TextMetric::JsonField);
            let found = match self {
                Metric::Text(TextMetric::JsonField(name)) => {
                    Some(TextMetric::JsonFound(name.clone()))
                }
                _ => None,
            };
            let whole = [TextMetric::JsonMatch, TextMetric::Exact, TextMetric::RougeL];
            let json = [TextMetric::JsonValid].into_iter().chain(fields);
            json.chain(found).chain(whole).collect()
        } else {
            vec![
                TextMetric::Exact,
                TextMetric::Normalised,
                TextMetric::WordF1,
                TextMetric::Rouge1,
                TextMetric::Rouge2,
                TextMetric::RougeL,
                TextMetric::Chrf,
            ]
        };
        all.extend(beside.into_iter().map(Metric::Text));
        let mut seen = Vec::new();
        all.retain(|metric| {
            !seen.contains(metric) && {
                seen.push(metric.clone());
                true
            }
        });
        all
    }
}

/// Fields that are reported beside the primary metric.
const MOST_FIELDS: usize = 20;

/// The fields that all have, in the first one's order; nothing where one is no JSON object. A field that a reference
/// lacks has no right answer there.
fn common_fields<'a>(references: impl IntoIterator<Item = &'a str>) -> Option<Vec<String>> {
    let mut common: Option<Vec<String>> = None;
    for reference in references {
        let Some(serde_json::Value::Object(object)) = json::parse(reference) else {
            return None;
        };
        match &mut common {
            None => common = Some(object.into_iter().map(|(key, _)| key).collect()),
            Some(common) => common.retain(|key| object.contains_key(key)),
        }
    }
    Some(common.unwrap_or_default())
}

/// Fields of those that are JSON objects, as a hint.
pub fn fields<'a>(references: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut fields = Vec::new();
    for reference in references {
        if let Some(serde_json::Value::Object(object)) = json::parse(reference) {
            for (key, _) in object {
                if fields.len() < MOST_FIELDS && !fields.contains(&key) {
                    fields.push(key);
                }
            }
        }
    }
    fields
}

fn same_field(reference: &str, output: Option<serde_json::Value>, name: &str) -> bool {
    json::parse(reference)
        .zip(output)
        .is_some_and(|(reference, output)| json::field_matches(&reference, &output, name))
}

const PLAIN: [(&str, Metric); 14] = [
    ("exact", Metric::Text(TextMetric::Exact)),
    ("normalised", Metric::Text(TextMetric::Normalised)),
    ("json-valid", Metric::Text(TextMetric::JsonValid)),
    ("json-match", Metric::Text(TextMetric::JsonMatch)),
    ("word-f1", Metric::Text(TextMetric::WordF1)),
    ("rouge-1", Metric::Text(TextMetric::Rouge1)),
    ("rouge-2", Metric::Text(TextMetric::Rouge2)),
    ("rouge-l", Metric::Text(TextMetric::RougeL)),
    ("rouge-lsum", Metric::Text(TextMetric::RougeLsum)),
    ("bleu", Metric::Text(TextMetric::Bleu)),
    ("chrf", Metric::Text(TextMetric::Chrf)),
    ("bertscore", Metric::BertScore(Side::F1)),
    ("bertscore-precision", Metric::BertScore(Side::Precision)),
    ("bertscore-recall", Metric::BertScore(Side::Recall)),
];

impl FromStr for Metric {
    type Err = String;

    fn from_str(name: &str) -> Result<Metric, String> {
        if let Some((_, metric)) = PLAIN.iter().find(|(plain, _)| *plain == name) {
            return Ok(metric.clone());
        }
        match name.split_once(':') {
            Some(("json-field", field)) if !field.is_empty() => {
                Ok(TextMetric::JsonField(field.into()).into())
            }
            Some(("json-found", field)) if !field.is_empty() => {
                Ok(TextMetric::JsonFound(field.into()).into())
            }
            Some(("json-set", field)) if !field.is_empty() => {
                Ok(TextMetric::JsonSet(field.into()).into())
            }
            _ => Err(format!(
                "one of {}, json-field:NAME, json-found:NAME, json-set:NAME",
                PLAIN.map(|(name, _)| name).join(", ")
            )),
        }
    }
}

impl Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Metric::Text(TextMetric::JsonField(name)) => write!(f, "json-field:{name}"),
            Metric::Text(TextMetric::JsonFound(name)) => write!(f, "json-found:{name}"),
            Metric::Text(TextMetric::JsonSet(name)) => write!(f, "json-set:{name}"),
            plain => {
                let named = PLAIN.iter().find(|(_, metric)| metric == plain);
                f.write_str(
                    named
                        .expect("every metric without a field is in the list")
                        .0,
                )
            }
        }
    }
}

impl Serialize for Metric {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_to_its_metric() {
        for name in PLAIN.map(|(name, _)| name).into_iter().chain([
            "json-field:code",
            "json-found:a.b",
            "json-set:code",
        ]) {
            assert_eq!(name.parse::<Metric>().unwrap().to_string(), name);
        }
        for wrong in ["accuracy", "json-field", "json-field:", "exact:code"] {
            assert!(wrong.parse::<Metric>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_right_code_in_prose_counts_for_the_forgiving_metric_only() {
        let (reference, output) = (r#"{"code":"I10"}"#, r#"Sure: {"code": "I10"}"#);
        assert_eq!(
            TextMetric::JsonField("code".into()).score(reference, output),
            0.0
        );
        assert_eq!(
            TextMetric::JsonFound("code".into()).score(reference, output),
            1.0
        );
        let metric = Metric::from(TextMetric::JsonField("code".into()));
        assert_eq!(metric.label(output), None);
    }

    #[test]
    fn a_set_is_the_same_in_any_order_and_a_part_of_it_counts_in_part() {
        let metric = TextMetric::JsonSet("codes".into());
        for (output, score) in [
            (r#"{"codes":["B","A"]}"#, 1.0),
            (r#"{"codes":["A","B","A"]}"#, 1.0),
            (r#"{"codes":"A"}"#, 2.0 / 3.0),
            (r#"{"codes":["A","C"]}"#, 0.5),
            (r#"{"codes":[]}"#, 0.0),
            (r#"{"code":["A","B"]}"#, 0.0),
            (r#"A, B"#, 0.0),
        ] {
            assert_eq!(
                metric.score(r#"{"codes":["A","B"]}"#, output),
                score,
                "{output}"
            );
        }
        assert_eq!(metric.score(r#"{"codes":[]}"#, r#"{"codes":[]}"#), 1.0);
    }

    #[test]
    fn lines_in_another_order_cost_rouge_l_and_not_rouge_lsum() {
        let (reference, output) = ("the cat sat\na dog ran", "a dog ran\nthe cat sat");
        assert!(TextMetric::RougeL.score(reference, output) < 1.0);
        assert_eq!(TextMetric::RougeLsum.score(reference, output), 1.0);
    }

    #[test]
    fn json_references_are_measured_field_by_field_and_prose_by_its_words() {
        let names = |metric: &str, references: [&str; 2]| -> Vec<String> {
            let metric: Metric = metric.parse().unwrap();
            metric
                .beside(references)
                .iter()
                .map(Metric::to_string)
                .collect()
        };
        assert_eq!(
            names(
                "json-field:code",
                // "m" is not asked of both: what would be right where a reference lacks it?
                [r#"{"code":"A","n":1,"m":2}"#, r#"{"code":"B","n":2}"#]
            ),
            [
                "json-field:code",
                "json-valid",
                "json-field:n",
                "json-found:code",
                "json-match",
                "exact",
                "rouge-l"
            ]
        );
        assert_eq!(
            names("rouge-l", ["a", r#"{"code":"B"}"#])[..3],
            ["rouge-l", "exact", "normalised"]
        );
    }
}
