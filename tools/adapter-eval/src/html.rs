//! The outcome as one page that needs nothing else: no script, no network, prints well.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use metrics::classification;

use crate::cases::Cases;
use crate::compare::{Verdict, p_text};
use crate::judge::EncoderInfo;
use crate::metric::Metric;
use crate::report::{Report, Scored};
use crate::shots;
use crate::system::{Finish, Kind, Run};
use crate::table::{self, overview};
use crate::verdict::percent;

const STYLE: &str = include_str!("report.css");
/// Wrong answers shown; predictions.jsonl holds all of them.
const SHOWN_ERRORS: usize = 60;
/// A score from here on is a whole one: BERTScore's cosines are sums in f32.
const WHOLE: f64 = 1.0 - 1e-6;
/// Larger confusion tables are unreadable; the commonest confusions are listed in any case.
const SHOWN_CONFUSION: usize = 48;

/// The page. `runs` are in the order of `report.systems`, and so are `scores`, each case's by the metric that decides.
pub fn page(report: &Report, runs: &[Run], cases: &Cases, scores: &[Vec<f64>]) -> String {
    let judged = report.judged_position();
    let labels = report.systems[judged].labels.as_ref();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Evaluation: " (report.judged) " on " (report.cases.file) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    p.kicker { "Evaluation" }
                    h1 { (report.systems[judged].system.title) " on " (report.cases.file) }
                    p.meta { (report.cases.count) " cases, judged by " code { (report.metric) } }
                    @for sentence in &report.conclusion { p.lead { (unbroken(sentence)) } }
                    @for warning in &report.warnings { p.warning { (warning) } }
                    @for gate in &report.gates {
                        p.gate.met[gate.met].unmet[!gate.met] {
                            b { (gate.gate) } @if gate.met { " met: " } @else { " not met: " } (gate.because)
                        }
                    }
                }
                (systems(report))
                (comparisons(report))
                (selections(report))
                @if let Some(labels) = labels {
                    (confusions(labels, &report.metric, &runs[judged], cases, &scores[judged]))
                    (label_table(labels))
                }
                (confidence(report))
                (errors(report, &runs[judged], cases, scores))
                (settings(report))
            }
        }
    }
    .into_string()
}

fn systems(report: &Report) -> Markup {
    let (mut head, mut rows) = overview(report);
    if !report.comparisons.is_empty() {
        // The page has a table of its own for the last column.
        head.pop();
        rows.iter_mut().for_each(|row| drop(row.cells.pop()));
    }
    html! {
        section {
            h2 { "Systems" }
            div.scroll { table {
                thead { tr { th { "system" } th { } @for column in &head { th.number { (column) } } } }
                tbody {
                    @for row in &rows {
                        tr.judged[row.scored.system.key == report.judged] {
                            td.name { (row.scored.system.title) div.key { (row.scored.system.key) } }
                            td.bar { (bar(row.scored)) }
                            @for cell in &row.cells { td.number { (cell) } }
                        }
                    }
                }
            } }
            p.note {
                "Percent. Bars show the mean and its 95 % interval. Systems that look things up use no model; "
                "they show what the task is worth without one."
            }
        }
    }
}

/// A bar from 0 to the mean, a whisker from low to high, over a width of 200.
fn bar(scored: &Scored) -> Markup {
    let estimate = scored.primary();
    let x = |share: f64| format!("{:.1}", share.clamp(0.0, 1.0) * 200.0);
    let class = match scored.system.kind {
        Kind::Lookup => "lookup",
        Kind::Base => "base",
        Kind::Adapter => "adapter",
    };
    html! {
        svg width="200" height="18" viewBox="0 0 200 18" preserveAspectRatio="none" role="img" aria-label=(percent(estimate.mean)) {
            rect.track x="0" y="4" width="200" height="10" rx="2" {}
            rect class=(class) x="0" y="4" width=(x(estimate.mean)) height="10" rx="2" {}
            line.whisker x1=(x(estimate.low)) y1="9" x2=(x(estimate.high)) y2="9" {}
            @for end in [estimate.low, estimate.high] {
                line.whisker x1=(x(end)) y1="5.5" x2=(x(end)) y2="12.5" {}
            }
        }
    }
}

fn comparisons(report: &Report) -> Markup {
    let binary = report.metric.is_binary();
    let title = |key: &str| {
        let found = report
            .systems
            .iter()
            .find(|scored| scored.system.key == key);
        found.map_or_else(|| key.to_string(), |scored| scored.system.title.clone())
    };
    html! {
        @if !report.comparisons.is_empty() {
            section {
                h2 { (report.judged) " against the others, case by case" }
                div.scroll { table {
                    thead { tr {
                        th { "against" } th.number { "difference" } th.number { "95 % interval" }
                        @if binary { th.number { "only " (report.judged) " right" } th.number { "only the other right" } }
                        th.number { "p" } th { "verdict" }
                    } }
                    tbody { @for comparison in &report.comparisons { tr {
                        td { (title(&comparison.against)) }
                        td.number { (table::signed(comparison.difference.mean)) }
                        td.number { (table::signed(comparison.difference.low)) " to " (table::signed(comparison.difference.high)) }
                        @if binary {
                            td.number { (comparison.only_system.unwrap_or_default()) }
                            td.number { (comparison.only_against.unwrap_or_default()) }
                        }
                        td.number { (p_text(comparison.p_value())) }
                        td { @match comparison.verdict {
                            Verdict::Better => span.good { "better" },
                            Verdict::Worse => span.bad { "worse" },
                            Verdict::WithinChance => "within chance",
                        } }
                    } } }
                } }
                p.note {
                    "Points of a hundred; the interval by the paired bootstrap over the cases"
                    @if binary { ", p by McNemar's exact test." } @else { ", p by flipped signs." }
                }
            }
        }
    }
}

