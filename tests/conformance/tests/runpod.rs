//! The suite over the `runpod` provider: RunPod's stand-in, its own worker SDK, our engine or the worker for PyTorch;
//! with a bucket, and without.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use outboard_conformance::{Fixture, Possible, run_all};
use outboard_core::{
    ComputeProvider, ComputeProviderExt, Digest, ErrorKind, Event, Result, Retry, Task, TaskId,
    provider::{Cancelled, Capabilities, Health, PriceModel, ProviderInfo, TaskSummary},
    task::{Phase, Revision, TaskState},
};
use outboard_runpod::{Config, EndpointConfig, RunPodProvider};
use outboard_store::FolderStore;
use outboard_testbed::{
    Fault, RunPod, Weather,
    runpod::{EndpointSettings, Settings, WorkerCommand},
};
use outboard_wrappers::standard;

mod remote;

use remote::{Home, jobs, named, s3};

const KEY: &str = "rpa_0123456789abcdef-conformance";
/// Names a Python with the packages of `tests/requirements.txt`; `cargo xtask test runpod` sets it.
const PYTHON: &str = "TEST_RUNPOD_PYTHON";
/// Names the folder of the package `outboard_worker`, the worker for PyTorch; the same sets it.
const WORKER: &str = "TEST_RUNPOD_WORKER";

/// All but: unclaimed layers and operations (it has all), a queued task (it names no bound on tasks at once).
const PASSED: usize = 31;
/// Without a bucket it neither cancels with a checkpoint nor reports progress, and a lost reply is lost.
const PASSED_INLINE: usize = 25;

/// Gives a limit to tasks that have none, as the router does.
#[derive(Debug)]
struct Limited(Arc<dyn ComputeProvider>);

#[async_trait]
impl ComputeProvider for Limited {
    fn info(&self) -> &ProviderInfo {
        self.0.info()
    }
    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }
    async fn price(&self) -> Result<PriceModel> {
        self.0.price().await
    }
    async fn health(&self) -> Result<Health> {
        self.0.health().await
    }
    async fn submit(&self, task: &Task) -> Result<TaskId> {
        let limit = task.limit.or(Some(Duration::from_secs(120)));
        self.0.submit(&Task { limit, ..task.clone() }).await
    }
    async fn wait(&self, id: &TaskId, seen: Revision, limit: Duration) -> Result<TaskState> {
        self.0.wait(id, seen, limit).await
    }
    async fn cancel(&self, id: &TaskId) -> Result<Cancelled> {
        self.0.cancel(id).await
    }
    async fn list(&self) -> Result<Vec<TaskSummary>> {
        self.0.list().await
    }
    async fn find_attempt(&self, attempt: &str, key: &str) -> Result<Option<TaskId>> {
        self.0.find_attempt(attempt, key).await
    }
}

struct RunPodFixture {
    runpod: RunPod,
    home: Home,
    numerics: String,
}

/// What runs under RunPod's SDK: our engine, unless the worker for PyTorch is named.
fn worker_command(python: PathBuf, package: Option<&Path>, store: &Path) -> WorkerCommand {
    let store = store.to_str().unwrap().to_string();
    let (args, env): (Vec<_>, Vec<(&str, String)>) = match package {
        None => (
            vec![concat!(env!("CARGO_MANIFEST_DIR"), "/../testbed/python/envelope_worker.py").into()],
            vec![("TEST_RUN_ENVELOPE", env!("CARGO_BIN_EXE_conformance-envelope").into())],
        ),
        Some(package) => (
            vec!["-m".into(), "outboard_worker".into()],
            vec![
                ("PYTHONPATH", package.to_str().unwrap().into()),
                ("OUTBOARD_WORKER_DEVICE", "cpu".into()),
                // Bytes depend on it.
                ("OUTBOARD_WORKER_THREADS", "1".into()),
            ],
        ),
    };
    let env = env.into_iter().chain([("OUTBOARD_WORKER_STORE", store)]);
    WorkerCommand {
        program: python,
        args,
        env: env.map(|(name, value)| (name.into(), value)).collect(),
        log: std::env::var_os("TEST_RUNPOD_LOG").map(Into::into),
    }
}

