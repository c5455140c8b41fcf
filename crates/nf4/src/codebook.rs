//! Which values can a 4-bit code stand for, and which an 8-bit one?

use std::sync::OnceLock;

/// NormalFloat4: the sixteen values, ascending (bitsandbytes, `get_4bit_type("nf4")`).
pub const CODEBOOK: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Half way between neighbours, rounded to f32. A value's code is the number of thresholds
/// strictly below it, so a value exactly on a threshold takes the lower code.
pub const THRESHOLDS: [f32; 15] = {
    let mut thresholds = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        thresholds[i] = (CODEBOOK[i] + CODEBOOK[i + 1]) / 2.0;
        i += 1;
    }
    thresholds
};

/// The signed 8-bit map of double quantisation, ascending
/// (bitsandbytes, `create_dynamic_map(signed=True, max_exponent_bits=7, total_bits=8)`).
///
/// Seven decades: decade `i` has `2^i` values ±10^(i−6)·m, m half way between the points of
/// `linspace(0.1, 1, 2^i + 1)`; then 0 and 1. There is no −1.
pub fn dynamic_map() -> &'static [f32; 256] {
    static MAP: OnceLock<[f32; 256]> = OnceLock::new();
    MAP.get_or_init(|| {
        let mut values = vec![0.0f32, 1.0];
        for decade in 0..7 {
            let scale = 10f64.powi(decade - 6) as f32;
            let points = linspace_from_a_tenth_to_one((1 << decade) + 1);
            for pair in points.windows(2) {
                let value = scale * ((pair[0] + pair[1]) / 2.0);
                values.extend([value, -value]);
            }
        }
        values.sort_by(f32::total_cmp);
        values.try_into().expect("2 + 2 · (1 + 2 + … + 64) = 256")
    })
}

/// `torch.linspace(0.1, 1, n)`: from either end towards the middle, each point one fused
/// multiply-add. Unfused, 42 entries of the map would be off by one unit in the last place.
fn linspace_from_a_tenth_to_one(n: usize) -> Vec<f32> {
    let step = (1.0 - 0.1f32) / (n - 1) as f32;
    (0..n)
        .map(|i| {
            if i < n / 2 {
                step.mul_add(i as f32, 0.1)
            } else {
                (-step).mul_add((n - 1 - i) as f32, 1.0)
            }
        })
        .collect()
}
