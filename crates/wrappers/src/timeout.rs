//! A deadline on every call.

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use outboard_core::{
    ComputeProvider, Error, ErrorKind, Result, Retry, Task, TaskId,
    provider::{Cancelled, Capabilities, Health, PriceModel, ProviderInfo, TaskSummary},
    task::{Revision, TaskState},
};

/// How long calls may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutSettings {
    /// `price`, `health` and `list`.
    pub query: Duration,
    /// `submit`.
    pub submit: Duration,
    /// `cancel`, which may wait for the end of a batch.
    pub cancel: Duration,
    /// `wait` beyond its own limit.
    pub wait_grace: Duration,
    /// How long a task may run whose `submit` got no answer, where the provider's capabilities name no bound.
    pub assumed_task_time: Duration,
}

impl Default for TimeoutSettings {
    fn default() -> Self {
        Self {
            query: Duration::from_secs(10),
            submit: Duration::from_secs(60),
            cancel: Duration::from_secs(30),
            wait_grace: Duration::from_secs(15),
            assumed_task_time: Duration::from_secs(3600),
        }
    }
}

/// Ends every call at its deadline, with `Timeout`.
///
/// A `submit` without an answer may have been accepted, so its error says [`Retry::Unknown`]; all other calls may be
/// made again.
#[derive(Debug)]
pub struct TimeoutProvider {
    inner: Arc<dyn ComputeProvider>,
    settings: TimeoutSettings,
}

impl TimeoutProvider {
    /// Deadlines for the calls of `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn ComputeProvider>, settings: TimeoutSettings) -> Self {
        Self { inner, settings }
    }

    async fn within<T>(
        &self,
        limit: Duration,
        operation: &'static str,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
            let provider = &self.inner.info().id;
            Err(Error::new(ErrorKind::Timeout, format!("the provider `{provider}` gave no answer within {limit:?}"))
                .with_provider(provider)
                .with_operation(operation))
        })
    }
}

#[async_trait]
impl ComputeProvider for TimeoutProvider {
    fn info(&self) -> &ProviderInfo {
        self.inner.info()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    async fn price(&self) -> Result<PriceModel> {
        self.within(self.settings.query, "price", self.inner.price()).await
    }

    async fn health(&self) -> Result<Health> {
        self.within(self.settings.query, "health", self.inner.health()).await
    }

    async fn submit(&self, task: &Task) -> Result<TaskId> {
        // An error of the provider's own says itself whether the task may be running.
        let answer = self.within(self.settings.submit, "submit", async { Ok(self.inner.submit(task).await) }).await;
        let until = self.inner.capabilities().max_task_time.unwrap_or(self.settings.assumed_task_time);
        answer.map_err(|timeout| timeout.with_retry(Retry::Unknown { until }))?
    }

    async fn wait(&self, id: &TaskId, seen: Revision, limit: Duration) -> Result<TaskState> {
        let grace = limit.saturating_add(self.settings.wait_grace);
        self.within(grace, "wait", self.inner.wait(id, seen, limit)).await
    }

    async fn cancel(&self, id: &TaskId) -> Result<Cancelled> {
        self.within(self.settings.cancel, "cancel", self.inner.cancel(id)).await
    }

    async fn list(&self) -> Result<Vec<TaskSummary>> {
        self.within(self.settings.query, "list", self.inner.list()).await
    }

    async fn find_attempt(&self, attempt: &str, key: &str) -> Result<Option<TaskId>> {
        self.within(self.settings.query, "find_attempt", self.inner.find_attempt(attempt, key)).await
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::fake::{Fake, id, task};

    fn around(fake: Fake) -> TimeoutProvider {
        TimeoutProvider::new(Arc::new(fake), TimeoutSettings::default())
    }

    #[tokio::test(start_paused = true)]
    async fn every_call_has_a_deadline() {
        let provider = around(Fake::default().taking(Duration::from_secs(86_400)));
        let retries = [
            provider.price().await.unwrap_err(),
            provider.health().await.unwrap_err(),
            provider.wait(&id(), Revision(0), Duration::from_secs(5)).await.unwrap_err(),
            provider.cancel(&id()).await.unwrap_err(),
            provider.list().await.unwrap_err(),
        ];
        for error in retries {
            assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
            assert_eq!(error.retry(), Retry::Same { after: None }, "{error:?}");
            assert_eq!(error.provider(), Some("fake"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_submit_without_an_answer_may_be_running() {
        let error = around(Fake::default().taking(Duration::from_secs(61))).submit(&task()).await.unwrap_err();
        assert_eq!(error.retry(), Retry::Unknown { until: TimeoutSettings::default().assumed_task_time });

        let mut fake = Fake::default().taking(Duration::from_secs(61));
        fake.capabilities.max_task_time = Some(Duration::from_secs(7));
        let error = around(fake).submit(&task()).await.unwrap_err();
        assert_eq!(error.retry(), Retry::Unknown { until: Duration::from_secs(7) });
    }

    #[tokio::test(start_paused = true)]
    async fn the_providers_own_errors_pass_as_they_are() {
        let error = around(Fake::failing([ErrorKind::Timeout])).submit(&task()).await.unwrap_err();
        assert_eq!(error.retry(), Retry::Same { after: None });
    }

    #[tokio::test(start_paused = true)]
    async fn wait_has_its_own_limit_and_some_grace() {
        let provider = around(Fake::default().taking(Duration::from_secs(310)));
        let began = Instant::now();
        assert!(provider.wait(&id(), Revision(0), Duration::from_secs(300)).await.is_ok());
        assert_eq!(began.elapsed(), Duration::from_secs(310));
        assert!(provider.wait(&id(), Revision(0), Duration::MAX).await.is_ok());
    }
}
