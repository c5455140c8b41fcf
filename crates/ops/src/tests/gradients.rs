//! The specification's own gradients against central differences of its forward functions, in f64.

use super::Random;
use crate::format::ComputeDtype;
use crate::reference::{attention, cross_entropy, elementwise, linear, widen};
use crate::segments::{AttentionOptions, Segments};

/// Σ weights·f(x), differentiated numerically at every element of x.
#[track_caller]
fn agrees(what: &str, x: &[f64], gradient: &[f64], f: impl Fn(&[f64]) -> f64) {
    for i in 0..x.len() {
        let at = |d: f64| {
            let mut x = x.to_vec();
            x[i] += d;
            f(&x)
        };
        let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
        assert!(
            (slope - gradient[i]).abs() <= 1e-7 * (1.0 + slope.abs()),
            "{what}[{i}]: {} against {slope}",
            gradient[i]
        );
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn linear_gradients_are_the_slopes_of_the_forward_pass() {
    let (m, n, k, rank) = (3, 4, 5, 2);
    let mut random = Random::new(1);
    let mut draw = |n| widen(&random.values(n));
    let (x, w, dy, a, b) = (
        draw(m * k),
        draw(n * k),
        draw(m * n),
        draw(rank * k),
        draw(n * rank),
    );
    let mask: Vec<f64> = (0..m * k)
        .map(|i| if i % 4 == 0 { 0.0 } else { 1.25 })
        .collect();
    let lora = linear::Lora {
        a: &a,
        b: &b,
        rank,
        scaling: 0.7,
        mask: &mask,
    };
    let (dx, da, db) = linear::backward(&dy, &x, &w, [n, k], Some(lora));
    let loss = |x: &[f64], a: &[f64], b: &[f64]| {
        dot(
            &dy,
            &linear::forward(x, &w, [n, k], None, Some(linear::Lora { a, b, ..lora })),
        )
    };
    agrees("dx", &x, &dx, |x| loss(x, &a, &b));
    agrees("dA", &a, &da, |a| loss(&x, a, &b));
    agrees("dB", &b, &db, |b| loss(&x, &a, b));
}

#[test]
fn attention_gradients_are_the_slopes_of_the_forward_pass() {
    let segments = Segments::from_offsets(&[0, 2, 7]);
    for (window, softcap) in [(None, None), (Some(3), Some(0.5))] {
        let o = AttentionOptions {
            heads: 4,
            kv_heads: 2,
            head_dim: 3,
            scale: 0.8,
            window,
            softcap,
            compute: ComputeDtype::F32,
            kernel: Default::default(),
        };
        let mut random = Random::new(2);
        let mut draw = |n| widen(&random.values(n));
        let (q, k, v, d_o) = (draw(7 * 12), draw(7 * 6), draw(7 * 6), draw(7 * 12));
        let (dq, dk, dv) = attention::backward(&d_o, &q, &k, &v, &segments, &o);
        let loss = |q: &[f64], k: &[f64], v: &[f64]| {
            dot(&d_o, &attention::forward(q, k, v, &segments, &o))
        };
        agrees("dq", &q, &dq, |q| loss(q, &k, &v));
        agrees("dk", &k, &dk, |k| loss(&q, k, &v));
        agrees("dv", &v, &dv, |v| loss(&q, &k, v));
    }
}

#[test]
fn cross_entropy_gradients_are_the_slopes_of_the_loss() {
    let mut random = Random::new(3);
    let (h, w) = (widen(&random.values(3 * 4)), widen(&random.values(6 * 4)));
    let (_, dh) = cross_entropy::forward(&h, &w, 4, &[5, 0, 2]);
    agrees("dh", &h, &dh, |h| {
        cross_entropy::forward(h, &w, 4, &[5, 0, 2]).0
    });
}

#[test]
fn elementwise_gradients_are_the_slopes_of_the_forward_pass() {
    let mut random = Random::new(4);
    let mut draw = |n| widen(&random.values(n));
    let (x, dy, w) = (draw(12), draw(12), draw(6));
    agrees(
        "rms_norm dx",
        &x,
        &elementwise::rms_norm_backward(&dy, &x, &w, 1e-3),
        |x| dot(&dy, &elementwise::rms_norm(x, &w, 1e-3)),
    );
    let up = draw(12);
    let (dgate, dup) = elementwise::swiglu_backward(&dy, &x, &up);
    agrees("dgate", &x, &dgate, |x| {
        dot(&dy, &elementwise::swiglu(x, &up))
    });
    agrees("dup", &up, &dup, |up| {
        dot(&dy, &elementwise::swiglu(&x, up))
    });
    let angles = draw(6);
    let (cos, sin): (Vec<f64>, Vec<f64>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
    let rotary = |x: &[f64], inverse| elementwise::rotary(x, &cos, &sin, 1, 3, inverse);
    agrees("rotary dx", &x, &rotary(&dy, true), |x| {
        dot(&dy, &rotary(x, false))
    });
}
