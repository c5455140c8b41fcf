use super::Random;
use crate::{
    AttentionOptions, ComputeDtype, Decoding, DecodingLayer, DecodingLinear, DenseDtype, KvCache,
    Lora, Team, Weight,
};
use burn::tensor::{Device, Tensor, TensorData};

const HIDDEN: usize = 128;
const FFN: usize = 192;
const VOCABULARY: usize = 300;

struct Parts {
    linears: Vec<Weight>,
    a: Vec<Tensor<2>>,
    b: Vec<Tensor<2>>,
    norm: Tensor<1>,
    head: Weight,
}

fn parts(compute: ComputeDtype) -> Parts {
    let (device, mut random) = (Device::flex(), Random::new(3));
    let mut matrix = |rows: usize, columns: usize| {
        let values = random.values(rows * columns);
        Tensor::<2>::from_data(TensorData::new(values, [rows, columns]), &Device::flex())
    };
    let shapes = [
        [HIDDEN, HIDDEN],
        [64, HIDDEN],
        [64, HIDDEN],
        [HIDDEN, HIDDEN],
        [FFN, HIDDEN],
        [FFN, HIDDEN],
        [HIDDEN, FFN],
    ];
    let a = shapes.iter().map(|[_, k]| matrix(5, *k)).collect();
    let b = shapes.iter().map(|[n, _]| matrix(*n, 5)).collect();
    let mut random = Random::new(4);
    let linears = shapes
        .iter()
        .map(|[n, k]| {
            let values = random.values(n * k);
            let quantized = nf4::quantize(&values, [*n, *k], nf4::Dtype::BF16, true);
            Weight::nf4(&quantized, &device).with_compute(compute)
        })
        .collect();
    let bytes: Vec<u8> = random
        .values(VOCABULARY * HIDDEN)
        .into_iter()
        .flat_map(|v| half::bf16::from_f32(v).to_le_bytes())
        .collect();
    let head = Weight::dense(&bytes, DenseDtype::BF16, [VOCABULARY, HIDDEN], &device);
    Parts {
        linears,
        a,
        b,
        norm: Tensor::ones([HIDDEN], &device),
        head: head.with_compute(compute),
    }
}

fn decoding(parts: &Parts) -> Decoding {
    let linear = |i: usize| DecodingLinear {
        weight: &parts.linears[i],
        bias: None,
        lora: Some(Lora {
            a: &parts.a[i],
            b: &parts.b[i],
            scaling: 0.1,
            dropout: None,
        }),
    };
    let layer = || DecodingLayer {
        input_layernorm: &parts.norm,
        q_proj: linear(0),
        k_proj: linear(1),
        v_proj: linear(2),
        q_norm: None,
        k_norm: None,
        o_proj: linear(3),
        post_attention_layernorm: &parts.norm,
        gate_proj: linear(4),
        up_proj: linear(5),
        down_proj: linear(6),
    };
    let attention = AttentionOptions {
        heads: 4,
        kv_heads: 2,
        head_dim: 32,
        scale: 0.2,
        window: None,
        softcap: None,
        compute: ComputeDtype::F32,
        kernel: Default::default(),
    };
    Decoding::new(
        [layer(), layer()],
        &parts.norm,
        &parts.head,
        &parts.head,
        attention,
        1e-5,
    )
}

/// Logits of `steps` tokens of each sequence, which share a prefix of 70.
fn logits(compute: ComputeDtype, threads: usize, sequences: &[u32]) -> Vec<Vec<f32>> {
    let parts = parts(compute);
    let mut decoding = decoding(&parts);
    Team::of(threads, |team| {
        let angle = [0.6f32; 16];
        let turn = |n: usize| (vec![angle[0].cos(); 16 * n], vec![angle[0].sin(); 16 * n]);
        let mut prefix = KvCache::new(2, 1, 2, 32);
        let (cos, sin) = turn(1);
        for id in 0..70 {
            decoding.step(team, &[id], &cos, &sin, &mut prefix);
        }
        let mut cache = prefix.replicate(0, sequences.len());
        let (cos, sin) = turn(sequences.len());
        let mut last = Vec::new();
        for step in 0..3 {
            let ids: Vec<u32> = sequences.iter().map(|s| s + step).collect();
            last = decoding.step(team, &ids, &cos, &sin, &mut cache).to_vec();
        }
        let logits = decoding.logits(team, &last);
        let likeliest = decoding.likeliest(team, &last).expect("all are finite");
        let rows: Vec<Vec<f32>> = logits
            .chunks_exact(VOCABULARY)
            .map(<[f32]>::to_vec)
            .collect();
        for (row, token) in rows.iter().zip(likeliest) {
            let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(row.iter().position(|l| *l == best), Some(token as usize));
        }
        rows
    })
}

#[test]
fn a_sequence_decodes_to_the_same_bits_in_any_company_on_any_number_of_threads() {
    let everyone: Vec<u32> = (0..33).map(|i| i * 7).collect();
    for compute in [ComputeDtype::F32, ComputeDtype::Bf16] {
        let together = logits(compute, 2, &everyone);
        assert!(together == logits(compute, 5, &everyone), "threads");
        for size in [1, 2, 3, 4, 5, 9, 32] {
            assert!(
                logits(compute, 1, &everyone[..size]) == together[..size],
                "{size} sequences in {compute}"
            );
        }
    }
}

#[test]
fn a_logit_that_is_no_number_is_seen_whoever_looks_for_the_largest() {
    // One row of the head, or the norm before it: by the shortlist for few rows, by all logits for many.
    for (in_head, rows) in [(true, 1), (true, 33), (false, 1), (false, 33)] {
        let mut parts = parts(ComputeDtype::F32);
        let mut random = Random::new(7);
        if in_head {
            let mut head = random.values(VOCABULARY * HIDDEN);
            head[256 * HIDDEN + 3] = f32::NAN;
            parts.head = Weight::dense_f32(&head, [VOCABULARY, HIDDEN], &Device::flex());
        } else {
            parts.norm = Tensor::from_data([f32::NAN; HIDDEN], &Device::flex());
        }
        let decoding = decoding(&parts);
        let hidden = random.values(rows * HIDDEN);
        let likeliest = Team::of(2, |team| decoding.likeliest(team, &hidden));
        assert_eq!(likeliest, None, "head {in_head}, {rows} rows");
    }
}
