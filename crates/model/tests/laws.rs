//! Laws that hold for every model: packing, batching and caching change no answer.

use std::path::PathBuf;

use checkpoint::Base;
use model::{
    Adapter, Batch, Completion, ComputeDtype, Dropout, Finish, GenerateOptions, Gradients,
    LoadOptions, LoraConfig, Model, Quantize, Recompute,
};

fn tiny(family: &str) -> Model {
    tiny_in(family, ComputeDtype::F32)
}

fn tiny_in(family: &str, compute_dtype: ComputeDtype) -> Model {
    loaded(
        family,
        LoadOptions {
            quantize: Quantize::Nf4 { double_quant: true },
            compute_dtype,
            ..LoadOptions::default()
        },
    )
}

fn loaded(family: &str, options: LoadOptions) -> Model {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/data/models")
        .join(family);
    Model::load(
        &Base::open(&dir).expect("the base opens"),
        &options,
        &mut |_, _| {},
    )
    .expect("it loads")
}

fn tokens(count: usize, seed: u32) -> Vec<u32> {
    (0..count as u32)
        .map(|i| 3 + (i * 131 + seed * 977) % 500)
        .collect()
}

fn packed(sequences: &[Vec<u32>]) -> Batch {
    sequences.iter().fold(
        Batch {
            offsets: vec![0],
            ..Batch::default()
        },
        |mut all, sequence| {
            let one = Batch::sequence(sequence.clone());
            all.input_ids.extend(one.input_ids);
            all.loss_mask.extend(one.loss_mask);
            all.offsets.push(all.input_ids.len());
            all
        },
    )
}

fn lora(model: &Model) -> Adapter {
    let config = LoraConfig {
        rank: 4,
        alpha: 8.0,
        use_rslora: false,
        dropout: 0.1,
        target_modules: ["q_proj", "v_proj", "down_proj"].map(String::from).to_vec(),
    };
    Adapter::new(model.decoder(), &config, "base", 3).expect("the targets are known")
}

fn greedy(batch_size: usize) -> GenerateOptions {
    GenerateOptions {
        max_new_tokens: 6,
        temperature: 0.0,
        top_p: 1.0,
        seed: 0,
        stop_token_ids: vec![],
        batch_size,
    }
}

#[test]
fn layers_that_a_4_bit_base_has_in_full_are_not_quantised() {
    let batch = Batch::sequence(tokens(9, 1));
    let logits = |model: Model| model.logits(&batch).expect("logits");
    let as_stored = logits(loaded("llama-tied-mixed", LoadOptions::default()));
    assert_eq!(logits(tiny("llama-tied-mixed")), as_stored);
    assert_ne!(logits(tiny("llama-tied")), as_stored, "all in 4 bits");
}

#[test]
fn packed_sequences_have_the_loss_they_have_alone() {
    for family in ["llama-tied", "mistral-swa", "qwen3"] {
        let model = tiny(family);
        let sequences: Vec<_> = [7, 1, 19, 2].iter().map(|&n| tokens(n, n as u32)).collect();
        let together = model.loss(&packed(&sequences)).expect("a loss");
        let alone: f64 = sequences
            .iter()
            .map(|s| model.loss(&Batch::sequence(s.clone())).expect("a loss").sum)
            .sum();
        assert_eq!(together.targets, 6 + 18 + 1);
        // f32 sums in another grouping
        assert!(
            (together.sum - alone).abs() <= 1e-5 * alone,
            "{family}: {} and {alone}",
            together.sum
        );
    }
}

#[test]
fn a_greedy_continuation_is_what_the_whole_forward_pass_would_choose() {
    for family in ["llama-tied", "mistral-swa", "qwen2", "qwen3"] {
        let model = tiny(family);
        let prompts: Vec<_> = [3, 9, 30].iter().map(|&n| tokens(n, n as u32)).collect();
        let completions = model
            .generate(&prompts, &greedy(8), &mut |_, _| {})
            .expect("completions");
        for (prompt, completion) in prompts.iter().zip(&completions) {
            let mut text = prompt.clone();
            for &token in &completion.token_ids {
                let logits = model
                    .logits(&Batch::sequence(text.clone()))
                    .expect("logits");
                let last = &logits[logits.len() - 512..];
                let best = last.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                // The cache is read in another order than a whole pass; near ties may fall either way.
                assert!(
                    best - last[token as usize] <= 1e-4,
                    "{family}: {token} is not the likeliest"
                );
                text.push(token);
            }
        }
    }
}

#[test]
fn neither_the_batch_nor_a_shared_prefix_changes_a_completion() {
    for (compute, shared) in [ComputeDtype::F32, ComputeDtype::Bf16]
        .into_iter()
        .flat_map(|compute| [0, 12, 40].map(|shared| (compute, shared)))
    {
        let model = tiny_in("llama-tied", compute);
        // Alone some are read in a pass of a few tokens, together in one of more than a hundred.
        let prompts: Vec<Vec<u32>> = [1, 2, 30, 4, 35, 9]
            .iter()
            .map(|&n| [tokens(shared, 5), tokens(n, 90 + n as u32)].concat())
            .collect();
        let mut sampled = greedy(8);
        sampled.temperature = 0.8;
        for options in [greedy(8), sampled] {
            let by = |batch_size| {
                let options = GenerateOptions {
                    batch_size,
                    ..options.clone()
                };
                let all = model.generate(&prompts, &options, &mut |_, _| {});
                all.expect("completions")
            };
            let together = by(8);
            assert_eq!(together, by(2), "{compute}, {shared} shared");
            assert_eq!(together, by(1), "{compute}, {shared} shared");
        }
        let together = model
            .generate(&prompts, &greedy(8), &mut |_, _| {})
            .expect("completions");
        let alone: Vec<Completion> = prompts
            .iter()
            .map(|p| {
                model
                    .generate(std::slice::from_ref(p), &greedy(1), &mut |_, _| {})
                    .expect("one")
                    .remove(0)
            })
            .collect();
        assert_eq!(together, alone, "{compute}, {shared} shared");
    }
}

