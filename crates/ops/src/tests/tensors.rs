//! Through the door: burn tensors, the tape, the cache.

use super::{Random, close};
use crate::reference::{self, widen};
use crate::{
    AttentionOptions, ComputeDtype, Dropout, FanOut, KvCache, Lora, Segment, Segments, Weight,
};
use burn::tensor::{Device, Tensor, TensorData};

fn tensor(values: &[f32], columns: usize, device: &Device) -> Tensor<2> {
    Tensor::from_data(
        TensorData::new(values.to_vec(), [values.len() / columns, columns]),
        device,
    )
}

fn values(t: Tensor<2>) -> Vec<f32> {
    t.into_data().try_to_vec().unwrap()
}

fn quantized(n: usize, k: usize, random: &mut Random) -> nf4::Quantized {
    nf4::quantize(&random.values(n * k), [n, k], nf4::Dtype::BF16, true)
}

#[test]
fn a_gradient_that_is_handed_on_goes_where_the_products_would_go() {
    let (n, k, rank) = (50, 96, 4);
    let plain = Device::flex();
    let device = plain.clone().autodiff();
    let mut random = Random::new(8);
    let weight = Weight::nf4(&quantized(n, k, &mut random), &plain);
    let dropout = Some(Dropout { p: 0.25, seed: 3 });
    for (m, adapted) in [(20, true), (70, true), (70, false)] {
        let leaf = |values: &[f32], columns| tensor(values, columns, &device).require_grad();
        let x = leaf(&random.values(m * k), k);
        let a = leaf(&random.values(rank * k), k);
        let b = leaf(&random.values(n * rank), rank);
        let (dy, other) = (random.values(m * n), random.values(m * k));
        let (dy, other) = (tensor(&dy, n, &plain), tensor(&other, k, &plain));
        let scaling = 2.0;
        let lora = Lora {
            a: &a,
            b: &b,
            scaling,
            dropout,
        };
        let lora = adapted.then_some(lora);
        let of = |scalar: Tensor<1>| -> Vec<Option<Vec<f32>>> {
            let gradients = scalar.backward();
            let leaves = [&x, &a, &b].map(|leaf| leaf.grad(&gradients));
            leaves.into_iter().map(|g| g.map(values)).collect()
        };
        let on_tape = |t: &Tensor<2>| Tensor::from_inner(t.clone());
        let y = || crate::linear(x.clone(), &weight, None, lora);
        let expected = of((y() * on_tape(&dy)).sum() + (x.clone() * on_tape(&other)).sum());
        let residual = || crate::with_gradient(x.clone(), other.clone());
        let output = crate::with_gradient(y(), dy.clone()) + residual();
        assert_eq!(of(output), expected, "{m} rows, the product's output");
        let input = crate::linear_with_gradient(x.clone(), &weight, lora, dy) + residual();
        assert_eq!(of(input), expected, "{m} rows, the product's input");
    }
}

#[test]
fn the_tape_gives_the_gradients_of_a_linear_whose_input_is_used_twice() {
    let (m, n, k, rank) = (20, 50, 96, 4);
    let plain = Device::flex();
    let device = plain.clone().autodiff();
    let mut random = Random::new(1);
    let q = quantized(n, k, &mut random);
    let weight = Weight::nf4(&q, &plain);
    let (x, dy) = (random.values(m * k), random.values(m * n));
    let (a, b) = (random.values(rank * k), random.values(n * rank));
    let dropout = Dropout { p: 0.25, seed: 3 };

    let (xt, at, bt) = (
        tensor(&x, k, &device).require_grad(),
        tensor(&a, k, &device).require_grad(),
        tensor(&b, rank, &device).require_grad(),
    );
    let lora = Lora {
        a: &at,
        b: &bt,
        scaling: 2.0,
        dropout: Some(dropout),
    };
    let y = crate::linear(xt.clone(), &weight, None, Some(lora))
        + crate::linear(xt.clone(), &weight, None, None);
    let mut gradients = (y * tensor(&dy, n, &device)).sum().backward();

    let mask: Vec<f64> = (0..m * k)
        .map(|i| dropout.factor(i / k, i % k) as f64)
        .collect();
    let (wa, wb) = (widen(&a), widen(&b));
    let plain = reference::linear::Lora {
        a: &wa,
        b: &wb,
        rank,
        scaling: 2.0,
        mask: &mask,
    };
    let w = widen(&q.dequantize());
    let (dx, da, db) =
        reference::linear::backward(&widen(&dy), &widen(&x), &w, [n, k], Some(plain));
    let (again, ..) = reference::linear::backward(&widen(&dy), &widen(&x), &w, [n, k], None);
    let dx: Vec<f64> = dx.iter().zip(again).map(|(a, b)| a + b).collect();
    close(
        &values(xt.grad_remove(&mut gradients).unwrap()),
        &dx,
        2e-6,
        "dx",
    );
    close(
        &values(at.grad_remove(&mut gradients).unwrap()),
        &da,
        2e-6,
        "dA",
    );
    close(
        &values(bt.grad_remove(&mut gradients).unwrap()),
        &db,
        2e-6,
        "dB",
    );
}

