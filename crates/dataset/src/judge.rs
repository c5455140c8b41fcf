//! What is wrong with the file as a whole? Lines come in order, and are compared with earlier ones.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use crate::characters::Script;
use crate::check::{Checked, Facts, Options, worst};
use crate::finding::Finding;
use crate::minhash::Index;
use crate::rules::{Rule, Severity};

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Keep,
    /// Because of this rule.
    Drop(Rule),
}

/// Judges lines in their order. Memory: 48 bytes for each different example, and with near
/// duplicates about 600 more.
pub struct Judge<'o> {
    options: &'o Options,
    min_per_label: u64,
    examples: Table<u128, u64>,
    prompts: Table<u64, (u64, u64)>,
    first_keys: Option<(u64, u64, u64)>,
    near: Option<(Index, Vec<u64>)>,
    labels: BTreeMap<String, Label>,
    scripts: BTreeMap<Script, Minority>,
    crlf: Option<(u64, u64)>,
    kept: u64,
}

#[derive(Clone, Copy, Debug)]
struct Label {
    count: u64,
    first_line: u64,
}

#[derive(Debug, Default)]
struct Minority {
    count: u64,
    /// The first of them.
    lines: Vec<u64>,
}

/// Lines of a rare script that are remembered.
const REMEMBERED: usize = 10_000;

/// Keys are hashes already.
type Table<K, V> = HashMap<K, V, BuildHasherDefault<AlreadyHashed>>;

