//! The owner's self-test: the same jobs on the CPU engine and on the first device, in turn.

use std::{future::pending, path::Path};

use outboard_core::{
    ComputeProvider, Digest, Layer, Task, code,
    error::{Error, ErrorKind, Result},
    finding::Finding,
    job::Train,
    layer,
    provider::ComputeProviderExt,
    task::{Architecture, Epoch, Event, Operation, Timings, TrainTask},
};
use outboard_cpu::CpuProvider;
use outboard_protocol::{
    Checkpoint, Dataset, Position, Target, initial,
    random::{Domain, Stream},
};
use outboard_store::FolderStore;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{Config, CudaProvider, gpu};

/// How far the loss of an epoch may be from the CPU engine's, relatively: the gate of `docs/protocol.md`'s curves.
const GATE: f64 = 1e-3;
/// A GPU should be this much faster than the CPU on work of its size.
const GOAL: f64 = 5.0;
/// The first epoch is not measured: it warms up.
const EPOCHS: u32 = 4;

/// What was measured, to be sent to us.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Of this program.
    pub version: &'static str,
    /// The driver and the newest CUDA that it runs.
    pub driver: Option<String>,
    /// The GPUs.
    pub gpus: Vec<String>,
    /// What the worker says it computes on, and its numerics class.
    pub device: String,
    /// See `device`.
    pub numerics: String,
    /// The CPU that it was compared with.
    pub cpu: String,
    /// Seconds until the worker took its first task.
    pub start_seconds: f64,
    /// The jobs.
    pub jobs: Vec<JobReport>,
}

/// One job on both.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobReport {
    /// The model.
    pub model: &'static str,
    /// Rows of a step.
    pub batch: usize,
    /// Samples per second of the CPU engine.
    pub cpu_samples_per_second: f64,
    /// Samples per second of the device.
    pub samples_per_second: f64,
    /// The quotient.
    pub ratio: f64,
    /// The furthest that the loss of an epoch is from the CPU engine's, relatively.
    pub loss_difference: f64,
    /// Seconds in which the device's worker read the data.
    pub load_seconds: f64,
    /// Bytes of the data.
    pub data_bytes: u64,
}

struct Job {
    model: &'static str,
    layers: serde_json::Value,
    input: Vec<usize>,
    batch: usize,
    rows: usize,
}

fn jobs() -> Vec<Job> {
    let linear = |out: usize| json!({"type": "linear", "out": out});
    let conv = |out: usize| json!({"type": "conv2d", "out": out, "kernel": 3, "padding": 1});
    let pool = json!({"type": "max_pool2d", "kernel": 2});
    let body = [conv(32), json!("relu"), pool.clone(), conv(64), json!("relu"), pool];
    let head = [json!("flatten"), linear(128), json!("relu"), linear(10)];
    vec![
        Job {
            model: "mlp",
            layers: json!([linear(256), "relu", linear(128), "relu", linear(10)]),
            input: vec![784],
            batch: 256,
            rows: 16_384,
        },
        Job {
            model: "cnn",
            layers: json!([&body[..], &head[..]].concat()),
            input: vec![1, 28, 28],
            batch: 256,
            rows: 4096,
        },
    ]
}

/// Runs the jobs on both. What is wrong is a finding; the report is there where the device ran.
///
/// # Errors
/// What the store refuses, and what no job should meet.
pub async fn bench(config: &Config, home: &Path) -> Result<(Vec<Finding>, Option<Report>)> {
    let store = FolderStore::open(home)?;
    let device = CudaProvider::new(config, home);
    if let Some(missing) = device.missing() {
        return Ok((vec![Finding::fail(code::CUDA_START, "cuda", missing.what, missing.remedy)], None));
    }
    let hello = match device.start().await.swap_remove(0).1 {
        Ok(hello) => hello,
        Err(error) => {
            let missing = crate::diagnosis::of_start(&error);
            return Ok((vec![Finding::fail(code::CUDA_START, "cuda", missing.what, missing.remedy)], None));
        }
    };
    // Another worker, so that a start from nothing is measured.
    let device = CudaProvider::new(config, home);
    let cpu = CpuProvider::new(&outboard_cpu::Config { enabled: true, threads: 0 }, store.clone())?;
    let mut report = Report {
        version: env!("CARGO_PKG_VERSION"),
        driver: gpu::driver().ok().map(|driver| {
            let (major, minor) = driver.cuda;
            format!("{}, CUDA {major}.{minor}", driver.version)
        }),
        gpus: device.gpus().unwrap_or_default().iter().map(|gpu| gpu.name.clone()).collect(),
        device: hello.device,
        numerics: hello.numerics,
        cpu: cpu.info().device.clone(),
        start_seconds: 0.0,
        jobs: Vec::new(),
    };
    for job in jobs() {
        let (train, data_bytes) = prepare(&job, &store)?;
        let [(ours, timings), (theirs, _)] = [run(&device, &job, &train).await?, run(&cpu, &job, &train).await?];
        report.start_seconds = report.start_seconds.max(timings.boot);
        let apart = ours.iter().zip(&theirs).map(|(a, b)| (a.loss / b.loss - 1.0).abs());
        let (rate, cpu_rate) = (rate(&ours), rate(&theirs));
        report.jobs.push(JobReport {
            model: job.model,
            batch: job.batch,
            cpu_samples_per_second: cpu_rate,
            samples_per_second: rate,
            ratio: rate / cpu_rate,
            loss_difference: apart.fold(0.0, f64::max),
            load_seconds: timings.load,
            data_bytes,
        });
    }
    let mut found: Vec<Finding> = report.jobs.iter().flat_map(|job| judge(job, config.uses_gpus())).collect();
    found.push(Finding::pass(
        code::CUDA_START,
        "cuda",
        format!("a worker starts within {:.2} s", report.start_seconds),
    ));
    Ok((found, Some(report)))
}

