//! What an NVIDIA machine has of what the kernels need: driver, GPUs, the compiler of kernels.
//!
//! Nothing of CUDA is linked: driver and compiler are opened by name when they are first asked for,
//! so that one binary runs with and without them. Every question here looks before it calls.

use cudarc::{driver, nvrtc};
use std::ffi::c_int;
use std::path::PathBuf;

/// One GPU, as its driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// N of `cuda:N`.
    pub index: usize,
    pub name: String,
    /// `[9, 0]` for an H100.
    pub compute_capability: [u32; 2],
    pub memory_bytes: u64,
}

/// What there is on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// The CUDA version that the driver speaks, `13.0`; an error says why there is none.
    pub driver: Result<String, String>,
    pub gpus: Vec<Gpu>,
    /// The version of libnvrtc, which compiles the kernels.
    pub nvrtc: Result<String, String>,
    /// The folder with cuda_runtime.h and its like, which the kernels include.
    pub headers: Result<PathBuf, String>,
}

impl Survey {
    /// Whether kernels can be compiled and run here; an error says what is missing.
    pub fn complete(&self) -> Result<(), String> {
        self.driver.clone()?;
        self.nvrtc.clone()?;
        self.headers.clone().map(|_| ())
    }
}

/// Looks; never panics where something is missing, and takes nothing of a GPU.
pub fn survey() -> Survey {
    let driver = driver_version();
    let gpus = match driver {
        Ok(_) => gpus(),
        Err(_) => Vec::new(),
    };
    Survey {
        driver,
        gpus,
        nvrtc: nvrtc_version(),
        headers: headers(),
    }
}

fn dotted(major: c_int, minor: c_int) -> String {
    format!("{major}.{minor}")
}

fn driver_version() -> Result<String, String> {
    // SAFETY: tries to open the library under each of its names, and lets it go.
    if !unsafe { driver::sys::is_culib_present() } {
        return Err("no NVIDIA driver: libcuda.so is not found".into());
    }
    driver::result::init().map_err(|e| format!("the NVIDIA driver does not start: {e}"))?;
    let mut version = 0;
    // SAFETY: the library is there, and writes one integer to where it is told.
    let answer = unsafe { driver::sys::cuDriverGetVersion(&mut version) };
    answer.result().map_err(|e| e.to_string())?;
    Ok(dotted(version / 1000, version % 1000 / 10))
}

fn gpus() -> Vec<Gpu> {
    use driver::sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let count = driver::result::device::get_count().unwrap_or(0);
    (0..count)
        .filter_map(|index| {
            let device = driver::result::device::get(index).ok()?;
            // SAFETY: `device` is a handle that the driver just gave; these only read.
            let (major, minor, memory) = unsafe {
                (
                    driver::result::device::get_attribute(device, MAJOR).ok()?,
                    driver::result::device::get_attribute(device, MINOR).ok()?,
                    driver::result::device::total_mem(device).ok()?,
                )
            };
            Some(Gpu {
                index: index as usize,
                name: driver::result::device::get_name(device).ok()?,
                compute_capability: [major as u32, minor as u32],
                memory_bytes: memory as u64,
            })
        })
        .collect()
}

/// What other processes leave of a GPU's memory; none where the driver does not say. It takes a context
/// on that GPU, some hundred MB.
pub fn free_bytes(index: usize) -> Option<u64> {
    let context = driver::CudaContext::new(index).ok()?;
    context.bind_to_thread().ok()?;
    Some(driver::result::mem_get_info().ok()?.0 as u64)
}

fn nvrtc_version() -> Result<String, String> {
    // SAFETY: tries to open the library under each of its names, and lets it go.
    if !unsafe { nvrtc::sys::is_culib_present() } {
        return Err("libnvrtc.so is not found".into());
    }
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the library is there, and writes two integers to where it is told.
    let answer = unsafe { nvrtc::sys::nvrtcVersion(&mut major, &mut minor) };
    answer.result().map_err(|e| format!("{e:?}"))?;
    Ok(dotted(major, minor))
}

fn headers() -> Result<PathBuf, String> {
    let root = cubecl::cuda::install::cuda_path()
        .ok_or("no CUDA toolkit in CUDA_PATH, /usr/local/cuda or /opt/cuda")?;
    let include = root.join("include");
    // The second is what mma.h needs, and with it every kernel for tensor cores: pip has it apart.
    let wanted = [
        ("cuda_runtime.h", "pip's nvidia-cuda-runtime has it"),
        ("crt/mma.h", "pip's nvidia-cuda-crt has it"),
    ];
    match wanted.iter().find(|(name, _)| !include.join(name).exists()) {
        None => Ok(include),
        Some((name, from)) => Err(format!("no {name} in {}; {from}", include.display())),
    }
}
