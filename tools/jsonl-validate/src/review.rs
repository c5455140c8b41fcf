//! What do the experts say? A sample goes out as a sheet, and its verdicts come back as a rule.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use cli::{Hint, Output, OutputWriter};
use dataset::keys::rank;
use dataset::ledger::write_field;
use dataset::rows::{Format, Quoting, Rows};
use dataset::{Chat, Example, Finding, Rule};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::args::Args;

/// The columns of a sheet, which are a contract: new ones go at the end.
pub const HEADER: &str = "id,line,verdict,comment,prompt,answer";

/// A sample of the examples that pass: those that a seeded hash puts first, so that the same file
/// gives the same sample whatever its order.
pub struct Sample {
    seed: u64,
    size: usize,
    chosen: BTreeMap<(u64, u64), (u64, Vec<u8>)>,
    /// NAME.csv and NAME.html, begun.
    sheets: Option<[OutputWriter; 2]>,
}

/// NAME.csv and NAME.html.
pub fn outputs(args: &Args) -> Option<[Output; 2]> {
    let name = args.review.as_deref()?;
    Some([".csv", ".html"].map(|ending| with_ending(name, ending)))
}

impl Sample {
    /// Begins both sheets, so that what stands in their way is told before the work.
    pub fn create(args: &Args) -> anyhow::Result<Sample> {
        let sheets = match outputs(args) {
            Some([csv, page]) => Some([csv.create()?, page.create()?]),
            None => None,
        };
        Ok(Sample {
            seed: args.seed,
            size: args.sample.unwrap_or(0),
            chosen: BTreeMap::new(),
            sheets,
        })
    }

    /// Takes the example in, if it ranks among the first.
    pub fn offer(&mut self, id: Option<u64>, line: u64, bytes: &[u8]) {
        let Some(id) = id.filter(|_| self.size > 0) else {
            return;
        };
        let key = (rank(id, self.seed), id);
        let is_full = self.chosen.len() >= self.size;
        if is_full
            && self
                .chosen
                .last_key_value()
                .is_none_or(|(last, _)| *last <= key)
        {
            return;
        }
        self.chosen.insert(key, (line, bytes.to_vec()));
        if self.chosen.len() > self.size {
            self.chosen.pop_last();
        }
    }

    /// Writes both sheets; they appear when they are committed.
    pub fn write(self, input_name: &str) -> anyhow::Result<Vec<OutputWriter>> {
        let Some([mut csv, mut page]) = self.sheets else {
            return Ok(Vec::new());
        };
        let mut examples = Vec::new();
        for ((_, id), (line, bytes)) in self.chosen {
            let text = std::str::from_utf8(&bytes).context("a line that passed is UTF-8")?;
            examples.push(Row {
                id: written(id),
                line,
                example: Example::from_json(text)?,
            });
        }
        examples.sort_by_key(|row| row.line);
        writeln!(csv, "{HEADER}")?;
        for row in &examples {
            let (prompt, answer) = row.sides();
            write!(csv, "{},{},,,", row.id, row.line)?;
            write_field(&mut csv, &prompt)?;
            csv.write_all(b",")?;
            write_field(&mut csv, &answer)?;
            csv.write_all(b"\n")?;
        }
        page.write_all(sheet(input_name, &examples).into_string().as_bytes())?;
        csv.flush()?;
        page.flush()?;
        Ok(vec![csv, page])
    }
}

fn with_ending(name: &Path, ending: &str) -> Output {
    let mut path = name.as_os_str().to_owned();
    path.push(ending);
    Output::File(PathBuf::from(path))
}

/// Letters first, so that a spreadsheet does not take it for a number.
fn written(id: u64) -> String {
    format!("ex_{id:016x}")
}

struct Row {
    id: String,
    line: u64,
    example: Example,
}

impl Row {
    /// What is asked and what is answered.
    fn sides(&self) -> (String, String) {
        match &self.example {
            Example::Chat(chat) => conversation(chat),
            Example::Completion { prompt, completion } => (prompt.clone(), completion.clone()),
            Example::Text { text } => (String::new(), text.clone()),
            Example::Tokens { input_ids, .. } => (String::new(), format!("{input_ids:?}")),
        }
    }
}

fn conversation(chat: &Chat) -> (String, String) {
    let told = |message: &dataset::Message| {
        let content = message.content.clone().unwrap_or_default();
        let calls: String = message
            .tool_calls
            .iter()
            .map(|call| format!(" {call}"))
            .collect();
        content + &calls
    };
    let Some((last, before)) = chat.messages.split_last() else {
        return Default::default();
    };
    let before: Vec<String> = before
        .iter()
        .map(|message| format!("{}: {}", message.role, told(message)))
        .collect();
    (before.join("\n"), told(last))
}

