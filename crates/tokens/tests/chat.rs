//! Templates and masks: what does the model read, and what of it is learned?
//!
//! The base in tests/data/tokens/base has a byte-level tokenizer of 495 tokens and a template in the
//! manner of ChatML; other templates are written into copies of it.

use std::fs;
use std::path::{Path, PathBuf};

use dataset::{Example, Message, Role};
use proptest::prelude::*;
use tokens::{Chat, ChatOptions, Date, Encoded, Error, Prompting, TrainOn};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tokens")
}

fn base() -> Chat {
    Chat::open(&data().join("base")).unwrap()
}

/// A copy of the base with this template, and the special tokens named.
fn base_with(template: &str, special_tokens: &str) -> (tempfile::TempDir, Chat) {
    let dir = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "config.json"] {
        fs::copy(data().join("base").join(file), dir.path().join(file)).unwrap();
    }
    fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    fs::write(dir.path().join("tokenizer_config.json"), special_tokens).unwrap();
    let chat = Chat::open(dir.path()).unwrap();
    (dir, chat)
}

const CHATML_TOKENS: &str = r#"{"eos_token": "<|im_end|>"}"#;

fn example(line: &str) -> Example {
    Example::from_json(line).unwrap()
}

/// Messages `user a`, `assistant b`, … alternating.
fn dialogue(said: &[&str]) -> Example {
    let messages = said.iter().enumerate().map(|(index, text)| {
        Message::new(
            if index % 2 == 0 {
                Role::User
            } else {
                Role::Assistant
            },
            *text,
        )
    });
    Example::Chat(dataset::Chat {
        messages: messages.collect(),
        ..Default::default()
    })
}

fn with_tools(example: &Example, tools: Option<Vec<serde_json::Value>>) -> Example {
    match example.clone() {
        Example::Chat(chat) => Example::Chat(dataset::Chat { tools, ..chat }),
        other => other,
    }
}

/// The stretches that are learned, as text.
fn learned(chat: &Chat, encoded: &Encoded) -> Vec<String> {
    let mut stretches: Vec<Vec<u32>> = Vec::new();
    let mut was_learned = false;
    for (id, target) in encoded.input_ids.iter().zip(&encoded.loss_mask) {
        if *target == 1 && !was_learned {
            stretches.push(Vec::new());
        }
        was_learned = *target == 1;
        if let (1, Some(stretch)) = (*target, stretches.last_mut()) {
            stretch.push(*id);
        }
    }
    stretches
        .iter()
        .map(|ids| chat.decode(ids, false).unwrap())
        .collect()
}

#[test]
fn every_answer_is_learned_through_its_end_of_turn_token_and_no_further() {
    let chat = base();
    let encoded = chat
        .example(&dialogue(&["code?", "E11", "sure?", "yes é"]), TrainOn::All)
        .unwrap();
    assert_eq!(
        chat.decode(&encoded.input_ids, false).unwrap(),
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\ncode?<|im_end|>\n\
         <|im_start|>assistant\nE11<|im_end|>\n<|im_start|>user\nsure?<|im_end|>\n\
         <|im_start|>assistant\nyes é<|im_end|>\n"
    );
    assert_eq!(
        learned(&chat, &encoded),
        ["E11<|im_end|>", "yes é<|im_end|>"]
    );
}

#[test]
fn train_on_last_learns_the_last_answer_only() {
    let chat = base();
    let encoded = chat
        .example(&dialogue(&["a", "b", "c", "d"]), TrainOn::Last)
        .unwrap();
    assert_eq!(learned(&chat, &encoded), ["d<|im_end|>"]);
}

#[test]
fn a_message_of_weight_0_is_context() {
    let chat = base();
    let line = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b","weight":0},
        {"role":"user","content":"c"},{"role":"assistant","content":"d"}]}"#;
    let encoded = chat.example(&example(line), TrainOn::All).unwrap();
    assert_eq!(learned(&chat, &encoded), ["d<|im_end|>"]);
    let none = line.replace(r#""content":"d""#, r#""content":"d","weight":0"#);
    let error = chat.example(&example(&none), TrainOn::All).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no token of this example would be learned: its assistant messages have weight 0"
    );
}

