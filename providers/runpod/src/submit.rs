//! Handing a task over.

use std::time::Duration;

use outboard_core::{
    Task,
    error::{Error, ErrorKind, Result, Retry},
    task::OperationKind,
};
use outboard_protocol::{Envelope, InlineRequest};
use outboard_store::{Bucket, inline::pack};
use serde::Serialize;
use tokio::{task::spawn_blocking, time::Instant};

use crate::{
    Config, api::Job, bucket, connection::Posted, follow::Follow, job_id::JobId, launches::Launched,
    provider::RunPodProvider,
};

/// What `run` and `runsync` take; RunPod's documentation of 2026-08-20.
const MAX_RUN: usize = 10_000_000;
const MAX_RUNSYNC: usize = 20_000_000;
/// Least and most of RunPod's time limits; the same documentation.
const LEAST_EXECUTION: Duration = Duration::from_secs(5);
const LEAST_TTL: Duration = Duration::from_secs(10);
const MOST: Duration = Duration::from_secs(7 * 86_400);
/// The least time for which `runsync` holds a request.
const SYNC_WAIT: Duration = Duration::from_secs(1);
/// Tasks that are this short are worth a wait for their end.
const SHORT: Duration = Duration::from_secs(30);

/// A job's `policy`, in milliseconds. It ends what nobody else ends.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    execution_timeout: u64,
    ttl: u64,
}

#[derive(Serialize)]
struct Body<'a> {
    input: &'a InlineRequest,
    policy: Policy,
}

/// How long a task may be there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    execution: Duration,
    pub(crate) ttl: Duration,
}

impl Limits {
    /// Of a task's own limit, which it must have: what bills by time must end.
    pub(crate) fn of(task: &Task, config: &Config) -> Result<Self> {
        let Some(limit) = task.limit else {
            return Err(Error::invalid("a task on RunPod needs a time limit, since it is paid by time")
                .at("task", &task.key)
                .hint("give the task a `limit`"));
        };
        if limit > config.max_task_time {
            let message = format!("a task of {limit:?} is longer than `max_task_time`, {:?}", config.max_task_time);
            return Err(Error::invalid(message)
                .at("task", &task.key)
                .hint("make the task shorter")
                .with_retry(Retry::Other));
        }
        let execution = limit.saturating_add(config.transfer_time).max(LEAST_EXECUTION);
        let ttl = execution.saturating_add(config.start_within).max(LEAST_TTL);
        if ttl > MOST {
            let message = format!("a task of {limit:?} is longer than RunPod's week, with what is around it");
            return Err(Error::invalid(message)
                .hint("lower `providers.runpod.max_task_time`")
                .with_retry(Retry::Other));
        }
        Ok(Self { execution, ttl })
    }

    fn policy(self) -> Policy {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Policy { execution_timeout: ms(self.execution), ttl: ms(self.ttl) }
    }
}

impl RunPodProvider {
    /// An attempt that was sent before. It isn't sent again, not even when its time is over: what is reserved covers one
    /// start and one execution.
    pub(crate) async fn find_sent(&self, task: &Task, Launched { id, left }: Launched) -> Result<Follow> {
        if id.job.is_some() {
            return Ok(Follow::new(id, left));
        }
        let lost = |error: Error| error.with_retry(Retry::Unknown { until: left });
        if let Some(bucket) = &self.bucket {
            if bucket.probed().await.map_err(lost)?.holds_conditions {
                return Ok(Follow::new(id, left));
            }
            if let Some(follow) = self.find_by_key(bucket, task, left).await.map_err(lost)? {
                return Ok(follow);
            }
        }
        let message = "the attempt may be running on RunPod: the reply to its submission was lost";
        Err(lost(Error::new(ErrorKind::Unavailable, message).hint(
            "wait until its time is over; with a store (`[store] url`) that holds conditional puts it would be found",
        )))
    }

    async fn find_by_key(&self, bucket: &Bucket, task: &Task, left: Duration) -> Result<Option<Follow>> {
        // Where nobody knows where it runs, any of them stands for it.
        let some = self.endpoints.all().first().map_or("", |endpoint| endpoint.id.as_str());
        Ok(bucket::find(bucket, task, some).await?.map(|id| Follow::new(id, left)))
    }

