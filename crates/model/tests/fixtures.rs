//! Every family on every device that this build can reach is the reference's.

mod families;

use std::path::PathBuf;

use checkpoint::{Base, Dtype};
use families::{Place, check_family};
use model::{Batch, DeviceChoice, LoadOptions, Model, Quantize};

fn data() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data")
}

fn devices() -> Vec<DeviceChoice> {
    let gpu = match "cuda:0".parse() {
        Ok(gpu) => Some(gpu),
        Err(error) => {
            let required = std::env::var("REQUIRE_CUDA").is_ok_and(|v| v == "1");
            assert!(!required, "REQUIRE_CUDA=1: {error}");
            if cfg!(feature = "cuda") {
                let why = format!("on a GPU: {error}; REQUIRE_CUDA=1 makes this an error");
                workspace_tests::skip_here(&why);
            }
            None
        }
    };
    let here = [
        DeviceChoice::Cpu,
        #[cfg(feature = "cube-cpu")]
        DeviceChoice::CubeCpu,
    ];
    here.into_iter().chain(gpu).collect()
}

fn check(family: &'static str) {
    for device in devices() {
        let data = data();
        let place = Place {
            data: &data,
            device,
        };
        check_family(place, family);
    }
}

#[test]
fn every_family_with_fixtures_has_its_test() {
    let tested = include_str!("fixtures.rs").matches("    check(\"").count();
    assert_eq!(tested, families::FAMILIES.len());
}

#[test]
fn a_llama_with_tied_embeddings_is_the_reference_model() {
    check("llama-tied");
}

#[test]
fn a_llama_with_its_own_head_is_the_reference_model() {
    check("llama-untied");
}

#[test]
fn llama_3s_rope_scaling_is_the_references() {
    check("llama3-rope");
}

#[test]
fn mistrals_sliding_window_is_the_references() {
    check("mistral-swa");
}

#[test]
fn qwen2s_biases_are_the_references() {
    check("qwen2");
}

#[test]
fn qwen3s_head_norms_are_the_references() {
    check("qwen3");
}

#[test]
fn a_base_in_4_bits_is_refused_what_it_has_lost() {
    let base = Base::open(&data().join("models/llama-tied-prequant")).expect("the base opens");
    let plain_scales = Quantize::Nf4 {
        double_quant: false,
    };
    for (quantize, lost) in [
        (
            Quantize::None,
            "stored in 4-bit, its full-precision weights",
        ),
        (plain_scales, "stored in 4-bit, the 32 bits of its scales"),
    ] {
        let options = LoadOptions {
            quantize,
            ..LoadOptions::default()
        };
        let error = Model::load(&base, &options, &mut |_, _| {})
            .err()
            .expect("it is refused");
        assert!(error.to_string().contains(lost), "{error}");
    }
}

#[test]
fn a_base_in_4_bits_is_rounded_to_the_dtype_that_is_asked() {
    let base = Base::open(&data().join("models/llama-tied-prequant")).expect("the base opens");
    let logits = |dtype| {
        let options = LoadOptions {
            dtype,
            ..LoadOptions::default()
        };
        let model = Model::load(&base, &options, &mut |_, _| {}).expect("it loads");
        model
            .logits(&Batch::sequence(vec![5, 9, 3]))
            .expect("finite")
    };
    let as_stored = logits(None);
    assert_eq!(logits(Some(Dtype::F32)), as_stored);
    let rounded = logits(Some(Dtype::BF16));
    assert_ne!(rounded, as_stored);
    let far = |(a, b): (&f32, &f32)| (a - b).abs() > 0.05;
    assert!(!rounded.iter().zip(&as_stored).any(far));
}