/// What the worker for PyTorch says of itself first.
fn numerics(command: &WorkerCommand) -> String {
    let mut task_process = Command::new(&command.program);
    task_process.args(&command.args).arg("--stdio").envs(command.env.iter().map(|(name, value)| (name, value)));
    let said = task_process.stdin(std::process::Stdio::null()).output().unwrap();
    let first = String::from_utf8(said.stdout).unwrap();
    let hello: serde_json::Value = serde_json::from_str(first.lines().next().unwrap_or_default()).unwrap();
    hello["hello"]["numerics"].as_str().unwrap().into()
}

fn package(test: &str) -> Option<PathBuf> {
    named(test, WORKER, "runpod")
}

fn python(test: &str) -> Option<PathBuf> {
    named(test, PYTHON, "runpod")
}

impl RunPodFixture {
    async fn new(python: PathBuf, server: Option<s3::Server>) -> Self {
        Self::with_worker(python, None, server).await
    }

    async fn with_worker(python: PathBuf, package: Option<&Path>, server: Option<s3::Server>) -> Self {
        let home = Home::new(server);
        let command = worker_command(python, package, &home.folder.path().join("worker"));
        let numerics = match package {
            Some(_) => numerics(&command),
            None => outboard_engine::numerics::class().into(),
        };
        // Two workers that stay: a start of Python's takes a second.
        let endpoint =
            EndpointSettings { workers_min: 2, workers_max: 2, ..EndpointSettings::new("ep1", Some(command)) };
        let runpod = RunPod::start(Settings::one(KEY, endpoint)).await.unwrap();
        Self { runpod, home, numerics }
    }

    fn config(&self) -> Config {
        Config {
            enabled: true,
            api_key: Some(KEY.into()),
            endpoints: vec![EndpointConfig { id: "ep1".into(), gpu: "RTX 4090".into(), weight: 1 }],
            base_url: self.runpod.base_url(),
            rest_url: self.runpod.rest_url(),
            ..Config::default()
        }
    }

    fn client(&self) -> Arc<dyn ComputeProvider> {
        let config = self.config();
        let provider = RunPodProvider::new(&config, self.home.store.clone(), self.home.bucket()).unwrap();
        standard(Arc::new(Limited(Arc::new(provider))), &outboard_wrappers::Settings::default())
    }
}

#[async_trait]
impl Fixture for RunPodFixture {
    async fn provider(&self) -> Arc<dyn ComputeProvider> {
        self.client()
    }

    fn store(&self) -> &FolderStore {
        &self.home.store
    }

    fn numerics(&self) -> String {
        self.numerics.clone()
    }

    fn secrets(&self) -> Vec<String> {
        vec![KEY.into(), "s3cret".into()]
    }

    fn remembers_tasks(&self) -> Possible<()> {
        self.home.remembers_tasks()
    }

    fn corrupt(&self, blob: &Digest) -> Possible<()> {
        self.home.corrupt(blob)
    }

