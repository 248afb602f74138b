//! Jobs whose providers fail: they move on, and end where an unmoved one ends.
#![allow(clippy::unwrap_used)]

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use outboard::{Client, Config, Error, ErrorKind, Report, RunEvent, Status, config::Sources, read_job};
use outboard_core::{
    ComputeProvider, Event, Result, Retry, Task, TaskId,
    provider::{Cancelled, Capabilities, Health, PriceModel, ProviderInfo, TaskSummary},
    task::{Revision, TaskState},
};
use outboard_cpu::CpuProvider;
use outboard_store::FolderStore;

/// The CPU under another name, whose `wait` fails as scripted once it has shown so many checkpoints.
#[derive(Debug)]
struct Flaky {
    inner: CpuProvider,
    info: ProviderInfo,
    script: Mutex<Vec<(usize, Error)>>,
    shown: AtomicUsize,
    submitted: AtomicUsize,
}

#[async_trait]
impl ComputeProvider for Flaky {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }
    async fn price(&self) -> Result<PriceModel> {
        self.inner.price().await
    }
    async fn health(&self) -> Result<Health> {
        self.inner.health().await
    }
    async fn submit(&self, task: &Task) -> Result<TaskId> {
        self.submitted.fetch_add(1, Ordering::SeqCst);
        self.inner.submit(task).await
    }
    async fn wait(&self, id: &TaskId, seen: Revision, limit: Duration) -> Result<TaskState> {
        let state = self.inner.wait(id, seen, limit).await?;
        let mut script = self.script.lock().unwrap();
        let checkpoints = state.events.iter().filter(|event| matches!(event, Event::Checkpoint(_))).count();
        let shown = self.shown.fetch_add(checkpoints, Ordering::SeqCst) + checkpoints;
        match script.first() {
            Some((after, _)) if shown >= *after => Err(script.remove(0).1),
            _ => Ok(state),
        }
    }
    async fn cancel(&self, id: &TaskId) -> Result<Cancelled> {
        self.inner.cancel(id).await
    }
    async fn list(&self) -> Result<Vec<TaskSummary>> {
        self.inner.list().await
    }
    async fn find_attempt(&self, attempt: &str, key: &str) -> Result<Option<TaskId>> {
        self.inner.find_attempt(attempt, key).await
    }
}

struct Outcome {
    report: Result<Report>,
    model: Vec<u8>,
    warnings: Vec<String>,
    submitted: usize,
}

/// A client with a flaky provider, and the CPU behind it or not.
fn client(home: &Path, overrides: &[&str], script: Vec<(usize, Error)>, fallback: bool) -> (Client, Arc<Flaky>) {
    let environment = vec![("OUTBOARD_HOME".to_string(), home.to_str().unwrap().to_string())];
    let overrides = ["checkpoint.every=\"1ms\""].iter().chain(overrides).map(ToString::to_string).collect();
    let config = Config::load(&Sources { directory: home.into(), environment, overrides }).unwrap();
    let store = FolderStore::open(home).unwrap();
    let cpu = || CpuProvider::new(&config.providers.cpu, store.clone()).unwrap();
    let info = ProviderInfo { id: "borrowed".into(), ..cpu().info().clone() };
    let (shown, submitted) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let flaky = Arc::new(Flaky { inner: cpu(), info, script: Mutex::new(script), shown, submitted });
    let mut providers: Vec<Arc<dyn ComputeProvider>> = vec![flaky.clone()];
    if fallback {
        providers.push(Arc::new(cpu()));
    }
    (Client::with_providers(config.clone(), store, providers).unwrap(), flaky)
}

/// Trains the `dropout` curve's job; what it warned of.
async fn drive(client: &Client, home: &Path) -> (Result<Report>, Vec<String>) {
    let jobs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/curves");
    let mut job = read_job(&jobs.join("dropout.toml")).unwrap();
    job.output = Some(home.join("out"));
    let mut warnings = Vec::new();
    let observe = |event| {
        if let RunEvent::Task(Event::Warning { message }) = event {
            warnings.push(message);
        }
    };
    let report = client.start(job).await.unwrap().drive(std::future::pending(), observe).await;
    (report, warnings)
}

/// Trains with a flaky provider in front of the CPU, or alone.
async fn train(script: Vec<(usize, Error)>, fallback: bool) -> Outcome {
    let home = tempfile::tempdir().unwrap();
    let (client, flaky) = client(home.path(), &[], script, fallback);
    let (report, warnings) = drive(&client, home.path()).await;
    let model = std::fs::read(home.path().join("out/model.safetensors")).unwrap_or_default();
    Outcome { report, model, warnings, submitted: flaky.submitted.load(Ordering::SeqCst) }
}

