//! What a 4-bit linear may allocate: its results and a few panels, never the dense weight.

use burn::tensor::{Device, Distribution, Tensor};
use ops::{Lora, Weight};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

struct Counting;
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(
            LIVE.fetch_add(layout.size(), Relaxed) + layout.size(),
            Relaxed,
        );
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that `f` allocated at its height, and still holds through its result, beyond the start.
fn measure<T>(f: impl FnOnce() -> T) -> (T, usize, usize) {
    let start = LIVE.load(Relaxed);
    PEAK.store(start, Relaxed);
    let result = f();
    (
        result,
        PEAK.load(Relaxed) - start,
        LIVE.load(Relaxed).saturating_sub(start),
    )
}

#[test]
fn no_dense_weight_lives_during_forward_on_the_tape_or_during_backward() {
    let (m, n, k, rank) = (64, 1024, 2048, 8);
    let plain = Device::flex();
    let device = plain.clone().autodiff();
    let values: Vec<f32> = (0..n * k)
        .map(|i| ((i * 7919) % 1000) as f32 / 1000.0 - 0.5)
        .collect();
    let weight = Weight::nf4(
        &nf4::quantize(&values, [n, k], nf4::Dtype::BF16, true),
        &plain,
    );
    let dense = n * k * 4;
    drop(values);
    let draw = |shape: [usize; 2]| {
        Tensor::<2>::random(shape, Distribution::Uniform(-1.0, 1.0), &device).require_grad()
    };
    let (x, a, b) = (draw([m, k]), draw([rank, k]), draw([n, rank]));
    let lora = Lora {
        a: &a,
        b: &b,
        scaling: 1.0,
        dropout: None,
    };
    let step = || ops::linear(x.clone(), &weight, None, Some(lora));
    drop(step().sum().backward()); // threads and their stacks come to life

    let slack = 1 << 20; // panels of every thread, the transposed A, the tape's own nodes
    let (y, peak, _) = measure(step);
    let results = (m * n + m * rank) * 4;
    assert!(
        peak <= results + slack,
        "forward: {peak} bytes at its height, results are {results}, W would be {dense}"
    );
    // One thread's buffers have grown in one step; of several, each may meet its first task later.
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let kept = alone.expect("a thread").install(|| {
        // Its buffers are new, so that what a kernel unpacks into them counts here.
        let (_, peak, _) = measure(|| drop(step().sum().backward()));
        assert!(
            peak < dense / 2,
            "a thread's first step: {peak} bytes at its height, W would be {dense}"
        );
        measure(step).2
    });
    assert!(
        kept <= results + slack / 8,
        "the tape holds {kept} bytes, results are {results}"
    );

    let loss = y.sum();
    let (gradients, peak, _) = measure(|| loss.backward());
    let results = (2 * m * n + m * k + rank * k + n * rank) * 4;
    assert!(
        peak <= results + slack,
        "backward: {peak} bytes at its height, results are {results}, W would be {dense}"
    );
    assert!(x.grad(&gradients).is_some());
}
