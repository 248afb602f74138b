//! The provider.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use outboard_core::{
    ComputeProvider, Task, TaskId,
    error::{Error, ErrorKind, Result},
    provider::{Cancelled, Capabilities, Health, PriceModel, ProviderInfo, TaskSummary},
    task::{OperationKind, Revision, TaskState, Timings, Usage},
};
use outboard_cpu::tasks::{Live, Tasks};
use outboard_protocol::{Envelope, TaskResult, envelope::Ending};
use outboard_worker::{Supervisor, TaskProgram, wire::Hello};
use tokio::sync::Semaphore;

use crate::{
    Config, config,
    config::Devices,
    diagnosis,
    gpu::{self, Gpu},
    price::price,
};

/// Where `outboard cuda install` puts the worker, below the home folder.
pub const WORKER: &str = "cuda/bin/outboard-cuda-worker";

/// Once it is a task's turn nothing is in its way but the start of a worker.
const START_WITHIN: Duration = Duration::from_secs(600);

/// Runs tasks on this machine's GPUs, each in a worker of its own.
#[derive(Debug)]
pub struct CudaProvider {
    info: ProviderInfo,
    capabilities: Capabilities,
    config: Config,
    worker: PathBuf,
    /// What the driver says of the GPUs that are used, or why it says nothing.
    gpus: std::result::Result<Vec<Gpu>, String>,
    devices: Vec<Arc<Device>>,
    tasks: Tasks,
}

/// A device with its worker and its queue.
#[derive(Debug)]
struct Device {
    name: String,
    supervisor: Supervisor,
    turn: Semaphore,
    /// Tasks that run or wait.
    tasks: AtomicUsize,
}

impl CudaProvider {
    /// The devices of `config`, with data in the store of the folder `home`. Workers start with their first task.
    #[must_use]
    pub fn new(config: &Config, home: &Path) -> Self {
        let worker = if config.worker.as_os_str().is_empty() { home.join(WORKER) } else { config.worker.clone() };
        let (names, gpus) = named(&config.devices);
        let devices: Vec<_> = names.into_iter().map(|name| Arc::new(device(name, config, &worker, home))).collect();
        let words = match (&gpus, &devices[..]) {
            (_, []) => "no GPU".into(),
            (Ok(gpus), [_]) if gpus.len() == 1 => gpus[0].name.clone(),
            (Ok(gpus), _) if gpus.len() == devices.len() => format!("{} GPUs: {}", gpus.len(), gpus[0].name),
            (_, devices) => devices.iter().map(|device| device.name.as_str()).collect::<Vec<_>>().join(", "),
        };
        Self {
            info: ProviderInfo { id: "cuda".into(), kind: "cuda".into(), device: words, region: None },
            capabilities: Capabilities {
                operations: OperationKind::ALL.to_vec(),
                layers: outboard_engine::LAYERS.map(String::from).to_vec(),
                cancels: true,
                lists: true,
                reports_progress: true,
                max_payload_bytes: None,
                max_task_time: None,
                max_concurrent_tasks: u32::try_from(devices.len().max(1)).ok(),
            },
            config: config.clone(),
            worker,
            gpus,
            devices,
            tasks: Tasks::new("cuda"),
        }
    }

    /// What is missing for a task to run, as far as it can be seen without starting a worker.
    #[must_use]
    pub fn missing(&self) -> Option<diagnosis::Missing> {
        if self.config.uses_gpus() {
            let driver = diagnosis::of_driver(&gpu::driver());
            let gpus = || {
                let why = self.gpus.as_ref().err()?;
                Some(diagnosis::Missing { what: why.clone(), remedy: "see nvidia-smi -L".into() })
            };
            if let Some(missing) = driver.or_else(gpus) {
                return Some(missing);
            }
        }
        diagnosis::of_file(&self.worker)
    }

    /// The worker's program.
    #[must_use]
    pub fn worker(&self) -> &Path {
        &self.worker
    }

    /// What the driver says of the GPUs that are used, where it says something.
    #[must_use]
    pub fn gpus(&self) -> Option<&[Gpu]> {
        self.gpus.as_deref().ok()
    }

    /// Starts the workers that don't run yet; what each says of itself, or why it doesn't start.
    pub async fn start(&self) -> Vec<(String, Result<Hello>)> {
        let mut said = Vec::new();
        for device in &self.devices {
            said.push((device.name.clone(), device.supervisor.start().await));
        }
        said
    }
}

/// The devices that are used, and what the driver says of the GPUs among them.
fn named(devices: &Devices) -> (Vec<String>, std::result::Result<Vec<Gpu>, String>) {
    match devices {
        Devices::Auto => match gpu::all() {
            Ok(gpus) if gpus.is_empty() => (Vec::new(), Err("the driver shows no GPU".into())),
            Ok(gpus) => ((0..gpus.len()).map(|index| format!("cuda:{index}")).collect(), Ok(gpus)),
            Err(why) => (Vec::new(), Err(why)),
        },
        Devices::Named(names) => {
            let gpus = names.iter().filter_map(|name| config::index(name)).map(gpu::visible).collect();
            (names.clone(), gpus)
        }
    }
}

