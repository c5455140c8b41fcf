//! What an NVIDIA machine has of what the kernels need: driver, GPUs, the compiler of kernels, cuBLAS.
//!
//! Nothing of CUDA is linked: driver and libraries are opened by name when they are first asked for,
//! so that one binary runs with and without them. Every question here looks before it calls.

use cudarc::{cublas, driver, nvrtc};
use std::ffi::c_int;
use std::fmt;
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
    pub driver: Result<Version, String>,
    pub gpus: Vec<Gpu>,
    /// The version of libnvrtc, which compiles the kernels.
    pub nvrtc: Result<Version, String>,
    /// Compute capabilities that this libnvrtc compiles for; empty where it does not say.
    pub compiles_for: Vec<[u32; 2]>,
    /// The folder with cuda_runtime.h and its like, which the kernels include.
    pub headers: Result<PathBuf, String>,
    /// The version of libcublas, which multiplies; where there is none, CubeCL's matmuls do.
    pub cublas: Result<Version, String>,
}

/// Major and minor of CUDA's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl Survey {
    /// Whether kernels can be compiled for GPU `index` and run there; an error says what is missing.
    pub fn complete(&self, index: usize) -> Result<(), String> {
        let driver = self.driver.clone()?;
        let nvrtc = self.nvrtc.clone()?;
        // Kernels reach the driver as PTX, which it reads up to its own version only, be it a minor
        // one: CUDA's minor version compatibility is for machine code.
        if nvrtc > driver {
            return Err(format!(
                "libnvrtc {nvrtc} is newer than the driver, whose CUDA is {driver} and which does \
                 not read its kernels: take a libnvrtc of {driver} or older, or a newer driver"
            ));
        }
        if let Some(gpu) = self.gpus.iter().find(|gpu| gpu.index == index)
            && !self.compiles_for.is_empty()
            && !self.compiles_for.contains(&gpu.compute_capability)
        {
            let [major, minor] = gpu.compute_capability;
            return Err(format!(
                "libnvrtc {nvrtc} does not compile for the {}, whose compute capability is \
                 {major}.{minor}: newer GPUs want a newer one, and those before 7.5 one before 13",
                gpu.name
            ));
        }
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
    let nvrtc = nvrtc_version();
    let compiles_for = match nvrtc {
        // Older ones cannot be asked.
        Ok(version) if version >= Version(11, 2) => compiles_for(),
        _ => Vec::new(),
    };
    Survey {
        driver,
        gpus,
        nvrtc,
        compiles_for,
        headers: headers(),
        cublas: cublas_version(),
    }
}

fn driver_version() -> Result<Version, String> {
    // SAFETY: tries to open the library under each of its names, and lets it go.
    if !unsafe { driver::sys::is_culib_present() } {
        return Err("no NVIDIA driver: libcuda.so is not found".into());
    }
    driver::result::init().map_err(|e| format!("the NVIDIA driver does not start: {e}"))?;
    let mut version = 0;
    // SAFETY: the library is there, and writes one integer to where it is told.
    let answer = unsafe { driver::sys::cuDriverGetVersion(&mut version) };
    answer.result().map_err(|e| e.to_string())?;
    Ok(Version(version as u32 / 1000, version as u32 % 1000 / 10))
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

fn nvrtc_version() -> Result<Version, String> {
    // SAFETY: tries to open the library under each of its names, and lets it go.
    if !unsafe { nvrtc::sys::is_culib_present() } {
        return Err("libnvrtc.so is not found".into());
    }
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the library is there, and writes two integers to where it is told.
    let answer = unsafe { nvrtc::sys::nvrtcVersion(&mut major, &mut minor) };
    answer.result().map_err(|e| format!("{e:?}"))?;
    Ok(Version(major as u32, minor as u32))
}

pub(crate) fn cublas_version() -> Result<Version, String> {
    // SAFETY: tries to open the library under each of its names, and lets it go.
    if !unsafe { cublas::sys::is_culib_present() } {
        return Err(
            "libcublas.so is not found; a CUDA toolkit has it, and pip's nvidia-cublas, if \
             LD_LIBRARY_PATH names its folder"
                .into(),
        );
    }
    use cublas::sys::libraryPropertyType::{self, MAJOR_VERSION, MINOR_VERSION};
    let part = |which: libraryPropertyType| {
        let mut value = 0;
        // SAFETY: the library is there, and writes one integer to where it is told.
        let answer = unsafe { cublas::sys::cublasGetProperty(which, &mut value) };
        let said = answer.result();
        said.map(|()| value as u32).map_err(|e| e.to_string())
    };
    Ok(Version(part(MAJOR_VERSION)?, part(MINOR_VERSION)?))
}

/// Whether this process wants its products from cuBLAS, as it does unless told otherwise: to time both ways.
pub fn want_cublas(wanted: bool) {
    crate::backends::cube::cublas::want(wanted);
}

/// Of a libnvrtc that is there; empty where it does not say.
fn compiles_for() -> Vec<[u32; 2]> {
    let mut count: c_int = 0;
    // SAFETY: the library is there, and writes one integer to where it is told.
    let answer = unsafe { nvrtc::sys::nvrtcGetNumSupportedArchs(&mut count) };
    if answer.result().is_err() {
        return Vec::new();
    }
    let mut archs = vec![0; count as usize];
    // SAFETY: it writes as many integers as it just said.
    let answer = unsafe { nvrtc::sys::nvrtcGetSupportedArchs(archs.as_mut_ptr()) };
    match answer.result() {
        Ok(()) => archs
            .iter()
            .map(|arch: &c_int| [*arch as u32 / 10, *arch as u32 % 10])
            .collect(),
        Err(_) => Vec::new(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn a_4090(driver: Version, nvrtc: Version, compiles_for: Vec<[u32; 2]>) -> Survey {
        Survey {
            driver: Ok(driver),
            gpus: vec![Gpu {
                index: 0,
                name: "NVIDIA GeForce RTX 4090".into(),
                compute_capability: [8, 9],
                memory_bytes: 24 << 30,
            }],
            nvrtc: Ok(nvrtc),
            compiles_for,
            headers: Ok("/usr/local/cuda/include".into()),
            cublas: Ok(Version(12, 4)),
        }
    }

    #[test]
    fn a_compiler_newer_than_the_driver_is_said_before_a_kernel_is_refused() {
        let with = |nvrtc| a_4090(Version(12, 4), nvrtc, vec![[8, 0], [8, 9]]).complete(0);
        assert_eq!(with(Version(12, 4)), Ok(()));
        assert_eq!(with(Version(11, 8)), Ok(()));
        for newer in [Version(12, 8), Version(13, 0)] {
            let why = with(newer).expect_err("the driver would not read its PTX");
            assert!(why.contains(&format!("libnvrtc {newer} is newer")), "{why}");
        }
        assert_eq!(
            a_4090(Version(12, 10), Version(12, 9), vec![]).complete(0),
            Ok(())
        );
    }

    #[test]
    fn a_compiler_that_does_not_know_the_gpu_is_said() {
        let survey = a_4090(Version(12, 4), Version(11, 2), vec![[8, 0], [8, 6]]);
        let why = survey.complete(0).expect_err("11.2 is older than the 4090");
        assert!(
            why.contains("does not compile for the NVIDIA GeForce RTX 4090"),
            "{why}"
        );
        assert_eq!(survey.complete(1), Ok(()), "another GPU's trouble");
    }
}
