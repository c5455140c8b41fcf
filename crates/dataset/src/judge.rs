//! What is wrong with the file as a whole? Lines come in order, and are compared with earlier ones.

use std::collections::BTreeMap;

use crate::characters::Script;
use crate::check::{Checked, Options, worst};
use crate::facts::{Facts, More};
use crate::finding::{Finding, FindingMessage};
use crate::language::Language;
use crate::minhash::Index;
use crate::minority::Minority;
use crate::rules::{Rule, Severity};
use crate::seen::{Identity, Seen};

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Keep,
    /// Because of this rule.
    Drop(Rule),
}

/// Judges lines in their order. Memory: about 25 bytes for each different example, 25 for each
/// different prompt, and what near duplicates take (see [`Index`]).
pub struct Judge<'o> {
    options: &'o Options,
    min_per_label: u64,
    examples: Seen,
    prompts: Seen,
    first_keys: Option<(u64, u64, u64)>,
    near: Option<(Index, Vec<u64>)>,
    labels: BTreeMap<String, Label>,
    scripts: Minority<Script>,
    languages: Minority<Language>,
    /// Are question and answer in one language?
    pairs: Minority<bool>,
    crlf: Option<(u64, u64)>,
    kept: u64,
}

/// Prompts that later ones are compared with, for near duplicates: 320 MB of memory at most.
const MOST_NEAR: usize = 1_000_000;

#[derive(Clone, Copy, Debug)]
struct Label {
    count: u64,
    first_line: u64,
}

impl<'o> Judge<'o> {
    pub fn new(options: &'o Options, min_per_label: u64) -> Judge<'o> {
        Judge {
            options,
            min_per_label,
            examples: Seen::new(Identity::KeyAndTag),
            prompts: Seen::new(Identity::Key),
            first_keys: None,
            near: options
                .near_duplicates
                .map(|threshold| (Index::new(threshold), Vec::new())),
            labels: BTreeMap::new(),
            scripts: Minority::default(),
            languages: Minority::default(),
            pairs: Minority::default(),
            crlf: None,
            kept: 0,
        }
    }

    /// Makes ready for judging these lines; changes nothing but the speed.
    pub fn warm<'c>(&self, lines: impl Iterator<Item = &'c Checked> + Clone) {
        let facts = lines.filter_map(|checked| checked.facts.as_ref());
        self.examples
            .warm(facts.clone().map(|facts| key_and_tag(facts).0));
        self.prompts.warm(facts.map(|facts| facts.prompt));
    }

    /// Judges the next line; what is compared with it is added to its findings.
    pub fn judge(&mut self, line: u64, checked: &mut Checked) -> Verdict {
        if checked.ends_in_crlf {
            self.crlf.get_or_insert((line, 0)).1 += 1;
        }
        if checked.is_blank {
            return Verdict::Drop(Rule::BlankLine);
        }
        // A line that does not pass by itself must not make a later, sound one its duplicate.
        if let Some((Severity::Error, rule)) = worst(&checked.findings, &self.options.severities) {
            return Verdict::Drop(rule);
        }
        if let Some(facts) = checked.facts.take() {
            self.compare(line, facts, &mut checked.findings);
        }
        let verdict = match worst(&checked.findings, &self.options.severities) {
            Some((Severity::Error, rule)) => Verdict::Drop(rule),
            _ => Verdict::Keep,
        };
        self.kept += u64::from(verdict == Verdict::Keep);
        verdict
    }

    fn compare(&mut self, line: u64, mut facts: Facts, findings: &mut Vec<Finding>) {
        let on = |rule| self.options.severities.is_on(rule);
        let mut add = |rule, message: FindingMessage, other| {
            findings.push(Finding {
                line: Some(line),
                column: None,
                rule,
                message,
                other_line: Some(other),
            });
        };
        if on(Rule::ExactDuplicate) {
            let (key, tag) = key_and_tag(&facts);
            if let Some((_, first)) = self.examples.insert_first(key, tag, line) {
                return add(
                    Rule::ExactDuplicate,
                    compared("says the same as line ", first, ""),
                    first,
                );
            }
        }
        if on(Rule::AmbiguousAnswer) || on(Rule::LowDiversity) {
            // The tag keeps 24 bits of the answer: of 17 million contradictions one is missed.
            let answer = facts.answer & 0xFF_FFFF;
            if let Some((other, first)) = self.prompts.insert_first(facts.prompt, answer, line)
                && other != answer
                && on(Rule::AmbiguousAnswer)
            {
                let message = compared("asks the same as line ", first, " and answers otherwise");
                add(Rule::AmbiguousAnswer, message, first);
            }
        }
        if let Some(more) = facts.more.take() {
            self.compare_more(line, *more, &mut add);
        }
        self.scripts.count(facts.script, line);
        if let Some(language) = facts.answered_in.or(facts.asked_in) {
            self.languages.count(language, line);
        }
        if let (Some(asked_in), Some(answered_in)) = (facts.asked_in, facts.answered_in) {
            self.pairs.count(asked_in == answered_in, line);
        }
    }