impl<'o> Judge<'o> {
    pub fn new(options: &'o Options, min_per_label: u64) -> Judge<'o> {
        Judge {
            options,
            min_per_label,
            examples: Table::default(),
            prompts: Table::default(),
            first_keys: None,
            near: options
                .near_duplicates
                .map(|threshold| (Index::new(threshold), Vec::new())),
            labels: BTreeMap::new(),
            scripts: BTreeMap::new(),
            crlf: None,
            kept: 0,
        }
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
        let passes = |checked: &Checked| match worst(&checked.findings, &self.options.severities) {
            Some((Severity::Error, rule)) => Err(rule),
            _ => Ok(()),
        };
        if let Err(rule) = passes(checked) {
            return Verdict::Drop(rule);
        }
        if let Some(facts) = checked.facts.take() {
            self.compare(line, facts, &mut checked.findings);
        }
        let passes = match worst(&checked.findings, &self.options.severities) {
            Some((Severity::Error, rule)) => Verdict::Drop(rule),
            _ => Verdict::Keep,
        };
        self.kept += u64::from(passes == Verdict::Keep);
        passes
    }

    fn compare(&mut self, line: u64, mut facts: Facts, findings: &mut Vec<Finding>) {
        let on = |rule| self.options.severities.is_on(rule);
        let add = |findings: &mut Vec<Finding>, rule, other: u64, message: String| {
            findings.push(Finding {
                line: Some(line),
                column: None,
                rule,
                message,
                other_line: Some(other),
            });
        };
        if on(Rule::ExactDuplicate)
            && let Some(first) = self.examples.insert_first(facts.example, line)
        {
            add(
                findings,
                Rule::ExactDuplicate,
                first,
                format!("says the same as line {first}"),
            );
            return;
        }
        if on(Rule::AmbiguousAnswer)
            && let Some((answer, first)) = self
                .prompts
                .insert_first(facts.prompt, (facts.answer, line))
            && answer != facts.answer
        {
            add(
                findings,
                Rule::AmbiguousAnswer,
                first,
                format!("asks the same as line {first} and answers otherwise"),
            );
        }
        if let Some((set, order)) = facts.answer_keys {
            let (first_set, first_order, first) =
                *self.first_keys.get_or_insert((set, order, line));
            if set != first_set && on(Rule::InconsistentKeys) {
                add(
                    findings,
                    Rule::InconsistentKeys,
                    first,
                    format!("the answer has other keys than line {first}"),
                );
            } else if set == first_set && order != first_order && on(Rule::KeyOrder) {
                add(
                    findings,
                    Rule::KeyOrder,
                    first,
                    format!("the answer has the keys of line {first} in another order"),
                );
            }
        }
        if let (Some((index, lines)), Some(signature)) = (&mut self.near, facts.signature.take()) {
            if let Some((number, similarity)) = index.add(*signature)
                && on(Rule::NearDuplicate)
            {
                let first = lines[number];
                let percent = (similarity * 100.0).round();
                add(
                    findings,
                    Rule::NearDuplicate,
                    first,
                    format!("asks nearly the same as line {first} ({percent} %)"),
                );
            }
            lines.push(line);
        }
        if let Some(label) = facts.label {
            self.labels
                .entry(label)
                .or_insert(Label {
                    count: 0,
                    first_line: line,
                })
                .count += 1;
        }
        let script = self.scripts.entry(facts.script).or_default();
        script.count += 1;
        if script.lines.len() < REMEMBERED {
            script.lines.push(line);
        }
    }

    /// What can only be said at the end.
    pub fn finish(&mut self) -> Vec<Finding> {
        let mut findings = Vec::new();
        self.rare_labels(&mut findings);
        self.other_scripts(&mut findings);
        let prompts = self.prompts.len() as u64;
        if self.kept >= 10 && prompts * 2 < self.kept {
            findings.push(whole(
                Rule::LowDiversity,
                format!("{} examples ask only {prompts} different things", self.kept),
            ));
        }
        if self.kept < 10 {
            findings.push(whole(
                Rule::FewExamples,
                format!(
                    "{} examples pass; ten are the least that OpenAI takes",
                    self.kept
                ),
            ));
        }
        if let Some((first, count)) = self.crlf {
            let message = format!("{count} lines end in CRLF");
            findings.push(Finding {
                line: Some(first),
                column: None,
                rule: Rule::Crlf,
                message,
                other_line: None,
            });
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
        for (label, Label { count, first_line }) in self
            .labels
            .iter()
            .filter(|(_, of)| of.count < self.min_per_label)
        {
            let message = format!(
                "label {label:?} has {count} of at least {} examples",
                self.min_per_label
            );
            findings.push(Finding {
                line: Some(*first_line),
                column: None,
                rule: Rule::RareLabel,
                message,
                other_line: None,
            });
        }
    }

    fn other_scripts(&self, findings: &mut Vec<Finding>) {
        let all: u64 = self.scripts.values().map(|script| script.count).sum();
        let Some((main, most)) = self.scripts.iter().max_by_key(|(_, script)| script.count) else {
            return;
        };
        if most.count * 10 < all * 9 {
            return;
        }
        for (script, minority) in self.scripts.iter().filter(|(script, _)| *script != main) {
            for line in &minority.lines {
                let message = format!("is mostly {script:?}, where the file is {main:?}");
                findings.push(Finding {
                    line: Some(*line),
                    column: None,
                    rule: Rule::OtherScript,
                    message,
                    other_line: None,
                });
            }
        }
    }
}

fn whole(rule: Rule, message: String) -> Finding {
    Finding {
        line: None,
        column: None,
        rule,
        message,
        other_line: None,
    }
}

/// Inserts once and tells what was there before.
trait InsertFirst<K, V> {
    fn insert_first(&mut self, key: K, value: V) -> Option<V>;
}

impl<K: std::hash::Hash + Eq, V: Copy> InsertFirst<K, V> for Table<K, V> {
    fn insert_first(&mut self, key: K, value: V) -> Option<V> {
        match self.entry(key) {
            std::collections::hash_map::Entry::Occupied(there) => Some(*there.get()),
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(value);
                None
            }
        }
    }
}

/// Passes on the bits of a key that is a hash itself.
#[derive(Default)]
pub struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 << 8) ^ u64::from(*byte);
        }
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}
