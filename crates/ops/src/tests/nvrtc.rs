//! Does every GPU kernel compile for real GPUs? Asked of NVRTC, which needs no GPU to answer.
//!
//! The kernels are turned into CUDA C++ as they would be on an A100 and an H100, and compiled. With
//! REQUIRE_NVRTC=1 a machine without libnvrtc and CUDA's headers is a failure, not a skip.
//! NVRTC_INCLUDE names the headers where no toolkit is installed. (CUDA_PATH would do too, but its
//! change makes cargo compile burn again.) KERNELS_TO names a folder that gets the CUDA C++.
//!
//! The assembler says what each kernel takes of a multiprocessor; flash attention, whose sums live in
//! registers, must fit them.

mod few_rows;
mod low_rank;
mod optimizer;
mod quantize;

use crate::kernels::cube::flash::Plan;
use crate::kernels::cube::*;
use cubecl::ir::{
    DeviceIdentity, DeviceProperties, ElemType, FloatKind, HardwareProperties,
    MemoryDeviceProperties, TargetProperties, VectorSize,
};
use cubecl::prelude::*;
use cubecl_cpp::cuda::{arch::CudaArchitecture, mma::CudaCmmaCompiler};
use cubecl_cpp::shared::{
    CompilationOptions, CppCompiler, CppSupportedFeatures, register_wmma_features,
};
use cubecl_cpp::target::Cuda;
use cubecl_runtime::kernel::CubeKernel;
use cubecl_runtime::runtime::Runtime;
use cubecl_server::compiler::Compiler;
use cudarc::nvrtc::result as nvrtc;
use std::ffi::{CStr, CString};
use std::path::PathBuf;
use std::sync::Arc;

/// A GPU of 80 GB with warps of 32 and a cube of 128 units.
fn properties() -> DeviceProperties {
    let hardware = HardwareProperties {
        load_width: 128,
        vector_register_count: None,
        plane_size_min: 32,
        plane_size_max: 32,
        max_bindings: 1024,
        max_shared_memory_size: 160 << 10,
        max_cube_count: (i32::MAX as u32, 65535, 65535),
        max_units_per_cube: 1024,
        max_cube_dim: (1024, 1024, 64),
        num_streaming_multiprocessors: Some(108),
        num_tensor_cores: Some(4),
        min_tensor_cores_dim: Some(8),
        num_cpu_cores: None,
        last_level_cache_size: None,
        max_vector_size: VectorSize::MAX,
        cube_mma_reserved_shared_memory: 0,
    };
    let identity = DeviceIdentity {
        name: "no device".into(),
        fingerprint: "ptx".into(),
        physical: None,
    };
    let memory = MemoryDeviceProperties::new(80 << 30, 512);
    let timing = cubecl::profile::TimingMethod::Device;
    let mut properties =
        DeviceProperties::new(Default::default(), memory, hardware, timing, identity);
    cubecl_cpp::shared::register_supported_types(&mut properties);
    let arch = CudaArchitecture {
        version: 80,
        tensor_cores: true,
    };
    let fragments = CudaCmmaCompiler::Cpp.supported_cmma_combinations(&arch);
    register_wmma_features(fragments, &mut properties);
    properties
}

struct Sources(Vec<(String, String)>);

impl Sources {
    fn add(&mut self, name: String, kernel: impl CubeKernel) {
        let options = CompilationOptions {
            warp_size: 32,
            supports_features: CppSupportedFeatures {
                fast_math: true,
                grid_constants: true,
                ..Default::default()
            },
            ..Default::default()
        };
        let mut compiler = CppCompiler::<Cuda>::default();
        let source = compiler.compile(kernel.define(), &options);
        let source = source.unwrap_or_else(|e| panic!("{name}: {e:?}"));
        self.0.push((name, source.to_string()));
    }
}