    fn compare_more(
        &mut self,
        line: u64,
        more: More,
        add: &mut impl FnMut(Rule, FindingMessage, u64),
    ) {
        let on = |rule| self.options.severities.is_on(rule);
        if let Some((set, order)) = more.answer_keys {
            let (first_set, first_order, first) =
                *self.first_keys.get_or_insert((set, order, line));
            if set != first_set && on(Rule::InconsistentKeys) {
                let message = compared("the answer has other keys than line ", first, "");
                add(Rule::InconsistentKeys, message, first);
            } else if set == first_set && order != first_order && on(Rule::KeyOrder) {
                let message = compared(
                    "the answer has the keys of line ",
                    first,
                    " in another order",
                );
                add(Rule::KeyOrder, message, first);
            }
        }
        if let (Some((index, lines)), Some(signature)) = (&mut self.near, more.signature) {
            let nearest = if lines.len() < MOST_NEAR {
                lines.push(line);
                index.add_to_nearest(signature)
            } else {
                index.nearest(&signature)
            };
            if let Some((number, similarity)) = nearest
                && on(Rule::NearDuplicate)
            {
                let first = lines[number];
                let percent = (similarity * 100.0).round();
                let message = format!("asks nearly the same as line {first} ({percent} %)");
                add(Rule::NearDuplicate, message.into(), first);
            }
        }
        if let Some(label) = more.label {
            let first = Label {
                count: 0,
                first_line: line,
            };
            self.labels.entry(label).or_insert(first).count += 1;
        }
    }

    /// What can only be said at the end.
    pub fn finish(&mut self) -> Vec<Finding> {
        let mut findings = Vec::new();
        self.rare_labels(&mut findings);
        self.minorities(&mut findings);
        let prompts = self.prompts.len() as u64;
        if self.kept >= 10 && prompts * 2 < self.kept {
            let message = format!("{} examples ask only {prompts} different things", self.kept);
            findings.push(at_end(Rule::LowDiversity, None, message));
        }
        if self.kept < 10 {
            let message = format!(
                "{} examples pass; ten are the least that OpenAI takes",
                self.kept
            );
            findings.push(at_end(Rule::FewExamples, None, message));
        }
        if let Some((first, count)) = self.crlf {
            let message = format!("{count} lines end in CRLF");
            findings.push(at_end(Rule::Crlf, Some(first), message));
        }
        findings.retain(|finding| self.options.severities.is_on(finding.rule));
        findings
    }

    /// How often each label occurs, the most frequent first.
    pub fn labels(&self) -> Vec<(&str, u64)> {
        let mut labels: Vec<_> = self
            .labels
            .iter()
            .map(|(label, of)| (label.as_str(), of.count))
            .collect();
        labels.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        labels
    }

    fn rare_labels(&self, findings: &mut Vec<Finding>) {
        let least = self.min_per_label;
        for (label, Label { count, first_line }) in &self.labels {
            if *count < least {
                let message = format!("label {label:?} has {count} of at least {least} examples");
                findings.push(at_end(Rule::RareLabel, Some(*first_line), message));
            }
        }
    }

    fn minorities(&self, findings: &mut Vec<Finding>) {
        if let Some(main) = self.scripts.main() {
            for (script, line) in self.scripts.others(main) {
                let message = format!("is mostly {script:?}, where the file is {main:?}");
                findings.push(at_end(Rule::OtherScript, Some(line), message));
            }
        }
        if let Some(main) = self.languages.main() {
            for (language, line) in self.languages.others(main) {
                let message = format!("is in {language}, where the file is in {main}");
                findings.push(at_end(Rule::OtherLanguage, Some(line), message));
            }
        }
        // Where question and answer differ throughout, the file teaches to translate.
        if self.pairs.main() == Some(true) {
            for (_, line) in self.pairs.others(true) {
                let message = "question and answer are in different languages".to_owned();
                findings.push(at_end(Rule::MixedLanguages, Some(line), message));
            }
        }
    }
}

/// The 88 bits that stand for an example.
fn key_and_tag(facts: &Facts) -> (u64, u64) {
    (
        (facts.example >> 64) as u64,
        facts.example as u64 & 0xFF_FFFF,
    )
}

fn compared(before: &'static str, line: u64, after: &'static str) -> FindingMessage {
    FindingMessage::Compared {
        before,
        line,
        after,
    }
}

fn at_end(rule: Rule, line: Option<u64>, message: String) -> Finding {
    Finding {
        line,
        column: None,
        rule,
        message: message.into(),
        other_line: None,
    }
}
