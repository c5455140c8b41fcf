//! A real model, tiny and random, goes through a whole evaluation.

mod common;

use std::fs;

use checkpoint::{Dtype, adapter};
use common::{exits, folder, lines, pack_reference, read, report, run, stderr, tiny_base, write};
use serde_json::Value;
use workspace_tests::{copy, data, tool};

const BASE: &str = "--base base --cases test.jsonl --train train.jsonl --select valid.jsonl --shots 1,2 \
    --metric json-field:code --max-new-tokens 6";

#[test]
fn a_whole_evaluation_compares_adapter_bases_and_lookups_in_one_table() {
    let dir = folder();
    tiny_base(&dir, "llama-tied");
    for quantize in ["nf4", "none"] {
        exits(
            &dir,
            0,
            &format!(
                "{BASE} --systems majority,nearest,zero-shot,few-shot --quantize {quantize} --out-dir {quantize}"
            ),
        );
    }
    let adapter = data("models/llama-tied/adapter");
    let words = format!(
        "--base base --adapter {} --cases test.jsonl --metric json-field:code --max-new-tokens 6 \
         --against nf4 none --out-dir adapter --must-beat base",
        adapter.display()
    );
    let table = exits(&dir, 1, &words);
    let report = report(&dir, "adapter");
    let keys: Vec<&str> = report["systems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|system| system["key"].as_str().unwrap())
        .collect();
    assert_eq!(
        keys,
        [
            "majority",
            "nearest",
            "base-nf4-zero-shot",
            "base-nf4-few-shot",
            "base-full-zero-shot",
            "base-full-few-shot",
            "adapter"
        ]
    );
    assert_eq!(report["judged"], "adapter");
    assert_eq!(
        report["gates"].as_array().unwrap().len(),
        4,
        "one gate a base"
    );
    assert!(table.contains("A lookup does better"), "{table}");
    assert_eq!(report["selections"].as_array().unwrap().len(), 2);
    let shots: Vec<f64> = [2, 3]
        .map(|i| report["systems"][i]["prompt_tokens"].as_f64().unwrap())
        .to_vec();
    assert!(
        shots[1] > shots[0] + 10.0,
        "examples make prompts longer: {shots:?}"
    );
    assert_eq!(
        read(&dir, "adapter/predictions.jsonl").lines().count(),
        7 * 16
    );
}

#[test]
fn the_shots_that_were_shown_are_counted_and_answers_that_were_cut_are_told() {
    let dir = folder();
    tiny_base(&dir, "llama-tied");
    write(&dir, "train.jsonl", &common::lines(0..3));
    let words = "--base base --cases test.jsonl --train train.jsonl --systems few-shot --shots 32 \
                 --max-new-tokens 2 --out-dir eval";
    let table = exits(&dir, 0, words);
    assert!(table.contains("base in NF4, 3 shots "), "{table}");
    assert_eq!(report(&dir, "eval")["systems"][0]["shots"], 3);
    for warning in [
        "warning: train.jsonl has only 3 examples for 32 shots",
        "warning: 16 of 16 answers of base-nf4-few-shot were cut by --max-new-tokens",
    ] {
        assert!(table.contains(warning), "{table}");
    }
}

#[test]
fn another_adapter_by_the_name_of_an_earlier_one_is_told_before_it_is_asked() {
    let dir = folder();
    tiny_base(&dir, "llama-tied");
    for name in ["one", "two"] {
        copy(&data("models/llama-tied/adapter"), &dir.path().join(name));
    }
    let words = "--base base --cases test.jsonl --max-new-tokens 2";
    exits(&dir, 0, &format!("{words} --adapter one --out-dir eval"));
    let words = format!("{words} --against eval");
    exits(&dir, 0, &format!("{words} --adapter ./one"));
    let output = run(&dir, &format!("{words} --adapter two"));
    assert_eq!(output.status.code(), Some(2));
    let said = "eval: the system adapter is of one there and of two here\nhint: ";
    assert!(stderr(&output).contains(said), "{}", stderr(&output));
    exits(&dir, 0, &format!("{words} --adapter two --name two"));
}

#[test]
fn a_model_whose_states_are_not_finite_gives_an_error_and_no_answers() {
    let dir = folder();
    tiny_base(&dir, "llama-tied");
    let config = dir.path().join("base/config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let eps = text.lines().find(|l| l.contains("rms_norm_eps")).unwrap();
    std::fs::write(&config, text.replace(eps, "\"rms_norm_eps\": -1000.0,")).unwrap();
    let cases = "--base base --device cpu --cases test.jsonl --max-new-tokens 4 --out-dir out";
    for how in ["", " --temperature 1"] {
        let output = run(&dir, &format!("{cases}{how}"));
        assert_eq!(output.status.code(), Some(2));
        let said = stderr(&output);
        assert!(
            said.contains("the hidden state of a token is not finite"),
            "{said}"
        );
        assert!(!dir.path().join("out").exists());
    }
}

#[test]
fn reports_are_the_same_bytes_for_any_number_of_threads() {
    let dir = folder();
    tiny_base(&dir, "llama-tied");
    let cases = "--base base --device cpu --cases test.jsonl --max-new-tokens 4";
    for threads in ["1", "2", "5"] {
        let out = format!("{cases} --threads {threads} --out-dir of-{threads}");
        exits(&dir, 0, &out);
        for name in ["report.json", "report.html", "predictions.jsonl"] {
            let of = |threads: &str| read(&dir, &format!("of-{threads}/{name}"));
            assert_eq!(of("1"), of(threads), "{name} of {threads} threads");
        }
    }
    exits(&dir, 2, &format!("{cases} --threads 0 --out-dir none"));
}

#[test]
fn the_cpu_has_one_kernel_of_attention_and_names_of_a_gpus_are_refused() {
    let dir = folder();
    tiny_base(&dir, "llama-tied");
    let base = dir.path().join("base");
    pack_reference("llama-tied", &base, &dir.path().join("data.safetensors"));
    let cases = "--base base --device cpu --cases test.jsonl --max-new-tokens 2";
    let data = "--base base --device cpu --data data.safetensors --quiet";
    exits(&dir, 0, &format!("{cases} --out-dir default"));
    exits(&dir, 0, &format!("{cases} --out-dir auto --attention auto"));
    for name in ["report.json", "predictions.jsonl"] {
        let of = |out: &str| read(&dir, &format!("{out}/{name}"));
        assert_eq!(of("default"), of("auto"), "{name}");
    }
    assert_eq!(
        exits(&dir, 0, data),
        exits(&dir, 0, &format!("{data} --attention auto"))
    );
    for (kernel, message) in [
        ("flash", "the CPU has one of its own"),
        ("flash", "hint: --attention auto takes what there is"),
        ("chunked", "the CPU has one of its own"),
        ("fast", "one of auto, flash, chunked"),
    ] {
        for words in [cases, data] {
            let words = format!("{words} --attention {kernel} --out-dir refused");
            let output = run(&dir, &words);
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{words}\n{said}");
            assert!(said.contains(message), "{words}\n{said}");
            assert!(!dir.path().join("refused").exists(), "{words}");
        }
    }
}

#[test]
fn drawn_answers_depend_on_the_seed_and_on_nothing_else() {
    let dir = folder();
    tiny_base(&dir, "llama-tied");
    let words = "--base base --cases test.jsonl --max-new-tokens 5 --temperature 1.5 --top-p 0.95";
    for (out, rest) in [
        ("a", "--seed 1"),
        ("b", "--seed 1 --batch-size 3"),
        ("c", "--seed 2"),
    ] {
        exits(&dir, 0, &format!("{words} {rest} --out-dir {out}"));
    }
    assert_eq!(
        read(&dir, "a/predictions.jsonl"),
        read(&dir, "b/predictions.jsonl")
    );
    assert_ne!(
        read(&dir, "a/predictions.jsonl"),
        read(&dir, "c/predictions.jsonl")
    );
}

#[test]
fn a_killed_evaluation_goes_on_with_the_answers_it_had() {
    let dir = folder();
    tiny_base(&dir, "llama-tied");
    write(&dir, "many.jsonl", &lines(100..160));
    let words = "--base base --cases many.jsonl --max-new-tokens 24 --temperature 1.5 --seed 1";
    exits(&dir, 0, &format!("{words} --out-dir whole"));

    // The kernel ends a run that writes a file of more than 4 KiB (here or there 8).
    let limited = format!("ulimit -f 8; exec \"$0\" {words} --out-dir eval");
    let mut shell = std::process::Command::new("sh");
    shell.current_dir(dir.path()).args(["-c", &limited]);
    let killed = shell
        .arg(tool("adapter-eval").get_program())
        .output()
        .unwrap();
    assert_eq!(killed.status.code(), None, "{}", stderr(&killed));
    let kept = fs::read_dir(dir.path()).unwrap();
    let mut kept = kept.map(|entry| entry.unwrap().path());
    let is_kept = |path: &std::path::PathBuf| path.to_string_lossy().contains("/.eval.answers-");
    let kept = kept.find(is_kept).expect("the answers are kept");
    // A trial takes what it asks for, and leaves the rest.
    exits(&dir, 0, &format!("{words} --limit 3 --out-dir eval"));
    // That an answer is not made again shows in one that nobody would give.
    let text = fs::read_to_string(&kept).unwrap();
    let (whole_lines, _) = text.rsplit_once('\n').unwrap();
    let mut lines = Vec::from_iter(whole_lines.lines().map(str::to_owned));
    let mut line: Value = serde_json::from_str(&lines[7]).unwrap();
    line["token_ids"] = serde_json::json!([5, 6, 7]);
    lines[7] = line.to_string();
    fs::write(&kept, lines.join("\n") + "\n").unwrap();

    let output = run(&dir, &format!("{words} --out-dir eval"));
    let told = format!(
        "going on with {} answers of a run that was stopped",
        lines.len()
    );
    assert!(stderr(&output).contains(&told), "{}", stderr(&output));
    assert!((10..60).contains(&lines.len()) && !kept.exists());
    let [eval, whole] = ["eval", "whole"].map(|folder| {
        let text = read(&dir, &format!("{folder}/predictions.jsonl"));
        Vec::from_iter(text.lines().map(str::to_owned))
    });
    let others = eval
        .iter()
        .zip(&whole)
        .filter(|(eval, whole)| eval != whole);
    let others = Vec::from_iter(others.map(|(eval, _)| eval));
    assert_eq!(others.len(), 1, "{others:?}");
    assert!(others[0].contains(r#""generated_tokens":3"#), "{others:?}");
}

#[test]
fn an_adapter_with_another_tokenizer_or_template_is_refused() {
    let dir = folder();
    tiny_base(&dir, "llama-tied");
    let adapter = dir.path().join("adapter");
    copy(&data("models/llama-tied/adapter"), &adapter);
    let words = "--base base --adapter adapter --cases test.jsonl --max-new-tokens 2";
    let table = exits(&dir, 0, words);
    assert!(
        table.contains("warning: the adapter was trained on fixtures/models/llama-tied"),
        "{table}"
    );
    let template = fs::read_to_string(data("tiny-chat/chat_template.jinja")).unwrap();
    for (name, text, message) in [
        (
            "chat_template.jinja",
            template.replace("im_start", "turn"),
            "adapter/chat_template.jinja: the chat template is not that of base/chat_template.jinja\nhint: ",
        ),
        (
            "tokenizer.json",
            r#"{"model": {"vocab": {"<pad>": 7}}, "added_tokens": []}"#.into(),
            "adapter/tokenizer.json is not that of base/tokenizer.json: \"<pad>\" is token 7 here and token 0 \
             there\nhint: ",
        ),
    ] {
        fs::write(adapter.join(name), text).unwrap();
        let output = run(&dir, words);
        assert_eq!(output.status.code(), Some(2));
        let said = stderr(&output);
        assert!(said.contains("is not that of base"), "{said}");
        assert!(said.contains(message), "{said}");
        fs::remove_file(adapter.join(name)).unwrap();
    }
}

#[test]
fn a_token_that_has_no_row_in_the_embedding_is_told_with_its_file_and_the_way_out() {
    let dir = folder();
    tiny_base(&dir, "llama-tied");
    let path = dir.path().join("base/tokenizer.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut tokenizer: Value = serde_json::from_str(&text).unwrap();
    for token in tokenizer["added_tokens"].as_array_mut().unwrap() {
        if token["content"] == "<|im_start|>" {
            token["id"] = 512.into();
        }
    }
    let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    vocab.insert("<|im_start|>".into(), 512.into());
    fs::write(&path, tokenizer.to_string()).unwrap();
    let output = run(&dir, "--base base --cases test.jsonl --max-new-tokens 2");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let message = "base/tokenizer.json: gives token id 512, and config.json beside it names a vocabulary of 512";
    assert!(said.contains(message), "{said}");
    assert!(
        said.contains("\nhint: one of the two is another model's"),
        "{said}"
    );
}

#[test]
fn an_adapter_that_does_not_fit_is_told_with_its_folder_and_the_base_it_was_trained_on() {
    let dir = folder();
    tiny_base(&dir, "llama-tied");
    let mut adapter = adapter::read(&data("models/qwen2/adapter")).unwrap();
    for (name, tensor) in &mut adapter.tensors {
        let [rank, columns] = tensor.shape;
        if name.ends_with("lora_A.weight") {
            tensor.shape = [rank, 2 * columns];
            tensor.values = tensor.values.repeat(2);
        }
    }
    adapter::write(&adapter, &dir.path().join("adapter"), Dtype::F32).unwrap();
    let words = "--base base --adapter adapter --cases test.jsonl --max-new-tokens 2";
    let output = run(&dir, words);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("putting adapter on base: the adapter's "),
        "{said}"
    );
    let hint = "\nhint: the adapter was trained on fixtures/models/qwen2: evaluate it on that base";
    assert!(said.contains(hint), "{said}");
}

#[test]
fn the_adapters_date_is_asked_with_and_where_it_has_none_the_bases() {
    let dir = folder();
    tiny_base(&dir, "llama-tied");
    copy(
        &data("models/llama-tied/adapter"),
        &dir.path().join("adapter"),
    );
    let words = "--cases test.jsonl --max-new-tokens 2 --base base";
    let refused = |words: &str, message: &str| {
        let output = run(&dir, words);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{words}\n{said}");
        assert!(said.contains(message), "{words}\n{said}");
    };
    write(&dir, "base/prompt.json", "{\"date\":\"2026-11-24\"}");
    let the_bases = "the base's training data printed 2026-11-24";
    refused(&format!("{words} --date 2026-11-25"), the_bases);
    refused(
        &format!("{words} --adapter adapter --date 2026-11-25"),
        the_bases,
    );
    exits(
        &dir,
        0,
        &format!("{words} --adapter adapter --date 2026-11-24"),
    );
    write(&dir, "adapter/prompt.json", "{\"date\":\"2026-11-25\"}");
    refused(
        &format!("{words} --adapter adapter --date 2026-11-24"),
        "the adapter's training data printed 2026-11-25",
    );
    for rest in ["", "--date 2026-11-25"] {
        exits(&dir, 0, &format!("{words} --adapter adapter {rest}"));
    }
}

#[test]
fn a_prompt_without_room_for_its_answer_is_told_with_its_case_before_anything_is_generated() {
    let dir = folder();
    tiny_base(&dir, "llama-tied");
    let case = |id: Value, words: &str| {
        let messages = serde_json::json!([
            {"role": "user", "content": words},
            {"role": "assistant", "content": "yes"},
        ]);
        serde_json::json!({"id": id, "messages": messages}).to_string() + "\n"
    };
    let long = "blood pressure ".repeat(150);
    let short = case(Value::Null, "blood pressure");
    write(
        &dir,
        "one.jsonl",
        &[short.as_str(), "\n", &case("x7".into(), &long)].concat(),
    );
    write(
        &dir,
        "two.jsonl",
        &[case(Value::Null, &long), case("x7".into(), &long)].concat(),
    );
    let refused = |words: &str| {
        // Nothing is said of a model that is loaded.
        let output = run(&dir, &format!("--base base --out-dir out {words}"));
        let said = stderr(&output).to_owned();
        assert_eq!(output.status.code(), Some(2), "{words}\n{said}");
        assert!(!dir.path().join("out").exists());
        said
    };
    let said = refused("--cases test.jsonl --max-new-tokens 250");
    let all = "adapter-eval: test.jsonl:1: a prompt of 43 tokens and an answer of 250 are more than the base's \
               256 positions; 15 more cases are too long\nhint: --max-new-tokens 213 has room for all; leave those \
               cases out or take a base with more positions\n";
    assert_eq!(said, all);
    let said = refused("--cases one.jsonl --max-new-tokens 8");
    assert!(
        said.starts_with("adapter-eval: one.jsonl:3: case x7: a prompt of "),
        "{said}"
    );
    assert!(
        said.ends_with(
            " positions\nhint: leave that case out or take a base with more positions\n"
        ),
        "{said}"
    );
    let said = refused("--cases two.jsonl --max-new-tokens 8");
    assert!(said.contains("two.jsonl:1: a prompt"), "{said}");
    assert!(said.contains("; one more case is too long\n"), "{said}");
    // Of few-shot prompts every candidate counts, on the file where they are tried and on the test cases.
    for (files, place) in [
        ("--select valid.jsonl --cases test.jsonl", "valid.jsonl:1: "),
        (
            "--select one.jsonl --cases test.jsonl",
            "one.jsonl:3: case x7: ",
        ),
        (
            "--select valid.jsonl --cases one.jsonl",
            "one.jsonl:3: case x7: ",
        ),
    ] {
        let shots = if place.starts_with('v') {
            "1,20"
        } else {
            "1,2"
        };
        let said = refused(&format!(
            "{files} --systems few-shot --train train.jsonl --shots {shots} --max-new-tokens 8"
        ));
        assert!(
            said.starts_with(&format!("adapter-eval: {place}")),
            "{said}"
        );
        assert!(said.contains(" shot"), "{said}");
        assert!(said.contains("\nhint: fewer --shots; "), "{said}");
    }
}

#[test]
fn a_base_without_a_template_asks_for_one() {
    let dir = folder();
    tiny_base(&dir, "llama-tied");
    let template = dir.path().join("base/chat_template.jinja");
    fs::rename(&template, dir.path().join("template.jinja")).unwrap();
    let words = "--base base --cases test.jsonl --max-new-tokens 2";
    let output = run(&dir, words);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("hint: give one with --chat-template FILE"),
        "{}",
        stderr(&output)
    );
    exits(
        &dir,
        0,
        &format!("{words} --chat-template template.jinja --date 2026-11-24"),
    );
}
