//! What must hold for every matrix?

use nf4::{BLOCK_SIZE, CODEBOOK, Dtype, quantize, reference};
use proptest::prelude::*;

/// Matrices of ragged sizes whose blocks differ in scale; some blocks are zero.
fn matrices() -> impl Strategy<Value = ([usize; 2], Vec<f32>)> {
    (1usize..12, 1usize..200).prop_flat_map(|(rows, cols)| {
        let blocks = (rows * cols).div_ceil(BLOCK_SIZE);
        let scales = prop::collection::vec(prop_oneof![4 => -6f32..6.0, 1 => Just(-99.0)], blocks);
        let values = prop::collection::vec(-1f32..1.0, rows * cols);
        (Just([rows, cols]), scales, values).prop_map(|(shape, scales, mut values)| {
            for (i, value) in values.iter_mut().enumerate() {
                let exponent = scales[i / BLOCK_SIZE];
                *value *= if exponent == -99.0 {
                    0.0
                } else {
                    10f32.powf(exponent)
                };
            }
            (shape, values)
        })
    })
}

/// Half the distance between the neighbours that enclose `value`, on a scale of one.
fn half_step(value: f32) -> f32 {
    let above = CODEBOOK
        .iter()
        .position(|c| *c >= value)
        .unwrap_or(15)
        .max(1);
    (CODEBOOK[above] - CODEBOOK[above - 1]) / 2.0
}

proptest! {
    #[test]
    fn dequantised_values_err_at_most_half_the_local_step((shape, values) in matrices()) {
        let quantized = quantize(&values, shape, Dtype::F32, false);
        let scales = quantized.scales();
        for (i, (before, after)) in values.iter().zip(quantized.dequantize()).enumerate() {
            let scale = scales[i / BLOCK_SIZE];
            let limit = if scale == 0.0 { 0.0 } else { half_step(before / scale) * scale };
            // A few roundings to f32 on the way.
            prop_assert!((before - after).abs() <= limit * (1.0 + 1e-5) + scale * 1e-6);
        }
    }

    #[test]
    fn quantising_again_changes_nothing((shape, values) in matrices()) {
        let once = quantize(&values, shape, Dtype::F32, false);
        let twice = quantize(&once.dequantize(), shape, Dtype::F32, false);
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn fast_and_plain_code_agree((shape, values) in matrices(), double_quant: bool) {
        let fast = quantize(&values, shape, Dtype::F16, double_quant);
        let plain = reference::quantize(&values, shape, Dtype::F16, double_quant);
        prop_assert_eq!(&fast, &plain);
        prop_assert_eq!(fast.dequantize(), reference::dequantize(&plain));
    }

    #[test]
    fn bytes_do_not_depend_on_the_number_of_threads(seed in 0u32..1000) {
        let values: Vec<f32> = (0..300 * 1000u32)
            .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 / 1e7 - 0.8)
            .collect();
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let quantized = quantize(&values, [300, 1000], Dtype::F32, true);
                let values = quantized.dequantize();
                (quantized, values)
            })
        };
        prop_assert_eq!(on(1), on(5));
    }
}

#[test]
fn rounding_to_bf16_is_to_nearest_even() {
    for bits in (0..u32::MAX).step_by(65_521) {
        let value = f32::from_bits(bits);
        let mut rounded = [value];
        Dtype::BF16.round(&mut rounded);
        let expected = half::bf16::from_f32(value).to_f32();
        assert_eq!(rounded[0].to_bits(), expected.to_bits(), "{bits:#x}");
    }
}
