//! Is the loss of packed data the one that the reference stack measures?

mod common;

use std::fs;

use common::{exits, folder, pack_reference, run, stderr, tiny_base};
use serde_json::Value;
use workspace_tests::data;

#[test]
fn the_loss_of_packed_data_is_the_reference_stacks() {
    for model in [
        "llama-tied",
        "llama-untied",
        "llama3-rope",
        "qwen2",
        "qwen3",
        "mistral-swa",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let base = data(&format!("models/{model}"));
        pack_reference(model, &base, &dir.path().join("data.safetensors"));
        let expected: Value =
            serde_json::from_str(&fs::read_to_string(base.join("expected.json")).unwrap()).unwrap();
        for (quantize, key) in [("none", "f32"), ("nf4", "nf4dq")] {
            for (adapter, which) in [
                (String::new(), "base"),
                (format!("--adapter {}/adapter", base.display()), "lora"),
            ] {
                let words = format!(
                    "--base {} {adapter} --data data.safetensors --quantize {quantize} \
                     --compute-dtype f32 --quiet",
                    base.display()
                );
                let line: Value = serde_json::from_str(&exits(&dir, 0, &words)).unwrap();
                let (ours, theirs) = (
                    line["loss"].as_f64().unwrap(),
                    expected[format!("{key}.{which}_loss")].as_f64().unwrap(),
                );
                // f32 sums in another order; quantising rounds a few scales another way
                assert!(
                    (ours - theirs).abs() / theirs < 1e-4,
                    "{model} {key} {which}: {ours} is not {theirs}"
                );
                assert_eq!(line["compute_dtype"], "f32");
                assert!((line["perplexity"].as_f64().unwrap() - ours.exp()).abs() < 1e-9);
            }
        }
    }
}

#[test]
fn data_packed_for_another_tokenizer_is_refused() {
    let dir = folder();
    tiny_base(&dir, "llama-tied");
    pack_reference(
        "llama-tied",
        &dir.path().join("base"),
        &dir.path().join("data.safetensors"),
    );
    exits(&dir, 0, "--base base --data data.safetensors --quiet");
    let path = dir.path().join("base/tokenizer.json");
    fs::write(
        &path,
        fs::read_to_string(&path).unwrap().replace("<pad>", "<PAD>"),
    )
    .unwrap();
    let output = run(&dir, "--base base --data data.safetensors");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("another tokenizer"),
        "{}",
        stderr(&output)
    );
}
