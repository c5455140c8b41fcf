//! Examples token by token, what is learned marked: in colour on a terminal, in brackets in a pipe,
//! or as a page.

use std::io::{IsTerminal, Write};
use std::path::Path;

use cli::Output;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use tokens::{Chat, Encoded};

use crate::args::{Args, Packing};
use crate::read::{Line, Place, Reader};
use crate::{Fit, fit, no_examples};

const CUT: &str = "✂";

const LEARNED: [&str; 2] = ["\x1b[30;42m", "\x1b[30;102m"]; // black on green, on light green
const CONTEXT: [&str; 2] = ["", "\x1b[2m"]; // plain, dim
const PLAIN: &str = "\x1b[0m";

/// Runs of tokens that are all learned or all context.
struct Run {
    is_learned: bool,
    /// Packing puts what begins here into another row, or nowhere.
    is_cut: bool,
    /// Text of each token; its id where there is no tokenizer.
    tokens: Vec<String>,
}

struct Shown {
    title: String,
    runs: Vec<Run>,
}

/// An example as packing leaves it.
struct Packed {
    /// Of all its tokens, those that are cut off among them.
    loss_mask: Vec<u8>,
    /// Tokens before which it is cut.
    cuts: Vec<usize>,
    /// What is to be said of that.
    note: String,
}

pub fn run(args: &Args, reader: &Reader, count: usize) -> anyhow::Result<()> {
    let (mut shown, mut before) = (Vec::new(), 0);
    if count > 0 {
        reader.each_line(&args.files, |place, line| {
            if let Line::Examples { examples, .. } = line {
                for example in &examples {
                    let packed = packed(args, place, example, before)?;
                    before += example.input_ids.len();
                    shown.push(one(args, reader, place, example, &packed)?);
                }
            }
            Ok(shown.len() < count)
        })?;
        if shown.is_empty() {
            return no_examples(args);
        }
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

/// What packing makes of an example; `before` is how many tokens the examples before it have.
fn packed(args: &Args, place: Place, example: &Encoded, before: usize) -> anyhow::Result<Packed> {
    let (length, most) = (example.input_ids.len(), args.max_seq_length);
    let (mut loss_mask, cuts, note) = match fit(example.clone(), place, args)? {
        Fit::Dropped => (Vec::new(), Vec::new(), format!(", dropped: over {most}")),
        Fit::Truncated(kept) => (
            kept.loss_mask,
            vec![most],
            format!(", truncated: over {most}"),
        ),
        Fit::Whole(mut kept) => {
            let first = match args.packing {
                Packing::Bfd | Packing::None => length,
                Packing::BfdSplit => most,
                Packing::Wrapped => most - before % most,
            };
            let cuts: Vec<usize> = (first..length).step_by(most).collect();
            for cut in &cuts {
                kept.loss_mask[*cut] = 0; // the first of a row is no target
            }
            let note = match cuts.len() {
                0 => String::new(),
                cuts => format!(", cut into {} pieces", cuts + 1),
            };
            (kept.loss_mask, cuts, note)
        }
    };
    loss_mask.resize(length, 0);
    Ok(Packed {
        loss_mask,
        cuts,
        note,
    })
}

fn one(
    args: &Args,
    reader: &Reader,
    place: Place,
    example: &Encoded,
    packed: &Packed,
) -> anyhow::Result<Shown> {
    let mut runs: Vec<Run> = Vec::new();
    let mut at = 0;
    while at < example.input_ids.len() {
        let is_learned = packed.loss_mask[at] == 1;
        let continues = |next: &usize| {
            (packed.loss_mask[*next] == 1) == is_learned && !packed.cuts.contains(next)
        };
        let end = (at + 1..example.input_ids.len())
            .take_while(continues)
            .last();
        let end = end.map_or(at, |last| last) + 1;
        runs.push(Run {
            is_learned,
            is_cut: packed.cuts.contains(&at),
            tokens: texts(reader.chat(), &example.input_ids[at..end])?,
        });
        at = end;
    }
    let learned = packed
        .loss_mask
        .iter()
        .filter(|target| **target == 1)
        .count();
    let title = format!(
        "{}: {} tokens, {learned} learned{}",
        place.name(&args.files),
        example.input_ids.len(),
        packed.note
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
        if run.is_cut {
            write!(out, "{CUT}")?;
        }
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
                            @if run.is_cut { (CUT) }
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
