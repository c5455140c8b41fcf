//! The fast kernels against the specification, on random data and ragged shapes.

mod attention;
mod cached_attention;
mod cross_entropy;
mod decoding;
mod devices;
mod elementwise;
#[cfg(all(feature = "cuda", feature = "cube-cpu"))]
mod emulated;
mod few_rows;
mod gradients;
mod linear;
#[cfg(all(feature = "cuda", feature = "cube-cpu"))]
mod nvrtc;
mod shortlist;
mod tensors;

/// Reproducible values in −1..1.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / 8_388_608.0 - 1.0
    }

    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }
}

/// Largest difference, relative to the largest expected magnitude. Inputs are of order 1, so what
/// cancels to zero may keep the rounding errors of its terms: no magnitude counts below 0.1.
#[track_caller]
pub fn close(actual: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}: length");
    let largest = expected.iter().fold(0.1f64, |a, b| a.max(b.abs()));
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        let error = (*a as f64 - e).abs() / largest;
        assert!(
            error <= tolerance,
            "{what}[{i}]: {a} instead of {e} ({error:.1e} of the largest)"
        );
    }
}

/// Runs `f` with 1, 2 and 5 threads and expects the same bits.
#[track_caller]
pub fn same_bits_for_any_threads(f: impl Fn() -> Vec<f32> + Send + Sync) {
    let run = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
            .install(&f)
    };
    let bits = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    let one = bits(run(1));
    for threads in [2, 5] {
        assert!(
            one == bits(run(threads)),
            "{threads} threads give other bits than one"
        );
    }
}
