//! Examples token by token, what is learned marked: in colour on a terminal, in brackets in a pipe,
//! or as a page.

use std::io::{IsTerminal, Write};
use std::path::Path;

use cli::Output;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use tokens::{Chat, Encoded};

use crate::args::Args;
use crate::read::{Line, Place, Reader};

const LEARNED: [&str; 2] = ["\x1b[30;42m", "\x1b[30;102m"]; // black on green, on light green
const CONTEXT: [&str; 2] = ["", "\x1b[2m"]; // plain, dim
const PLAIN: &str = "\x1b[0m";

/// Runs of tokens that are all learned or all context.
struct Run {
    is_learned: bool,
    /// Text of each token; its id where there is no tokenizer.
    tokens: Vec<String>,
}

struct Shown {
    title: String,
    runs: Vec<Run>,
}

pub fn run(args: &Args, reader: &Reader, count: usize) -> anyhow::Result<()> {
    let mut shown = Vec::new();
    if count > 0 {
        reader.each_line(&args.files, |place, line| {
            if let Line::Examples { examples, .. } = line {
                for example in &examples {
                    shown.push(one(args, reader, place, example)?);
                }
            }
            Ok(shown.len() < count)
        })?;
    }
    let mut out = args.output.create()?;
    let is_page =
        matches!(&args.output, Output::File(path) if path.extension() == Some("html".as_ref()));
    if is_page {
        out.write_all(page(&args.base, &shown).into_string().as_bytes())?;
    } else {
        let colour = args.output == Output::Stdout
            && std::io::stdout().is_terminal()
            && std::env::var_os("NO_COLOR").is_none();
        for example in &shown {
            write_text(&mut out, example, colour)?;
        }
    }
    out.commit()
}

fn one(args: &Args, reader: &Reader, place: Place, example: &Encoded) -> anyhow::Result<Shown> {
    let mut runs: Vec<Run> = Vec::new();
    let mut at = 0;
    while at < example.input_ids.len() {
        let is_learned = example.loss_mask[at] == 1;
        let alike = example.loss_mask[at..]
            .iter()
            .take_while(|target| (**target == 1) == is_learned);
        let end = at + alike.count();
        runs.push(Run {
            is_learned,
            tokens: texts(reader.chat(), &example.input_ids[at..end])?,
        });
        at = end;
    }
    let (tokens, learned) = (example.input_ids.len(), example.supervised_tokens());
    let title = format!(
        "{}: {tokens} tokens, {learned} learned",
        place.name(&args.files)
    );
    Ok(Shown { title, runs })
}

/// The text of each token. Tokens that are parts of one character are shown together.
fn texts(chat: Option<&Chat>, ids: &[u32]) -> anyhow::Result<Vec<String>> {
    const BYTES_OF_A_CHARACTER: usize = 4;
    let Some(chat) = chat else {
        return Ok(ids.iter().map(|id| format!("{id} ")).collect());
    };
    let (mut texts, mut at) = (Vec::new(), 0);
    while at < ids.len() {
        let longest = (ids.len() - at).min(BYTES_OF_A_CHARACTER);
        let mut text = chat.decode(&ids[at..=at], false)?;
        let mut used = 1;
        while text.contains(char::REPLACEMENT_CHARACTER) && used < longest {
            used += 1;
            text = chat.decode(&ids[at..at + used], false)?;
        }
        texts.push(text);
        at += used;
    }
    Ok(texts)
}

/// In colour the shades of green take turns, and so do bright and dim context: each change is a
/// token's edge.
fn write_text(out: &mut dyn Write, example: &Shown, colour: bool) -> std::io::Result<()> {
    writeln!(out, "── {}", example.title)?;
    for run in &example.runs {
        if colour {
            let shades = if run.is_learned { LEARNED } else { CONTEXT };
            for (token, shade) in run.tokens.iter().zip(shades.iter().cycle()) {
                // A coloured line break would colour the rest of the line.
                let token = token.replace('\n', &format!("↵{PLAIN}\n{shade}"));
                write!(out, "{shade}{token}{PLAIN}")?;
            }
        } else if run.is_learned {
            write!(out, "⟦{}⟧", run.tokens.join("·"))?;
        } else {
            write!(out, "{}", run.tokens.concat())?;
        }
    }
    writeln!(out, "\n")
}

fn page(base: &Path, examples: &[Shown]) -> Markup {
    const CSS: &str = ":root{color-scheme:light dark}body{font:15px/1.6 system-ui;max-width:60em;margin:2em auto;padding:0 1em}\
        h2{font-size:1.1em;margin:1.6em 0 .5em}pre,code,h2{overflow-wrap:anywhere}\
        pre{white-space:pre-wrap;font:13px/1.7 ui-monospace,monospace;background:#8881;padding:1em}\
        pre span{outline:1px solid #8884}.learned{background:#b7e4b0;color:#031}";
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "What is learned" }
                style { (PreEscaped(CSS)) }
            }
            body {
                h1 { "What is learned" }
                p {
                    "Tokens on " span.learned { "green" } " are targets; the others are context. Base: "
                    code { (base.display()) }
                }
                @for example in examples {
                    h2 { (example.title) }
                    pre {
                        @for run in &example.runs {
                            @for token in &run.tokens {
                                span.learned[run.is_learned] { (token.replace('\n', "↵\n")) }
                            }
                        }
                    }
                }
            }
        }
    }
}
