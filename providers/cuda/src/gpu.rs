//! What the driver says of this machine's GPUs, through NVML: it comes with the driver and is loaded when it is asked.

use std::{env, sync::OnceLock};

use nvml_wrapper::{Device, Nvml, error::NvmlError};

/// A GPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// Its id, such as `GPU-8f6e...`.
    pub uuid: String,
    /// Its memory.
    pub memory_bytes: u64,
    /// What of it is free now.
    pub free_bytes: u64,
    /// The most power that it may draw, in watts.
    pub power_limit_watts: Option<f64>,
    /// Its compute capability, such as (8, 9).
    pub capability: Option<(i32, i32)>,
}

/// The driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// Its version.
    pub version: String,
    /// The newest CUDA that it runs: major, minor.
    pub cuda: (i32, i32),
}

/// Set to 0 it keeps NVIDIA's libraries from rounding to TF32, whatever PyTorch's own defaults are.
pub const TF32_OVERRIDE: &str = "NVIDIA_TF32_OVERRIDE";

/// Set to 1 it lets PyTorch round the factors of matrix products to TF32.
pub const TF32_PRODUCTS: &str = "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE";

/// Whether this process may round to TF32.
#[must_use]
pub fn allows_tf32() -> bool {
    env::var(TF32_PRODUCTS).is_ok_and(|value| value == "1")
}

fn nvml() -> Result<&'static Nvml, String> {
    static NVML: OnceLock<Result<Nvml, String>> = OnceLock::new();
    let nvml = NVML.get_or_init(|| {
        Nvml::init().map_err(|error| match error {
            NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound => "there is no NVIDIA driver here".into(),
            error => format!("the NVIDIA driver does not answer: {error}"),
        })
    });
    nvml.as_ref().map_err(Clone::clone)
}

/// What is said of the driver.
///
/// # Errors
/// Why there is none, in words.
pub fn driver() -> Result<Driver, String> {
    let nvml = nvml()?;
    let cuda = nvml.sys_cuda_driver_version().map_err(said)?;
    let cuda = (nvml_wrapper::cuda_driver_version_major(cuda), nvml_wrapper::cuda_driver_version_minor(cuda));
    Ok(Driver { version: nvml.sys_driver_version().map_err(said)?, cuda })
}

/// The GPUs that CUDA sees here, in its order.
///
/// # Errors
/// Why nothing is known of them, in words.
pub fn all() -> Result<Vec<Gpu>, String> {
    let nvml = nvml()?;
    match env::var("CUDA_VISIBLE_DEVICES") {
        Ok(list) => names(&list).map(|name| named(nvml, name).and_then(|device| facts(&device))).collect(),
        Err(_) => {
            let count = nvml.device_count().map_err(said)?;
            (0..count)
                .map(|index| nvml.device_by_index(index).map_err(said).and_then(|device| facts(&device)))
                .collect()
        }
    }
}

/// The GPU that CUDA calls by this number.
///
/// # Errors
/// As [`all`].
pub fn visible(index: usize) -> Result<Gpu, String> {
    let mut all = all()?;
    match index < all.len() {
        true => Ok(all.swap_remove(index)),
        false => Err(format!("there is no GPU {index}: the driver shows {}", all.len())),
    }
}

/// The entries of `CUDA_VISIBLE_DEVICES` that count: all before the first that names none.
fn names(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).take_while(|name| !name.is_empty() && *name != "-1" && *name != "NoDevFiles")
}

fn named<'a>(nvml: &'a Nvml, name: &str) -> Result<Device<'a>, String> {
    match name.parse() {
        Ok(index) => nvml.device_by_index(index).map_err(said),
        Err(_) => nvml.device_by_uuid(name).map_err(said),
    }
}

fn facts(device: &Device<'_>) -> Result<Gpu, String> {
    let memory = device.memory_info().map_err(said)?;
    Ok(Gpu {
        name: device.name().map_err(said)?,
        uuid: device.uuid().map_err(said)?,
        memory_bytes: memory.total,
        free_bytes: memory.free,
        power_limit_watts: device.enforced_power_limit().ok().map(|milliwatts| f64::from(milliwatts) / 1000.0),
        capability: device.cuda_compute_capability().ok().map(|known| (known.major, known.minor)),
    })
}

fn said(error: NvmlError) -> String {
    format!("the NVIDIA driver says: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visible_devices_end_at_the_first_that_names_none() {
        let read = |list| names(list).collect::<Vec<_>>();
        assert_eq!(read("0, 2,GPU-1a"), ["0", "2", "GPU-1a"]);
        assert_eq!(read("1,-1,0"), ["1"]);
        assert_eq!(read(""), Vec::<&str>::new());
    }
}
