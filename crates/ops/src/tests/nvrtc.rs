//! Does every GPU kernel compile for real GPUs? Asked of NVRTC, which needs no GPU to answer.
//!
//! The kernels are turned into CUDA C++ as they would be on an A100 and an H100, and compiled. With
//! REQUIRE_NVRTC=1 a machine without libnvrtc and CUDA's headers is a failure, not a skip.
//! NVRTC_INCLUDE names the headers where no toolkit is installed. (CUDA_PATH would do too, but its
//! change makes cargo compile burn again.) KERNELS_TO names a folder that gets the CUDA C++.
//!
//! The assembler says what each kernel takes of a multiprocessor; flash attention, whose sums live in
//! registers, must fit them.

mod absent_gpu;
mod few_rows;
mod low_rank;
mod optimizer;
mod quantize;

use crate::kernels::cube::flash::Plan;
use crate::kernels::cube::*;
use absent_gpu::AbsentGpu;
pub(super) use absent_gpu::Source;
use cubecl::ir::{ElemType, FloatKind};
use cudarc::nvrtc::result as nvrtc;
use std::ffi::{CStr, CString};
use std::path::PathBuf;

/// Attention of single rows to keys of `element` bytes: heads that vectors fit well, and one that they
/// do not; one head of a cube, and several.
pub(super) fn attends(element: usize) -> Vec<attention::Few> {
    let mut all = Vec::new();
    for (head_dim, heads, lanes) in [(64, 1, 16 / element), (128, 4, 16 / element), (20, 3, 4)] {
        for split in [true, false] {
            all.push(attention::Few {
                head_dim,
                lanes,
                heads,
                tile: attention::Few::tile(head_dim, lanes, element),
                units: 128,
                capped: split == (head_dim == 128),
                split,
            });
        }
    }
    all
}

pub(super) fn attend_name(few: &attention::Few, kind: impl std::fmt::Debug) -> String {
    let attention::Few {
        head_dim, heads, ..
    } = few;
    let (capped, split) = (few.capped, few.split);
    format!("attend to {heads} heads of {head_dim}, capped {capped}, split {split}, in {kind:?}")
}

/// Values of a vector: one of 16 bytes, and single ones.
pub(super) fn vectors(kind: FloatKind) -> [usize; 2] {
    match kind {
        FloatKind::F32 => [4, 1],
        _ => [8, 1],
    }
}

