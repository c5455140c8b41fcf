//! One file per back end: how its tensors reach the kernels.

mod autodiff;
#[cfg(feature = "cube")]
pub(crate) mod cube;
pub(crate) mod flex;

use crate::format::ComputeDtype;
use crate::segments::AttentionOptions;
use burn::tensor::Device;

/// Whether this device has a flash kernel for such an attention; an error says why not.
#[cfg(feature = "cube")]
pub(crate) fn flash_plan(
    device: &Device,
    compute: ComputeDtype,
    options: &AttentionOptions,
) -> Result<(), String> {
    cube::flash::on(device, compute, options)
}

#[cfg(not(feature = "cube"))]
pub(crate) fn flash_plan(_: &Device, _: ComputeDtype, _: &AttentionOptions) -> Result<(), String> {
    Err("this build has no GPU back end".into())
}

/// Who multiplies on this GPU; nothing where it is none.
#[cfg(feature = "cuda")]
pub(crate) fn products(device: &Device) -> Option<String> {
    let client = cube::client(device).filter(cube::cublas::is_cuda)?;
    Some(match cube::cublas::ready(&client) {
        Ok(version) => format!("cuBLAS {version}"),
        Err(why) => format!("CubeCL's matmuls, not cuBLAS: {why}"),
    })
}

#[cfg(not(feature = "cuda"))]
pub(crate) fn products(_: &Device) -> Option<String> {
    None
}
