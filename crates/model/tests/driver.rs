//! The program that is carried to a machine with a GPU, on one that has none: a CUDA driver that runs on the host
//! (tests/emulation/driver). All that `scripts/gpu-check` and `scripts/gpu-bench` do is done, the second in small.
#![cfg(feature = "cuda")]

use workspace_tests::{Driver, exits, gpu_program, root, text};

/// What it says, on a machine with these `settings`.
fn said(driver: &Driver, settings: &[(&str, &str)], words: &[&str]) -> String {
    let mut program = gpu_program();
    driver.lend(&mut program, settings);
    let output = exits(program.current_dir(root()).args(words), 0);
    text(&output.stdout).to_owned()
}

#[test]
fn the_carried_program_finds_everything_right_on_an_emulated_gpu() {
    let Some(driver) = Driver::built() else {
        return;
    };
    // As CubeCL sees an H100: other instructions are at its hand than on an A100.
    let machine = [("EMULATED_CAPABILITY", "90"), ("EMULATED_DRIVER", "12060")];
    let said = said(&driver, &machine, &["check"]);
    for compute in ["f32", "bf16"] {
        let line = said.lines().find(|line| {
            line.starts_with(&format!("cuda:0 {compute}: ")) && line.ends_with("operations passed")
        });
        let line = line.unwrap_or_else(|| panic!("{said}"));
        let numbers: Vec<usize> = line
            .split(' ')
            .filter_map(|word| word.parse().ok())
            .collect();
        assert!(numbers.len() == 2 && numbers[0] == numbers[1], "{line}");
        assert!(numbers[0] > 300, "{line}");
    }
    assert!(
        said.contains("bf16: heads of 128 take flash attention"),
        "{said}"
    );
    let families = said.matches("loss, logits, gradients passed").count();
    assert_eq!(families, 6, "{said}");
}

#[test]
fn the_carried_program_times_all_that_it_times_on_an_emulated_gpu() {
    let Some(driver) = Driver::built() else {
        return;
    };
    let machine = [("EMULATED_CAPABILITY", "80"), ("EMULATED_DRIVER", "12060")];
    let said = said(&driver, &machine, &["bench", "--rehearse"]);
    for part in [
        "(cuBLAS 12.4)",
        "dequantise NF4 to bf16",
        "attention flash",
        "launches a step",
        "decoding at batch 32",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("out of memory"), "{said}");
}

#[test]
fn the_carried_program_does_without_cublas_where_it_is_told() {
    let Some(driver) = Driver::built() else {
        return;
    };
    let log = tempfile::NamedTempFile::new().expect("a temporary file");
    let path = log.path().to_str().expect("a plain name");
    let machine = [("EMULATED_DRIVER", "12060"), ("EMULATED_LOG", path)];
    let said = said(&driver, &machine, &["bench", "--rehearse", "--no-cublas"]);
    assert!(said.contains("(CubeCL's matmuls)"), "{said}");
    assert!(said.contains("launches a step"), "{said}");
    let launches = std::fs::read_to_string(path).expect("the driver writes it");
    assert!(launches.contains("matmul"), "{launches}");
    assert!(!launches.contains("cublas"), "{launches}");
}
