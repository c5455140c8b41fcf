//! What was found? In a few lines for people, in full for machines.

use std::io::Write;

use cli::{Output, OutputWriter};
use dataset::ledger::Counts;
use dataset::{Finding, Rule, Severities, Severity};
use serde::Serialize;
use serde_json::json;

use crate::args::{Args, ReportFormat};

/// Findings shown of each rule.
const SHOWN: usize = 3;

/// The columns, which are a contract: new ones go at the end.
pub const CSV_HEADER: &str = "file,line,column,rule,severity,message,other_line";

/// Collects findings; those for machines are written as they come.
pub struct Report<'a> {
    file: String,
    severities: &'a Severities,
    rules: Vec<Of>,
    writer: Option<(OutputWriter, ReportFormat)>,
    is_first: bool,
}

/// Of one rule.
#[derive(Clone, Default)]
struct Of {
    count: u64,
    first: Vec<String>,
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    finding: &'a Finding,
    severity: Severity,
}

impl<'a> Report<'a> {
    pub fn create(args: &Args, severities: &'a Severities) -> anyhow::Result<Report<'a>> {
        let mut writer = args.report.as_ref().map(Output::create).transpose()?;
        if let Some(writer) = &mut writer {
            match args.format {
                ReportFormat::Csv => writeln!(writer, "{CSV_HEADER}")?,
                ReportFormat::Json => {
                    write!(
                        writer,
                        "{{\"file\":{},\"findings\":[",
                        json!(args.input.name())
                    )?;
                }
            }
        }
        Ok(Report {
            file: args.input.name(),
            severities,
            rules: vec![Of::default(); Rule::ALL.len()],
            writer: writer.map(|writer| (writer, args.format)),
            is_first: true,
        })
    }

    pub fn add(&mut self, findings: &[Finding]) -> anyhow::Result<()> {
        for finding in findings {
            let of = &mut self.rules[finding.rule as usize];
            of.count += 1;
            if of.first.len() < SHOWN {
                of.first.push(told(&self.file, finding));
            }
            if let Some((writer, format)) = &mut self.writer {
                let severity = self.severities.of(finding.rule);
                match format {
                    ReportFormat::Csv => write_row(writer, &self.file, finding, severity)?,
                    ReportFormat::Json => {
                        writer.write_all(if self.is_first { b"\n" } else { b",\n" })?;
                        serde_json::to_writer(&mut *writer, &Row { finding, severity })
                            .map_err(std::io::Error::from)?;
                    }
                }
                self.is_first = false;
            }
        }
        Ok(())
    }

    /// How many findings there are of a severity.
    pub fn count(&self, severity: Severity) -> u64 {
        self.broken()
            .filter(|(rule, _)| self.severities.of(*rule) == severity)
            .map(|(_, of)| of.count)
            .sum()
    }

    /// Completes the report for machines, to be published.
    pub fn finish(
        &mut self,
        counts: Counts,
        labels: &[(&str, u64)],
    ) -> anyhow::Result<Option<OutputWriter>> {
        let Some((mut writer, format)) = self.writer.take() else {
            return Ok(None);
        };
        if format == ReportFormat::Json {
            let rules: serde_json::Map<_, _> = self
                .broken()
                .map(|(rule, of)| {
                    (
                        rule.code().to_owned(),
                        json!({"severity": self.severities.of(rule), "count": of.count}),
                    )
                })
                .collect();
            let lines =
                json!({"read": counts.read(), "kept": counts.kept, "dropped": counts.dropped});
            let labels: serde_json::Map<_, _> = labels
                .iter()
                .map(|(label, count)| ((*label).to_owned(), json!(count)))
                .collect();
            write!(
                writer,
                "\n],\n\"rules\":{},\n\"labels\":{},\n\"lines\":{lines}}}\n",
                json!(rules),
                json!(labels)
            )?;
        }
        Ok(Some(writer))
    }

    /// For people: errors first, each rule with its first examples.
    pub fn tell(&self, counts: Counts, labels: &[(&str, u64)]) {
        for severity in [Severity::Error, Severity::Warning] {
            for (rule, of) in self
                .broken()
                .filter(|(rule, _)| self.severities.of(*rule) == severity)
            {
                cli::note(format_args!("{severity} {rule}: {} found", of.count));
                for told in &of.first {
                    cli::note(told);
                }
                match of.count - of.first.len() as u64 {
                    0 => {}
                    more => cli::note(format_args!("… and {more} more of {rule}")),
                }
            }
        }
        if let ([(most, highest), ..], [.., (least, lowest)]) = (labels, labels) {
            let number = labels.len();
            cli::note(format_args!(
                "{number} labels, from {highest} examples of {most:?} to {lowest} of {least:?}"
            ));
        }
        let Counts { kept, dropped, .. } = counts;
        cli::note(format_args!(
            "{} lines read = {kept} kept + {dropped} left out",
            counts.read()
        ));
        if self.count(Severity::Error) > 0 && !cli::quiet() {
            let _ = writeln!(
                std::io::stderr(),
                "hint: --explain RULE says more; --drop-invalid makes leaving lines out a success"
            );
        }
    }

    fn broken(&self) -> impl Iterator<Item = (Rule, &Of)> {
        Rule::ALL
            .into_iter()
            .zip(&self.rules)
            .filter(|(_, of)| of.count > 0)
    }
}

/// `file:line: message`
fn told(file: &str, finding: &Finding) -> String {
    match (finding.line, finding.column) {
        (Some(line), Some(column)) => format!("{file}:{line}:{column}: {}", finding.message),
        (Some(line), None) => format!("{file}:{line}: {}", finding.message),
        (None, _) => format!("{file}: {}", finding.message),
    }
}

fn write_row(
    writer: &mut impl Write,
    file: &str,
    finding: &Finding,
    severity: Severity,
) -> anyhow::Result<()> {
    let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
    let row = [
        file.to_owned(),
        number(finding.line),
        number(finding.column),
        finding.rule.code().to_owned(),
        severity.to_string(),
        finding.message.to_string(),
        number(finding.other_line),
    ];
    for (index, field) in row.iter().enumerate() {
        writer.write_all(if index == 0 { b"" } else { b"," })?;
        dataset::ledger::write_field(writer, field)?;
    }
    Ok(writer.write_all(b"\n")?)
}
