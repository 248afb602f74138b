//! Tries again what may be tried again.

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable};
use outboard_core::{
    ComputeProvider, Error, Result, Retry, Task, TaskId,
    provider::{Cancelled, Capabilities, Health, PriceModel, ProviderInfo, TaskSummary},
    task::{Revision, TaskState},
};
use tokio::time::Instant;

/// How often, how fast, how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetrySettings {
    /// Tries in all; 0 and 1 mean that nothing is tried again.
    pub tries: usize,
    /// Bound of the first delay; each next one is twice as long.
    pub first_delay: Duration,
    /// Bound of every delay.
    pub max_delay: Duration,
    /// No try begins later than this after the first.
    pub total_time: Duration,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            tries: 5,
            first_delay: Duration::from_millis(500),
            max_delay: Duration::from_secs(30),
            total_time: Duration::from_secs(120),
        }
    }
}

/// Tries again what failed with [`Retry::Same`], and nothing else.
///
/// Delays are exponential with full jitter, on top of the waiting time that the provider asked for. A `submit` is tried
/// again with the same attempt, which providers run once.
///
/// An error that still says `Same` when it comes out was tried as often as the settings allow; its context says how
/// often.
#[derive(Debug)]
pub struct RetryProvider {
    inner: Arc<dyn ComputeProvider>,
    settings: RetrySettings,
}

impl RetryProvider {
    /// Tries the calls of `inner` again.
    #[must_use]
    pub fn new(inner: Arc<dyn ComputeProvider>, settings: RetrySettings) -> Self {
        Self { inner, settings }
    }

    async fn retrying<T, F>(&self, operation: &'static str, mut call: impl FnMut() -> F + Send) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
    {
        let RetrySettings { tries, first_delay, max_delay, total_time } = self.settings;
        let delays = ExponentialBuilder::new()
            .with_factor(2.0)
            .with_min_delay(first_delay.min(max_delay))
            .with_max_delay(max_delay)
            .with_max_times(tries.saturating_sub(1));
        let began = Instant::now();
        let mut tried = 0;
        let result = (|| {
            tried += 1;
            call()
        })
        .retry(delays)
        .adjust(|error: &Error, bound| {
            let Retry::Same { after } = error.retry() else { return None };
            // backon's own jitter only lengthens delays: clients that failed together would come back together.
            let delay = after.unwrap_or_default().saturating_add(bound?.mul_f64(fastrand::f64()));
            (began.elapsed().saturating_add(delay) <= total_time).then_some(delay)
        })
        .notify(|error, delay| {
            let provider = &self.inner.info().id;
            tracing::debug!(%provider, operation, ?delay, kind = ?error.kind(), "trying again: {error}");
        })
        .await;
        result.map_err(|error| if tried > 1 { error.at("tries", tried) } else { error })
    }
}

#[async_trait]
impl ComputeProvider for RetryProvider {
    fn info(&self) -> &ProviderInfo {
        self.inner.info()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    async fn price(&self) -> Result<PriceModel> {
        self.retrying("price", || self.inner.price()).await
    }

    async fn health(&self) -> Result<Health> {
        self.retrying("health", || self.inner.health()).await
    }

    async fn submit(&self, task: &Task) -> Result<TaskId> {
        self.retrying("submit", || self.inner.submit(task)).await
    }

    async fn wait(&self, id: &TaskId, seen: Revision, limit: Duration) -> Result<TaskState> {
        let began = Instant::now();
        self.retrying("wait", || self.inner.wait(id, seen, limit.saturating_sub(began.elapsed()))).await
    }

    async fn cancel(&self, id: &TaskId) -> Result<Cancelled> {
        self.retrying("cancel", || self.inner.cancel(id)).await
    }

    async fn list(&self) -> Result<Vec<TaskSummary>> {
        self.retrying("list", || self.inner.list()).await
    }

    async fn find_attempt(&self, attempt: &str, key: &str) -> Result<Option<TaskId>> {
        self.retrying("find_attempt", || self.inner.find_attempt(attempt, key)).await
    }
}

#[cfg(test)]
mod tests {
    use outboard_core::ErrorKind;

    use super::*;
    use crate::fake::{Fake, id, task};

    const SECOND: Duration = Duration::from_secs(1);

    fn settings(tries: usize) -> RetrySettings {
        RetrySettings { tries, first_delay: SECOND, max_delay: 4 * SECOND, total_time: 600 * SECOND }
    }

    fn busy(after: Duration) -> Error {
        Error::new(ErrorKind::RateLimited, "too many requests").with_retry(Retry::Same { after: Some(after) })
    }

