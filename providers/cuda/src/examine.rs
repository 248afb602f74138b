//! The checks of `outboard doctor` for this machine's GPUs.

use std::path::Path;

use outboard_core::{
    code::{self, Code},
    finding::{Finding, Findings},
};

use crate::{
    Config, CudaProvider,
    diagnosis::{self, Missing},
    gpu::{self, Gpu},
};

const OF: &str = "cuda";

/// Looks at the driver, the GPUs and the worker, and starts the workers where nothing is missing. The first check
/// that fails names the missing part and the command that brings it. Tells `found`.
pub async fn examine(config: &Config, home: &Path, found: &Findings) {
    let provider = CudaProvider::new(config, home);
    found.push(driver(config));
    found.extend(gpus(&provider));
    found.push(match diagnosis::of_file(provider.worker()) {
        None => Finding::pass(code::CUDA_WORKER, OF, format!("the worker is {}", provider.worker().display())),
        Some(missing) => failed(code::CUDA_WORKER, &missing),
    });
    if provider.missing().is_none() {
        for (device, said) in provider.start().await {
            found.push(match said {
                Ok(hello) => {
                    Finding::pass(code::CUDA_START, &*device, format!("ready: {} ({})", hello.device, hello.numerics))
                }
                Err(error) => Finding { of: device, ..failed(code::CUDA_START, &diagnosis::of_start(&error)) },
            });
        }
    }
}

fn failed(code: Code, missing: &Missing) -> Finding {
    Finding::fail(code, OF, &missing.what, &missing.remedy)
}

fn driver(config: &Config) -> Finding {
    let driver = gpu::driver();
    match (diagnosis::of_driver(&driver), driver) {
        (None, Ok(driver)) => {
            let (major, minor) = driver.cuda;
            Finding::pass(code::CUDA_DRIVER, OF, format!("driver {} runs CUDA up to {major}.{minor}", driver.version))
        }
        (Some(missing), _) if config.uses_gpus() => failed(code::CUDA_DRIVER, &missing),
        (Some(missing), _) => Finding::warn(code::CUDA_DRIVER, OF, missing.what, missing.remedy),
        (None, Err(why)) => Finding::warn(code::CUDA_DRIVER, OF, why, "see nvidia-smi"),
    }
}

fn gpus(provider: &CudaProvider) -> Vec<Finding> {
    let of = |gpu: &Gpu| {
        let Gpu { name, memory_bytes, free_bytes, power_limit_watts, capability, .. } = gpu;
        let mut said = format!("{name}: {} of {} MiB free", free_bytes >> 20, memory_bytes >> 20);
        if let Some((major, minor)) = capability {
            said += &format!(", compute capability {major}.{minor}");
        }
        if let Some(watts) = power_limit_watts {
            said += &format!(", at most {watts:.0} W");
        }
        Finding::pass(code::CUDA_GPU, &gpu.uuid, said)
    };
    provider.gpus().unwrap_or_default().iter().map(of).collect()
}
