//! The provider.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use outboard_core::{
    ComputeProvider, Task, TaskId,
    error::{Error, ErrorKind, Result},
    provider::{Cancelled, Capabilities, Health, PriceModel, ProviderInfo, TaskSummary},
    task::{OperationKind, Phase, Revision, TaskState, Timings},
};
use outboard_store::{Bucket, FolderStore};
use tokio::{
    sync,
    time::{Instant, sleep_until},
};

use crate::{
    Config,
    api::Job,
    catalogue::Prices,
    connection::Connection,
    endpoints::Endpoints,
    follow::Follow,
    job_id::JobId,
    launches::Launches,
    look::{GRACE, against},
    price,
    recording::Recording,
    submit::Limits,
};

/// Bytes of blobs that travel without a store: what base64 leaves of RunPod's 20 MB, with room for what is around them.
const MAX_INLINE: u64 = 14_000_000;
/// Tasks that are remembered; past that, those that have ended are forgotten.
const REMEMBERED: usize = 1024;

/// Runs tasks on RunPod's serverless endpoints.
#[derive(Debug)]
pub struct RunPodProvider {
    info: ProviderInfo,
    capabilities: Capabilities,
    pub(crate) config: Config,
    pub(crate) connection: Connection,
    pub(crate) endpoints: Endpoints,
    pub(crate) store: FolderStore,
    pub(crate) bucket: Option<Bucket>,
    pub(crate) launches: Launches,
    prices: Prices,
    /// By id.
    follows: Mutex<HashMap<String, Arc<sync::Mutex<Follow>>>>,
    /// By attempt. Whoever hands it over holds its lock.
    places: Mutex<HashMap<String, Place>>,
    cannot_list: AtomicBool,
}

/// The attempt's task, once it has been handed over.
type Place = Arc<sync::Mutex<Option<TaskId>>>;

impl RunPodProvider {
    /// The endpoints of `config`, with the client's blobs in `store`, and what workers need in `bucket`. Without a bucket
    /// small blobs travel with the job, and what was promised is weaker. No request is made.
    ///
    /// # Errors
    /// `InvalidConfig` where there is no endpoint or no key, or an address is wrong.
    pub fn new(config: &Config, store: FolderStore, bucket: Option<Bucket>) -> Result<Self> {
        let endpoints = Endpoints::new(&config.endpoints)?;
        let connection = Connection::new(config)?;
        let mut gpus: Vec<_> = config.endpoints.iter().map(|endpoint| endpoint.gpu.as_str()).collect();
        gpus.dedup();
        let has_bucket = bucket.is_some();
        Ok(Self {
            info: ProviderInfo { id: "runpod".into(), kind: "runpod".into(), device: gpus.join(", "), region: None },
            capabilities: Capabilities {
                operations: OperationKind::ALL.to_vec(),
                layers: outboard_engine::LAYERS.map(String::from).to_vec(),
                // A worker without a store can't hand back the checkpoint at which it stopped.
                cancels: has_bucket,
                lists: false,
                reports_progress: has_bucket,
                max_payload_bytes: (!has_bucket).then_some(MAX_INLINE),
                max_task_time: Some(config.max_task_time),
                max_concurrent_tasks: None,
            },
            config: config.clone(),
            connection,
            endpoints,
            launches: Launches::new(&store),
            prices: Prices::new(&store),
            store,
            bucket,
            follows: Mutex::default(),
            places: Mutex::default(),
            cannot_list: AtomicBool::new(false),
        })
    }

    /// As [`new`](Self::new), keeping what is said to RunPod and what it answers.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn recorded(config: &Config, store: FolderStore, bucket: Option<Bucket>) -> Result<(Self, Recording)> {
        let mut provider = Self::new(config, store, bucket)?;
        let recording = provider.connection.record(config);
        Ok((provider, recording))
    }

    pub(crate) fn may_list_workers(&self) -> bool {
        !self.cannot_list.load(Ordering::Relaxed)
    }

    pub(crate) fn forbid_listing_workers(&self) {
        self.cannot_list.store(true, Ordering::Relaxed);
    }

    fn place(&self, attempt: &str) -> Place {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= REMEMBERED {
            // The others are noted on disk.
            places.retain(|_, place| Arc::strong_count(place) > 1);
        }
        places.entry(attempt.into()).or_default().clone()
    }

    fn remember(&self, follow: Follow) -> TaskId {
        let id = follow.id.task_id();
        let mut follows = self.follows.lock().unwrap_or_else(PoisonError::into_inner);
        if follows.len() >= REMEMBERED {
            follows.retain(|_, follow| follow.try_lock().map_or(true, |follow| !follow.task.is_over()));
        }
        follows.entry(id.0.clone()).or_insert_with(|| Arc::new(sync::Mutex::new(follow)));
        id
    }

    /// What is known of a task; of one that an earlier client handed over, its id tells all.
    fn find(&self, id: &TaskId) -> Result<Arc<sync::Mutex<Follow>>> {
        if let Some(follow) = self.follows.lock().unwrap_or_else(PoisonError::into_inner).get(&id.0) {
            return Ok(follow.clone());
        }
        let known = JobId::parse(id).filter(|id| self.endpoints.all().iter().any(|known| known.id == id.endpoint));
        let Some(job) = known.filter(|id| id.job.is_some() || self.bucket.is_some()) else {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("the runpod provider has no endpoint with the task `{id}`"),
            )
            .with_provider("runpod")
            .hint("put its endpoint into `providers.runpod.endpoints` again"));
        };
        let longest = self.config.start_within + self.config.max_task_time + self.config.transfer_time;
        self.remember(Follow::new(job, longest));
        self.find_remembered(id)
    }

    fn find_remembered(&self, id: &TaskId) -> Result<Arc<sync::Mutex<Follow>>> {
        let follows = self.follows.lock().unwrap_or_else(PoisonError::into_inner);
        follows.get(&id.0).cloned().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("`{id}` is not the id of a task on RunPod")).with_provider("runpod")
        })
    }
}