fn selections(report: &Report) -> Markup {
    html! {
        @if !report.selections.is_empty() {
            section {
                h2 { "How the few-shot prompts were chosen" }
                @for selection in &report.selections {
                    p {
                        code { (selection.system) } " on " (selection.cases) " cases of " (selection.file) ", none of them judged here: "
                        @for (i, candidate) in selection.candidates.iter().enumerate() {
                            @if i > 0 { ", " }
                            span.chosen[candidate.shots == selection.chosen] {
                                (shots::count(candidate.shots)) " " (percent(candidate.score))
                            }
                        }
                        "."
                    }
                }
            }
        }
    }
}

fn confusions(
    report: &classification::Report,
    metric: &Metric,
    run: &Run,
    cases: &Cases,
    scores: &[f64],
) -> Markup {
    let name = |i: usize| report.labels[i].label.as_str();
    let n = report.labels.len();
    let mut pairs: Vec<(usize, usize, usize)> = (0..n)
        .flat_map(|t| (0..n).map(move |p| (t, p)))
        .filter(|(t, p)| t != p)
        .map(|(t, p)| (report.confusion[t][p], t, p))
        .filter(|(count, _, _)| *count > 0)
        .collect();
    pairs.sort_by(|a, b| b.0.cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let commonest = report
        .confusion
        .iter()
        .flatten()
        .copied()
        .max()
        .unwrap_or(1)
        .max(1);
    let answers = cases.references().zip(&run.answers).zip(scores);
    let wrong = Vec::from_iter(answers.filter(|(_, score)| **score < WHOLE));
    let start = |text: &str| metric.label(text).and_then(|label| label.chars().next());
    let within = wrong
        .iter()
        .filter(|((reference, answer), _)| {
            let right = start(reference);
            right.is_some() && right == start(&answer.output)
        })
        .count();
    html! {
        section {
            h2 { "Which labels are confused" }
            @if pairs.is_empty() { p { "None." } } @else {
                ul.pairs {
                    @for (count, truth, answered) in pairs.iter().take(12) {
                        li { code { (name(*truth)) } " as " code { (name(*answered)) } " " (count) "×" }
                    }
                    @if pairs.len() > 12 { li { "and " (pairs.len() - 12) " more" } }
                }
                p.note {
                    (within) " of " (wrong.len()) " wrong answers begin with the same character as the right label: "
                    "for hierarchical codes, the right chapter."
                }
            }
            @if n <= SHOWN_CONFUSION {
                div.scroll { table.confusion {
                    thead { tr { th.corner { } @for label in &report.labels { th.turned title=(label.label) { span { (label.label) } } } } }
                    tbody { @for (t, row) in report.confusion.iter().enumerate() {
                        @if report.labels[t].support > 0 { tr {
                            th title=(name(t)) { (name(t)) }
                            @for (p, count) in row.iter().enumerate() {
                                td.diagonal[t == p].error[t != p && *count > 0]
                                    style=[(*count > 0).then(|| format!("--share:{:.2}", *count as f64 / commonest as f64))]
                                    title=(format!("{} answered as {}: {count}", name(t), name(p))) {
                                    @if *count > 0 { (count) }
                                }
                            }
                        } }
                    } }
                } }
                p.note { "Rows are right labels, columns are answers." }
            }
        }
    }
}

fn label_table(report: &classification::Report) -> Markup {
    let averages = [
        ("macro average", report.macro_average),
        ("micro average", report.micro_average),
        ("weighted average", report.weighted_average),
    ];
    let cell = |share: f64| html! { td.number { (table::points(share)) } };
    html! {
        section {
            h2 { "Label by label" }
            div.scroll { table {
                thead { tr {
                    th { "label" } th { } th.number { "F1" } th.number { "precision" } th.number { "recall" }
                    th.number { "cases" } th.number { "answered" }
                } }
                tbody { @for label in &report.labels { tr {
                    td { (label.label) }
                    td.bar { svg width="120" height="12" viewBox="0 0 120 12" preserveAspectRatio="none" role="presentation" {
                        rect.track x="0" y="2" width="120" height="8" rx="2" {}
                        rect.adapter x="0" y="2" width=(format!("{:.1}", label.f1 * 120.0)) height="8" rx="2" {}
                    } }
                    (cell(label.f1)) (cell(label.precision)) (cell(label.recall))
                    td.number { (label.support) } td.number { (label.predicted) }
                } } }
                tfoot { @for (name, scores) in averages { tr {
                    td { (name) } td { } (cell(scores.f1)) (cell(scores.precision)) (cell(scores.recall)) td { } td { }
                } } }
            } }
        }
    }
}

fn confidence(report: &Report) -> Markup {
    let stated: Vec<_> = report
        .systems
        .iter()
        .filter_map(|scored| Some((scored, scored.confidence.as_ref()?)))
        .collect();
    html! {
        @if !stated.is_empty() {
            section {
                h2 { "How sure, and how often right" }
                div.scroll { table {
                    thead { tr {
                        th { "system" } th.number { "answers" } th.number { "Brier" } th.number { "calibration error" }
                        th { "said → right, by tenths" }
                    } }
                    tbody { @for (scored, confidence) in stated { tr {
                        td.name { (scored.system.title) }
                        td.number { (confidence.stated) }
                        td.number { (format!("{:.3}", confidence.brier)) }
                        td.number { (format!("{:.3}", confidence.expected_calibration_error)) }
                        td { @for bin in confidence.bins.iter().filter(|bin| bin.count > 0) {
                            span.nobreak {
                                (percent(bin.confidence)) " → " (percent(bin.accuracy)) " (" (bin.count) ") "
                            } " "
                        } }
                    } } }
                } }
            }
        }
    }
}

/// The answers that are not whole, those that others gave better first among equals: there something was lost.
fn errors(report: &Report, run: &Run, cases: &Cases, scores: &[Vec<f64>]) -> Markup {
    let own = &scores[report.judged_position()];
    let systems = report.systems.iter().zip(scores);
    let better = |case: usize| {
        let better = systems.clone().filter(move |(_, of)| of[case] > own[case]);
        better.map(move |(scored, of)| (scored.system.key.as_str(), of[case]))
    };
    let mut worst: Vec<usize> = (0..own.len()).filter(|i| own[*i] < WHOLE).collect();
    worst.sort_by(|a, b| {
        let of_others = || better(*b).count().cmp(&better(*a).count());
        own[*a].total_cmp(&own[*b]).then_with(of_others)
    });
    let binary = report.metric.is_binary();
    let others = systems.len() > 1;
    html! {
        section {
            h2 { "Wrong answers of " (report.judged) }
            @if worst.is_empty() { p { "None." } } @else {
                p.note {
                    (worst.len()) " of " (own.len()) " cases"
                    @if worst.len() > SHOWN_ERRORS { ", the worst " (SHOWN_ERRORS) " shown" }
                    "; predictions.jsonl holds every answer."
                }
                div.scroll { table.errors {
                    thead { tr {
                        th { "case" } th { "asked" } th { "right" } th { "answered" } th.number { "score" }
                        @if others { th { @if binary { "others that were right" } @else { "others that did better" } } }
                    } }
                    tbody { @for i in worst.into_iter().take(SHOWN_ERRORS) { tr {
                        td { (cases.cases[i].id) }
                        td { (clipped(&cases.cases[i].question())) }
                        td { code { (clipped(&cases.cases[i].reference)) } }
                        td {
                            code { (clipped(&run.answers[i].output)) }
                            @if run.answers[i].finish == Some(Finish::Length) { " " span.bad { "cut" } }
                        }
                        td.number { (table::points(own[i])) }
                        @if others { td { @for (n, (key, score)) in better(i).enumerate() {
                            @if n > 0 { ", " }
                            span.nobreak { (key) @if !binary { " " (table::points(score)) } }
                        } } }
                    } } }
                } }
            }
        }
    }
}

fn settings(report: &Report) -> Markup {
    let settings = &report.settings;
    let rows = [
        ("base", settings.base.clone()),
        ("adapter", settings.adapter.clone()),
        ("precision of the base", settings.quantize.clone()),
        ("multiplied in", settings.compute_dtype.clone()),
        (
            "BERTScore by",
            settings.bertscore.as_ref().map(EncoderInfo::to_string),
        ),
        ("max new tokens", Some(settings.max_new_tokens.to_string())),
        ("temperature", Some(settings.temperature.to_string())),
        ("top p", Some(settings.top_p.to_string())),
        ("seed", Some(settings.seed.to_string())),
        ("cases sha256", Some(report.cases.sha256.clone())),
    ];
    html! {
        section {
            h2 { "Settings of this evaluation" }
            dl { @for (name, value) in rows { @if let Some(value) = value { dt { (name) } dd { (value) } } } }
            p.note { "Answers are as generated, without any constraint on their form." }
        }
    }
}

/// Without a line break between a figure and its sign.
fn unbroken(sentence: &str) -> String {
    const NO_BREAK: &str = "\u{a0}";
    let percent = sentence.replace(" %", &format!("{NO_BREAK}%"));
    ["p < ", "p = "].iter().fold(percent, |text, p| {
        text.replace(p, &p.replace(' ', NO_BREAK))
    })
}

/// A long text's beginning.
fn clipped(text: &str) -> String {
    const MOST: usize = 400;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}