/// CUDA C++ of every kernel, in every type and variant that is launched.
pub(super) fn sources() -> Vec<Source> {
    let mut gpu = AbsentGpu::new();
    let handle = gpu.handle.clone();
    let b = || AbsentGpu::buffer_of(&handle);
    let (f32, bf16) = (FloatKind::F32, FloatKind::BF16);
    macro_rules! kernel {
        ($name:expr, $module:path $(, $argument:expr)*) => {{
            use $module as module;
            let (properties, target) = (gpu.properties(), gpu.target());
            let (count, dim) = (gpu.cubes(), gpu.units());
            let kernel = module::create_dummy_kernel(properties, target, count, dim $(, $argument)*);
            gpu.add($name.to_string(), kernel);
        }};
    }
    for kind in [f32, bf16] {
        let f = ElemType::Float(kind);
        let of = |name: &str| format!("{name} in {kind:?}");
        for lanes in vectors(kind) {
            let of = |name: &str| format!("{name} of {lanes} in {kind:?}");
            kernel!(
                of("rms norm"),
                normalize::rms_norm_kernel,
                lanes,
                b(),
                b(),
                b(),
                64,
                1e-5,
                128,
                f
            );
            for added in [true, false] {
                kernel!(
                    of(&format!("rms norm backward, added {added},")),
                    normalize::rms_norm_backward_kernel,
                    lanes,
                    b(),
                    b(),
                    b(),
                    b(),
                    b(),
                    64,
                    1e-5,
                    added,
                    128,
                    f
                );
            }
            kernel!(
                of("swiglu"),
                swiglu::swiglu_kernel,
                lanes,
                b(),
                b(),
                b(),
                64,
                f
            );
            kernel!(
                of("swiglu backward"),
                swiglu::swiglu_backward_kernel,
                lanes,
                b(),
                b(),
                b(),
                b(),
                b(),
                64,
                f
            );
            kernel!(
                of("rotary"),
                rotary::rotary_kernel,
                lanes,
                b(),
                b(),
                b(),
                b(),
                64,
                2,
                8,
                1.0,
                f
            );
            kernel!(
                of("drop"),
                dropout::drop_kernel,
                lanes,
                b(),
                b(),
                b(),
                64,
                8,
                7,
                1.0,
                f
            );
        }
        kernel!(of("scale"), linear::scale_kernel, b(), b(), 64, 1.0, f);
        kernel!(of("add bias"), linear::add_bias_kernel, b(), b(), 64, 8, f);
        kernel!(
            of("add parts"),
            linear::add_parts_kernel,
            b(),
            b(),
            b(),
            b(),
            64,
            8,
            64,
            64,
            1.0,
            8,
            f
        );
        for nested in [true, false] {
            for lanes in [8, 4, 1] {
                let types = [f, ElemType::Float(bf16)];
                kernel!(
                    of(&format!("dequantize {lanes} lanes, nested {nested},")),
                    dequantize::dequantize_kernel,
                    lanes,
                    b(),
                    b(),
                    64,
                    1,
                    2,
                    3,
                    0.1,
                    nested,
                    128,
                    types
                );
            }
        }
        for differentiate in [true, false] {
            kernel!(
                of(&format!("cross entropy, differentiate {differentiate},")),
                cross_entropy::cross_entropy_kernel,
                b(),
                b(),
                b(),
                b(),
                64,
                differentiate,
                128,
                f
            );
        }
        for capped in [true, false] {
            kernel!(
                of(&format!("softmax, capped {capped},")),
                attention::softmax_kernel,
                b(),
                b(),
                b(),
                b(),
                b(),
                0,
                4,
                0,
                4,
                1,
                1,
                1.0,
                1.0,
                capped,
                128,
                f
            );
            kernel!(
                of(&format!("softmax backward, capped {capped},")),
                attention::softmax_backward_kernel,
                b(),
                b(),
                b(),
                b(),
                b(),
                b(),
                b(),
                b(),
                0,
                4,
                0,
                4,
                1,
                1,
                1.0,
                1.0,
                64,
                capped,
                f
            );
        }
        for few in attends(f.size()) {
            kernel!(
                attend_name(&few, kind),
                attention::attend_kernel,
                few.lanes,
                b(),
                b(),
                b(),
                b(),
                b(),
                b(),
                b(),
                b(),
                4,
                2,
                64,
                1.0,
                1.0,
                few,
                f
            );
        }
        kernel!(
            of("merge attended"),
            attention::merge_attended_kernel,
            b(),
            b(),
            b(),
            2,
            64,
            f
        );
        kernel!(
            of("delta"),
            attention::delta_kernel,
            b(),
            b(),
            b(),
            64,
            128,
            f
        );
        kernel!(
            of("write rows"),
            attention::write_rows_kernel,
            b(),
            b(),
            b(),
            64,
            8,
            f
        );
    }
    for (head_dim, capped) in [
        (32, false),
        (64, false),
        (64, true),
        (96, false),
        (128, false),
    ] {
        let plan = Plan {
            head_dim,
            element: 2,
            planes: 4,
            units: 128,
            tensor_cores: true,
            capped,
        };
        let of = |name: &str| format!("{name} of heads of {head_dim}, capped {capped}");
        let bf16 = ElemType::Float(bf16);
        kernel!(
            of("flash forward"),
            flash::forward::flash_forward_kernel,
            8,
            b(),
            b(),
            b(),
            b(),
            b(),
            b(),
            64,
            64,
            1,
            4,
            2,
            1.0,
            1.0,
            plan,
            bf16
        );
        kernel!(
            of("flash dq"),
            flash::backward::flash_dq_kernel,
            8,
            b(),
            b(),
            b(),
            b(),
            b(),
            b(),
            b(),
            b(),
            b(),
            64,
            64,
            1,
            4,
            2,
            1.0,
            1.0,
            plan,
            bf16
        );
        kernel!(
            of("flash dk and dv"),
            flash::backward::flash_dkdv_kernel,
            8,
            b(),
            b(),
            b(),
            b(),
            b(),
            b(),
            b(),
            b(),
            b(),
            64,
            64,
            128,
            4,
            2,
            1.0,
            1.0,
            plan,
            bf16
        );
    }
    kernel!("row keys", dropout::row_keys_kernel, b(), 8, 1, 2);
    optimizer::add(&mut gpu);
    few_rows::add(&mut gpu);
    low_rank::add(&mut gpu);
    quantize::add(&mut gpu);
    gpu.sources
}

