//! The self test on every device that this build can reach.

use crate::{Check, ComputeDtype, self_test};
use burn::tensor::Device;

#[track_caller]
fn all_pass(device: &Device, compute: ComputeDtype) {
    let checks = self_test(device, compute);
    let failed: Vec<&Check> = checks.iter().filter(|c| !c.passed()).collect();
    for check in &failed {
        eprintln!("{}: off by {:.1e}", check.name, check.error);
    }
    assert!(
        failed.is_empty(),
        "{} of {} checks",
        failed.len(),
        checks.len()
    );
}

#[test]
fn every_operation_of_the_cpu_is_its_specification() {
    all_pass(&Device::flex(), ComputeDtype::F32);
    all_pass(&Device::flex(), ComputeDtype::Bf16);
}

#[cfg(feature = "cube-cpu")]
#[test]
fn every_kernel_of_a_gpu_is_its_specification_on_the_cpu() {
    all_pass(&Device::cpu(), ComputeDtype::F32);
}

#[cfg(feature = "cube-cpu")]
#[test]
fn every_kernel_of_a_gpu_is_its_specification_in_bf16_on_the_cpu() {
    all_pass(&Device::cpu(), ComputeDtype::Bf16);
}

/// The GPUs there are; with REQUIRE_CUDA=1 there must be one.
#[cfg(feature = "cuda")]
fn gpus() -> Vec<Device> {
    let gpus = Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec();
    let required = std::env::var("REQUIRE_CUDA").is_ok_and(|v| v == "1");
    assert!(
        !required || !gpus.is_empty(),
        "REQUIRE_CUDA=1, and no NVIDIA GPU answers"
    );
    if gpus.is_empty() {
        eprintln!("skipped: no NVIDIA GPU here; REQUIRE_CUDA=1 makes this an error");
    }
    gpus
}

#[cfg(feature = "cuda")]
#[test]
fn every_kernel_is_its_specification_on_every_gpu() {
    for gpu in gpus() {
        all_pass(&gpu, ComputeDtype::F32);
        all_pass(&gpu, ComputeDtype::Bf16);
    }
}

#[cfg(feature = "cube-cpu")]
#[test]
fn a_device_cache_attends_like_the_whole_sequence_after_sharing_and_dropping() {
    use super::{Random, close};
    use crate::reference::{attention, widen};
    use crate::{AttentionOptions, DeviceKvCache, Segment, Segments};
    use burn::tensor::{Tensor, TensorData};

    let device = Device::cpu();
    let mut random = Random::new(5);
    let tensor = |values: &[f32], columns: usize| {
        let shape = [values.len() / columns, columns];
        Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), &device)
    };
    let row = 32;
    for window in [None, Some(30)] {
        let o = AttentionOptions {
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            scale: 0.25,
            window,
            softcap: None,
            compute: ComputeDtype::F32,
            kernel: Default::default(),
        };
        let (prompt_k, prompt_v) = (random.values(70 * row), random.values(70 * row));
        let prompt_q = random.values(70 * 64);
        let mut prompt = DeviceKvCache::new(1, 1, 70);
        prompt.append(0, tensor(&prompt_k, row), tensor(&prompt_v, row), &[0, 70]);
        // More rows than the kernel for a few takes.
        let actual = prompt.attend(0, tensor(&prompt_q, 64), &[0, 70], &o);
        let actual: Vec<f32> = actual.into_data().try_to_vec().expect("f32");
        let whole = Segments::from_offsets(&[0, 70]);
        let (q, k, v) = (widen(&prompt_q), widen(&prompt_k), widen(&prompt_v));
        let expected = attention::forward(&q, &k, &v, &whole, &o);
        close(&actual, &expected, 2e-6, "o of the prompt");
        prompt.advance(&[0, 70]);

        let mut cache = prompt.replicate(3, 80);
        let (k, v) = (random.values(6 * row), random.values(6 * row));
        cache.append(0, tensor(&k, row), tensor(&v, row), &[0, 1, 3, 6]);
        cache.advance(&[0, 1, 3, 6]);
        cache.retain(&[true, false, true]);
        assert_eq!([cache.length(0), cache.length(1)], [71, 73]);
        let (new_k, new_v) = (random.values(2 * row), random.values(2 * row));
        let q = random.values(2 * 64);
        cache.append(0, tensor(&new_k, row), tensor(&new_v, row), &[0, 1, 2]);
        let actual = cache.attend(0, tensor(&q, 64), &[0, 1, 2], &o);
        let actual: Vec<f32> = actual.into_data().try_to_vec().expect("f32");
        let all = |prompt: &[f32], own: &[f32], new: &[f32]| {
            let first = [prompt, &own[..row], &new[..row]].concat();
            [&first[..], prompt, &own[3 * row..], &new[row..]].concat()
        };
        let keys = all(&prompt_k, &k, &new_k);
        let values = all(&prompt_v, &v, &new_v);
        let segments = Segments::new(vec![
            Segment { q: 0..1, k: 0..72 },
            Segment {
                q: 1..2,
                k: 72..146,
            },
        ]);
        let expected =
            attention::forward(&widen(&q), &widen(&keys), &widen(&values), &segments, &o);
        close(&actual, &expected, 2e-6, "o of the newest");
    }
}

#[cfg(feature = "cube-cpu")]
#[test]
fn a_device_quantises_to_the_codes_of_the_host() {
    use super::Random;
    use crate::{DenseDtype, Weight};

    let device = Device::cpu();
    let mut random = Random::new(8);
    for (shape, double_quant) in [([50, 192], true), ([7, 64], false), ([96, 320], true)] {
        let mut values = random.values(shape[0] * shape[1]);
        values[64..128].fill(0.0); // a block of zeros has codes too
        let half: Vec<half::bf16> = values.iter().map(|v| half::bf16::from_f32(*v)).collect();
        let bytes: Vec<u8> = half.iter().flat_map(|v| v.to_le_bytes()).collect();
        let rounded: Vec<f32> = half.iter().map(|v| v.to_f32()).collect();
        let dtype = nf4::Dtype::BF16;
        let host = Weight::nf4(
            &nf4::quantize(&rounded, shape, dtype, double_quant),
            &device,
        );
        let there = Weight::quantize_on_device(
            &bytes,
            DenseDtype::BF16,
            shape,
            dtype,
            double_quant,
            &device,
        );
        assert_eq!(there.format(), host.format());
        let words = |w: &Weight| w.words.clone().into_data().convert::<i64>();
        assert_eq!(words(&there), words(&host), "{shape:?}");
    }
}