    /// Hands a task over that has a bucket as its store: found by its key if it is there already.
    pub(crate) async fn submit_by_bucket(&self, bucket: &Bucket, task: &Task, limits: Limits) -> Result<Follow> {
        let probe = bucket.probed().await?;
        if let Some(follow) = self.find_by_key(bucket, task, limits.ttl).await? {
            return Ok(follow);
        }
        let order = self.endpoints.in_turn(Instant::now());
        let envelope = Envelope::new(task.clone(), self.config.start_within, self.config.patience);
        let prepared = bucket.prepare(envelope, &self.store, limits.execution, limits.ttl);
        // Nothing is handed over yet: the wrappers' deadline would have to say that it may be.
        let envelope = tokio::time::timeout(self.config.transfer_timeout, prepared).await.unwrap_or_else(|_| {
            let message = format!("the task's blobs did not reach the store within {:?}", self.config.transfer_timeout);
            Err(Error::new(ErrorKind::Timeout, message).hint("raise `providers.runpod.transfer_timeout`"))
        })?;
        let body = encode(&InlineRequest { envelope, blobs: Vec::new() }, limits)?;
        let follow = match self.post(task, limits, &order, &body, None).await? {
            // Whether RunPod has it, its lease will tell. Sent again it could cost another start, which nobody reserved.
            (endpoint, Posted::Lost(error)) if probe.holds_conditions => {
                tracing::debug!(attempt = task.attempt, endpoint, %error, "the reply to a submission was lost");
                Follow::new(JobId::unnamed(&endpoint, task), limits.ttl)
            }
            posted => self.accepted(task, limits, posted)?,
        };
        bucket::note(bucket, &follow.id).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "where the task is could not be noted in the store");
        });
        Ok(Follow { bytes_down: self.sizes(&task.operation.needs()), ..follow })
    }

    /// Hands a task over with its blobs beside it.
    pub(crate) async fn submit_inline(&self, task: &Task, limits: Limits) -> Result<Follow> {
        let envelope = Envelope::new(task.clone(), self.config.start_within, self.config.patience);
        let (needs, store) = (task.operation.needs(), self.store.clone());
        let blobs = spawn_blocking(move || {
            needs.iter().map(|digest| pack(&store, digest, MAX_RUNSYNC)).collect::<Result<Vec<_>>>()
        });
        let blobs = blobs.await.map_err(|e| Error::new(ErrorKind::Unexpected, "a thread ended early").because(e))??;
        let sizes = blobs.iter().map(|blob| blob.data.len() as u64).sum();
        let body = encode(&InlineRequest { envelope, blobs }, limits)?;
        if body.len() > MAX_RUNSYNC {
            let message = format!("the task has {} bytes, but without a store RunPod takes {MAX_RUNSYNC}", body.len());
            return Err(Error::new(ErrorKind::PayloadTooLarge, message).hint("configure a store: `[store] url`"));
        }
        let is_short = task.operation.kind() != OperationKind::Train && task.limit.is_some_and(|limit| limit <= SHORT);
        let wait = (is_short || body.len() > MAX_RUN).then_some(SYNC_WAIT);
        let order = self.endpoints.in_turn(Instant::now());
        let posted = self.post(task, limits, &order, &body, wait).await?;
        let follow = self.accepted(task, limits, posted)?;
        Ok(Follow { bytes_down: sizes, ..follow })
    }

    /// Tries one endpoint after the other, until one has the job or may have it. Each try is noted before it is made.
    async fn post(
        &self,
        task: &Task,
        limits: Limits,
        order: &[&str],
        body: &[u8],
        wait: Option<Duration>,
    ) -> Result<(String, Posted)> {
        let mut refused = None;
        for endpoint in order {
            self.launches.note(&JobId::unnamed(endpoint, task), limits.ttl)?;
            match self.connection.post(endpoint, body.to_vec(), wait).await {
                Posted::Refused(error) => {
                    let is_its_own = matches!(
                        error.kind(),
                        ErrorKind::RateLimited | ErrorKind::NotFound | ErrorKind::PermissionDenied
                    );
                    let error = error.at("endpoint", endpoint);
                    if !is_its_own {
                        refused = Some(((*endpoint).to_string(), error));
                        break;
                    }
                    self.endpoints.rest(endpoint, Instant::now());
                    refused.get_or_insert(((*endpoint).to_string(), error));
                }
                posted => return Ok(((*endpoint).into(), posted)),
            }
        }
        self.launches.forget(&task.attempt);
        let (endpoint, error) = refused.unwrap_or_else(|| {
            (String::new(), Error::new(ErrorKind::InvalidConfig, "the runpod provider has no endpoints"))
        });
        Ok((endpoint, Posted::Refused(error)))
    }

    fn accepted(&self, task: &Task, limits: Limits, (endpoint, posted): (String, Posted)) -> Result<Follow> {
        match posted {
            Posted::Accepted(job) => {
                let id = JobId { job: Some(job.id.clone()), ..JobId::unnamed(&endpoint, task) };
                self.launches.note(&id, limits.ttl).unwrap_or_else(|error| {
                    tracing::warn!(%error, "where the task is could not be noted");
                });
                let answered: Option<Job> = job.status.is_final().then_some(*job);
                Ok(Follow { answered, ..Follow::new(id, limits.ttl) })
            }
            Posted::Refused(error) => Err(error),
            // RunPod forgets it by then, whatever became of it.
            Posted::Lost(error) => Err(error.at("endpoint", endpoint).with_retry(Retry::Unknown { until: limits.ttl })),
        }
    }

    fn sizes(&self, needs: &[outboard_core::Digest]) -> u64 {
        let size = |digest| std::fs::metadata(self.store.path(digest)).map_or(0, |facts| facts.len());
        needs.iter().map(size).sum()
    }
}

fn encode(request: &InlineRequest, limits: Limits) -> Result<Vec<u8>> {
    outboard_protocol::envelope::encode(&Body { input: request, policy: limits.policy() })
}
