//! What do the figures say in words, and are the conditions met?

use crate::cases::Cases;
use crate::compare::{Comparison, Verdict, p_text};
use crate::metric::Metric;
use crate::report::{Gate, Question, Scored};
use crate::system::Kind;

/// The outcome in sentences: how good, better than the best prompt, better than no model at all.
pub fn conclusion(
    metric: &Metric,
    cases: &Cases,
    systems: &[Scored],
    judged: &str,
    comparisons: &[Comparison],
) -> Vec<String> {
    let Some(system) = systems.iter().find(|scored| scored.system.key == judged) else {
        return Vec::new();
    };
    let own = system.primary();
    let title = &system.system.title;
    let mut sentences = vec![format!(
        "{} scores {} by {metric} on {} (95 % interval {} to {}).",
        capitalised(title),
        percent(own.mean),
        cases.counted(),
        percent(own.low),
        percent(own.high),
    )];
    let best = |kind: Kind| {
        let others = systems
            .iter()
            .filter(|scored| scored.system.kind == kind && scored.system.key != judged);
        others.max_by(|a, b| a.primary().mean.total_cmp(&b.primary().mean))
    };
    let against = |other: &Scored| comparisons.iter().find(|c| c.against == other.system.key);

    if let Some((base, comparison)) = best(Kind::Base).and_then(|base| Some((base, against(base)?)))
    {
        let points = comparison.difference.mean.abs() * 100.0;
        let p = p_text(comparison.p_value());
        let name = format!(
            "the best prompted base ({}, {})",
            base.system.title,
            percent(base.primary().mean)
        );
        sentences.push(match comparison.verdict {
            Verdict::Better => format!("That is {points:.1} points above {name}; {p}."),
            Verdict::Worse => format!("That is {points:.1} points below {name}; {p}."),
            Verdict::WithinChance => format!("No clear difference from {name}: {p}."),
        });
    }
    if system.system.kind != Kind::Lookup
        && let Some((lookup, comparison)) =
            best(Kind::Lookup).and_then(|lookup| Some((lookup, against(lookup)?)))
    {
        let points = comparison.difference.mean.abs() * 100.0;
        let p = p_text(comparison.p_value());
        let name = format!(
            "{} ({})",
            lookup.system.title,
            percent(lookup.primary().mean)
        );
        sentences.push(match comparison.verdict {
            Verdict::Better => format!("It is {points:.1} points above {name}, which needs no model; {p}."),
            Verdict::WithinChance => format!(
                "A lookup does as well: {name} needs no model, and the difference of {} points is within chance; {p}. \
                 More cases may tell them apart; if they do not, the lookup suits this task better.",
                crate::table::signed(comparison.difference.mean)
            ),
            Verdict::Worse => format!(
                "A lookup does better: {name} is {points:.1} points above and needs no model; {p}. \
                 It suits this task better than this model does."
            ),
        });
    }
    sentences
}

/// The conditions of --min-accuracy, --must-beat and --must-beat-clearly.
pub fn gates(
    question: &Question<'_>,
    systems: &[Scored],
    judged: &str,
    comparisons: &[Comparison],
) -> Vec<Gate> {
    let Some(system) = systems.iter().find(|scored| scored.system.key == judged) else {
        return Vec::new();
    };
    let own = system.primary().mean;
    let mut gates = Vec::new();
    if let Some(least) = question.min_accuracy {
        gates.push(Gate {
            gate: format!("--min-accuracy {least}"),
            met: own >= least,
            because: format!("{judged} scores {own:.4} by {}", question.metric),
        });
    }
    let by_mean = question.must_beat.iter().map(|name| ("--must-beat", name));
    let clearly = question.must_beat_clearly.iter();
    let clearly = clearly.map(|name| ("--must-beat-clearly", name));
    for (flag, name) in by_mean.chain(clearly) {
        let mut others = systems
            .iter()
            .filter(|other| other.system.key != judged && is_named(&other.system.key, name))
            .peekable();
        if others.peek().is_none() {
            gates.push(Gate {
                gate: format!("{flag} {name}"),
                met: false,
                because: format!("{judged} is the judged system itself"),
            });
        }
        for other in others {
            let (key, theirs) = (&other.system.key, other.primary().mean);
            let mut because = format!("{judged} scores {own:.4}, {key} {theirs:.4}");
            let mut met = own > theirs;
            if flag == "--must-beat-clearly" {
                let comparison = comparisons.iter().find(|c| c.against == *key);
                met = comparison.is_some_and(|c| c.verdict == Verdict::Better);
                if let Some(comparison) = comparison {
                    because += &format!("; {}", p_text(comparison.p_value()));
                }
            }
            gates.push(Gate {
                gate: format!("{flag} {key}"),
                met,
                because,
            });
        }
    }
    gates
}

/// `few-shot` and `base` name every system whose key begins or ends so: `base-nf4-few-shot`.
pub fn is_named(key: &str, name: &str) -> bool {
    key == name
        || key
            .strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('-'))
        || key
            .strip_suffix(name)
            .is_some_and(|rest| rest.ends_with('-'))
}

/// 0..=1 as a percentage.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_uppercase().chain(characters).collect(),
        None => String::new(),
    }
}