    fn delays(times: &[Instant]) -> Vec<Duration> {
        times.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn delays_grow_with_full_jitter_up_to_their_bound() {
        let bounds = [1, 2, 4, 4, 4].map(|n| n * SECOND);
        let mut shorter_than_half = 0;
        for _ in 0..50 {
            let fake = Arc::new(Fake::failing([ErrorKind::Unavailable; 5]));
            RetryProvider::new(fake.clone(), settings(6)).submit(&task()).await.unwrap();
            let found = delays(&fake.times("submit"));
            assert_eq!(found.len(), bounds.len());
            // Timers have a resolution of a millisecond.
            for (delay, bound) in found.iter().zip(bounds) {
                assert!(*delay <= bound + Duration::from_millis(1), "{found:?}");
                shorter_than_half += usize::from(*delay < bound / 2);
            }
        }
        // Half of 250; all but impossible to miss by 60.
        assert!((65..185).contains(&shorter_than_half), "{shorter_than_half}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_providers_own_waiting_time_is_a_lower_bound() {
        let fake = Arc::new(Fake::answering([busy(30 * SECOND), busy(20 * SECOND)]));
        RetryProvider::new(fake.clone(), settings(5)).submit(&task()).await.unwrap();
        let found = delays(&fake.times("submit"));
        assert!((30 * SECOND..32 * SECOND).contains(&found[0]), "{found:?}");
        assert!((20 * SECOND..23 * SECOND).contains(&found[1]), "{found:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_after_its_tries_with_the_last_error() {
        let fake = Arc::new(Fake::failing([ErrorKind::Unavailable; 9]));
        let error = RetryProvider::new(fake.clone(), settings(3)).submit(&task()).await.unwrap_err();
        assert_eq!(fake.count("submit"), 3);
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.report().contains("tries: 3"), "{}", error.report());
        for tries in [0, 1] {
            let fake = Arc::new(Fake::failing([ErrorKind::Unavailable; 9]));
            assert!(RetryProvider::new(fake.clone(), settings(tries)).submit(&task()).await.is_err());
            assert_eq!(fake.count("submit"), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_at_once_where_the_wait_would_pass_the_total_time() {
        let fake = Arc::new(Fake::answering([busy(601 * SECOND)]));
        let began = Instant::now();
        let error = RetryProvider::new(fake.clone(), settings(5)).submit(&task()).await.unwrap_err();
        assert_eq!((fake.count("submit"), began.elapsed()), (1, Duration::ZERO));
        assert_eq!(error.retry(), Retry::Same { after: Some(601 * SECOND) });
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_the_tries_counts() {
        let fake = Arc::new(Fake::failing([ErrorKind::Unavailable; 9]).taking(250 * SECOND));
        assert!(RetryProvider::new(fake.clone(), settings(9)).submit(&task()).await.is_err());
        assert_eq!(fake.count("submit"), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_retry_answer_decides() {
        let until = SECOND;
        for retry in [Retry::Never, Retry::Other, Retry::Unknown { until }] {
            let fake = Arc::new(Fake::answering([Error::new(ErrorKind::Unavailable, "no").with_retry(retry)]));
            let error = RetryProvider::new(fake.clone(), settings(5)).submit(&task()).await.unwrap_err();
            assert_eq!((fake.count("submit"), error.retry()), (1, retry));
            assert!(error.context().is_empty(), "{error:?}");
        }
        let same = Error::new(ErrorKind::JobFailed, "no").with_retry(Retry::Same { after: None });
        let fake = Arc::new(Fake::answering([same]));
        assert!(RetryProvider::new(fake.clone(), settings(5)).submit(&task()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn every_operation_is_tried_again_and_none_calls_another() {
        let fake = Arc::new(Fake::failing([ErrorKind::Unavailable]));
        let provider = RetryProvider::new(fake.clone(), settings(2));
        provider.price().await.unwrap();
        fake.fail([ErrorKind::Unavailable]);
        provider.health().await.unwrap();
        fake.fail([ErrorKind::Unavailable]);
        provider.cancel(&id()).await.unwrap();
        fake.fail([ErrorKind::Unavailable]);
        provider.list().await.unwrap();
        fake.fail([ErrorKind::Unavailable]);
        provider.wait(&id(), Revision(0), SECOND).await.unwrap();
        for operation in ["price", "health", "cancel", "list", "wait"] {
            assert_eq!(fake.count(operation), 2, "{operation}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_wait_gets_what_is_left_of_the_limit() {
        let fake = Arc::new(Fake::failing([ErrorKind::Unavailable]).taking(8 * SECOND));
        let provider = RetryProvider::new(fake.clone(), settings(2));
        provider.wait(&id(), Revision(0), 10 * SECOND).await.unwrap();
        let limits = fake.limits();
        assert_eq!(limits[0], 10 * SECOND);
        assert!(limits[1] <= 2 * SECOND, "{limits:?}");
    }
}