/// What the assembler reports, or NVRTC's complaint.
fn compile(source: &str, arch: &str, headers: &str) -> Result<String, String> {
    let source = CString::new(source).expect("no zero in a source");
    let program = nvrtc::create_program(&source, None).map_err(|e| format!("{e:?}"))?;
    let options = [
        format!("--gpu-architecture={arch}"),
        format!("--include-path={headers}"),
        format!("--include-path={headers}/cccl"),
        "--ptxas-options=-v".to_string(),
    ];
    // SAFETY: the program was just made and is destroyed below, once.
    unsafe {
        let compiled = nvrtc::compile_program(program, &options);
        let log = nvrtc::get_program_log(program).map_err(|e| format!("{e:?}"))?;
        let log = CStr::from_ptr(log.as_ptr()).to_string_lossy().into_owned();
        let _ = nvrtc::destroy_program(program);
        match compiled {
            Ok(()) => Ok(log),
            Err(_) => Err(log),
        }
    }
}

#[test]
fn every_kernel_compiles_for_an_a100_and_an_h100() {
    let sources = sources(); // CUDA C++ is made in any case
    if let Some(folder) = std::env::var_os("KERNELS_TO").map(PathBuf::from) {
        std::fs::create_dir_all(&folder).expect("a folder for the sources");
        for source in &sources {
            let path = folder.join(format!("{}.cu", source.name));
            std::fs::write(path, &source.code).expect("a file for a source");
        }
    }
    let survey = crate::cuda::survey();
    let named = std::env::var_os("NVRTC_INCLUDE").map(PathBuf::from);
    let headers = match (survey.nvrtc, named.map_or(survey.headers, Ok)) {
        (Ok(_), Ok(headers)) => headers.display().to_string(),
        (nvrtc, headers) => {
            let required = std::env::var("REQUIRE_NVRTC").is_ok_and(|v| v == "1");
            assert!(!required, "REQUIRE_NVRTC=1, and {nvrtc:?}, {headers:?}");
            return eprintln!("skipped: {nvrtc:?}, {headers:?}; REQUIRE_NVRTC=1 makes it an error");
        }
    };
    for arch in ["sm_80", "sm_90a"] {
        for Source { name, code, .. } in &sources {
            let report = match compile(code, arch, &headers) {
                Ok(report) => report,
                Err(log) => panic!("{name} for {arch}: {log}\n{code}"),
            };
            if name.starts_with("flash") {
                let number = |before: &str, after: &str| -> usize {
                    let number = report
                        .split(after)
                        .next()
                        .and_then(|r| r.rsplit_once(before));
                    let number = number.unwrap_or_else(|| panic!("no report in {report:?}"));
                    number.1.trim().parse().expect("a number")
                };
                let registers = number("Used ", " registers");
                let spilled = number(",", " bytes spill stores");
                eprintln!("{name} for {arch}: {registers} registers, {spilled} bytes spilled");
                // An address or two may be; a fragment of sums has 8 registers.
                assert!(spilled < 32, "{name} for {arch} spills sums: {report}");
            }
        }
    }
    eprintln!("{} kernels compiled for sm_80 and sm_90a", sources.len());
}

/// Bytes of a launch's parameters: an address a buffer, and a struct of lengths and scalars.
fn parameter_bytes(code: &str) -> usize {
    let between = |from: &str, to: &str| -> &str {
        let (_, rest) = code.split_once(from).expect("CubeCL writes it");
        rest.split_once(to).expect("and ends it").0
    };
    let counts = between("struct info_st {", "};").split('[').skip(1);
    let counts = counts.map(|rest| rest.split(']').next().expect("it is closed"));
    let values: usize = counts.map(|n| n.parse::<usize>().expect("a number")).sum();
    let buffers = between("__global__", "{").matches("__restrict__").count();
    8 * buffers + 4 * values
}

#[test]
fn launches_fit_the_shared_memory_of_a_4090_and_the_parameters_of_every_driver() {
    for Source {
        name,
        code,
        shared_bytes,
    } in &sources()
    {
        let parameters = parameter_bytes(code);
        assert!(
            parameters <= 4096,
            "{name}: {parameters} bytes of parameters"
        );
        // 163 KiB on an A100, 227 on an H100, 99 on a 4090 and its like.
        assert!(
            *shared_bytes <= 99 << 10,
            "{name}: {shared_bytes} bytes of shared memory"
        );
        if let Some((_, rest)) = name.split_once(" of heads of ")
            && name.starts_with("flash")
        {
            let (head_dim, capped) = rest.split_once(", capped ").expect("a variant");
            let plan = Plan {
                head_dim: head_dim.parse().expect("a number"),
                element: 2,
                planes: 4,
                units: 128,
                tensor_cores: true,
                capped: capped == "true",
            };
            assert!(
                *shared_bytes <= plan.shared_bytes(),
                "{name}: {shared_bytes} bytes"
            );
        }
    }
}
