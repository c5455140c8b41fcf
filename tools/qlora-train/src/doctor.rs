//! `--doctor`: what this machine has of what a run needs, and whether every operation computes right.

use std::io::{self, Write};

use cli::Outcome;
use model::{ComputeDtype, DeviceChoice};

/// Looks, tests the device, and says what was found; the answer is no where a check fails.
pub fn run(device: DeviceChoice) -> anyhow::Result<Outcome> {
    let out = &mut io::stdout();
    writeln!(out, "devices this build knows: {}", DeviceChoice::names())?;
    describe_gpus(out)?;
    if let Some(products) = device.products() {
        writeln!(out, "products on {device}: {products}")?;
    }
    let mut healthy = true;
    for compute in [ComputeDtype::F32, ComputeDtype::Bf16] {
        let checks = device.self_test(compute);
        let failed: Vec<_> = checks.iter().filter(|check| !check.passed()).collect();
        writeln!(
            out,
            "self test on {device} in {compute}: {} of {} checks passed",
            checks.len() - failed.len(),
            checks.len()
        )?;
        for check in &failed {
            writeln!(
                out,
                "  {}: off by {:.1e}, {:.0e} is allowed",
                check.name, check.error, check.tolerance
            )?;
        }
        healthy &= failed.is_empty();
        if !device.is_cpu() {
            for head_dim in [64, 128] {
                let chosen = match device.flash_attention(compute, head_dim) {
                    Ok(()) => "flash".to_string(),
                    Err(why) => format!("chunked, not flash: {why}"),
                };
                writeln!(out, "attention in {compute}, heads of {head_dim}: {chosen}")?;
            }
        }
    }
    if !healthy {
        cli::reason(format_args!("{device} does not compute right"));
        return Ok(Outcome::No);
    }
    Ok(Outcome::Done)
}

#[cfg(feature = "cuda")]
fn describe_gpus(out: &mut impl Write) -> io::Result<()> {
    let survey = model::survey();
    let said = |version: &Result<model::Version, String>| match version {
        Ok(version) => Ok(version.to_string()),
        Err(why) => Err(why.clone()),
    };
    let headers = survey.headers.clone();
    for (what, found) in [
        ("driver's CUDA", said(&survey.driver)),
        ("NVRTC, which compiles the kernels", said(&survey.nvrtc)),
        (
            "CUDA headers, which the kernels include",
            headers.map(|dir| dir.display().to_string()),
        ),
        ("cuBLAS, which multiplies", said(&survey.cublas)),
    ] {
        match found {
            Ok(version) => writeln!(out, "{what}: {version}")?,
            Err(why) => writeln!(out, "{what}: missing, {why}")?,
        }
    }
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    for gpu in &survey.gpus {
        let [major, minor] = gpu.compute_capability;
        let free =
            model::free_bytes(gpu.index).map_or(String::new(), |b| format!(", {:.1} free", gib(b)));
        writeln!(
            out,
            "cuda:{}: {}, compute capability {major}.{minor}, {:.1} GiB{free}",
            gpu.index,
            gpu.name,
            gib(gpu.memory_bytes)
        )?;
        if let Err(why) = survey.complete(gpu.index) {
            writeln!(out, "cuda:{}: not usable, {why}", gpu.index)?;
        }
    }
    if survey.driver.is_ok() && survey.gpus.is_empty() {
        writeln!(out, "the driver knows no GPU")?;
    }
    Ok(())
}

#[cfg(not(feature = "cuda"))]
fn describe_gpus(out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "no GPU back end in this build; `make cuda` builds one")
}
