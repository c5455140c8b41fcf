//! What a GPU's path generates, loads and trains is what the CPU's does, on CubeCL's CPU runtime.
#![cfg(feature = "cube-cpu")]

use std::path::PathBuf;

use checkpoint::Base;
use model::{
    AdamW, AdamWConfig, Adapter, Batch, ComputeDtype, DeviceChoice, Dropout, Error,
    GenerateOptions, Gradients, LoadOptions, LoraConfig, Model, Projection, Quantize, Recompute,
};

fn tiny(family: &str, device: DeviceChoice, compute_dtype: ComputeDtype) -> Model {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/models");
    let options = LoadOptions {
        quantize: Quantize::Nf4 { double_quant: true },
        compute_dtype,
        device,
        ..LoadOptions::default()
    };
    let base = Base::open(&dir.join(family)).expect("the base opens");
    Model::load(&base, &options, &mut |_, _| {}).expect("it loads")
}

fn tokens(count: usize, seed: u32) -> Vec<u32> {
    (0..count as u32)
        .map(|i| 3 + (i * 131 + seed * 977) % 500)
        .collect()
}

#[test]
fn a_device_continues_prompts_as_the_cpu_does() {
    for family in ["llama-tied", "mistral-swa", "qwen2", "qwen3"] {
        let shared = tokens(12, 5);
        let prompts: Vec<Vec<u32>> = [1, 4, 9]
            .iter()
            .map(|&n| [shared.clone(), tokens(n, 90 + n as u32)].concat())
            .collect();
        let options = GenerateOptions {
            max_new_tokens: 6,
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
            stop_token_ids: vec![],
            batch_size: 2,
        };
        let on = |device| {
            let model = tiny(family, device, ComputeDtype::F32);
            model
                .generate(&prompts, &options, &mut |_, _| {})
                .expect("completions")
        };
        assert_eq!(on(DeviceChoice::CubeCpu), on(DeviceChoice::Cpu), "{family}");
    }
}

#[test]
fn a_device_refuses_to_quantise_what_is_no_number_as_the_cpu_does() {
    let from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/models/llama-tied");
    let module = "model.layers.1.self_attn.q_proj";
    for damage in [f32::NAN, f32::INFINITY] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = "config.json";
        std::fs::copy(from.join(config), dir.path().join(config)).expect("it can be copied");
        let mut bytes = std::fs::read(from.join("model.safetensors")).expect("the base is there");
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("8")) as usize;
        let tensors: serde_json::Value = serde_json::from_slice(&bytes[8..header]).expect("JSON");
        let begin = &tensors[format!("{module}.weight")]["data_offsets"][0];
        let at = header + begin.as_u64().expect("a number") as usize + 12;
        bytes[at..at + 4].copy_from_slice(&damage.to_le_bytes());
        std::fs::write(dir.path().join("model.safetensors"), bytes).expect("it can be written");
        let base = Base::open(dir.path()).expect("the base opens");
        for device in [DeviceChoice::Cpu, DeviceChoice::CubeCpu] {
            let options = LoadOptions {
                quantize: Quantize::Nf4 { double_quant: true },
                device,
                ..LoadOptions::default()
            };
            let error = Model::load(&base, &options, &mut |_, _| {})
                .err()
                .expect("an error");
            let said = error.to_string();
            assert_eq!(
                said,
                format!("{module}.weight holds values that are not finite")
            );
        }
    }
}

#[test]
fn a_device_gives_an_error_where_no_state_is_a_number_as_the_cpu_does() {
    let from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/models/llama-tied");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let weights = "model.safetensors";
    std::fs::copy(from.join(weights), dir.path().join(weights)).expect("it can be copied");
    let config = std::fs::read(from.join("config.json")).expect("the base is there");
    let mut config: serde_json::Value = serde_json::from_slice(&config).expect("JSON");
    config["rms_norm_eps"] = (-1000.0).into();
    std::fs::write(dir.path().join("config.json"), config.to_string()).expect("it can be written");
    let base = Base::open(dir.path()).expect("the base opens");
    for device in [DeviceChoice::Cpu, DeviceChoice::CubeCpu] {
        let options = LoadOptions {
            quantize: Quantize::Nf4 { double_quant: true },
            device,
            ..LoadOptions::default()
        };
        let model = Model::load(&base, &options, &mut |_, _| {}).expect("it loads");
        for temperature in [0.0, 1.0] {
            let options = GenerateOptions {
                max_new_tokens: 4,
                temperature,
                top_p: 1.0,
                seed: 0,
                stop_token_ids: vec![],
                batch_size: 2,
            };
            let answer = model.generate(&[tokens(5, 1), tokens(3, 2)], &options, &mut |_, _| {});
            assert!(
                matches!(answer, Err(Error::NonFiniteState)),
                "{device} at temperature {temperature}: {answer:?}"
            );
        }
    }
}

/// Kernels that a token of one sequence takes, averaged over the last ten of a completion.
fn launches_a_token(model: &Model) -> usize {
    let launches = |max_new_tokens| {
        let options = GenerateOptions {
            max_new_tokens,
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
            stop_token_ids: vec![],
            batch_size: 1,
        };
        let (_, counts) = ops::count_launches(|| {
            model
                .generate(&[tokens(5, 1)], &options, &mut |_, _| {})
                .expect("completions")
        });
        counts.values().sum::<usize>()
    };
    (launches(12) - launches(2)).div_ceil(10)
}

