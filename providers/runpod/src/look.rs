//! One look at a task: at RunPod, at the bucket if there is one, and at the workers if it waits.

use std::time::Duration;

use outboard_core::{
    error::{Error, ErrorKind, Result, Retry},
    task::{Phase, Timings, Usage},
};
use outboard_protocol::{InlineReply, TaskProgress, TaskRecord, TaskResult, envelope::Ending};
use outboard_store::{Bucket, Stage};
use tokio::time::{Instant, sleep};

use crate::{
    api::{HealthBody, Job, Status, Workers},
    diagnosis::Why,
    follow::Follow,
    price,
    provider::RunPodProvider,
};

/// How long the result of a cancelled worker is waited for, which ends its batch first.
pub(crate) const GRACE: Duration = Duration::from_secs(30);
/// How long a cancellation is waited for, and how often it is looked for.
const CONFIRM: Duration = Duration::from_secs(10);
const CONFIRM_EVERY: Duration = Duration::from_millis(200);
/// Bounds of the time between two looks at an endpoint's health.
const HEALTH: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

impl RunPodProvider {
    pub(crate) async fn look(&self, follow: &mut Follow) -> Result<()> {
        follow.task.begin_look();
        let before = follow.task.revision();
        self.look_closely(follow).await.map_err(|error| follow.locate(error))?;
        if follow.task.revision() != before {
            follow.task.hurry();
        }
        if let Stage::Ended(phase, _) = follow.task.stage() {
            self.launches.forget(&follow.id.attempt);
            let looks = follow.task.looks();
            tracing::debug!(looks, endpoint = follow.id.endpoint, job = follow.id.job, ?phase, "task ended");
        }
        Ok(())
    }

    async fn look_closely(&self, follow: &mut Follow) -> Result<()> {
        let job = self.job(follow).await;
        // Read after the job: what has ended has left its result by then.
        let record = match &self.bucket {
            Some(bucket) => bucket.result(&follow.id.key).await?,
            None => None,
        };
        if let Some(record) = record.filter(|record| follow.task.log.counts(record)) {
            let job = job.ok().flatten().unwrap_or_default();
            return self.take_record(follow, record, &job).await;
        }
        let job = job?;
        let is_over = job.as_ref().is_none_or(|job| job.status.is_final()) && !follow.is_elsewhere;
        if let Some(bucket) = &self.bucket
            && let Some(progress) = bucket.progress(&follow.id.key).await?
        {
            self.merge(bucket, follow, progress, is_over).await?;
        }
        match job {
            None if follow.is_elsewhere => self.look_elsewhere(follow),
            None => self.forgotten(follow),
            Some(job) => self.judge(follow, job).await?,
        }
        Ok(())
    }