#[test]
fn readers_of_one_tensor_add_up_to_the_gradient_that_the_tape_sums() {
    let (m, n, k, rank) = (70, 96, 96, 4);
    let plain = Device::flex();
    let device = plain.clone().autodiff();
    let mut random = Random::new(11);
    let weights = [(); 3].map(|()| Weight::nf4(&quantized(n, k, &mut random), &plain));
    let norm = Tensor::<1>::from_data(TensorData::new(random.values(k), [k]), &plain);
    let leaf = |values: &[f32], columns| tensor(values, columns, &device).require_grad();
    let x = leaf(&random.values(m * k), k);
    let a = leaf(&random.values(rank * k), k);
    let b = leaf(&random.values(n * rank), rank);
    let dy = tensor(&random.values(m * n), n, &device);
    let other = tensor(&random.values(m * k), k, &plain);
    let lora = |seed| Lora {
        a: &a,
        b: &b,
        scaling: 2.0,
        dropout: Some(Dropout { p: 0.25, seed }),
    };
    // A leaf and a tensor that is made of it, each read by every operation that may be one of several.
    let gradients = |fan_out: &dyn Fn(Tensor<2>) -> FanOut| {
        let x_read = fan_out(x.clone());
        let h = fan_out(crate::rms_norm(x_read.clone(), &norm, 1e-5));
        let y = crate::linear(h.clone(), &weights[0], None, Some(lora(1)))
            + crate::linear(h.clone(), &weights[1], None, None)
            + crate::linear(h.clone(), &weights[2], None, Some(lora(2)));
        let y = crate::add(h.clone(), crate::add(x_read.clone(), y));
        let z = crate::linear(x_read.clone(), &weights[1], None, None);
        let z = crate::add(x_read.clone(), z);
        let given =
            crate::with_gradient(h, other.clone()) + crate::with_gradient(x_read, other.clone());
        let found = ((y + z * 0.5) * dy.clone()).sum() + given;
        let found = found.backward();
        [&x, &a, &b].map(|leaf| values(leaf.grad(&found).expect("it is read")))
    };
    let expected = gradients(&FanOut::from);
    for (name, (got, expected)) in ["x", "A", "B"]
        .iter()
        .zip(gradients(&FanOut::new).iter().zip(&expected))
    {
        close(got, &widen(expected), 1e-6, name);
    }
    // Nobody's gradient is asked for.
    let untaped = FanOut::new(tensor(&random.values(m * k), k, &device));
    let y = crate::linear(untaped.clone(), &weights[0], None, Some(lora(1)));
    assert_eq!(crate::add(untaped, y).dims(), [m, n]);
}