#[test]
fn a_decoded_token_is_nine_launches_a_layer_with_an_adapter_too() {
    // The tiny model is stored in f32: in bf16 its embedding would be rounded by a launch of its own.
    let mut model = tiny("llama-tied", DeviceChoice::CubeCpu, ComputeDtype::F32);
    let layers = model.decoder().config().num_hidden_layers;
    // embedding, last norm, head, likeliest
    let expected = 9 * layers + 4;
    assert_eq!(launches_a_token(&model), expected);
    model.set_adapter(noisy_adapter(&model));
    assert_eq!(launches_a_token(&model), expected);
}

#[test]
fn a_device_continues_with_an_adapter_as_the_cpu_does_at_any_batch_size() {
    let prompts: Vec<Vec<u32>> = (0..9).map(|n| tokens(3 + n, 50 + n as u32)).collect();
    let on = |device, batch_size| {
        let mut model = tiny("llama-tied", device, ComputeDtype::F32);
        model.set_adapter(noisy_adapter(&model));
        let options = GenerateOptions {
            max_new_tokens: 5,
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
            stop_token_ids: vec![],
            batch_size,
        };
        model
            .generate(&prompts, &options, &mut |_, _| {})
            .expect("completions")
    };
    let expected = on(DeviceChoice::Cpu, 1);
    // one row, a few in registers, a tile of shared memory
    for batch_size in [1, 3, 9] {
        assert_eq!(
            on(DeviceChoice::CubeCpu, batch_size),
            expected,
            "{batch_size}"
        );
    }
}

/// An adapter of all projections that has been trained for three steps: its B is not zero.
fn noisy_adapter(model: &Model) -> Adapter {
    let mut trained = tiny("llama-tied", DeviceChoice::Cpu, ComputeDtype::F32);
    let config = LoraConfig {
        rank: 4,
        alpha: 8.0,
        use_rslora: false,
        dropout: 0.0,
        target_modules: Projection::ALL.map(|p| p.name().to_string()).to_vec(),
    };
    let adapter = Adapter::new(trained.decoder(), &config, "base", 3).expect("known targets");
    let mut optimizer = AdamW::new(&adapter, AdamWConfig::default());
    trained.set_adapter(adapter);
    let ids = tokens(40, 1);
    let batch = Batch {
        loss_mask: vec![1; ids.len()],
        offsets: vec![0, ids.len()],
        input_ids: ids,
    };
    for _ in 0..3 {
        let adapter = trained.adapter().expect("it was set");
        let mut gradients = Gradients::new(adapter);
        trained
            .accumulate_gradients(&batch, 0.025, None, Recompute::Nothing, &mut gradients)
            .expect("a finite loss");
        let adapter = trained.adapter_mut().expect("it was set");
        optimizer.step(adapter, gradients, 3e-2, 1.0);
    }
    let peft = trained.adapter().expect("it was set").to_peft();
    Adapter::from_peft(model.decoder(), &peft).expect("the same decoder")
}

/// Losses of three steps of training with dropout, all projections adapted.
fn losses(device: DeviceChoice, compute: ComputeDtype, recompute: Recompute) -> Vec<f64> {
    let mut model = tiny("llama-tied", device, compute);
    let config = LoraConfig {
        rank: 4,
        alpha: 8.0,
        use_rslora: false,
        dropout: 0.1,
        target_modules: Projection::ALL.map(|p| p.name().to_string()).to_vec(),
    };
    let adapter = Adapter::new(model.decoder(), &config, "base", 3).expect("known targets");
    let mut optimizer = AdamW::new(&adapter, AdamWConfig::default());
    model.set_adapter(adapter);
    let ids = [tokens(40, 1), tokens(9, 2)].concat();
    let batch = Batch {
        loss_mask: vec![1; ids.len()],
        offsets: vec![0, 40, ids.len()],
        input_ids: ids,
    };
    (1..=3)
        .map(|step| {
            let adapter = model.adapter().expect("it was set");
            let mut gradients = Gradients::new(adapter);
            let scale = 1.0 / batch.targets() as f64;
            let dropout = Some(Dropout::new(0.1, 0, step, 0));
            let loss = model
                .accumulate_gradients(&batch, scale, dropout, recompute, &mut gradients)
                .expect("a finite loss");
            let adapter = model.adapter_mut().expect("it was set");
            optimizer.step(adapter, gradients, 1e-2, 1.0);
            loss.mean()
        })
        .collect()
}

#[test]
fn a_device_trains_as_the_cpu_does_dropout_and_all() {
    let expected = losses(DeviceChoice::Cpu, ComputeDtype::F32, Recompute::Nothing);
    assert!(expected[2] < expected[0], "{expected:?}");
    for recompute in [Recompute::Nothing, Recompute::Layers(1)] {
        let got = losses(DeviceChoice::CubeCpu, ComputeDtype::F32, recompute);
        for (got, expected) in got.iter().zip(&expected) {
            // f32 sums in another order, through three steps
            assert!(
                (got - expected).abs() < 1e-4 * expected,
                "{got} and {expected}"
            );
        }
    }
    let rounded = losses(
        DeviceChoice::CubeCpu,
        ComputeDtype::Bf16,
        Recompute::Nothing,
    );
    for (got, expected) in rounded.iter().zip(&expected) {
        // activations with 8 bits of mantissa through two layers
        assert!(
            (got - expected).abs() < 1e-2 * expected,
            "{got} and {expected}"
        );
    }
}
