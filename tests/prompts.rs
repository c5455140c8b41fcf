//! Is what was trained with what is asked with?

use workspace_tests::{Scene, shell, succeed, text};

#[test]
fn the_date_that_was_trained_with_is_the_date_that_is_asked_with() {
    let scene = dated();
    succeed(
        scene.path(),
        &format!("{PACK}; pack train 2026-11-24; pack valid 2026-11-25"),
    );
    let train = "qlora-train --base base --train train.safetensors --eval valid.safetensors --max-steps 2 --out-dir run || [ $? = 1 ]";
    let two_dates = shell(scene.path(), train);
    let said = text(&two_dates.stderr);
    assert!(
        said.contains(
            "prints the date 2026-11-24, and valid.safetensors prints the date 2026-11-25"
        ),
        "{said}"
    );
    succeed(
        scene.path(),
        &format!("{PACK}; pack valid 2026-11-24; {train}"),
    );
    let kept = scene.read("run/adapter/prompt.json");
    let begins = "{\"date\":\"2026-11-24\",\"fingerprint\":{\"tokenizer\":\"";
    assert!(text(&kept).starts_with(begins), "{}", text(&kept));
    assert_eq!(kept, scene.read("run/checkpoints/checkpoint-2/prompt.json"));
    let eval = "adapter-eval --base base --adapter run/adapter --cases split/test.jsonl --max-new-tokens 1 --out-dir eval";
    let other = shell(scene.path(), &format!("{eval} --date 2026-11-25"));
    let said = text(&other.stderr);
    assert_eq!(other.status.code(), Some(2), "{said}");
    assert!(
        said.contains("the adapter's training data printed 2026-11-24"),
        "{said}"
    );
    succeed(scene.path(), &format!("{eval} --systems adapter"));
}

#[test]
fn an_adapter_is_asked_by_the_template_that_it_was_trained_with() {
    let scene = Scene::new();
    scene.pack();
    let script =
        "jsonl-import notes.csv --user '{{ clinical_note }}' --assistant '{{ code }}' -o chat.jsonl
         tokenize-pack chat.jsonl --base base --max-seq-length 256 -o chat.safetensors
         qlora-train --base base --train chat.safetensors --max-steps 2 --out-dir run
         qlora-train --base base --train train.safetensors --max-steps 2 --out-dir of-tokens
         head -n 1 chat.jsonl >one.jsonl; echo >>base/chat_template.jinja";
    succeed(scene.path(), script);
    let eval = "adapter-eval --base base --cases one.jsonl --max-new-tokens 1 --systems adapter";
    for adapter in ["run/adapter", "run/checkpoints/checkpoint-2"] {
        let other = shell(scene.path(), &format!("{eval} --adapter {adapter}"));
        let said = text(&other.stderr);
        assert_eq!(other.status.code(), Some(2), "{said}");
        let why = "trained with another chat template than the base's";
        assert!(said.contains(&format!("{adapter}: {why}")), "{said}");
    }
    // Which template made tokens, if any did, nobody knows.
    succeed(scene.path(), &format!("{eval} --adapter of-tokens/adapter"));
}

#[test]
fn a_merged_model_is_asked_and_trained_on_with_the_date_that_its_adapter_was_trained_with() {
    let scene = dated();
    let eval = "adapter-eval --cases split/test.jsonl --max-new-tokens 4 --quantize none";
    let script = format!(
        "{PACK}; pack train 2026-11-24; pack valid 2026-11-24
         qlora-train --base base --train train.safetensors --eval valid.safetensors --max-steps 2 --learning-rate 1e-2 \\
             --quantize none --out-dir run || [ $? = 1 ]
         adapter-export --base base --adapter run/adapter --out-dir merged
         model-import merged --quantize nf4 --out-dir merged4
         cmp run/adapter/prompt.json merged/prompt.json
         for base in merged merged4; do
             tokenize-pack split/valid.jsonl --base $base --max-seq-length 256 -o again.safetensors
             cmp valid.safetensors again.safetensors
         done
         {eval} --base base --adapter run/adapter --out-dir adapter
         {eval} --base merged --out-dir zero-shot"
    );
    succeed(scene.path(), &script);
    let asked = |folder: &str| {
        let predictions = scene.read(&format!("{folder}/predictions.jsonl"));
        let of_line = |line| {
            let prediction: serde_json::Value = serde_json::from_str(line).unwrap();
            ["id", "prompt_tokens", "output"].map(|key| prediction[key].clone())
        };
        text(&predictions).lines().map(of_line).collect::<Vec<_>>()
    };
    let answers = asked("adapter");
    assert!(!answers.is_empty());
    assert_eq!(answers, asked("zero-shot"));

    let other = shell(
        scene.path(),
        &format!("{eval} --base merged --date 2026-11-25"),
    );
    let said = text(&other.stderr);
    assert_eq!(other.status.code(), Some(2), "{said}");
    assert!(
        said.contains("the base's training data printed 2026-11-24"),
        "{said}"
    );
}

/// `pack SET DATE`
const PACK: &str = "pack() { tokenize-pack split/$1.jsonl --base base --max-seq-length 256 --date $2 -o $1.safetensors; }";

/// A base whose template prints a date if it is told one, and `split/`.
fn dated() -> Scene {
    let scene = Scene::new();
    let script = "printf '%s' \"{{ strftime_now('%d %b %Y') if strftime_now is defined else '' }}\" >dated
         cat base/chat_template.jinja >>dated; mv dated base/chat_template.jinja
         jsonl-import notes.csv --user '{{ clinical_note }}' --assistant '{{ code }}' | jsonl-split --ratios 80,10,10 --out-dir split";
    succeed(scene.path(), script);
    scene
}