/// CUDA C++ of every kernel, in every type and variant that is launched.
pub(super) fn sources() -> Vec<(String, String)> {
    let properties = Arc::new(properties());
    let target = Arc::new(cubecl::cuda::CudaRuntime::target_properties());
    // Arguments must be buffers; any will do, since nothing runs.
    let client = cubecl::cpu::CpuRuntime::client(&Default::default());
    let handle = client.empty(4096);
    let b = || unsafe { BufferArg::from_raw_parts(handle.clone(), 1024) };
    let mut sources = Sources(Vec::new());
    let (f32, bf16) = (FloatKind::F32, FloatKind::BF16);
    macro_rules! kernel {
        ($name:expr, $module:path $(, $argument:expr)*) => {{
            use $module as module;
            let (count, dim) = (CubeCount::Static(8, 1, 1), CubeDim::new_1d(128));
            let (properties, target) = (properties.clone(), target.clone());
            let kernel = module::create_dummy_kernel(properties, target, count, dim $(, $argument)*);
            sources.add($name.to_string(), kernel);
        }};
    }
    for kind in [f32, bf16] {
        let f = ElemType::Float(kind);
        let of = |name: &str| format!("{name} in {kind:?}");
        kernel!(
            of("rms norm"),
            normalize::rms_norm_kernel,
            b(),
            b(),
            b(),
            64,
            1e-5,
            128,
            f
        );
        kernel!(
            of("rms norm backward"),
            normalize::rms_norm_backward_kernel,
            b(),
            b(),
            b(),
            b(),
            64,
            1e-5,
            128,
            f
        );
        kernel!(of("swiglu"), swiglu::swiglu_kernel, b(), b(), b(), 64, f);
        kernel!(
            of("swiglu backward"),
            swiglu::swiglu_backward_kernel,
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
            b(),
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
            b(),
            b(),
            b(),
            64,
            8,
            7,
            1.0,
            f
        );
        kernel!(of("scale"), linear::scale_kernel, b(), b(), 64, 1.0, f);
        kernel!(of("add bias"), linear::add_bias_kernel, b(), b(), 64, 8, f);
        for nested in [true, false] {
            for lanes in [8, 4, 1] {
                let types = [f, ElemType::Float(bf16)];
                kernel!(
                    of("dequantize"),
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
                of("cross entropy"),
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
                of("softmax"),
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
                of("softmax backward"),
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
            for head_dim in [64, 128] {
                kernel!(
                    of("attend"),
                    attention::attend_kernel,
                    b(),
                    b(),
                    b(),
                    b(),
                    b(),
                    b(),
                    b(),
                    4,
                    2,
                    1.0,
                    1.0,
                    head_dim,
                    capped,
                    128,
                    f
                );
            }
        }
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
    let mut gpu = AbsentGpu {
        properties,
        target,
        handle,
        sources,
    };
    optimizer::add(&mut gpu);
    few_rows::add(&mut gpu);
    low_rank::add(&mut gpu);
    quantize::add(&mut gpu);
    gpu.sources.0
}

/// What a kernel is made with where the macro's order of arguments will not do.
struct AbsentGpu {
    properties: Arc<DeviceProperties>,
    target: Arc<TargetProperties>,
    handle: cubecl::server::Handle,
    sources: Sources,
}

impl AbsentGpu {
    fn properties(&self) -> Arc<DeviceProperties> {
        self.properties.clone()
    }

    fn target(&self) -> Arc<TargetProperties> {
        self.target.clone()
    }

    fn cubes(&self) -> CubeCount {
        CubeCount::Static(8, 8, 1)
    }

    fn units(&self) -> CubeDim {
        CubeDim::new_1d(128)
    }

    fn buffer(&self) -> BufferArg {
        // SAFETY: 1024 elements of up to four bytes are 4096; nothing runs on them either.
        unsafe { BufferArg::from_raw_parts(self.handle.clone(), 1024) }
    }

    fn buffers(&self, count: usize) -> impl Iterator<Item = BufferArg> {
        (0..count).map(|_| self.buffer())
    }

    fn add(&mut self, name: String, kernel: impl CubeKernel) {
        self.sources.add(name, kernel);
    }
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
        for (index, (name, source)) in sources.iter().enumerate() {
            let path = folder.join(format!("{index:02} {name}.cu"));
            std::fs::write(path, source).expect("a file for a source");
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
        for (name, source) in &sources {
            let report = match compile(source, arch, &headers) {
                Ok(report) => report,
                Err(log) => panic!("{name} for {arch}: {log}\n{source}"),
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