#[test]
fn a_frozen_input_and_a_trained_adapter_still_give_gradients() {
    let plain = Device::flex();
    let device = plain.clone().autodiff();
    let mut random = Random::new(2);
    let weight = Weight::nf4(&quantized(8, 64, &mut random), &plain);
    let (a, b) = (
        tensor(&random.values(2 * 64), 64, &device).require_grad(),
        tensor(&random.values(16), 2, &device).require_grad(),
    );
    let x = crate::embedding(
        &[1, 0, 7],
        &Weight::dense_f32(&random.values(8 * 64), [8, 64], &plain),
    );
    let lora = Lora {
        a: &a,
        b: &b,
        scaling: 1.0,
        dropout: None,
    };
    let gradients = crate::linear(x, &weight, None, Some(lora)).sum().backward();
    assert!(a.grad(&gradients).is_some() && b.grad(&gradients).is_some());
}

#[test]
fn a_chain_of_every_operation_has_the_gradient_of_its_specification() {
    let (tokens, heads, head_dim, vocabulary) = (30, 2, 8, 40);
    let width = heads * head_dim;
    let plain = Device::flex();
    let device = plain.clone().autodiff();
    let mut random = Random::new(3);
    let x = random.values(tokens * width);
    let norm = random.values(width);
    let angles = random.values(tokens * head_dim / 2);
    let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
    let head = random.values(vocabulary * width);
    let targets: Vec<u32> = (0..tokens as u32).collect();
    let segments = Segments::from_offsets(&[0, 12, 30]);
    let o = AttentionOptions {
        heads,
        kv_heads: heads,
        head_dim,
        scale: 0.4,
        window: None,
        softcap: None,
        compute: ComputeDtype::F32,
        kernel: Default::default(),
    };

    let xt = tensor(&x, width, &device).require_grad();
    let nt = Tensor::<1>::from_data(TensorData::new(norm.clone(), [width]), &plain);
    let (ct, st) = (
        tensor(&cos, head_dim / 2, &plain),
        tensor(&sin, head_dim / 2, &plain),
    );
    let h = crate::rms_norm(xt.clone(), &nt, 1e-5);
    let r = crate::rotary(h.clone(), &ct, &st, heads);
    let attended = crate::attention(r.clone(), r, h.clone(), &segments, &o);
    let y = crate::swiglu(attended, h);
    let loss = crate::linear_cross_entropy(
        y,
        &Weight::dense_f32(&head, [vocabulary, width], &plain),
        &targets,
    ) * 0.5;
    let actual_loss = loss.clone().into_data().try_to_vec::<f32>().unwrap()[0] as f64;
    let mut gradients = loss.backward();
    let dx = values(xt.grad_remove(&mut gradients).unwrap());

    use reference::{attention, cross_entropy, elementwise as e};
    let (wx, wn, wc, ws, wh) = (
        widen(&x),
        widen(&norm),
        widen(&cos),
        widen(&sin),
        widen(&head),
    );
    let h = e::rms_norm(&wx, &wn, 1e-5);
    let r = e::rotary(&h, &wc, &ws, heads, head_dim / 2, false);
    let attended = attention::forward(&r, &r, &h, &segments, &o);
    let y = e::swiglu(&attended, &h);
    let (loss, dy) = cross_entropy::forward(&y, &wh, width, &targets);
    assert!(
        (actual_loss - 0.5 * loss).abs() < 1e-5 * loss,
        "{actual_loss} instead of {}",
        0.5 * loss
    );
    let dy: Vec<f64> = dy.iter().map(|d| 0.5 * d).collect();
    let (d_attended, mut dh) = e::swiglu_backward(&dy, &attended, &h);
    let (dq, dk, dv) = attention::backward(&d_attended, &r, &r, &h, &segments, &o);
    let dr: Vec<f64> = dq.iter().zip(dk).map(|(a, b)| a + b).collect();
    let back = e::rotary(&dr, &wc, &ws, heads, head_dim / 2, true);
    dh.iter_mut()
        .zip(dv)
        .zip(back)
        .for_each(|((d, a), b)| *d += a + b);
    close(&dx, &e::rms_norm_backward(&dh, &wx, &wn, 1e-5), 1e-5, "dx");
}

