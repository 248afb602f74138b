//! Counts and latencies.
//!
//! They go to the recorder that the program installs through the `metrics` crate, whose exporters (Prometheus, StatsD,
//! ...) then need nothing from us; without a recorder they cost next to nothing.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use outboard_core::{
    ComputeProvider, ErrorKind, Result, Task, TaskId,
    provider::{Cancelled, Capabilities, Health, PriceModel, ProviderInfo, TaskSummary},
    task::{Revision, TaskState},
};
use serde::Serialize;
use tokio::time::Instant;

/// A counter of calls with the labels `provider`, `operation` and `result`: `ok`, or the kind of the error.
pub const CALLS: &str = "outboard_provider_calls_total";

/// A histogram of the time that calls took, in seconds, with the labels `provider` and `operation`.
pub const SECONDS: &str = "outboard_provider_call_seconds";

/// Counts the calls of a provider and measures how long they take. A call that its caller drops isn't counted.
#[derive(Debug)]
pub struct MetricsProvider {
    inner: Arc<dyn ComputeProvider>,
}

impl MetricsProvider {
    /// Measures `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn ComputeProvider>) -> Self {
        Self { inner }
    }

    async fn measured<T>(&self, operation: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
        let began = Instant::now();
        let result = call.await;
        let provider = &self.inner.info().id;
        let label = result.as_ref().err().map_or_else(|| "ok".into(), |error| Name(error.kind()).to_string());
        metrics::counter!(CALLS, "provider" => provider.clone(), "operation" => operation, "result" => label)
            .increment(1);
        metrics::histogram!(SECONDS, "provider" => provider.clone(), "operation" => operation).record(began.elapsed());
        result
    }
}

/// An error kind as it is written in files and messages.
struct Name(ErrorKind);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.serialize(f)
    }
}

#[async_trait]
impl ComputeProvider for MetricsProvider {
    fn info(&self) -> &ProviderInfo {
        self.inner.info()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    async fn price(&self) -> Result<PriceModel> {
        self.measured("price", self.inner.price()).await
    }

    async fn health(&self) -> Result<Health> {
        self.measured("health", self.inner.health()).await
    }

    async fn submit(&self, task: &Task) -> Result<TaskId> {
        self.measured("submit", self.inner.submit(task)).await
    }

    async fn wait(&self, id: &TaskId, seen: Revision, limit: Duration) -> Result<TaskState> {
        self.measured("wait", self.inner.wait(id, seen, limit)).await
    }

    async fn cancel(&self, id: &TaskId) -> Result<Cancelled> {
        self.measured("cancel", self.inner.cancel(id)).await
    }

    async fn list(&self) -> Result<Vec<TaskSummary>> {
        self.measured("list", self.inner.list()).await
    }

    async fn find_attempt(&self, attempt: &str, key: &str) -> Result<Option<TaskId>> {
        self.measured("find_attempt", self.inner.find_attempt(attempt, key)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use metrics::{
        Counter, CounterFn, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    };

    use super::*;
    use crate::fake::{Fake, id, task};

    /// What was recorded, line by line.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    struct Line(String, Lines);

    impl Line {
        fn new(key: &Key, lines: &Lines) -> Arc<Self> {
            let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
            Arc::new(Self(format!("{} {}", key.name(), labels.join(" ")), lines.clone()))
        }

        fn push(&self, value: impl fmt::Display) {
            self.1.0.lock().unwrap().push(format!("{} {value}", self.0));
        }
    }

    impl CounterFn for Line {
        fn increment(&self, value: u64) {
            self.push(value);
        }

        fn absolute(&self, _: u64) {}
    }

    impl HistogramFn for Line {
        fn record(&self, value: f64) {
            self.push(value);
        }
    }

    impl Recorder for Lines {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(Line::new(key, self))
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }

        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::from_arc(Line::new(key, self))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn counts_and_measures_each_call_by_provider_operation_and_error() {
        let lines = Lines::default();
        let _recorder = metrics::set_default_local_recorder(&lines);
        let fake = Fake::failing([ErrorKind::RateLimited]).taking(Duration::from_secs(2));
        let provider = MetricsProvider::new(Arc::new(fake));
        assert_eq!(provider.submit(&task()).await.unwrap_err().kind(), ErrorKind::RateLimited);
        provider.wait(&id(), Revision(0), Duration::ZERO).await.unwrap();
        let expected = [
            "outboard_provider_calls_total provider=fake operation=submit result=rate_limited 1",
            "outboard_provider_call_seconds provider=fake operation=submit 2",
            "outboard_provider_calls_total provider=fake operation=wait result=ok 1",
            "outboard_provider_call_seconds provider=fake operation=wait 2",
        ];
        assert_eq!(*lines.0.lock().unwrap(), expected);
    }
}