#[test]
fn a_prompt_is_the_beginning_of_the_example_that_was_learned() {
    let chat = base();
    let messages = [Message::new(
        Role::User,
        "What is the code of acute bronchitis?",
    )];
    let prompt = chat.encode(&chat.render(&messages, true).unwrap()).unwrap();
    let answered = chat.example(
        &dialogue(&["What is the code of acute bronchitis?", "J20"]),
        TrainOn::All,
    );
    let answered = answered.unwrap();
    assert_eq!(answered.input_ids[..prompt.len()], prompt);
    assert!(
        answered.loss_mask[..prompt.len()]
            .iter()
            .all(|target| *target == 0)
    );
    assert_eq!(answered.loss_mask[prompt.len()], 1);
}

#[test]
fn generation_blocks_say_what_is_learned_where_history_is_rewritten() {
    // Reasoning is shown for the last answer only, so prefixes do not hold.
    let template = "\
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- generation %}
            {%- if loop.last %}{{- '(thinking)' }}{% endif %}
            {{- message.content + '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}";
    let (_dir, chat) = base_with(template, CHATML_TOKENS);
    let encoded = chat
        .example(&dialogue(&["a", "b", "c", "d"]), TrainOn::All)
        .unwrap();
    assert_eq!(
        learned(&chat, &encoded),
        ["b<|im_end|>", "(thinking)d<|im_end|>"]
    );
    let last = chat
        .example(&dialogue(&["a", "b", "c", "d"]), TrainOn::Last)
        .unwrap();
    assert_eq!(learned(&chat, &last), ["(thinking)d<|im_end|>"]);

    let (_dir, unmarked) = base_with(
        &template
            .replace("{%- generation %}", "")
            .replace("{%- endgeneration %}", ""),
        CHATML_TOKENS,
    );
    let error = unmarked
        .example(&dialogue(&["a", "b", "c", "d"]), TrainOn::All)
        .unwrap_err();
    assert!(
        matches!(error, Error::PrefixNotPreserved { turn: 1, .. }),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("chat_template.jinja rewrites the conversation"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("--train-on last"));
}

#[test]
fn text_that_holds_our_own_marks_is_refused() {
    let template = "{% for message in messages %}{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}{% endfor %}";
    let (_dir, chat) = base_with(template, CHATML_TOKENS);
    let error = chat
        .example(&dialogue(&["a\u{FDD0}", "b"]), TrainOn::All)
        .unwrap_err();
    assert!(error.to_string().contains("U+FDD0"), "{error}");
}

const LLAMA_LIKE: &str = "{{ bos_token }}{% for message in messages %}\
<|{{ message.role }}|>\n\n{{ message.content | trim }}<|eot|>{% endfor %}\
{% if add_generation_prompt %}<|assistant|>\n\n{% endif %}";

const LLAMA_TOKENS: &str = r#"{"bos_token": "<|begin|>", "eos_token": "<|eot|>"}"#;

#[test]
fn a_template_in_the_manner_of_llama_begins_once_and_ends_each_turn() {
    let special = r#"{"bos_token": {"content": "<|begin|>"}, "eos_token": "<|endoftext|>"}"#;
    let (_dir, chat) = base_with(LLAMA_LIKE, special);
    let encoded = chat.example(&dialogue(&["a", "b"]), TrainOn::All).unwrap();
    assert_eq!(
        chat.decode(&encoded.input_ids, false).unwrap(),
        "<|begin|><|user|>\n\na<|eot|><|assistant|>\n\nb<|eot|>"
    );
    assert_eq!(learned(&chat, &encoded), ["b<|eot|>"]);
}

#[test]
fn a_second_beginning_of_sequence_is_an_error() {
    let special = r#"{"bos_token": "<|begin|>", "eos_token": "<|eot|>"}"#;
    let (_dir, chat) = base_with(&format!("{{{{ bos_token }}}}{LLAMA_LIKE}"), special);
    let error = chat
        .example(&dialogue(&["a", "b"]), TrainOn::All)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("starts with the beginning-of-sequence token twice"),
        "{error}"
    );
}

#[test]
fn an_answer_that_would_never_end_is_an_error() {
    let template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}\
                    {% if add_generation_prompt %}assistant: {% endif %}";
    let (_dir, chat) = base_with(template, CHATML_TOKENS);
    let error = chat
        .example(&dialogue(&["a", "b"]), TrainOn::All)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("does not end the assistant's messages[1] with an end-of-turn token"),
        "{error}"
    );
}