    /// The job; none where RunPod doesn't know it.
    async fn job(&self, follow: &mut Follow) -> Result<Option<Job>> {
        let Some(id) = follow.id.job.as_deref().filter(|_| !follow.is_elsewhere) else { return Ok(None) };
        if let Some(job) = follow.answered.take() {
            return Ok(Some(job));
        }
        match self.connection.status(&follow.id.endpoint, id).await {
            Ok(job) => Ok(Some(job)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn merge(&self, bucket: &Bucket, follow: &mut Follow, progress: TaskProgress, is_over: bool) -> Result<()> {
        if follow.task.log.merge(bucket, progress, &self.store, is_over).await? {
            follow.task.runs();
        }
        Ok(())
    }

    /// A result lies in the bucket.
    async fn take_record(&self, follow: &mut Follow, record: TaskRecord, job: &Job) -> Result<()> {
        let Some(bucket) = &self.bucket else { return Ok(()) };
        if let Some(progress) = bucket.progress(&follow.id.key).await? {
            self.merge(bucket, follow, progress, true).await?;
        }
        match follow.task.log.collect(bucket, &record, &self.store).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let error = error.with_retry(Retry::Other);
                follow.fail(error, None);
            }
            Err(error) if error.kind() == ErrorKind::WorkerUnhealthy => follow.fail(error, None),
            collected => {
                collected?;
                self.finish(follow, record.result, job);
            }
        }
        Ok(())
    }

    fn finish(&self, follow: &mut Follow, result: TaskResult, job: &Job) {
        let TaskResult { ended, timings, .. } = result;
        let usage = self.usage(follow, timings, job);
        match ended {
            Ending::Finished(outcome) => follow.task.end(Phase::Finished(outcome), usage),
            Ending::Failed(failure) => follow.fail(failure.into(), usage),
            Ending::Cancelled => follow.task.end(Phase::Cancelled, usage),
        }
    }

    fn usage(&self, follow: &Follow, timings: Timings, job: &Job) -> Option<Usage> {
        // Where RunPod doesn't say, the worker's own time is what it took at least.
        let execution = job.execution().max(timings.running());
        let delay = match job.id.is_empty() {
            // RunPod doesn't know the job any more.
            true => self.config.start_time,
            false => job.delay(),
        };
        let mut billed = match job.was_taken() || !execution.is_zero() {
            true => price::billed(&self.config, delay, execution),
            // No worker has had it.
            false => Duration::ZERO,
        };
        if follow.is_twice {
            // The other job's worker started, was turned away, and stayed for its idle time-out.
            billed += price::billed(&self.config, self.config.start_time, Duration::ZERO);
        }
        let timings = Timings { queue: job.delay().as_secs_f64(), ..timings };
        let bytes_up = follow.task.log.bytes_up();
        Some(Usage { timings, billed: Some(billed), bytes_down: follow.bytes_down, bytes_up })
    }

    /// What RunPod says of the job, where no result lies in a bucket.
    async fn judge(&self, follow: &mut Follow, job: Job) -> Result<()> {
        let spent = |follow: &Follow| self.usage(follow, Timings::default(), &job);
        match &job.status {
            Status::Completed => return self.take_output(follow, job).await,
            Status::Failed => {
                let error = crate::parse_error::job_error(job.error.as_ref());
                let usage = spent(follow);
                follow.fail(error, usage);
            }
            Status::TimedOut => {
                let usage = spent(follow);
                let error = Error::new(
                    ErrorKind::WorkerUnhealthy,
                    "the worker fell silent: RunPod ended the job at its time limit",
                );
                let hint = "look at the worker's log in RunPod's console: it was killed or it hung, mostly";
                follow.fail(error.with_retry(Retry::Other).hint(hint), usage);
            }
            Status::Cancelled => {
                let since = *follow.cancelling.get_or_insert_with(Instant::now);
                let may_come = self.bucket.is_some() && job.was_taken();
                if !may_come || since.elapsed() >= GRACE {
                    let usage = spent(follow);
                    follow.task.end(Phase::Cancelled, usage);
                }
            }
            Status::InProgress => {
                follow.task.runs();
                self.watch_running(follow, job.worker()).await;
            }
            Status::InQueue | Status::Unstated | Status::Unknown(_) => {
                if let Status::Unknown(status) = &job.status {
                    tracing::debug!(status, "RunPod tells a status that isn't documented");
                }
                if follow.task.is_queued() {
                    self.watch_queued(follow).await;
                }
            }
        }
        Ok(())
    }

    /// The worker's reply is the job's output.
    async fn take_output(&self, follow: &mut Follow, job: Job) -> Result<()> {
        let reply = job.output.as_ref().map(|output| serde_json::from_value::<InlineReply>(output.clone()));
        let reply = match reply {
            Some(Ok(reply)) if reply.result.key == follow.id.key => reply,
            _ => {
                let error = Error::new(ErrorKind::WorkerUnhealthy, "the job's output isn't that of an Outboard worker")
                    .hint("let the endpoint run Outboard's worker: see providers/runpod/README.md");
                let usage = self.usage(follow, Timings::default(), &job);
                follow.fail(error, usage);
                return Ok(());
            }
        };
        if let Ending::Failed(failure) = &reply.result.ended
            && failure.kind == ErrorKind::Conflict
            && self.bucket.is_some()
        {
            // Another job of this task has the lease: its result is found by the key.
            follow.task.runs();
            follow.is_elsewhere = true;
            return Ok(());
        }
        let result = follow.task.log.take(reply, &self.store).await?;
        self.finish(follow, result, &job);
        Ok(())
    }

    /// Another job of this task runs, of which only the bucket tells.
    fn look_elsewhere(&self, follow: &mut Follow) {
        follow.task.runs();
        if follow.task.left().is_zero() {
            let error = Error::new(ErrorKind::WorkerUnhealthy, "the worker that had the task left no result");
            follow.fail(error.hint("look at the workers' logs in RunPod's console"), None);
        }
    }

    /// RunPod doesn't know a job that it has accepted.
    fn forgotten(&self, follow: &mut Follow) {
        if follow.cancelling.is_some() {
            return follow.task.end(Phase::Cancelled, None);
        }
        let error = Error::new(
            ErrorKind::Timeout,
            "RunPod no longer knows the job: its time to live is over, its result has expired, or it was lost",
        );
        let hint = "raise `start_within` if tasks wait for long; with a store (`[store] url`) results don't expire";
        follow.fail(error.with_retry(Retry::Other).hint(hint), None);
    }

    /// The task waits: why, and for how much longer.
    async fn watch_queued(&self, follow: &mut Follow) {
        let config = &self.config;
        let least =
            [config.crash_patience, config.throttled_patience, config.capacity_patience, config.cold_start_patience];
        let least = least.into_iter().min().unwrap_or_default();
        let Some((workers, _)) = self.workers(follow, least, None).await else { return };
        if let Some(error) = follow.watch.look(&workers, config, Instant::now()) {
            self.give_up(follow, error).await;
        }
    }

    /// The task runs: a worker that is dead posts nothing, and RunPod doesn't notice.
    async fn watch_running(&self, follow: &mut Follow, worker: Option<&str>) {
        let patience = self.config.lost_patience;
        let Some((workers, listed)) = self.workers(follow, patience, worker).await else { return };
        // The counts are the whole endpoint's: other jobs run on it too, perhaps.
        if listed.unwrap_or(workers.running > 0) {
            follow.lost = None;
            return;
        }
        let since = *follow.lost.get_or_insert_with(Instant::now);
        if since.elapsed() >= patience {
            let error = Error::new(ErrorKind::WorkerUnhealthy, "the worker that ran the task is gone")
                .at("for", format!("{:.0} s", since.elapsed().as_secs_f64().ceil()))
                .hint("look at its log in RunPod's console: it was killed, for memory mostly");
            self.give_up(follow, error).await;
        }
    }

    /// The workers of the task's endpoint, where it is time to look; and whether `worker` runs, where the key allows to
    /// list them.
    async fn workers(
        &self,
        follow: &mut Follow,
        patience: Duration,
        worker: Option<&str>,
    ) -> Option<(Workers, Option<bool>)> {
        let now = Instant::now();
        if now < follow.health_at {
            return None;
        }
        follow.health_at = now + (patience / 6).clamp(HEALTH[0], HEALTH[1]);
        let endpoint = &follow.id.endpoint;
        let mut workers = match self.connection.health(endpoint).await {
            Ok(health) => health.workers,
            // Not to be reached is not failed.
            Err(error) => {
                tracing::debug!(endpoint, %error, "the endpoint's health can't be seen");
                return None;
            }
        };
        let mut runs = None;
        if (worker.is_some() || !workers.work()) && self.may_list_workers() {
            match self.connection.workers(endpoint).await {
                Ok(list) => {
                    runs = worker
                        .map(|id| list.workers.iter().any(|listed| listed.id == id && listed.status == "RUNNING"));
                    workers.unhealthy = workers.unhealthy.max(list.summary.unhealthy);
                    workers.throttled = workers.throttled.max(list.summary.throttled);
                    workers.initializing = workers.initializing.max(list.summary.initializing);
                }
                Err(error) if matches!(error.retry(), Retry::Same { .. }) => {}
                Err(error) => {
                    tracing::debug!(endpoint, %error, "the key doesn't allow to list workers");
                    self.forbid_listing_workers();
                }
            }
        }
        Some((workers, runs))
    }

    /// Cancels a task that doesn't get on. Where it ended meanwhile, that counts.
    async fn give_up(&self, follow: &mut Follow, error: Error) {
        self.endpoints.rest(&follow.id.endpoint, Instant::now());
        match self.stop(follow).await {
            Ok(Some(job)) if job.status == Status::Cancelled => {
                let usage = self.usage(follow, Timings::default(), &job);
                follow.fail(error, usage);
            }
            // It came to something after all: the next look sees what.
            Ok(Some(job)) if job.status.is_final() => follow.answered = Some(job),
            Ok(None) => follow.fail(error, None),
            Ok(Some(_)) | Err(_) => {
                let until = follow.task.left();
                follow.fail(error.at("cancelling", "not confirmed").with_retry(Retry::Unknown { until }), None);
            }
        }
    }

    /// Cancels a job, and looks whether it is; none where RunPod doesn't know it.
    pub(crate) async fn stop(&self, follow: &Follow) -> Result<Option<Job>> {
        let Some(id) = follow.id.job.as_deref() else { return Ok(None) };
        let endpoint = &follow.id.endpoint;
        let found = |job: Result<Job>| match job {
            Ok(job) => Ok(Some(job)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        if found(self.connection.cancel(endpoint, id).await)?.is_none() {
            return Ok(None);
        }
        let began = Instant::now();
        loop {
            match found(self.connection.status(endpoint, id).await) {
                Ok(Some(job)) if !job.status.is_final() && began.elapsed() < CONFIRM => sleep(CONFIRM_EVERY).await,
                Err(error) if matches!(error.retry(), Retry::Same { .. }) && began.elapsed() < CONFIRM => {
                    sleep(CONFIRM_EVERY).await;
                }
                looked => return looked,
            }
        }
    }
}

/// What an endpoint says about a task that came now, if it says anything against it.
pub(crate) fn against(HealthBody { workers, jobs }: &HealthBody) -> Option<String> {
    let why = crate::diagnosis::why(workers);
    match why {
        // One that crashed and for which nobody waits isn't started again: it says nothing of the next.
        Why::Crashing if jobs.in_queue == 0 => None,
        Why::Crashing | Why::Throttled => {
            let (reason, hint) = why.words();
            Some(format!("{reason}; {hint}"))
        }
        Why::NoWorkers | Why::Starting | Why::Busy => None,
    }
}