    async fn losing_a_reply(&self) -> Possible<Arc<dyn ComputeProvider>> {
        if self.home.server.is_none() {
            return Err("without a store nobody finds a job whose id was lost");
        }
        self.runpod.weather(Weather::fair().then("POST /v2/ep1/run", Fault::LoseReply));
        Ok(self.client())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_bucket() {
    let Some(python) = python("with_a_bucket") else { return };
    let Some(server) = s3::server("with_a_bucket") else { return };
    run_all(&RunPodFixture::new(python, Some(server)).await).await.assert_passed(PASSED);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_store() {
    let Some(python) = python("without_a_store") else { return };
    run_all(&RunPodFixture::new(python, None).await).await.assert_passed(PASSED_INLINE);
}

#[tokio::test(flavor = "multi_thread")]
async fn pytorch_with_a_bucket() {
    let test = "pytorch_with_a_bucket";
    let (Some(python), Some(package)) = (python(test), package(test)) else { return };
    let Some(server) = s3::server(test) else { return };
    run_all(&RunPodFixture::with_worker(python, Some(&package), Some(server)).await).await.assert_passed(PASSED);
}

#[tokio::test(flavor = "multi_thread")]
async fn pytorch_without_a_store() {
    let test = "pytorch_without_a_store";
    let (Some(python), Some(package)) = (python(test), package(test)) else { return };
    let fixture = RunPodFixture::with_worker(python, Some(&package), None).await;
    run_all(&fixture).await.assert_passed(PASSED_INLINE);
    // It isn't claimed, as not each worker does it: this one tells how far it has come by RunPod's own means.
    let provider = fixture.client();
    let endless = Task { limit: Some(Duration::from_secs(300)), ..fixture.home.endless() };
    let id = provider.submit(&endless).await.unwrap();
    let mut seen = Revision::default();
    loop {
        let state = provider.wait(&id, seen, Duration::from_secs(10)).await.unwrap();
        assert!(!state.phase.is_final(), "{state:?}");
        if state.events.iter().any(|event| matches!(event, Event::Progress(_))) {
            break;
        }
        seen = state.revision;
    }
    provider.cancel(&id).await.unwrap();
}

/// Drill: the worker's process dies in the middle of a task. Nothing is posted, and RunPod's job runs on.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_is_noticed() {
    let Some(python) = python("a_worker_that_dies_is_noticed") else { return };
    for signal in ["KILL", "ABRT"] {
        let fixture = RunPodFixture::new(python.clone(), None).await;
        let lost_patience = Duration::from_millis(500);
        let provider =
            RunPodProvider::new(&Config { lost_patience, ..fixture.config() }, fixture.home.store.clone(), None);
        let provider = provider.unwrap();
        let endless = Task { limit: Some(Duration::from_secs(300)), ..fixture.home.endless() };
        let id = provider.submit(&endless).await.unwrap();
        fixture.runpod.until_executions("ep1", 1).await;
        assert_eq!(fixture.runpod.signal_running("ep1", signal), 1);
        let state = provider.follow(&id, std::future::pending(), drop).await.unwrap();
        let Phase::Failed(error) = state.phase else { panic!("{signal}: {state:?}") };
        assert_eq!((error.kind(), error.retry()), (ErrorKind::WorkerUnhealthy, Retry::Other), "{signal}: {error:?}");
        assert_eq!(fixture.runpod.live_jobs("ep1"), 0);
    }
}

/// Drill: the reply to a submission is lost. The job is found by the task's key, and nothing is sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_with_a_bucket_runs_once() {
    let test = "a_lost_reply_with_a_bucket_runs_once";
    let Some(python) = python(test) else { return };
    let Some(server) = s3::server(test) else { return };
    let fixture = RunPodFixture::new(python, Some(server)).await;
    let job = jobs::Job::short();
    let task = fixture.home.task(&job, "lost");
    let provider = fixture.losing_a_reply().await.unwrap();
    let id = provider.submit(&task).await.unwrap();
    assert_eq!(fixture.runpod.seen("run").len(), 1);
    let mut epochs = Vec::new();
    let observe = |event| {
        if let Event::Epoch(epoch) = event {
            epochs.push(epoch.epoch);
        }
    };
    let state = provider.follow(&id, std::future::pending(), observe).await.unwrap();
    let (expected, bytes) = job.directly();
    assert!(matches!(&state.phase, Phase::Finished(outcome) if *outcome == expected), "{state:?}");
    assert_eq!(epochs, [1, 2, 3]);
    assert_eq!(fixture.home.store.read(&expected.blob().unwrap()).unwrap(), bytes);
    // Whoever asks again, even for another attempt, finds what there is.
    assert_eq!(fixture.client().submit(&task).await.unwrap(), id);
    let other = Task { attempt: "lost#2".into(), ..task };
    assert_eq!(fixture.client().submit(&other).await.unwrap(), id);
    assert_eq!((fixture.runpod.seen("run").len(), fixture.runpod.executions("ep1")), (1, 1));
}