#[tokio::test]
async fn a_job_moves_on_and_ends_with_the_same_bytes() {
    let whole = train(Vec::new(), true).await;
    let report = whole.report.unwrap();
    assert_eq!((report.status, report.provider.as_str(), whole.submitted), (Status::Succeeded, "borrowed", 1));

    let crash = Error::new(ErrorKind::WorkerUnhealthy, "the worker crashed");
    let moved = train(vec![(5, crash)], true).await;
    let report = moved.report.unwrap();
    assert_eq!((report.status, report.provider.as_str()), (Status::Succeeded, "cpu"));
    assert_eq!(moved.warnings, ["borrowed failed: the worker crashed"]);
    assert_eq!(report.history.len(), 20);
    assert!(moved.model == whole.model, "other weights");
}

#[tokio::test]
async fn a_transient_failure_is_tried_again_from_the_last_checkpoint() {
    let whole = train(Vec::new(), false).await;
    let gone = || Error::new(ErrorKind::Preempted, "the machine was taken away");
    let again = train(vec![(3, gone()), (6, gone())], false).await;
    assert_eq!((again.report.unwrap().status, again.submitted), (Status::Succeeded, 3));
    assert!(again.model == whole.model, "other weights");
}

#[tokio::test]
async fn a_task_out_of_reach_is_found_again_and_not_run_twice() {
    let whole = train(Vec::new(), false).await;
    let until = Duration::from_secs(60);
    let cut = Error::new(ErrorKind::Unavailable, "no answer").with_retry(Retry::Unknown { until });
    let found = train(vec![(3, cut)], false).await;
    let report = found.report.unwrap();
    assert_eq!((report.status, found.submitted, found.warnings.len()), (Status::Succeeded, 1, 0));
    assert_eq!(report.history.iter().map(|e| e.epoch).collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
    assert!(found.model == whole.model, "other weights");
}

#[tokio::test]
async fn a_job_that_is_wrong_is_not_tried_elsewhere() {
    let wrong = Error::new(ErrorKind::JobFailed, "the loss became NaN");
    let failed = train(vec![(2, wrong)], true).await;
    assert_eq!(failed.report.unwrap_err().kind(), ErrorKind::JobFailed);
    assert_eq!((failed.submitted, failed.warnings.len()), (1, 0));
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_what_stays_is_not() {
    let whole = train(Vec::new(), false).await;
    let gone = || Error::new(ErrorKind::Preempted, "the machine was taken away");
    let again = train(vec![(0, gone()), (0, gone())], false).await;
    assert_eq!((again.report.unwrap().status, again.submitted), (Status::Succeeded, 3));
    assert!(again.model == whole.model, "other weights");

    let locked = Error::new(ErrorKind::Unauthenticated, "the key is wrong");
    let failed = train(vec![(0, locked.clone())], false).await;
    assert_eq!(failed.report.unwrap_err().kind(), ErrorKind::Unauthenticated, "of a single provider, its own error");
    assert_eq!((failed.submitted, failed.warnings.len()), (1, 1));
}

/// The pause is longer than a job waits at its beginning for what may never come.
#[tokio::test]
async fn a_new_job_waits_for_the_end_of_a_pause_unless_that_is_too_late() {
    let home = tempfile::tempdir().unwrap();
    let breaker = ["router.breaker.crashes=1", "router.breaker.cooldown=\"6s\"", "router.patience.failures=1"];
    let crash = Error::new(ErrorKind::WorkerUnhealthy, "the worker crashed");
    let (first, _) = client(home.path(), &breaker, vec![(0, crash)], false);
    assert_eq!(drive(&first, home.path()).await.0.unwrap_err().kind(), ErrorKind::AllProvidersFailed);

    let hurried = [&breaker[..], &["router.patience.time=\"2s\""]].concat();
    let (report, warnings) = drive(&client(home.path(), &hurried, Vec::new(), false).0, home.path()).await;
    let error = report.unwrap_err();
    assert!(error.report().contains("left alone for") && warnings.is_empty(), "{} {warnings:?}", error.report());

    let (report, warnings) = drive(&client(home.path(), &breaker, Vec::new(), false).0, home.path()).await;
    assert_eq!(report.unwrap().status, Status::Succeeded);
    assert!(
        warnings[0].starts_with("waiting for a provider that can't take it now: borrowed: it is left alone for "),
        "{warnings:?}"
    );
}