#[async_trait]
impl ComputeProvider for RunPodProvider {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn price(&self) -> Result<PriceModel> {
        let catalogue = match self.config.usd_per_second {
            Some(_) => None,
            None => self.prices.current(&self.connection).await,
        };
        price::price(&self.config, catalogue.as_ref())
    }

    async fn health(&self) -> Result<Health> {
        let ids = self.endpoints.all().iter().map(|endpoint| endpoint.id.as_str());
        let answers = join_all(ids.clone().map(|id| self.connection.health(id))).await;
        let mut reasons = Vec::new();
        for (id, answer) in ids.zip(answers) {
            match answer.map(|health| (against(&health), health.jobs.in_queue)) {
                Ok((None, _)) => return Ok(Health::Ready),
                Ok((Some(reason), waiting)) => reasons.push(format!("endpoint {id}: {reason} ({waiting} jobs wait)")),
                Err(error) => match error.advice() {
                    Some(advice) => reasons.push(format!("endpoint {id}: {error}; {advice}")),
                    None => reasons.push(format!("endpoint {id}: {error}")),
                },
            }
        }
        Ok(Health::Unavailable(reasons.join("\n")))
    }

    async fn submit(&self, task: &Task) -> Result<TaskId> {
        let locate = |error: Error| error.with_provider("runpod").with_operation("submit");
        let limits = Limits::of(task, &self.config).map_err(locate)?;
        let place = self.place(&task.attempt);
        let mut place = place.lock().await;
        if let Some(id) = &*place {
            return Ok(id.clone());
        }
        let follow = match (self.launches.find(&task.attempt, &task.key).map_err(locate)?, &self.bucket) {
            (Some(launched), _) => self.find_sent(task, launched).await,
            (None, Some(bucket)) => self.submit_by_bucket(bucket, task, limits).await,
            (None, None) => self.submit_inline(task, limits).await,
        };
        let id = self.remember(follow.map_err(locate)?);
        *place = Some(id.clone());
        Ok(id)
    }

    async fn wait(&self, id: &TaskId, seen: Revision, limit: Duration) -> Result<TaskState> {
        let follow = self.find(id)?;
        let deadline = Instant::now().checked_add(limit);
        loop {
            let next = {
                let mut follow = follow.lock().await;
                let now = Instant::now();
                if !follow.task.is_over() && now >= follow.task.next_look() {
                    self.look(&mut follow).await?;
                }
                let is_late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
                if follow.task.revision() != seen || follow.task.is_over() || is_late {
                    return Ok(follow.task.state(seen));
                }
                follow.task.next_look()
            };
            sleep_until(deadline.map_or(next, |deadline| deadline.min(next))).await;
        }
    }

    async fn cancel(&self, id: &TaskId) -> Result<Cancelled> {
        let follow = self.find(id)?;
        let mut follow = follow.lock().await;
        if follow.task.is_over() {
            return Ok(Cancelled::Stopped);
        }
        if follow.is_elsewhere {
            follow.cancelling.get_or_insert_with(Instant::now);
            let locate = |error: Error| error.with_operation("cancel");
            if self.withdraw(&follow.id).await.map_err(|error| locate(follow.locate(error)))? {
                let usage = self.usage(&follow, Timings::default(), &Job::default());
                follow.task.end(Phase::Cancelled, usage);
                self.launches.forget(&follow.id.attempt);
                return Ok(Cancelled::Stopped);
            }
            // A worker has it, or had.
            self.look(&mut follow).await.map_err(locate)?;
            return Ok(match follow.task.is_over() {
                true => Cancelled::Stopped,
                false => Cancelled::StillBilled { until: follow.task.left() },
            });
        }
        // Noted first: where its reply is lost, RunPod may have stopped it all the same.
        follow.cancelling.get_or_insert_with(Instant::now);
        let stopped = self.stop(&follow).await.map_err(|error| follow.locate(error).with_operation("cancel"))?;
        follow.task.hurry();
        Ok(match stopped {
            None => Cancelled::Stopped,
            Some(job) if !job.status.is_final() => Cancelled::StillBilled { until: follow.task.left() },
            Some(job) if self.bucket.is_some() && !job.was_taken() => Cancelled::Stopped,
            // It ends its batch, and leaves its checkpoint in the store.
            Some(_) if self.bucket.is_some() => Cancelled::StillBilled { until: GRACE + self.config.idle_timeout },
            Some(_) => Cancelled::StillBilled { until: self.config.idle_timeout },
        })
    }

    async fn list(&self) -> Result<Vec<TaskSummary>> {
        Err(Error::new(ErrorKind::Unsupported, "RunPod doesn't list the jobs of an endpoint")
            .with_provider("runpod")
            .hint("`outboard jobs` lists what the ledger knows"))
    }

    /// By what this machine noted before it sent the attempt. Whether RunPod took it, is seen once it is looked at.
    async fn find_attempt(&self, attempt: &str, key: &str) -> Result<Option<TaskId>> {
        Ok(self.launches.find(attempt, key)?.map(|launched| launched.id.task_id()))
    }
}