#[test]
fn a_template_without_a_system_role_says_so_in_its_own_words() {
    let template = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
                    {% for message in messages %}{{ message.content }}<|im_end|>{% endfor %}";
    let (_dir, chat) = base_with(template, CHATML_TOKENS);
    let messages = [
        Message::new(Role::System, "s"),
        Message::new(Role::User, "u"),
    ];
    let error = chat.render(&messages, false).unwrap_err().to_string();
    assert!(error.contains("System role not supported"), "{error}");
}

#[test]
fn templates_have_pythons_manners() {
    let template = "{%- set ns = namespace(n=0) -%}\r\n{{ {'é': [1, 2.0, none, true]} | tojson }}|\
                    {{ {'a': []} | tojson(indent=2) }}|{{ messages[0].content.upper().strip()[:2] }}|\
                    {{ messages[0]['content'].split(' ')[-1] }}|{{ missing is defined }}";
    let (_dir, chat) = base_with(template, CHATML_TOKENS);
    let text = chat
        .render(&[Message::new(Role::User, " ab cd")], false)
        .unwrap();
    assert_eq!(
        text,
        "{\"é\": [1, 2.0, null, true]}|{\n  \"a\": []\n}|AB|cd|False"
    );
}

#[test]
fn the_date_comes_from_the_caller_and_never_from_the_clock() {
    let template =
        "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% else %}fixed{% endif %}";
    let (dir, chat) = base_with(template, CHATML_TOKENS);
    let message = [Message::new(Role::User, "u")];
    assert_eq!(chat.render(&message, false).unwrap(), "fixed");
    let date = Some("2024-07-26".parse().unwrap());
    let dated = Chat::open_with(
        dir.path(),
        &ChatOptions {
            date,
            ..Default::default()
        },
    )
    .unwrap();
    assert_eq!(dated.render(&message, false).unwrap(), "26 Jul 2024");
}

#[test]
fn a_base_that_was_trained_with_a_date_prints_it_unless_another_is_given() {
    let (dir, _) = base_with("{{ strftime_now('%d %b %Y') }}", CHATML_TOKENS);
    let trained: Date = "2026-11-24".parse().unwrap();
    let prompting = Prompting {
        date: Some(trained),
        ..Prompting::default()
    };
    prompting.write(dir.path()).unwrap();
    let message = [Message::new(Role::User, "u")];
    for (given, printed) in [
        (None, trained),
        (Some("2024-07-26"), "2024-07-26".parse().unwrap()),
    ] {
        let options = ChatOptions {
            date: given.map(|date| date.parse().unwrap()),
            ..Default::default()
        };
        let chat = Chat::open_with(dir.path(), &options).unwrap();
        assert_eq!(chat.date(), Some(printed));
        let text = printed.strftime("%d %b %Y").unwrap();
        assert_eq!(chat.render(&message, false).unwrap(), text);
    }
    fs::write(dir.path().join(Prompting::FILE), "{\"dates\": 2}").unwrap();
    let error = Chat::open(dir.path()).err().unwrap().to_string();
    assert!(
        error.contains("prompt.json: not what training says"),
        "{error}"
    );
}

