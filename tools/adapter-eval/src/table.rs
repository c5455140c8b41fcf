//! The outcome as plain text, for a terminal or a log: one line a system.

use crate::compare::p_text;
use crate::metric::{Metric, Side, TextMetric};
use crate::report::{Report, Scored};

/// One row of the overview, as text; the page shows the same rows.
pub struct Row<'a> {
    pub scored: &'a Scored,
    pub cells: Vec<String>,
}

/// The overview's columns and rows: what the table on the terminal and the page have in common.
pub fn overview(report: &Report) -> (Vec<String>, Vec<Row<'_>>) {
    let has_labels = report.systems.iter().any(|scored| scored.labels.is_some());
    let is_json = report.metric.to_string().starts_with("json-");
    let beside: Vec<&Metric> = report.systems[0].scores[1..]
        .iter()
        .map(|(metric, _)| metric)
        .filter(|metric| match metric {
            Metric::Text(TextMetric::JsonValid | TextMetric::JsonFound(_)) => true,
            Metric::Text(TextMetric::Exact | TextMetric::RougeL) => !is_json,
            Metric::BertScore(side) => *side == Side::F1,
            _ => false,
        })
        .collect();
    let has_tokens = report
        .systems
        .iter()
        .any(|scored| scored.prompt_tokens > 0.0);
    let has_others = !report.comparisons.is_empty();

    let mut head = vec![report.metric.to_string(), "95 % interval".into()];
    head.extend(has_labels.then(|| "macro F1".into()));
    head.extend(beside.iter().map(|metric| metric.to_string()));
    head.extend(has_tokens.then(|| "prompt tokens".into()));
    head.extend(has_others.then(|| format!("vs {}", report.judged)));

    let rows = report.systems.iter().map(|scored| {
        let primary = scored.primary();
        let mut cells = vec![
            points(primary.mean),
            format!("{:>5} – {:>5}", points(primary.low), points(primary.high)),
        ];
        if has_labels {
            let macro_f1 = scored
                .labels
                .as_ref()
                .map(|labels| points(labels.macro_average.f1));
            cells.push(macro_f1.unwrap_or_default());
        }
        for metric in &beside {
            cells.push(
                scored
                    .score(metric)
                    .map(|estimate| points(estimate.mean))
                    .unwrap_or_default(),
            );
        }
        if has_tokens {
            let used = scored.prompt_tokens > 0.0;
            cells.push(if used {
                format!("{:.0}", scored.prompt_tokens)
            } else {
                "-".into()
            });
        }
        if has_others {
            let comparison = report
                .comparisons
                .iter()
                .find(|c| c.against == scored.system.key);
            cells.push(comparison.map_or_else(
                || "judged".into(),
                |comparison| {
                    format!(
                        "{}, {}",
                        signed(-comparison.difference.mean),
                        p_text(comparison.p_value())
                    )
                },
            ));
        }
        Row { scored, cells }
    });
    (head, rows.collect())
}

/// The whole outcome as text, ending with a newline.
pub fn text(report: &Report) -> String {
    let (head, rows) = overview(report);
    let mut columns = vec!["system".to_string()];
    columns.extend(head);
    let lines: Vec<Vec<String>> = rows
        .into_iter()
        .map(|row| {
            std::iter::once(row.scored.system.title.clone())
                .chain(row.cells)
                .collect()
        })
        .collect();
    let heads: Vec<Vec<String>> = columns
        .iter()
        .enumerate()
        .map(|(i, head)| {
            let cells = lines.iter().map(|line| line[i].chars().count());
            in_few_lines(head, cells.max().unwrap_or(0))
        })
        .collect();
    let widths: Vec<usize> = (0..columns.len())
        .map(|i| {
            let cells = lines.iter().map(|line| &line[i]);
            let all = cells.chain(&heads[i]).map(|cell| cell.chars().count());
            all.max().unwrap_or(0)
        })
        .collect();
    let line = |cells: &[String]| {
        let padded = cells
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(i, (cell, width))| match i {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    let rule = widths
        .iter()
        .map(|width| "─".repeat(*width))
        .collect::<Vec<_>>()
        .join("──");
    let mut out = vec![
        format!(
            "{}: {} cases, judged by {} (%)",
            report.cases.file, report.cases.count, report.metric
        ),
        String::new(),
    ];
    let height = heads.iter().map(Vec::len).max().unwrap_or(0);
    out.extend((0..height).map(|row| {
        // The last line of each stands above the rule.
        let of = |head: &Vec<String>| {
            (row + head.len())
                .checked_sub(height)
                .map(|i| head[i].clone())
        };
        line(&Vec::from_iter(
            heads.iter().map(|head| of(head).unwrap_or_default()),
        ))
    }));
    out.push(rule);
    out.extend(lines.iter().map(|cells| line(cells)));
    out.push(String::new());
    out.extend(report.conclusion.iter().cloned());
    out.extend(
        report
            .warnings
            .iter()
            .map(|warning| format!("warning: {warning}")),
    );
    for gate in &report.gates {
        out.push(format!(
            "{}: {} ({})",
            gate.gate,
            if gate.met { "met" } else { "NOT met" },
            gate.because
        ));
    }
    out.join("\n") + "\n"
}

/// A heading in at most two lines, as wide as its cells if it can be.
fn in_few_lines(head: &str, cells: usize) -> Vec<String> {
    (cells..)
        .map(|width| broken(head, width))
        .find(|lines| lines.len() <= 2)
        .expect("a line as wide as the heading holds it")
}

/// Broken at spaces and after `-` and `:`, where a line would be wider; no piece is broken.
fn broken(head: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for piece in head.split_inclusive([' ', '-', ':']) {
        let line = lines.last_mut().expect("there is one");
        let wide = line.chars().count() + piece.trim_end().chars().count();
        match line.is_empty() || wide <= width {
            true => line.push_str(piece),
            false => lines.push(piece.to_owned()),
        }
    }
    lines
        .iter()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

/// 0..=1 as percentage points without the sign.
pub fn points(share: f64) -> String {
    format!("{:.1}", share * 100.0)
}

/// A difference in percentage points; none is `+0.0`, never `-0.0`.
pub fn signed(share: f64) -> String {
    format!("{:+.1}", share * 100.0 + 0.0)
}

#[cfg(test)]
mod tests {
    use super::in_few_lines;

    #[test]
    fn a_heading_is_no_wider_than_two_lines_of_it_need() {
        for (head, cells, lines) in [
            ("prompt tokens", 4, vec!["prompt", "tokens"]),
            ("95 % interval", 13, vec!["95 % interval"]),
            ("json-field:code", 5, vec!["json-", "field:code"]),
            ("a bc def", 1, vec!["a bc", "def"]),
            ("accuracy", 4, vec!["accuracy"]),
        ] {
            assert_eq!(in_few_lines(head, cells), lines);
        }
    }
}
