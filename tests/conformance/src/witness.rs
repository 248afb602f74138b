//! Looks for secrets in everything that a provider says.

use std::{
    collections::BTreeSet,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use outboard_core::{
    ComputeProvider, Error, Result, Task, TaskId,
    provider::{Cancelled, Capabilities, Health, PriceModel, ProviderInfo, TaskSummary},
    task::{Phase, Revision, TaskState},
};

/// Where secrets appeared.
#[derive(Debug)]
pub(crate) struct Leaks {
    secrets: Vec<String>,
    places: Mutex<BTreeSet<String>>,
}

impl Leaks {
    pub(crate) fn new(secrets: Vec<String>) -> Self {
        Self { secrets, places: Mutex::default() }
    }

    pub(crate) fn is_watching(&self) -> bool {
        !self.secrets.is_empty()
    }

    /// Looks at `text`, which was found at `place`. The secret itself is not kept: reports are printed.
    pub(crate) fn look(&self, place: &str, text: &str) {
        for (n, _) in self.secrets.iter().enumerate().filter(|(_, secret)| text.contains(secret.as_str())) {
            let place = format!("secret {n} in {place}");
            self.places.lock().unwrap_or_else(PoisonError::into_inner).insert(place);
        }
    }

    pub(crate) fn places(&self) -> BTreeSet<String> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn look_at_error(&self, operation: &str, error: &Error) {
        self.look(&format!("Debug of an error of `{operation}`"), &format!("{error:?}"));
        self.look(&format!("an error message of `{operation}`"), &error.report());
    }
}

/// A provider under observation.
#[derive(Debug)]
pub(crate) struct Witness {
    inner: Arc<dyn ComputeProvider>,
    leaks: Arc<Leaks>,
    submitted: Mutex<Vec<TaskId>>,
}

impl Witness {
    pub(crate) fn new(inner: Arc<dyn ComputeProvider>, leaks: Arc<Leaks>) -> Self {
        leaks.look("Debug of a fresh provider", &format!("{inner:?}"));
        leaks.look("Debug of its info", &format!("{:?}", inner.info()));
        leaks.look("Debug of its capabilities", &format!("{:?}", inner.capabilities()));
        Self { inner, leaks, submitted: Mutex::default() }
    }

    pub(crate) fn submitted(&self) -> Vec<TaskId> {
        self.submitted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn look<T: Debug>(&self, operation: &str, result: Result<T>) -> Result<T> {
        match &result {
            Ok(answer) => self.leaks.look(&format!("Debug of an answer of `{operation}`"), &format!("{answer:?}")),
            Err(error) => self.leaks.look_at_error(operation, error),
        }
        result
    }
}

#[async_trait]
impl ComputeProvider for Witness {
    fn info(&self) -> &ProviderInfo {
        self.inner.info()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    async fn price(&self) -> Result<PriceModel> {
        self.look("price", self.inner.price().await)
    }

    async fn health(&self) -> Result<Health> {
        self.look("health", self.inner.health().await)
    }

    async fn submit(&self, task: &Task) -> Result<TaskId> {
        let id = self.look("submit", self.inner.submit(task).await)?;
        self.leaks.look("Debug of a provider with a task", &format!("{:?}", self.inner));
        self.submitted.lock().unwrap_or_else(PoisonError::into_inner).push(id.clone());
        Ok(id)
    }

    async fn wait(&self, id: &TaskId, seen: Revision, limit: Duration) -> Result<TaskState> {
        let state = self.look("wait", self.inner.wait(id, seen, limit).await)?;
        if let Phase::Failed(error) = &state.phase {
            self.leaks.look_at_error("wait", error);
        }
        Ok(state)
    }

    async fn cancel(&self, id: &TaskId) -> Result<Cancelled> {
        self.look("cancel", self.inner.cancel(id).await)
    }

    async fn list(&self) -> Result<Vec<TaskSummary>> {
        self.look("list", self.inner.list().await)
    }

    async fn find_attempt(&self, attempt: &str, key: &str) -> Result<Option<TaskId>> {
        self.look("find_attempt", self.inner.find_attempt(attempt, key).await)
    }
}