#[test]
fn a_given_template_must_render_as_the_bases_own() {
    let (dir, own) = base_with(
        LLAMA_LIKE,
        r#"{"bos_token": "<|begin|>", "eos_token": "<|eot|>"}"#,
    );
    let path = dir.path().join("training.jinja");
    let options = ChatOptions {
        chat_template: Some(path.clone()),
        ..Default::default()
    };
    fs::write(&path, LLAMA_LIKE.replace("<|eot|>", "{{ '<|eot|>' }}")).unwrap();
    let given = Chat::open_with(dir.path(), &options).unwrap();
    let example = dialogue(&["a", "b"]);
    assert_eq!(
        given.example(&example, TrainOn::All).unwrap(),
        own.example(&example, TrainOn::All).unwrap()
    );
    assert_eq!(given.fingerprint(), own.fingerprint());
    fs::write(&path, LLAMA_LIKE.replace("\\n\\n", " ")).unwrap();
    fs::write(&path, LLAMA_LIKE.replace("<|eot|>", " <|eot|>")).unwrap();
    let error = Chat::open_with(dir.path(), &options)
        .unwrap()
        .example(&example, TrainOn::All)
        .unwrap_err();
    assert!(matches!(error, Error::TemplateDiffers { .. }), "{error}");
}

#[test]
fn a_given_template_is_held_against_the_bases_own_for_tools_where_there_are_tools() {
    let (dir, _) = base_with(LLAMA_LIKE, LLAMA_TOKENS);
    let additional = dir.path().join("additional_chat_templates");
    fs::create_dir(&additional).unwrap();
    let for_tools = LLAMA_LIKE.replace("}}<|eot|>", "}} tools: {{ tools | tojson }}<|eot|>");
    fs::write(additional.join("tool_use.jinja"), &for_tools).unwrap();
    let path = dir.path().join("training.jinja");
    let options = ChatOptions {
        chat_template: Some(path.clone()),
        ..Default::default()
    };
    let example = with_tools(&dialogue(&["a", "b"]), Some(vec!["f".into()]));
    fs::write(&path, LLAMA_LIKE).unwrap();
    let given = Chat::open_with(dir.path(), &options).unwrap();
    let error = given.example(&example, TrainOn::All).unwrap_err();
    assert!(
        matches!(&error, Error::TemplateDiffers { own, .. } if own.ends_with("tool_use.jinja")),
        "{error}"
    );
    assert!(given.example(&dialogue(&["a", "b"]), TrainOn::All).is_ok());
    fs::write(&path, for_tools).unwrap();
    let given = Chat::open_with(dir.path(), &options).unwrap();
    assert!(given.example(&example, TrainOn::All).is_ok());
}

#[test]
fn templates_of_their_own_files_are_read_as_transformers_reads_them() {
    let (dir, plain) = base_with("plain", LLAMA_TOKENS);
    let additional = dir.path().join("additional_chat_templates");
    fs::create_dir(&additional).unwrap();
    fs::write(additional.join("rag.jinja"), "{% not looked at").unwrap();
    let unchanged = Chat::open(dir.path()).unwrap();
    assert_eq!(unchanged.fingerprint(), plain.fingerprint());
    fs::write(
        additional.join("tool_use.jinja"),
        "with {{ tools | length }}",
    )
    .unwrap();
    let chat = Chat::open(dir.path()).unwrap();
    assert_ne!(chat.fingerprint(), plain.fingerprint());
    for (tools, text) in [
        (None, "plain"),
        (Some(vec![]), "with 0"),
        (Some(vec!["f".into()]), "with 1"),
    ] {
        let Example::Chat(asked) = with_tools(&dialogue(&["a"]), tools) else {
            panic!("a chat")
        };
        assert_eq!(chat.render_chat(&asked, false).unwrap().text, text);
    }
    fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    let error = Chat::open(dir.path()).err().unwrap().to_string();
    assert!(error.contains("chat_template.jinja: is missing"), "{error}");
}

