//! Calls per second, for each operation.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use async_trait::async_trait;
use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};
use outboard_core::{
    ComputeProvider, Result, Task, TaskId,
    provider::{Cancelled, Capabilities, Health, PriceModel, ProviderInfo, TaskSummary},
    task::{Revision, TaskState},
};
use tokio::{sync::Mutex, time::Instant};

/// How many calls in how much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// So many calls ...
    pub calls: NonZeroU32,
    /// ... in this time, evenly spread.
    pub per: Duration,
    /// Calls that may come at once after a pause.
    pub burst: NonZeroU32,
}

/// The rates of one provider; no limit where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// Of `submit`.
    pub submit: Option<Rate>,
    /// Of `wait`.
    pub wait: Option<Rate>,
    /// Of `cancel`.
    pub cancel: Option<Rate>,
    /// Of `price`, `health` and `list` together.
    pub query: Option<Rate>,
}

/// Makes each call wait for its permit; callers are served in the order in which they came.
///
/// The time until a permit comes is not part of the limit of `wait`.
#[derive(Debug)]
pub struct RateLimitProvider {
    inner: Arc<dyn ComputeProvider>,
    submit: Gate,
    wait: Gate,
    cancel: Gate,
    query: Gate,
}

impl RateLimitProvider {
    /// Calls `inner` no faster than `limits`.
    #[must_use]
    pub fn new(inner: Arc<dyn ComputeProvider>, limits: RateLimits) -> Self {
        Self {
            inner,
            submit: Gate::new(limits.submit),
            wait: Gate::new(limits.wait),
            cancel: Gate::new(limits.cancel),
            query: Gate::new(limits.query),
        }
    }
}

/// The runtime's clock: the governor's own would not stand still in tests that pause time.
#[derive(Clone, Debug)]
struct RuntimeClock(Instant);

impl Clock for RuntimeClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, RuntimeClock, NoOpMiddleware<Duration>>;

#[derive(Debug)]
struct Gate(Option<(Mutex<Limiter>, RuntimeClock)>);

impl Gate {
    fn new(rate: Option<Rate>) -> Self {
        // A rate without any time is no limit.
        let quota =
            rate.and_then(|rate| Some(Quota::with_period(rate.per / rate.calls.get())?.allow_burst(rate.burst)));
        Self(quota.map(|quota| {
            let clock = RuntimeClock(Instant::now());
            (Mutex::new(RateLimiter::direct_with_clock(quota, clock.clone())), clock)
        }))
    }

    async fn pass(&self) {
        let Some((limiter, clock)) = &self.0 else { return };
        // Held while waiting, so that callers queue here and the next permit is the first one's.
        let limiter = limiter.lock().await;
        while let Err(early) = limiter.check() {
            tokio::time::sleep(early.wait_time_from(clock.now())).await;
        }
    }
}

#[async_trait]
impl ComputeProvider for RateLimitProvider {
    fn info(&self) -> &ProviderInfo {
        self.inner.info()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    async fn price(&self) -> Result<PriceModel> {
        self.query.pass().await;
        self.inner.price().await
    }

    async fn health(&self) -> Result<Health> {
        self.query.pass().await;
        self.inner.health().await
    }

    async fn submit(&self, task: &Task) -> Result<TaskId> {
        self.submit.pass().await;
        self.inner.submit(task).await
    }

    async fn wait(&self, id: &TaskId, seen: Revision, limit: Duration) -> Result<TaskState> {
        self.wait.pass().await;
        self.inner.wait(id, seen, limit).await
    }

    async fn cancel(&self, id: &TaskId) -> Result<Cancelled> {
        self.cancel.pass().await;
        self.inner.cancel(id).await
    }

    async fn list(&self) -> Result<Vec<TaskSummary>> {
        self.query.pass().await;
        self.inner.list().await
    }

    async fn find_attempt(&self, attempt: &str, key: &str) -> Result<Option<TaskId>> {
        self.query.pass().await;
        self.inner.find_attempt(attempt, key).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, id, task};

    const SECOND: Duration = Duration::from_secs(1);

    fn rate(calls: u32, per: Duration, burst: u32) -> Option<Rate> {
        Some(Rate { calls: NonZeroU32::new(calls).unwrap(), per, burst: NonZeroU32::new(burst).unwrap() })
    }

    #[tokio::test(start_paused = true)]
    async fn calls_beyond_the_burst_are_spread_evenly() {
        let fake = Arc::new(Fake::default());
        let limits = RateLimits { submit: rate(10, 10 * SECOND, 2), ..RateLimits::default() };
        let provider = RateLimitProvider::new(fake.clone(), limits);
        let began = Instant::now();
        for _ in 0..4 {
            provider.submit(&task()).await.unwrap();
        }
        let at: Vec<_> = fake.times("submit").iter().map(|t| (*t - began).as_secs()).collect();
        assert_eq!(at, [0, 0, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn callers_at_once_keep_to_the_rate_and_to_their_turn() {
        let fake = Arc::new(Fake::default());
        let limits = RateLimits { submit: rate(1, SECOND, 1), ..RateLimits::default() };
        let provider = RateLimitProvider::new(fake.clone(), limits);
        let began = Instant::now();
        let after = async || {
            provider.submit(&task()).await.unwrap();
            began.elapsed().as_secs()
        };
        assert_eq!(tokio::join!(after(), after(), after(), after()), (0, 1, 2, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn each_operation_has_its_own_rate() {
        let limits = RateLimits {
            submit: rate(1, 100 * SECOND, 1),
            wait: rate(1, 10 * SECOND, 1),
            query: rate(1, SECOND, 1),
            cancel: None,
        };
        let provider = RateLimitProvider::new(Arc::new(Fake::default()), limits);
        let began = Instant::now();
        provider.submit(&task()).await.unwrap();
        provider.wait(&id(), Revision(0), SECOND).await.unwrap();
        provider.health().await.unwrap();
        for _ in 0..3 {
            provider.cancel(&id()).await.unwrap();
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        provider.price().await.unwrap();
        provider.list().await.unwrap();
        assert_eq!(began.elapsed(), 2 * SECOND);
        provider.wait(&id(), Revision(0), SECOND).await.unwrap();
        assert_eq!(began.elapsed(), 10 * SECOND);
    }
}
