//! Tasks whose job isn't known: the reply to a submission was lost, or another job has the lease. Only the bucket tells of
//! them.

use std::time::Duration;

use outboard_core::{
    error::{Error, ErrorKind, Result, Retry},
    task::Timings,
};
use outboard_protocol::envelope::{encode, now};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    api::{HealthBody, Job},
    follow::Follow,
    job_id::JobId,
    provider::RunPodProvider,
};

/// How long an endpoint must have had no job until nobody believes that ours is there: its counts may come late.
const GONE: Duration = Duration::from_secs(5);

/// What lies in a lease.
#[derive(Serialize, Deserialize)]
struct Lease {
    attempt: String,
    since: u64,
    /// It was taken from here, so that no worker runs the task.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    withdrawn: bool,
}

impl RunPodProvider {
    /// A task without a job: it runs once somebody has its lease.
    pub(crate) async fn look_elsewhere(&self, follow: &mut Follow) -> Result<()> {
        if follow.task.left().is_zero() {
            let error = Error::new(ErrorKind::WorkerUnhealthy, "the worker that had the task left no result");
            follow.fail(error.hint("look at the workers' logs in RunPod's console"), None);
            return Ok(());
        }
        if let (true, Some(bucket)) = (follow.task.is_queued(), &self.bucket) {
            let Some(bytes) = bucket.holder(&follow.id.key).await? else { return self.watch_unseen(follow).await };
            if serde_json::from_slice::<Lease>(&bytes).is_ok_and(|lease| lease.withdrawn) {
                self.withdrawn(follow, never_taken());
                return Ok(());
            }
            follow.runs();
        }
        self.watch_running(follow, None).await;
        Ok(())
    }

    /// Nobody has taken the task, of which RunPod may never have heard. Where it waits its patience is that of every task;
    /// then it is kept from running, so that it can be handed over anew.
    async fn watch_unseen(&self, follow: &mut Follow) -> Result<()> {
        let patience = self.config.lost_patience;
        let Some((HealthBody { workers, jobs }, _)) = self.workers(follow, patience.min(GONE), None).await else {
            return Ok(());
        };
        let now = Instant::now();
        let has_jobs = jobs.in_queue + jobs.in_progress > 0;
        let error = if has_jobs && !workers.work() {
            follow.lost = None;
            follow.watch.look(&workers, &self.config, now)
        } else {
            let since = *follow.lost.get_or_insert(now);
            let patience = if has_jobs { patience } else { patience.min(GONE) };
            (now.saturating_duration_since(since) >= patience).then(never_taken)
        };
        let Some(error) = error else { return Ok(()) };
        match self.withdraw(&follow.id).await? {
            true => self.withdrawn(follow, error),
            // A worker was quicker.
            false => follow.runs(),
        }
        Ok(())
    }

    /// Takes the lease of a task that no worker has: none will run it. Whether that came in time.
    pub(crate) async fn withdraw(&self, id: &JobId) -> Result<bool> {
        let Some(bucket) = &self.bucket else { return Ok(false) };
        if !bucket.probed().await?.holds_conditions {
            return Ok(false);
        }
        let lease = Lease { attempt: id.attempt.clone(), since: now(), withdrawn: true };
        bucket.lease(&id.key, encode(&lease)?.into()).await
    }

    /// The task ends before it began. A worker that starts for it all the same is turned away, and paid for: that is charged.
    fn withdrawn(&self, follow: &mut Follow, error: Error) {
        tracing::debug!(attempt = follow.id.attempt, %error, "kept from running");
        let usage = self.usage(follow, Timings::default(), &Job::default());
        follow.fail(error, usage);
    }
}

fn never_taken() -> Error {
    Error::new(ErrorKind::Unavailable, "the reply to the task's submission was lost, and no worker has taken it")
        .with_retry(Retry::Same { after: None })
        .hint("check the network; the task is handed over anew")
}