#[test]
fn a_completion_ends_with_a_stop_token_or_at_its_length() {
    let model = tiny("llama-tied");
    let prompts = [tokens(4, 1), tokens(6, 2)];
    let free = model
        .generate(&prompts, &greedy(8), &mut |_, _| {})
        .expect("completions");
    assert!(
        free.iter()
            .all(|c| c.finish == Finish::Length && c.token_ids.len() == 6)
    );
    let stop = free[0].token_ids[2];
    let first = free[0]
        .token_ids
        .iter()
        .position(|&t| t == stop)
        .expect("it is there");
    let options = GenerateOptions {
        stop_token_ids: vec![stop],
        ..greedy(8)
    };
    let mut heard = Vec::new();
    let stopped = model
        .generate(&prompts, &options, &mut |index, c| {
            heard.push((index, c.token_ids.len()))
        })
        .expect("completions");
    assert_eq!(stopped[0].finish, Finish::Stop);
    assert_eq!(stopped[0].token_ids, free[0].token_ids[..=first]);
    heard.sort_unstable();
    assert_eq!(
        heard,
        [
            (0, stopped[0].token_ids.len()),
            (1, stopped[1].token_ids.len())
        ]
    );
}

#[test]
fn known_completions_are_taken_as_they_are_and_the_others_are_what_they_would_have_been() {
    let model = tiny("llama-tied");
    let prompts = [1, 2, 3, 4].map(|seed| tokens(5, seed));
    let drawn = GenerateOptions {
        temperature: 1.0,
        ..greedy(2)
    };
    let all = model.generate(&prompts, &drawn, &mut |_, _| {});
    let all = all.expect("completions");
    let said = Completion {
        token_ids: vec![9],
        finish: Finish::Stop,
    };
    let known = vec![None, Some(said.clone()), None, Some(all[3].clone())];
    let mut heard = Vec::new();
    let rest = model.generate_rest(&prompts, known, &drawn, &mut |index, _| heard.push(index));
    heard.sort_unstable();
    assert_eq!(heard, [0, 2]);
    let expected = [all[0].clone(), said, all[2].clone(), all[3].clone()];
    assert_eq!(rest.expect("completions"), expected);
}

#[test]
fn a_new_adapter_changes_nothing_and_is_the_same_whatever_else_is_targeted() {
    let mut model = tiny("llama-tied");
    let batch = Batch::sequence(tokens(20, 4));
    let before = model.loss(&batch).expect("a loss");
    let adapter = lora(&model);
    let few = adapter.to_peft();
    let config = LoraConfig {
        rank: 4,
        alpha: 8.0,
        use_rslora: false,
        dropout: 0.0,
        target_modules: ["down_proj", "gate_proj", "q_proj"]
            .map(String::from)
            .to_vec(),
    };
    let others = Adapter::new(model.decoder(), &config, "base", 3)
        .expect("known")
        .to_peft();
    let key = "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight";
    assert_eq!(few.tensors[key].values, others.tensors[key].values);
    model.set_adapter(adapter);
    assert_eq!(model.loss(&batch).expect("a loss"), before);
}

#[test]
fn recomputed_layers_see_the_same_dropout() {
    let mut model = tiny("llama-tied");
    model.set_adapter(lora(&model));
    let batch = packed(&[tokens(11, 1), tokens(16, 2)]);
    let gradients = |recompute, step| {
        let adapter = model.adapter().expect("it was set");
        let mut gradients = Gradients::new(adapter);
        let dropout = Some(Dropout::new(0.3, 0, step, 0));
        model
            .accumulate_gradients(&batch, 1.0, dropout, recompute, &mut gradients)
            .expect("gradients");
        gradients.to_host(adapter)
    };
    let kept = gradients(Recompute::Nothing, 1);
    assert!(kept == gradients(Recompute::Everything, 1));
    assert!(kept == gradients(Recompute::Layers(1), 1));
    assert!(
        kept != gradients(Recompute::Nothing, 2),
        "another step draws another mask"
    );
}

#[test]
fn an_adapter_for_another_base_is_refused_by_name() {
    let llama = tiny("llama-tied");
    let mut peft = lora(&llama).to_peft();
    let key = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight".to_string();
    let taken = peft.tensors.remove(&key).expect("it is there");
    let mut model = tiny("llama-tied");
    let error = model
        .load_adapter(&peft)
        .expect_err("B is missing")
        .to_string();
    assert!(error.contains(&key), "{error}");
    peft.tensors
        .insert(key.replace("layers.0", "layers.9"), taken);
    peft.tensors.remove(&key.replace("lora_B", "lora_A"));
    let error = model
        .load_adapter(&peft)
        .expect_err("there is no layer 9")
        .to_string();
    assert!(error.contains("layers.9"), "{error}");
}

#[test]
fn impossible_tokens_are_refused() {
    let model = tiny("llama-tied");
    let error = model
        .loss(&Batch::sequence(vec![1, 512]))
        .expect_err("512 tokens")
        .to_string();
    assert!(error.contains("512"), "{error}");
    let error = model
        .generate(&[vec![]], &greedy(1), &mut |_, _| {})
        .expect_err("nothing")
        .to_string();
    assert!(error.contains("empty"), "{error}");
}