fn device(name: String, config: &Config, worker: &Path, home: &Path) -> Device {
    let mut args: Vec<std::ffi::OsString> = ["--stdio", "--device", &name, "--store"].map(Into::into).into();
    args.push(home.into());
    args.extend(["--threads".into(), config.threads.to_string().into()]);
    if config.bf16 {
        args.push("--bf16".into());
    }
    // CUDA counts GPUs as the driver does, not by their speed.
    let mut variables = vec![("CUDA_DEVICE_ORDER", "PCI_BUS_ID".into())];
    // PyTorch's own defaults round the factors of convolutions.
    variables.push(match config.tf32 {
        true => (gpu::TF32_PRODUCTS, "1".into()),
        false => (gpu::TF32_OVERRIDE, "0".into()),
    });
    let program = TaskProgram { program: worker.into(), args };
    Device {
        name,
        supervisor: Supervisor::new(program).with_variables(variables),
        turn: Semaphore::new(1),
        tasks: AtomicUsize::new(0),
    }
}

impl Device {
    async fn run(&self, task: Task, patience: Duration, live: &Live, is_priced: bool) {
        let began = Instant::now();
        let turn = tokio::select! {
            biased;
            // The semaphore is never closed, so a permit always comes.
            turn = self.turn.acquire() => turn,
            () = live.stopped() => {
                let error = Error::new(ErrorKind::Cancelled, "the task was cancelled");
                return live.end(Err(error), Usage::default());
            }
        };
        let queue = began.elapsed().as_secs_f64();
        live.start();
        let envelope = Envelope::new(task, START_WITHIN, patience);
        let TaskResult { ended, timings, .. } =
            self.supervisor.run(&envelope, live.stopped(), |event| live.observe(event)).await;
        drop(turn);
        let timings = Timings { queue, ..timings };
        let outcome = match ended {
            Ending::Finished(outcome) => Ok(outcome),
            Ending::Cancelled => Err(Error::new(ErrorKind::Cancelled, "the task was cancelled")),
            Ending::Failed(failure) => Err(explained(failure.into())),
        };
        live.end(outcome, Usage { billed: is_priced.then(|| timings.running()), ..Usage::timed(timings) });
    }
}

/// A worker that doesn't start says what it lacks.
fn explained(error: Error) -> Error {
    // Workers elsewhere are sent what they miss; this one reads where the client does.
    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::CorruptPayload) {
        let retry = error.kind().retry();
        return error.with_retry(retry);
    }
    if error.kind() != ErrorKind::WorkerUnhealthy || error.advice().is_some() {
        return error;
    }
    let diagnosis::Missing { what, remedy } = diagnosis::of_start(&error);
    match what == error.to_string() {
        true => error.hint(remedy),
        false => error.at("missing", what).hint(remedy),
    }
}

#[async_trait]
impl ComputeProvider for CudaProvider {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn price(&self) -> Result<PriceModel> {
        price(&self.config, self.gpus.as_deref().unwrap_or_default()).map_err(|what| {
            Error::new(ErrorKind::InvalidConfig, what).with_provider("cuda").at("key", "providers.cuda.usd_per_kwh")
        })
    }

    async fn health(&self) -> Result<Health> {
        Ok(match self.missing() {
            None => Health::Ready,
            Some(missing) => Health::Unavailable(missing.sentence()),
        })
    }

    async fn submit(&self, task: &Task) -> Result<TaskId> {
        let least = self.devices.iter().min_by_key(|device| device.tasks.load(Ordering::Relaxed));
        let Some(device) = least.cloned() else {
            let missing = self.missing().map_or_else(|| "there is no device".into(), |missing| missing.sentence());
            return Err(Error::new(ErrorKind::WorkerUnhealthy, missing).with_provider("cuda").with_operation("submit"));
        };
        let (id, live) = self.tasks.take(task);
        let Some(live) = live else { return Ok(id) };
        let (task, patience) = (task.clone(), self.config.patience);
        let is_priced = self.price().await.is_ok_and(|price| !price.is_free());
        device.tasks.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            device.run(task, patience, &live, is_priced).await;
            device.tasks.fetch_sub(1, Ordering::Relaxed);
        });
        Ok(id)
    }

    async fn wait(&self, id: &TaskId, seen: Revision, limit: Duration) -> Result<TaskState> {
        self.tasks.wait(id, seen, limit).await
    }

    async fn cancel(&self, id: &TaskId) -> Result<Cancelled> {
        self.tasks.cancel(id).await
    }

    async fn list(&self) -> Result<Vec<TaskSummary>> {
        Ok(self.tasks.list())
    }
}