fn judge(job: &JobReport, is_gpu: bool) -> [Finding; 2] {
    let JobReport { model, loss_difference, samples_per_second, cpu_samples_per_second, ratio, .. } = job;
    let said = format!("the losses of {EPOCHS} epochs are within {loss_difference:.1e} of the CPU engine's");
    let numerics = match *loss_difference <= GATE {
        true => Finding::pass(code::CUDA_NUMERICS, *model, said),
        false => {
            Finding::fail(code::CUDA_NUMERICS, *model, said, "send us the report; set bf16 and tf32 to false meanwhile")
        }
    };
    let said = format!("{samples_per_second:.0} samples/s, {ratio:.1} times the CPU's {cpu_samples_per_second:.0}");
    let speed = match !is_gpu || *ratio >= GOAL {
        true => Finding::pass(code::CUDA_SPEED, *model, said),
        false => Finding::warn(code::CUDA_SPEED, *model, said, "send us the report; larger batches suit a GPU better"),
    };
    [numerics, speed]
}

fn rate(epochs: &[Epoch]) -> f64 {
    epochs.iter().skip(1).map(|epoch| epoch.samples_per_second).fold(0.0, f64::max)
}

/// The blobs of a job are in the store; its task, and the bytes of its data.
fn prepare(job: &Job, store: &FolderStore) -> Result<(TrainTask, u64)> {
    #[derive(Deserialize)]
    struct Model {
        #[serde(deserialize_with = "layer::list")]
        layers: Vec<Layer>,
    }
    let wrong = |e: serde_json::Error| Error::new(ErrorKind::Unexpected, "a job of the self-test").because(e);
    let Model { layers } = serde_json::from_value(json!({"layers": job.layers})).map_err(wrong)?;
    let train: Train = serde_json::from_value(json!({
        "loss": "cross_entropy", "optimizer": {"type": "sgd", "lr": 0.02}, "epochs": EPOCHS, "batch_size": job.batch,
    }))
    .map_err(wrong)?;
    let model = Architecture { layers, input: job.input.clone() };
    let stream = Stream::new(1, Domain::Weights, 99);
    let width: usize = job.input.iter().product();
    let x = (0..(job.rows * width) as u64).map(|i| stream.uniform(i) as f32 * 2.0 - 1.0).collect();
    let y = Target::Classes((0..job.rows as u64).map(|i| (stream.at(i << 32) % 10) as i64).collect());
    let data = Dataset { shape: job.input.clone(), x, y, weights: None }.encode()?;
    let plan = layer::plan(&model.layers, &model.input)?;
    let weights = initial::weights(&plan, 0).into_iter().map(|(name, t)| (format!("model.{name}"), t)).collect();
    let start = Checkpoint { position: Position::start("cuda-bench", 0), tensors: weights }.encode()?;
    let [data_digest, checkpoint]: [Digest; 2] = [store.write(&data)?, store.write(&start)?];
    let task = TrainTask {
        model,
        train,
        data: data_digest,
        validation: None,
        checkpoint,
        until_epoch: EPOCHS,
        checkpoint_every: std::time::Duration::from_secs(3600),
    };
    Ok((task, data.len() as u64))
}

async fn run(provider: &dyn ComputeProvider, job: &Job, train: &TrainTask) -> Result<(Vec<Epoch>, Timings)> {
    let key = format!("cuda-bench/{}", job.model);
    let task = Task {
        key: key.clone(),
        job: "cuda-bench".into(),
        attempt: key,
        operation: Operation::Train(Box::new(train.clone())),
        limit: None,
    };
    let mut epochs = Vec::new();
    let id = provider.submit(&task).await?;
    let state = provider
        .follow(&id, pending(), |event| {
            if let Event::Epoch(epoch) = event {
                epochs.push(epoch);
            }
        })
        .await?;
    let timings = state.usage.map(|usage| usage.timings).unwrap_or_default();
    state.outcome()?;
    Ok((epochs, timings))
}
