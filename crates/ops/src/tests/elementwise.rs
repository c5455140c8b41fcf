use super::{Random, close};
use crate::kernels::adamw::{self, AdamW};
use crate::kernels::simd::{Level, Simd, simd_dispatch};
use crate::kernels::{add, normalize, rotary, swiglu};
use crate::reference::{elementwise as reference, widen};

#[test]
fn rms_norm_and_its_gradient_equal_the_specification() {
    for level in Level::available() {
        for (rows, width) in [(1, 1), (70, 33), (3, 576)] {
            let mut random = Random::new(width as u64);
            let (x, dy, w) = (
                random.values(rows * width),
                random.values(rows * width),
                random.values(width),
            );
            let y = normalize::forward(level, &x, &w, 1e-5);
            close(
                &y,
                &reference::rms_norm(&widen(&x), &widen(&w), 1e-5),
                1e-6,
                "y",
            );
            let dx = normalize::backward(level, &dy, &x, &w, 1e-5);
            let mut expected =
                reference::rms_norm_backward(&widen(&dy), &widen(&x), &widen(&w), 1e-5);
            close(&dx, &expected, 2e-6, "dx");
            let mut sum = random.values(rows * width);
            expected
                .iter_mut()
                .zip(widen(&sum))
                .for_each(|(e, s)| *e += s);
            normalize::add_backward(level, &dy, &x, &w, 1e-5, &mut sum);
            close(&sum, &expected, 2e-6, "added dx");
        }
    }
}

#[test]
fn a_sum_in_place_is_every_element_and_no_other() {
    for level in Level::available() {
        for length in [0, 1, 15, 16, 40_001] {
            let mut random = Random::new(length as u64);
            let (values, mut sum) = (random.values(length), random.values(length));
            let expected: Vec<f32> = values.iter().zip(&sum).map(|(v, s)| v + s).collect();
            add::add(level, &values, &mut sum);
            assert_eq!(sum, expected);
        }
        // 3 rows of 5 in strides of 7 and 9.
        let (values, mut sum) = ([1.0; 21], [0.0; 27]);
        // SAFETY: the rows lie in both.
        unsafe { add::add_rows(level, (values.as_ptr(), 7), [3, 5], (sum.as_mut_ptr(), 9)) };
        let expected = |i: usize| if i % 9 < 5 { 1.0 } else { 0.0 };
        assert_eq!(sum, std::array::from_fn(expected));
    }
}

#[test]
fn swiglu_and_its_gradients_equal_the_specification_far_out_too() {
    for level in Level::available() {
        let mut random = Random::new(8);
        let gate: Vec<f32> = (0..20_011)
            .map(|i| random.next() * [1.0, 10.0, 100.0, 1000.0][i % 4])
            .collect();
        let (up, dy) = (random.values(gate.len()), random.values(gate.len()));
        close(
            &swiglu::forward(level, &gate, &up),
            &reference::swiglu(&widen(&gate), &widen(&up)),
            1e-6,
            "y",
        );
        let (dgate, dup) = swiglu::backward(level, &dy, &gate, &up);
        let expected = reference::swiglu_backward(&widen(&dy), &widen(&gate), &widen(&up));
        close(&dgate, &expected.0, 2e-6, "dgate");
        close(&dup, &expected.1, 1e-6, "dup");
    }
}

#[test]
fn rotary_turns_each_head_by_its_position_and_back() {
    let (heads, half, tokens) = (3, 10, 70);
    let mut random = Random::new(6);
    let x = random.values(tokens * heads * 2 * half);
    let angles = random.values(tokens * half);
    let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
    let y = rotary::rotate(&x, &cos, &sin, heads, half, 1.0);
    let expected = reference::rotary(&widen(&x), &widen(&cos), &widen(&sin), heads, half, false);
    close(&y, &expected, 1e-6, "y");
    close(
        &rotary::rotate(&y, &cos, &sin, heads, half, -1.0),
        &widen(&x),
        1e-6,
        "x again",
    );
}

#[test]
fn adamw_follows_torch_over_several_steps() {
    let mut random = Random::new(10);
    let mut param = random.values(1000);
    let (mut m, mut v) = (vec![0.0; 1000], vec![0.0; 1000]);
    let (mut wide, mut wide_m, mut wide_v) = (widen(&param), widen(&m), widen(&v));
    for step in 1..=5 {
        let grad = random.values(1000);
        let o = AdamW {
            lr: 1e-2,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.1,
            step,
            grad_scale: 0.5,
        };
        adamw::update(&mut param, &grad, &mut m, &mut v, &o);
        reference::adamw(&mut wide, &widen(&grad), &mut wide_m, &mut wide_v, &o);
    }
    close(&param, &wide, 1e-6, "param");
    close(&m, &wide_m, 1e-6, "exp_avg");
    close(&v, &wide_v, 1e-6, "exp_avg_sq");
}

simd_dispatch! {
    fn exponentials(x: &[f32], y: &mut [f32]) = exponentials_generic
}

#[inline(always)]
unsafe fn exponentials_generic<S: Simd>(x: &[f32], y: &mut [f32]) {
    for (x, y) in x.iter().zip(y) {
        unsafe { S::store_partial(y, S::exp(S::splat(*x)), 1) };
    }
}

#[test]
fn exponentials_are_right_to_two_units_in_the_last_place() {
    let x: Vec<f32> = (-8700..=8836).map(|i| i as f32 * 0.01 + 0.003).collect();
    for level in Level::available() {
        let mut y = vec![f32::NAN; x.len()];
        exponentials(level, &x, &mut y);
        for (x, y) in x.iter().zip(&y) {
            let exact = (*x as f64).exp();
            let error = (*y as f64 - exact).abs() / exact;
            assert!(
                error <= 2.0 * f32::EPSILON as f64,
                "e^{x} = {y}, off by {error:e} {level:?}"
            );
        }
        let mut far = [f32::NAN; 5];
        let x = [f32::NEG_INFINITY, -1000.0, 0.0, 88.376_26, f32::INFINITY];
        exponentials(level, &x, &mut far);
        assert_eq!(far, [0.0, 0.0, 1.0, far[3], far[3]]);
        assert!(far[3] > 2.3e38, "{far:?}");
    }
}
