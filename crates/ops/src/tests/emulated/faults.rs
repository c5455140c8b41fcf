//! Does the emulation see what it is there to see? A kernel with faults written into its text.

use super::{Kind, Launch, Program, Source, floats, source};

/// RMSNorm's gradient: two block sums, each with a barrier behind what its units store and one behind
/// every step of its tree.
const KERNEL: &str = "rms norm backward, added false, of 1 in F32";
const BARRIER: &str = "__syncthreads();";

/// The kernel with its `index`th barrier replaced.
fn with(name: &str, index: usize, instead: &str) -> Source {
    let mut kernel = source(KERNEL).clone();
    let barriers = kernel.code.match_indices(BARRIER);
    let (at, _) = barriers.into_iter().nth(index).expect("it has so many");
    kernel.code.replace_range(at..at + BARRIER.len(), instead);
    kernel.name = name.to_string();
    kernel
}

#[test]
fn faults_are_seen_for_what_they_are() {
    let mut short = source(KERNEL).clone();
    short.name = "shared memory of one value less".into();
    short.shared_bytes -= 4;
    let faults = [
        (with("nothing", 0, BARRIER), ""),
        (
            with("no barrier behind a store", 0, ""),
            "depend on their order",
        ),
        (
            with("no barrier in the tree", 1, ""),
            "depend on their order",
        ),
        (
            with("none behind the second store", 3, ""),
            "depend on their order",
        ),
        (
            with(
                "for half of the units",
                0,
                "if (threadIdx.x < 64) __syncthreads();",
            ),
            "a barrier is not reached by all",
        ),
        (
            with(
                "without a unit",
                0,
                "if (threadIdx.x == 5) return; __syncthreads();",
            ),
            "unit 5 has ended",
        ),
        (
            with(
                "two",
                0,
                "if (threadIdx.x < 64) __syncthreads();\nelse __syncthreads();",
            ),
            "a barrier is not reached by all",
        ),
        (short, "heap-buffer-overflow"),
    ];
    let kernels = faults.iter().map(|(kernel, _)| kernel.clone()).collect();
    let Some(program) = Program::of_sources("faults", kernels) else {
        return;
    };
    let values: Vec<f32> = (0..2 * 333).map(|i| (i as f32).sin()).collect();
    let run = |kernel: &str, cubes: u32| {
        program.outcome(Launch {
            kernel,
            cubes: [cubes, 1, 1],
            buffers: vec![
                floats(&values),
                floats(&values),
                floats(&values[..333]),
                floats(&values),
                Kind::F32.unwritten(2 * 333),
            ],
            usizes: &[333],
            words: &[],
            floats: &[1e-5],
        })
    };
    for (kernel, said) in &faults {
        match run(&kernel.name, 2) {
            Ok(_) => assert!(said.is_empty(), "not seen: {}", kernel.name),
            Err(why) => assert!(
                !said.is_empty() && why.contains(said),
                "{}: {why}",
                kernel.name
            ),
        }
    }
    // A cube too many: it has no row.
    let why = run("nothing", 3)
        .err()
        .expect("it reads beyond the buffers");
    assert!(why.contains("heap-buffer-overflow"), "{why}");
}
