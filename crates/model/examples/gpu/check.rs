//! Every operation against its specification, every family against the Python stack.

use std::{panic::catch_unwind, path::Path, process::ExitCode};

use model::DeviceChoice;
use ops::{ComputeDtype, self_test};

use crate::families::{FAMILIES, Place, check_family};

/// Says what passed and what did not; the answer is the exit status.
pub fn run(device: DeviceChoice, data: &Path) -> ExitCode {
    let mut failed = 0;
    for compute in [ComputeDtype::F32, ComputeDtype::Bf16] {
        let checks = self_test(&device.device(), compute);
        let off = checks.iter().filter(|check| !check.passed());
        let off: Vec<_> = off.collect();
        println!(
            "{device} {compute}: {} of {} checks of operations passed",
            checks.len() - off.len(),
            checks.len()
        );
        for check in &off {
            println!("  FAILED {}: off by {:.1e}", check.name, check.error);
        }
        failed += off.len();
        // Where the flash kernel is there but wrong, its checks have failed above.
        for head_dim in [64, 128] {
            match device.flash_attention(compute, head_dim) {
                Ok(()) => println!("{device} {compute}: heads of {head_dim} take flash attention"),
                Err(why) => println!("{device} {compute}: heads of {head_dim} do not: {why}"),
            }
        }
    }
    if !data.join("models").exists() {
        println!(
            "{}: no fixtures here; --data names the project's tests/data",
            data.display()
        );
        return ExitCode::from(2);
    }
    for family in FAMILIES {
        let passed = catch_unwind(|| check_family(Place { data, device }, family)).is_ok();
        let said = if passed {
            "loss, logits, gradients passed"
        } else {
            "FAILED"
        };
        println!("{device} {family}: {said}");
        failed += usize::from(!passed);
    }
    if failed == 0 {
        return ExitCode::SUCCESS;
    }
    println!("{failed} failed");
    ExitCode::from(1)
}
