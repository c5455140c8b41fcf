//! What a training step allocates once it runs: the same as the step before it, and a stated number.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use checkpoint::Base;
use model::{
    AdamW, AdamWConfig, Adapter, Batch, Dropout, Gradients, LoadOptions, LoraConfig, Model,
    Projection, Quantize, Recompute,
};

struct Counting;
static CALLS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Relaxed);
        BYTES.fetch_add(layout.size(), Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of a step of two layers, twice. Nine of ten are burn's: boxes of tensors, nodes of the
/// tape, maps of gradients, 800 or so a layer whatever its size. Those of this project are results, each
/// handed to burn as a tensor, and the tasks of attention.
const MOST: usize = 4000;
const TOKENS: usize = 192;
const MICRO_BATCHES: u64 = 2;

#[test]
fn a_steady_step_allocates_what_the_step_before_it_did() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/models/llama-tied");
    let options = LoadOptions {
        quantize: Quantize::Nf4 { double_quant: true },
        ..LoadOptions::default()
    };
    let base = Base::open(&dir).expect("the base opens");
    let mut model = Model::load(&base, &options, &mut |_, _| {}).expect("it loads");
    let config = LoraConfig {
        rank: 4,
        alpha: 8.0,
        use_rslora: false,
        dropout: 0.1,
        target_modules: Projection::ALL.map(|p| p.name().to_owned()).to_vec(),
    };
    let adapter = Adapter::new(model.decoder(), &config, "base", 3).expect("known targets");
    let mut optimizer = AdamW::new(&adapter, AdamWConfig::default());
    model.set_adapter(adapter);
    let batch = Batch {
        input_ids: (0..TOKENS as u32).map(|i| 3 + i * 131 % 500).collect(),
        loss_mask: vec![1; TOKENS],
        offsets: vec![0, 50, TOKENS],
    };
    let mut step = |number: u64| {
        let before = (CALLS.load(Relaxed), BYTES.load(Relaxed));
        let mut gradients = Gradients::new(model.adapter().expect("set above"));
        for micro_batch in 0..MICRO_BATCHES {
            let dropout = Dropout::new(0.1, 0, number, micro_batch);
            model
                .accumulate_gradients(
                    &batch,
                    0.01,
                    Some(dropout),
                    Recompute::Nothing,
                    &mut gradients,
                )
                .expect("a finite loss");
        }
        let scale = (1.0 / gradients.norm()).min(1.0);
        let adapter = model.adapter_mut().expect("set above");
        optimizer.step(adapter, gradients, 1e-3, scale);
        let after = (CALLS.load(Relaxed), BYTES.load(Relaxed));
        (after.0 - before.0, after.1 - before.1)
    };
    for number in 1..21 {
        step(number); // buffers grow, threads come to life
    }
    let steps: Vec<_> = (21..33).map(&mut step).collect();
    let calls = steps.iter().map(|s| s.0).min().expect("some steps");
    let bytes = steps.iter().map(|s| s.1).min().expect("some steps");
    println!("{calls} allocations, {bytes} bytes");
    // A hash map of burn's may grow, a thread may meet its first task inside another and keep scratch
    // for it: rare, and once each. Whatever comes back every few steps is more than two of twelve.
    let others = steps
        .iter()
        .filter(|s| s.0 - calls > 16 || s.1 - bytes > bytes / 50);
    assert!(others.count() <= 2, "calls and bytes of each: {steps:?}");
    assert!(calls <= MOST, "{calls} allocations");
}
