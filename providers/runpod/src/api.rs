//! What RunPod says, as far as it is of use here. Every field may be missing, and new ones may come.

use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Where a job stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Status {
    InQueue,
    InProgress,
    Completed,
    Failed,
    Cancelled,
    TimedOut,
    /// One that isn't documented, or none.
    #[default]
    Unstated,
    Unknown(String),
}

impl Status {
    fn of(name: &str) -> Self {
        match name {
            "IN_QUEUE" => Self::InQueue,
            "IN_PROGRESS" | "RUNNING" => Self::InProgress,
            "COMPLETED" => Self::Completed,
            "FAILED" => Self::Failed,
            "CANCELLED" => Self::Cancelled,
            "TIMED_OUT" => Self::TimedOut,
            other => Self::Unknown(other.into()),
        }
    }

    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled | Self::TimedOut)
    }
}

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Option::<String>::deserialize(d)?.map_or(Self::Unstated, |name| Self::of(&name)))
    }
}

/// A job.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) status: Status,
    /// Milliseconds from the submission to the start; none before it.
    delay_time: Option<f64>,
    /// Milliseconds from the start to the end.
    execution_time: Option<f64>,
    pub(crate) output: Option<Value>,
    pub(crate) error: Option<Value>,
    worker_id: Option<String>,
}

impl Job {
    pub(crate) fn delay(&self) -> Duration {
        ms(self.delay_time)
    }

    pub(crate) fn execution(&self) -> Duration {
        ms(self.execution_time)
    }

    /// Who has it.
    pub(crate) fn worker(&self) -> Option<&str> {
        self.worker_id.as_deref()
    }

    /// Whether a worker has had it.
    pub(crate) fn was_taken(&self) -> bool {
        self.worker_id.is_some() || self.delay_time.is_some()
    }
}

fn ms(value: Option<f64>) -> Duration {
    Duration::try_from_secs_f64(value.unwrap_or_default() / 1000.0).unwrap_or_default()
}

/// `/health`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct HealthBody {
    pub(crate) workers: Workers,
    pub(crate) jobs: Jobs,
}

/// Workers by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Workers {
    pub(crate) idle: u32,
    pub(crate) initializing: u32,
    pub(crate) ready: u32,
    pub(crate) running: u32,
    pub(crate) throttled: u32,
    pub(crate) unhealthy: u32,
}

impl Workers {
    /// Some take or run jobs.
    pub(crate) fn work(&self) -> bool {
        self.idle + self.ready + self.running > 0
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Jobs by state.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Jobs {
    pub(crate) in_queue: u32,
    pub(crate) in_progress: u32,
}

/// The REST API's list of workers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct WorkerList {
    pub(crate) workers: Vec<ListedWorker>,
    pub(crate) summary: Workers,
}

/// One of its workers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ListedWorker {
    pub(crate) id: String,
    pub(crate) status: String,
    uptime_seconds: Option<f64>,
}

impl ListedWorker {
    /// Whether it runs, and may have done so for this long: a crashed one is started again under its id.
    pub(crate) fn runs_since(&self, time: Duration) -> bool {
        /// Whole seconds, by another clock.
        const SLACK: Duration = Duration::from_secs(2);
        let up = self.uptime_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        self.status == "RUNNING" && up.is_none_or(|up| up + SLACK >= time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_was_started_again_is_another_one() {
        let listed = |text: &str| serde_json::from_str::<ListedWorker>(text).unwrap();
        let since = |text: &str| listed(text).runs_since(Duration::from_secs(10));
        assert!(since(r#"{"id":"w","status":"RUNNING","uptimeSeconds":9}"#));
        assert!(since(r#"{"id":"w","status":"RUNNING"}"#));
        assert!(!since(r#"{"id":"w","status":"RUNNING","uptimeSeconds":7}"#));
        assert!(!since(r#"{"id":"w","status":"IDLE","uptimeSeconds":20}"#));
    }

    /// Bodies as the documentation and published transcripts have them.
    #[test]
    fn what_was_seen_is_read() {
        let job = |text: &str| serde_json::from_str::<Job>(text).unwrap();
        let done = job(
            r#"{"delayTime":824,"executionTime":3391,"id":"sync-79","output":[{"seed":46578}],"status":"COMPLETED"}"#,
        );
        assert_eq!((done.delay(), done.execution()), (Duration::from_millis(824), Duration::from_millis(3391)));
        let failed = job(
            r#"{"delayTime":9862,"error":"name 'app' is not defined","executionTime":97,"id":"..","input":{},"status":"FAILED"}"#,
        );
        assert!(failed.status.is_final() && failed.output.is_none() && failed.was_taken());
        let queued = job(r#"{"id":"eaebd6e7-6a92-4bb8-a911-f996ac5ea99d","status":"IN_QUEUE"}"#);
        assert!(!queued.status.is_final() && !queued.was_taken());
        assert_eq!(job(r#"{"status":"RUNNING"}"#).status, Status::InProgress);
        assert_eq!(job(r#"{"status":"PAUSED","colour":1}"#).status, Status::Unknown("PAUSED".into()));
        assert!(!job(r#"{"status":"PAUSED"}"#).status.is_final() && !job("{}").status.is_final());
        assert_eq!(job(r#"{"status":null}"#).status, Status::Unstated);

        let health = r#"{"workers":{"idle":0,"initializing":0,"ready":0,"running":0,"throttled":0,"unhealthy":1},"jobs":{"completed":44,"failed":0,"inProgress":0,"inQueue":4,"retried":0}}"#;
        let health: HealthBody = serde_json::from_str(health).unwrap();
        assert_eq!((health.workers.unhealthy, health.jobs.in_queue), (1, 4));
        let little: HealthBody = serde_json::from_str(r#"{"workers":{"idle":1,"running":2}}"#).unwrap();
        assert!(little.workers.work() && !little.workers.is_empty());
    }
}