/// One page that needs nothing else; its button saves the verdicts as the CSV that is read back.
fn sheet(file: &str, rows: &[Row]) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Review of " (file) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Review of " (file) }
                p { (rows.len()) " examples. Is the answer right? Then press the button, and hand the file back." }
                @for row in rows {
                    @let (prompt, answer) = row.sides();
                    section data-id=(row.id) data-line=(row.line) {
                        h2 { "Line " (row.line) }
                        pre class="prompt" { (prompt) }
                        pre class="answer" { (answer) }
                        label { input type="radio" name=(row.id) value="accept"; " accept" }
                        label { input type="radio" name=(row.id) value="reject"; " reject" }
                        input class="comment" placeholder="comment";
                    }
                }
                button { "Save verdicts" }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
}

const STYLE: &str = ":root{color-scheme:light dark}body{font:16px/1.5 sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}\
h2{font-size:1rem;margin:0}section{border-top:1px solid #8886;padding:1rem 0}\
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.5rem 0;padding:.5rem}.prompt{background:#8881}.answer{background:#3a32}\
label{margin-right:1rem}.comment{width:50%;min-width:10rem}";

const SCRIPT: &str = r#"
document.querySelector("button").onclick = () => {
  const field = text => '"' + text.replaceAll('"', '""') + '"';
  const rows = [...document.querySelectorAll("section")].map(section => {
    const chosen = section.querySelector("input:checked");
    const [prompt, answer] = ["prompt", "answer"].map(name => section.querySelector("." + name).textContent);
    return [section.dataset.id, section.dataset.line, chosen ? chosen.value : "",
      section.querySelector(".comment").value, prompt, answer].map(field).join(",");
  });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(["id,line,verdict,comment,prompt,answer\n" + rows.join("\n") + "\n"]));
  link.download = "verdicts.csv";
  link.click();
};
"#;

/// What was rejected, and the experts' words.
#[derive(Default)]
pub struct Verdicts(HashMap<u64, String>);

impl Verdicts {
    /// The finding about an example that was rejected.
    pub fn rejection(&self, id: Option<u64>, line: u64) -> Option<Finding> {
        if self.0.is_empty() {
            return None;
        }
        let comment = self.0.get(&id?)?;
        let message = match comment.as_str() {
            "" => "a reviewer rejected it".to_owned(),
            comment => format!("a reviewer rejected it: {comment}"),
        };
        Some(Finding {
            line: Some(line),
            column: None,
            rule: Rule::RejectedByReviewer,
            message: message.into(),
            other_line: None,
        })
    }
}

/// Reads sheets that came back; a spreadsheet may have changed the comma to a semicolon or a tab, and
/// UTF-8 to an encoding in which ids and verdicts are the same, and only a comment suffers.
pub fn read_verdicts(files: &[PathBuf]) -> anyhow::Result<Verdicts> {
    let mut verdicts = Verdicts::default();
    for path in files {
        let name = path.display().to_string();
        let sheet = std::fs::read(path).with_context(|| name.clone())?;
        let sheet = match String::from_utf8_lossy(&sheet) {
            Cow::Owned(text) if !sheet.contains(&0) => text.into_bytes(),
            _ => sheet, // UTF-8, or UTF-16, which has a word of its own
        };
        let header = sheet.split(|byte| *byte == b'\n').next();
        let header = header.unwrap_or_default();
        let delimiter = [b';', b'\t']
            .into_iter()
            .find(|delimiter| header.contains(delimiter))
            .unwrap_or(b',');
        let quoting = Quoting::Minimal;
        let format = Format::Delimited { delimiter, quoting };
        for row in Rows::new(&sheet[..], format, None).with_context(|| name.clone())? {
            let row = row.map_err(|error| anyhow::anyhow!("{name}:{error}"))?;
            let cell = |column: &str| {
                row.columns
                    .get(column)
                    .and_then(serde_json::Value::as_str)
                    .map(str::trim)
            };
            let (Some(id), Some(verdict)) = (cell("id"), cell("verdict")) else {
                return Err(anyhow::anyhow!("{name}: has no columns id and verdict"))
                    .hint("--sample N --review NAME writes such a sheet");
            };
            if is_rejection(verdict).with_context(|| format!("{name}:{}", row.place))? {
                let id = id
                    .strip_prefix("ex_")
                    .and_then(|id| u64::from_str_radix(id, 16).ok());
                let id = id.with_context(|| {
                    format!("{name}:{}: the id is none that a sheet holds", row.place)
                })?;
                verdicts
                    .0
                    .insert(id, cell("comment").unwrap_or_default().to_owned());
            }
        }
    }
    Ok(verdicts)
}

fn is_rejection(verdict: &str) -> anyhow::Result<bool> {
    match verdict.to_lowercase().as_str() {
        "" | "accept" | "ok" | "yes" | "y" | "good" | "1" => Ok(false),
        "reject" | "no" | "n" | "bad" | "wrong" | "0" => Ok(true),
        other => bail!("verdict {other:?} is neither accept nor reject"),
    }
}
