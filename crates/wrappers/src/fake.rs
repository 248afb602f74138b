//! A provider that answers as it was told, and remembers who called when.

use std::{collections::VecDeque, sync::Mutex, time::Duration};

use async_trait::async_trait;
use outboard_core::{
    ComputeProvider, Digest, Error, ErrorKind, Result, Task, TaskId,
    provider::{Cancelled, Capabilities, Health, PriceModel, ProviderInfo, TaskSummary},
    task::{Architecture, Operation, Phase, PredictTask, Revision, TaskState},
};
use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) info: ProviderInfo,
    pub(crate) capabilities: Capabilities,
    /// Each call takes so long.
    latency: Duration,
    /// Answers of the next calls, whatever they are; after them all goes well.
    errors: Mutex<VecDeque<Error>>,
    calls: Mutex<Vec<(&'static str, Instant)>>,
    limits: Mutex<Vec<Duration>>,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            info: ProviderInfo { id: "fake".into(), kind: "fake".into(), device: "none".into(), region: None },
            capabilities: Capabilities {
                operations: vec![],
                layers: vec![],
                cancels: true,
                lists: true,
                reports_progress: true,
                max_payload_bytes: None,
                max_task_time: None,
                max_concurrent_tasks: None,
            },
            latency: Duration::ZERO,
            errors: Mutex::default(),
            calls: Mutex::default(),
            limits: Mutex::default(),
        }
    }
}

impl Fake {
    pub(crate) fn taking(self, latency: Duration) -> Self {
        Self { latency, ..self }
    }

    pub(crate) fn failing(kinds: impl IntoIterator<Item = ErrorKind>) -> Self {
        let fake = Self::default();
        fake.fail(kinds);
        fake
    }

    pub(crate) fn answering(errors: impl IntoIterator<Item = Error>) -> Self {
        Self { errors: Mutex::new(errors.into_iter().collect()), ..Self::default() }
    }

    pub(crate) fn fail(&self, kinds: impl IntoIterator<Item = ErrorKind>) {
        let errors = kinds.into_iter().map(|kind| Error::new(kind, "as told"));
        self.errors.lock().unwrap().extend(errors);
    }

    pub(crate) fn times(&self, operation: &str) -> Vec<Instant> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|(name, _)| *name == operation).map(|(_, at)| *at).collect()
    }

    pub(crate) fn count(&self, operation: &str) -> usize {
        self.times(operation).len()
    }

    /// Limits that `wait` was called with.
    pub(crate) fn limits(&self) -> Vec<Duration> {
        self.limits.lock().unwrap().clone()
    }

    async fn answer<T>(&self, operation: &'static str, well: T) -> Result<T> {
        self.calls.lock().unwrap().push((operation, Instant::now()));
        tokio::time::sleep(self.latency).await;
        self.errors.lock().unwrap().pop_front().map_or(Ok(well), Err)
    }
}

#[async_trait]
impl ComputeProvider for Fake {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn price(&self) -> Result<PriceModel> {
        self.answer("price", PriceModel::free("a fake")).await
    }

    async fn health(&self) -> Result<Health> {
        self.answer("health", Health::Ready).await
    }

    async fn submit(&self, _: &Task) -> Result<TaskId> {
        self.answer("submit", id()).await
    }

    async fn wait(&self, _: &TaskId, seen: Revision, limit: Duration) -> Result<TaskState> {
        self.limits.lock().unwrap().push(limit);
        self.answer("wait", TaskState { revision: seen, phase: Phase::Running, events: vec![], usage: None }).await
    }

    async fn cancel(&self, _: &TaskId) -> Result<Cancelled> {
        self.answer("cancel", Cancelled::Stopped).await
    }

    async fn list(&self) -> Result<Vec<TaskSummary>> {
        self.answer("list", vec![]).await
    }
}

pub(crate) fn id() -> TaskId {
    TaskId("1".into())
}

pub(crate) fn task() -> Task {
    let model = Architecture { layers: vec![], input: vec![1] };
    let (weights, data) = (Digest::of(b"weights"), Digest::of(b"data"));
    let operation = Operation::Predict(PredictTask { model, weights, data });
    Task { key: "key".into(), job: "job".into(), attempt: "attempt".into(), operation, limit: None }
}
