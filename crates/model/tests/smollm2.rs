//! The real SmolLM2-135M-Instruct: loss and greedy continuations as transformers computes them in f32.
//!
//! Wants `SMOLLM2_BASE`, the folder that `make demo` imports; says aloud when it skips, and
//! `FORBID_SKIPPED_TESTS` forbids that.

use std::path::PathBuf;

use checkpoint::Base;
use model::{Batch, GenerateOptions, LoadOptions, Model, Quantize};
use serde_json::Value;

fn base() -> Option<PathBuf> {
    let dir = std::env::var_os("SMOLLM2_BASE")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from);
    if dir.is_none() {
        workspace_tests::skip("SMOLLM2_BASE is to be set to the imported SmolLM2-135M-Instruct");
    }
    dir
}

fn fixture() -> Value {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/data/tokens/smollm2.json"
    );
    let text = std::fs::read_to_string(file).expect("the fixture is in the project");
    serde_json::from_str(&text).expect("it is JSON")
}

fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().expect("a list").iter();
    ids.map(|id| id.as_u64().expect("an id") as u32).collect()
}

#[test]
fn smollm2_has_the_losses_and_says_the_words_of_the_reference() {
    let Some(dir) = base() else { return };
    let options = LoadOptions {
        quantize: Quantize::None,
        ..LoadOptions::default()
    };
    let base = Base::open(&dir).expect("the base opens");
    let model = Model::load(&base, &options, &mut |_, _| {}).expect("it loads");
    let fixture = fixture();
    let cases = ["texts", "chats"]
        .map(|key| fixture[key].as_array().expect("cases").clone())
        .concat();
    for case in &cases {
        let loss = model
            .loss(&Batch::sequence(ids(&case["input_ids"])))
            .expect("a loss")
            .mean();
        let expected = case["mean_nll_nats"].as_f64().expect("a number");
        // f32 throughout, bf16 weights on both sides; 30 layers of sums in another order
        assert!(
            (loss - expected).abs() <= 1e-3 * expected,
            "{loss}, not {expected}: {case}"
        );
    }
    let chats = fixture["chats"].as_array().expect("chats");
    let prompts: Vec<Vec<u32>> = chats.iter().map(|chat| ids(&chat["input_ids"])).collect();
    let options = GenerateOptions {
        max_new_tokens: 64,
        temperature: 0.0,
        top_p: 1.0,
        seed: 0,
        stop_token_ids: vec![2],
        batch_size: 8,
    };
    let said = model
        .generate(&prompts, &options, &mut |_, _| {})
        .expect("completions");
    for (chat, said) in chats.iter().zip(said) {
        assert_eq!(
            said.token_ids,
            ids(&chat["greedy_ids"]),
            "{}",
            chat["greedy_text"]
        );
    }
}