#[test]
fn a_slice_of_a_tensor_is_read_where_it_lies() {
    let plain = Device::flex();
    let mut random = Random::new(4);
    let weight = Weight::nf4(&quantized(10, 64, &mut random), &plain);
    let x = random.values(6 * 64);
    let all = values(crate::linear(tensor(&x, 64, &plain), &weight, None, None));
    let some = values(crate::linear(
        tensor(&x, 64, &plain).narrow(0, 2, 3),
        &weight,
        None,
        None,
    ));
    assert_eq!(some, all[20..50]);
    let transposed = tensor(&x, 6, &plain).transpose();
    let copied = tensor(&values(transposed.clone()), 64, &plain);
    assert_eq!(
        values(crate::linear(transposed, &weight, None, None)),
        values(crate::linear(copied, &weight, None, None))
    );
}

#[test]
fn a_cache_attends_like_the_whole_sequence_after_sharing_and_dropping() {
    let o = AttentionOptions {
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        scale: 0.25,
        window: None,
        softcap: None,
        compute: ComputeDtype::F32,
        kernel: Default::default(),
    };
    let (row, plain) = (32, Device::flex());
    let mut random = Random::new(5);
    let (prompt_k, prompt_v) = (random.values(200 * row), random.values(200 * row));
    let mut prompt = KvCache::new(1, 1, 2, 16);
    prompt.append(
        0,
        tensor(&prompt_k, row, &plain),
        tensor(&prompt_v, row, &plain),
        &[0, 200],
    );
    prompt.advance(&[0, 200]);
    let mut cache = prompt.replicate(0, 3);
    let (k, v) = (random.values(6 * row), random.values(6 * row));
    cache.append(
        0,
        tensor(&k, row, &plain),
        tensor(&v, row, &plain),
        &[0, 1, 3, 6],
    );
    cache.retain(&[true, false, true]);
    // Three blocks are shared, the fourth is each sequence's own.
    assert_eq!(cache.bytes(), 2 * 4 * row * 64 * (3 + 2));
    let q = random.values(4 * 64);
    let actual = values(cache.attend(0, tensor(&q, 64, &plain), &[0, 1, 4], &o));
    cache.advance(&[0, 1, 4]);
    assert_eq!([cache.length(0), cache.length(1)], [201, 203]);
    let whole = |own: &[f32], from: usize, to: usize, prompt: &[f32]| {
        [prompt, &own[from * row..to * row]].concat()
    };
    let keys = [whole(&k, 0, 1, &prompt_k), whole(&k, 3, 6, &prompt_k)].concat();
    let vals = [whole(&v, 0, 1, &prompt_v), whole(&v, 3, 6, &prompt_v)].concat();
    let segments = Segments::new(vec![
        Segment { q: 0..1, k: 0..201 },
        Segment {
            q: 1..4,
            k: 201..404,
        },
    ]);
    let expected =
        reference::attention::forward(&widen(&q), &widen(&keys), &widen(&vals), &segments, &o);
    close(&actual, &expected, 2e-6, "o");
}

#[test]
fn a_batch_of_no_tokens_is_not_an_error() {
    let plain = Device::flex();
    let device = plain.clone().autodiff();
    let mut random = Random::new(6);
    let weight = Weight::nf4(&quantized(10, 64, &mut random), &plain);
    let (a, b) = (
        tensor(&random.values(128), 64, &device).require_grad(),
        tensor(&random.values(20), 2, &device).require_grad(),
    );
    let lora = Lora {
        a: &a,
        b: &b,
        scaling: 1.0,
        dropout: None,
    };
    let x = tensor(&[], 64, &device).require_grad();
    let y = crate::linear(x, &weight, None, Some(lora));
    assert_eq!(y.dims(), [0, 10]);
    let gradients = y.sum().backward();
    assert_eq!(values(a.grad(&gradients).unwrap()), vec![0.0; 128]);
    let cos = tensor(&[], 32, &plain);
    assert_eq!(
        crate::rotary(tensor(&[], 64, &plain), &cos, &cos, 1).dims(),
        [0, 64]
    );
    let head = Weight::dense_f32(&[0.5; 128], [2, 64], &plain);
    assert_eq!(
        crate::linear_cross_entropy(tensor(&[], 64, &plain), &head, &[])
            .into_data()
            .try_to_vec::<f32>()
            .unwrap(),
        [0.0]
    );
}
