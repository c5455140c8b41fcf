//! Do the chat templates of real models render, refuse and mark as transformers has them do?
//!
//! Their texts are other people's and are not copied into this project: `CHAT_TEMPLATES` names a JSON
//! file that holds them with what transformers made of them. It has `generated_on` (a date) and
//! `templates`, a list of objects with `template` (a name), `jinja`, `bos_token`, `eos_token` and
//! `cases`; a case has `messages`, `add_generation_prompt`, perhaps `tools`, `enable_thinking` and
//! `kwargs`, and either `rendered` or `error`. With `assistant_masks` come `input_ids`,
//! both made with the tokenizer of `SMOLLM2_BASE`. What is not there is skipped aloud, and
//! `FORBID_SKIPPED_TESTS` forbids that.

use std::ops::Range;
use std::path::{Path, PathBuf};

use minijinja::value::{Serde, Value};
use serde::Deserialize;
use serde_json::{Map, Value as Json};
use tokenizers::Tokenizer;
use tokens::template::{Rendered, Template, Variables};
use tokens::{Date, Error};

#[derive(Deserialize)]
struct Fixture {
    generated_on: String,
    templates: Vec<Real>,
}

#[derive(Deserialize)]
struct Real {
    template: String,
    jinja: String,
    bos_token: Option<String>,
    eos_token: Option<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    case: String,
    messages: Json,
    add_generation_prompt: bool,
    tools: Option<Json>,
    enable_thinking: Option<bool>,
    #[serde(default)]
    kwargs: Map<String, Json>,
    rendered: Option<String>,
    error: Option<String>,
    assistant_masks: Option<Vec<u8>>,
    input_ids: Option<Vec<u32>>,
}

fn path_of(variable: &str, what: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).filter(|path| !path.is_empty());
    if path.is_none() {
        workspace_tests::skip(&format!("{variable} is to be set to {what}"));
    }
    path.map(PathBuf::from)
}

fn read(path: &Path) -> Fixture {
    let text = std::fs::read_to_string(path).expect("CHAT_TEMPLATES names a file");
    serde_json::from_str(&text).expect("CHAT_TEMPLATES is such a file")
}

fn render(template: &Template, real: &Real, case: &Case) -> Result<Rendered, Error> {
    let special = [
        ("bos_token", &real.bos_token),
        ("eos_token", &real.eos_token),
    ];
    let special: Vec<(String, String)> = special
        .into_iter()
        .filter_map(|(name, token)| Some((name.to_owned(), token.clone()?)))
        .collect();
    let mut arguments = case.kwargs.clone();
    if let Some(thinks) = case.enable_thinking {
        arguments.insert("enable_thinking".into(), thinks.into());
    }
    let variables = Variables::new(&special, &arguments, Value::from(Serde(&case.tools)));
    let messages = Value::from(Serde(&case.messages));
    template.render(&variables.of(messages, case.add_generation_prompt))
}

/// What differs from transformers, if anything does.
fn difference(case: &Case, got: &Result<Rendered, Error>) -> Option<String> {
    match (got, &case.rendered, &case.error) {
        (Ok(got), Some(expected), None) if got.text == *expected => None,
        (Ok(got), Some(expected), None) => Some(format!("{:?}\nnot {expected:?}", got.text)),
        (Err(got), None, Some(expected)) => {
            // What a template raises itself is told; the interpreters word their own errors.
            let raised = expected.strip_prefix("TemplateError: ").unwrap_or_default();
            let got = got.to_string();
            (!got.contains(raised)).then(|| format!("{got}\nnot {expected}"))
        }
        (Err(got), Some(_), None) => Some(got.to_string()),
        (Ok(got), None, Some(expected)) => Some(format!("{:?}\nnot {expected}", got.text)),
        _ => Some("the case is neither rendered nor an error".into()),
    }
}

#[test]
fn real_templates_render_as_transformers_renders_them() {
    let Some(path) = path_of("CHAT_TEMPLATES", "a file of templates and their renderings") else {
        return;
    };
    let fixture = read(&path);
    let date: Date = fixture.generated_on.parse().expect("a date");
    let (mut equal, mut refused, mut different) = (0, 0, Vec::new());
    for real in &fixture.templates {
        let template = Template::new(&real.template, &real.jinja, Some(date)).expect("it compiles");
        for case in &real.cases {
            match difference(case, &render(&template, real, case)) {
                None if case.error.is_some() => refused += 1,
                None => equal += 1,
                Some(how) => different.push(format!("{} {}: {how}", real.template, case.case)),
            }
        }
    }
    println!(
        "{} templates: {equal} renderings equal, {refused} refused as they should be",
        fixture.templates.len()
    );
    assert!(different.is_empty(), "{}", different.join("\n\n"));
    assert!(equal > 0 && refused > 0, "the file has cases of both kinds");
}

#[test]
fn real_templates_mark_as_transformers_masks() {
    let path = path_of("CHAT_TEMPLATES", "a file of templates and their renderings");
    let base = path_of("SMOLLM2_BASE", "the imported SmolLM2-135M-Instruct folder");
    let (Some(path), Some(base)) = (path, base) else {
        return;
    };
    let fixture = read(&path);
    let date: Date = fixture.generated_on.parse().expect("a date");
    let tokenizer = Tokenizer::from_file(base.join("tokenizer.json")).expect("a tokenizer");
    let mut masks = 0;
    for real in &fixture.templates {
        let template = Template::new(&real.template, &real.jinja, Some(date)).expect("it compiles");
        for case in &real.cases {
            let (Some(expected), Some(input_ids)) = (&case.assistant_masks, &case.input_ids) else {
                continue;
            };
            let name = format!("{} {}", real.template, case.case);
            assert!(template.marks_generation(), "{name}");
            let rendered = render(&template, real, case).expect("it was rendered");
            let tokens = tokenizer
                .encode(&*rendered.text, false)
                .expect("it encodes");
            assert_eq!(tokens.get_ids(), input_ids, "{name}");
            let touches = |(from, to): &(usize, usize)| {
                let meets = |span: &Range<usize>| *from < span.end && span.start < *to;
                u8::from(rendered.generation.iter().any(meets))
            };
            let mask: Vec<u8> = tokens.get_offsets().iter().map(touches).collect();
            assert_eq!(&mask, expected, "{name}");
            masks += 1;
        }
    }
    println!("{masks} masks equal");
    assert!(masks > 0, "the file has masks");
}