#[test]
fn an_examples_own_variables_reach_the_template_documents_too() {
    let (_dir, chat) = base_with(
        "{{ documents | tojson }} {{ tools is none }} {{ thinks }}",
        LLAMA_TOKENS,
    );
    let text = |kwargs: &str| {
        let line = format!(r#"{{"messages":[{{"role":"user","content":"a"}}]{kwargs}}}"#);
        let Example::Chat(asked) = example(&line) else {
            panic!("a chat")
        };
        chat.render_chat(&asked, false).unwrap().text
    };
    assert_eq!(text(""), "null True ");
    assert_eq!(
        text(r#","tools":[],"chat_template_kwargs":{"documents":[{"text":"t"}],"thinks":true}"#),
        r#"[{"text": "t"}] False True"#
    );
}

#[test]
fn what_a_generation_block_sets_stays_in_it_and_what_is_raw_is_no_block() {
    let template = "{% set said = 'none' %}{%- raw %}{% generation %}{% endraw -%}\
        {{ '{% generation %}' }}{# {% generation %} #}{% for message in messages %}\
        {%- generation -%} {% set said = message.content %}{{ said }}<|im_end|> {%- endgeneration -%}\
        ({{ said }}){% endfor %}";
    let (_dir, chat) = base_with(template, CHATML_TOKENS);
    let asked = dataset::Chat {
        messages: vec![Message::new(Role::Assistant, "a")],
        ..Default::default()
    };
    // As transformers 5.23 renders it.
    let rendered = chat.render_chat(&asked, false).unwrap();
    assert_eq!(
        rendered.text,
        "{% generation %}{% generation %}a<|im_end|>(none)"
    );
    let spans: Vec<&str> = rendered
        .generation
        .iter()
        .map(|span| &rendered.text[span.clone()])
        .collect();
    assert_eq!(spans, ["a<|im_end|>"]);
}

/// A base whose token takes in the white space on one side of it.
fn base_with_a_greedy_token(side: &str, content: &str) -> (tempfile::TempDir, Chat) {
    let template = LLAMA_LIKE.replace(" | trim", "").replace("\n\n", "\n");
    let (dir, _) = base_with(&template, LLAMA_TOKENS);
    let path = dir.path().join("tokenizer.json");
    let mut tokenizer: serde_json::Value =
        serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for token in tokenizer["added_tokens"].as_array_mut().unwrap() {
        token[side] = (token["content"] == content).into();
    }
    fs::write(&path, tokenizer.to_string()).unwrap();
    let chat = Chat::open(dir.path()).unwrap();
    (dir, chat)
}

#[test]
fn a_token_that_takes_in_the_spaces_after_it_is_still_the_prompts() {
    let (_dir, chat) = base_with_a_greedy_token("rstrip", "<|assistant|>");
    for answer in ["b", "  b"] {
        let encoded = chat
            .example(&dialogue(&["a", answer]), TrainOn::All)
            .unwrap();
        assert_eq!(learned(&chat, &encoded), ["b<|eot|>"], "{answer:?}");
    }
    // The end of an empty answer that takes in what stands before it is no prompt's.
    let (_dir, chat) = base_with_a_greedy_token("lstrip", "<|eot|>");
    let encoded = chat.example(&dialogue(&["a", ""]), TrainOn::All).unwrap();
    assert_eq!(learned(&chat, &encoded), ["<|eot|>"]);
}

#[test]
fn of_a_completion_the_prompt_is_context_and_the_end_is_learned() {
    let chat = base();
    let encoded = chat
        .example(
            &example(r#"{"prompt":"The code is","completion":" E11"}"#),
            TrainOn::All,
        )
        .unwrap();
    assert_eq!(learned(&chat, &encoded), [" E11<|im_end|>"]);
    let text = chat
        .example(&example(r#"{"text":"acute bronchitis"}"#), TrainOn::All)
        .unwrap();
    assert_eq!(text.loss_mask[0], 0);
    assert_eq!(text.supervised_tokens(), text.input_ids.len() - 1);
}

#[test]
fn labels_that_are_neither_ignored_nor_the_token_are_refused_by_place() {
    let chat = base();
    let refused = |line: &str| {
        chat.example(&example(line), TrainOn::All)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refused(r#"{"input_ids":[5,6],"labels":[-100,7]}"#),
        "labels[1] is 7, neither -100 nor input_ids[1], which is 6"
    );
    assert_eq!(
        refused(r#"{"input_ids":[5,512],"labels":[-100,512]}"#),
        "input_ids[1] is 512, outside the base's vocabulary of 512"
    );
}

#[test]
fn a_folder_without_a_tokenizer_says_where_to_get_one() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(
        data().join("base/config.json"),
        dir.path().join("config.json"),
    )
    .unwrap();
    let error = Chat::open(dir.path()).err().unwrap();
    assert!(error.hint().unwrap().contains("model-import"));
    assert_eq!(tokens::Vocabulary::open(dir.path()).unwrap().size, 512);
}

/// The real model: token ids and renderings of the reference. Needs the imported base's folder.
#[test]
fn smollm2_reads_what_the_reference_reads() {
    let Some(dir) = std::env::var_os("SMOLLM2_BASE").filter(|dir| !dir.is_empty()) else {
        return workspace_tests::skip(
            "SMOLLM2_BASE is to be set to the imported SmolLM2-135M-Instruct",
        );
    };
    let chat = Chat::open(Path::new(&dir)).unwrap();
    let json = fs::read_to_string(data().join("smollm2.json")).unwrap();
    let reference: serde_json::Value = serde_json::from_str(&json).unwrap();
    let ids = |value: &serde_json::Value| -> Vec<u32> {
        serde_json::from_value(value["input_ids"].clone()).unwrap()
    };
    for text in reference["texts"].as_array().unwrap() {
        assert_eq!(
            chat.encode(text["text"].as_str().unwrap()).unwrap(),
            ids(text)
        );
    }
    for case in reference["chats"].as_array().unwrap() {
        let messages = serde_json::json!({ "messages": case["messages"] }).to_string();
        let Example::Chat(conversation) = example(&messages) else {
            panic!("a chat")
        };
        let rendered = chat.render(&conversation.messages, true).unwrap();
        assert_eq!(rendered, case["rendered"].as_str().unwrap());
        assert_eq!(chat.encode(&rendered).unwrap(), ids(case));
    }
}

fn text_with_specials() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[ a-zé0-9\n{}\"東😀]{0,12}",
        prop::sample::select(vec![
            "<|im_start|>",
            "<|im_end|>",
            "<|eot|>",
            "<|",
            "|>",
            "<|im_start"
        ])
        .prop_map(str::to_owned),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn encoding_stretch_by_stretch_equals_the_tokenizers_own_answer(texts in prop::collection::vec(text_with_specials(), 1..6)) {
        let tokenizer = tokenizers::Tokenizer::from_file(data().join("base/tokenizer.json")).unwrap();
        let chat = base();
        for text in texts.iter().chain(&texts) { // the second time from the cache
            let own = tokenizer.encode(text.as_str(), false).unwrap();
            prop_assert_eq!(&chat.encode(text).unwrap(), own.get_ids());
        }
    }

    #[test]
    fn whatever_is_said_only_the_assistants_words_are_learned(
        said in prop::collection::vec("[ -;=-~é\n]{1,20}", 1..4),
        answers in prop::collection::vec("[ -;=-~é\n]{1,20}", 4),
    ) {
        let chat = base();
        let turns: Vec<&str> = said.iter().zip(&answers).flat_map(|(u, a)| [u.as_str(), a.as_str()]).collect();
        let encoded = chat.example(&dialogue(&turns), TrainOn::All).unwrap();
        let expected: Vec<String> = answers[..said.len()].iter().map(|a| format!("{}<|im_end|>", a.trim())).collect();
        prop_assert_eq!(learned(&chat, &encoded), expected);
    }
}
