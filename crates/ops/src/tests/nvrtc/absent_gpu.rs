//! A GPU that is not there: what kernels are turned into CUDA C++ for.

use cubecl::ir::{
    DeviceIdentity, DeviceProperties, HardwareProperties, MemoryDeviceProperties, TargetProperties,
    VectorSize,
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

/// A kernel as NVRTC gets it.
#[derive(Clone)]
pub(in crate::tests) struct Source {
    /// No two have the same.
    pub name: String,
    /// CUDA C++.
    pub code: String,
    /// What a launch of it asks for.
    pub shared_bytes: usize,
}

/// What kernels are made with, and what was made.
pub(super) struct AbsentGpu {
    properties: Arc<DeviceProperties>,
    target: Arc<TargetProperties>,
    /// Arguments must be buffers; any will do, since nothing runs.
    pub handle: cubecl::server::Handle,
    pub sources: Vec<Source>,
}

impl AbsentGpu {
    pub fn new() -> Self {
        let client = cubecl::cpu::CpuRuntime::client(&Default::default());
        Self {
            properties: Arc::new(properties()),
            target: Arc::new(cubecl::cuda::CudaRuntime::target_properties()),
            handle: client.empty(4096),
            sources: Vec::new(),
        }
    }

    pub fn properties(&self) -> Arc<DeviceProperties> {
        self.properties.clone()
    }

    pub fn target(&self) -> Arc<TargetProperties> {
        self.target.clone()
    }

    pub fn cubes(&self) -> CubeCount {
        CubeCount::Static(8, 8, 1)
    }

    pub fn units(&self) -> CubeDim {
        CubeDim::new_1d(128)
    }

    pub fn buffer(&self) -> BufferArg {
        Self::buffer_of(&self.handle)
    }

    pub fn buffer_of(handle: &cubecl::server::Handle) -> BufferArg {
        // SAFETY: 1024 elements of up to four bytes are 4096; nothing runs on them either.
        unsafe { BufferArg::from_raw_parts(handle.clone(), 1024) }
    }

    pub fn buffers(&self, count: usize) -> impl Iterator<Item = BufferArg> {
        (0..count).map(|_| self.buffer())
    }

    pub fn add(&mut self, name: String, kernel: impl CubeKernel) {
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
        assert!(
            self.sources.iter().all(|other| other.name != name),
            "{name} twice"
        );
        self.sources.push(Source {
            name,
            code: source.to_string(),
            shared_bytes: source.shared_memory_size,
        });
    }
}
