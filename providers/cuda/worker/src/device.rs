//! What is computed on.

use std::{str::FromStr, sync::Arc};

use outboard_core::{
    Environment,
    error::{Error, ErrorKind, Result},
    layer,
    task::Architecture,
};
use outboard_cuda::gpu::{self, Gpu};
use outboard_engine::Kernels;
use outboard_protocol::Tensors;
use rayon::{ThreadPool, ThreadPoolBuilder};
use tch::{Cuda, Device, utils};

use crate::model::TorchModel;

/// The libtorch that `tch` is made for.
pub const LIBTORCH: &str = "2.13.0";

/// Threads that call libtorch. OpenMP keeps a team for each thread that does, and where the teams together have more threads
/// than there are cores, their threads sleep between operations instead of waiting: two callers cost a third of the speed.
pub const CALLERS: usize = 1;

/// Which device is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The first GPU, or the CPU where there is none.
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let number = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        match (text, number) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            (_, Some(number)) => Ok(Self::Cuda(number)),
            _ => Err(format!("there is no device `{text}`: use auto, cpu, or cuda:0")),
        }
    }
}

/// A device, and how precisely it computes.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) device: Device,
    /// Threads for what is done beside the device.
    pub(crate) beside: Arc<ThreadPool>,
    /// What it is, in words.
    pub(crate) words: String,
    /// Whether products are made of 16-bit floats.
    pub(crate) bf16: bool,
}

impl Machine {
    /// Bytes that are free, where that is known.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        match self.device {
            Device::Cuda(index) => gpu::visible(index).ok().map(|gpu| gpu.free_bytes),
            _ => free_memory(),
        }
    }

    /// Bytes that the features of a data set may take to stay on the device.
    pub(crate) fn room(&self) -> u64 {
        // Where it isn't known, nobody else has it: libtorch says when there is no more.
        self.free_bytes().map_or(u64::MAX, |free| free / 2)
    }
}

/// What the system could give out.
fn free_memory() -> Option<u64> {
    let facts = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = facts.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}

/// Libtorch's kernels on one device.
#[derive(Clone, Debug)]
pub struct Libtorch {
    machine: Machine,
    numerics: String,
}

impl Libtorch {
    /// Opens a device. Its CPU computes on `threads` threads.
    ///
    /// # Errors
    /// `WorkerUnhealthy` where the device isn't there, saying what is missing.
    pub fn open(choice: Choice, bf16: bool, threads: usize) -> Result<Self> {
        utils::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
        let device = match choice {
            Choice::Cpu => Device::Cpu,
            Choice::Auto => Device::cuda_if_available(),
            Choice::Cuda(index) => cuda(index)?,
        };
        let options = if bf16 { " bf16" } else { "" };
        let (words, kernels) = match device {
            Device::Cuda(index) => {
                Cuda::cudnn_set_benchmark(false);
                let words = gpu::visible(index).map_or_else(
                    |_| format!("CUDA device {index}"),
                    |Gpu { name, memory_bytes, .. }| format!("{name}, {} MiB", memory_bytes >> 20),
                );
                let versions = format!("cuda {} cudnn {}", utils::version_cudart(), utils::version_cudnn());
                let tf32 = if gpu::allows_tf32() { " tf32" } else { "" };
                let kernels = format!("{versions} {words}{tf32}");
                (words, kernels)
            }
            _ => {
                let arch = std::env::consts::ARCH;
                let noun = if threads == 1 { "thread" } else { "threads" };
                (
                    format!("{arch} CPU through libtorch, {threads} {noun}"),
                    format!("cpu {arch} {} {threads}", vectors()),
                )
            }
        };
        let numerics = format!("libtorch {LIBTORCH} {kernels}{options}");
        let beside = ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|e| Error::new(ErrorKind::WorkerUnhealthy, "the worker's threads cannot be started").because(e))?;
        Ok(Self { machine: Machine { device, beside: Arc::new(beside), words, bf16 }, numerics })
    }

    /// What it computes on, in words.
    #[must_use]
    pub fn words(&self) -> &str {
        &self.machine.words
    }
}

/// The vector units by which libtorch picks its kernels.
fn vectors() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            return "avx512";
        } else if std::arch::is_x86_feature_detected!("avx2") {
            return "avx2";
        }
    }
    "default"
}

/// The GPU of this number.
fn cuda(index: usize) -> Result<Device> {
    let missing = |what: &str, hint: &str| Error::new(ErrorKind::WorkerUnhealthy, what).hint(hint);
    if !utils::has_cudart() {
        return Err(missing(
            "this worker was linked without libtorch_cuda.so, so libtorch sees no GPU",
            "build it anew against the whole libtorch: outboard cuda install",
        ));
    }
    match usize::try_from(Cuda::device_count()).unwrap_or_default() {
        0 => Err(missing("libtorch sees no GPU here", "check the driver with nvidia-smi")),
        count if index >= count => {
            Err(missing(&format!("there is no GPU {index}: libtorch sees {count}"), "see nvidia-smi -L"))
        }
        _ => Ok(Device::Cuda(index)),
    }
}

impl Kernels for Libtorch {
    type Model = TorchModel;

    fn numerics(&self) -> &str {
        &self.numerics
    }

    fn describe(&self, found: &mut Environment) {
        found.state("library.libtorch", LIBTORCH);
        // One thread calls; so many compute.
        found.state("program.threads", self.machine.beside.current_num_threads());
        if let Ok(driver) = gpu::driver() {
            found.state("gpu.driver", driver.version);
        }
        let Device::Cuda(index) = self.machine.device else { return };
        // 13010 is 13.1.
        let cuda = utils::version_cudart();
        found.state("library.cuda", format!("{}.{}", cuda / 1000, cuda % 1000 / 10));
        found.state("library.cudnn", utils::version_cudnn());
        if let Ok(Gpu { name, memory_bytes, .. }) = gpu::visible(index) {
            found.state(format!("gpu.{index}"), name);
            found.state(format!("gpu.{index}.memory"), memory_bytes);
        }
    }

    fn model(&self, architecture: &Architecture, weights: &Tensors, rows: usize) -> Result<TorchModel> {
        let plan = layer::plan(&architecture.layers, &architecture.input)?;
        TorchModel::new(self.machine.clone(), plan, weights, rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threads_that_compute_are_told() {
        let mut found = Environment::default();
        Libtorch::open(Choice::Cpu, false, 2).unwrap().describe(&mut found);
        assert_eq!((found.get("program.threads"), found.get("library.libtorch")), (Some("2"), Some(LIBTORCH)));
    }

    #[test]
    fn devices_have_names() {
        assert_eq!("auto".parse(), Ok(Choice::Auto));
        assert_eq!("cuda:12".parse(), Ok(Choice::Cuda(12)));
        for wrong in ["cuda", "cuda:", "cuda:-1", "gpu"] {
            let right = format!("there is no device `{wrong}`: use auto, cpu, or cuda:0");
            assert_eq!(wrong.parse::<Choice>(), Err(right));
        }
    }
}
