//! The provider.

use std::{
    collections::HashMap,
    env,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use outboard_core::{
    ComputeProvider, Task, TaskId, code,
    error::{Error, ErrorKind, Result},
    provider::{Cancelled, Capabilities, Health, PriceModel, ProviderInfo, TaskSummary},
    task::{OperationKind, Phase, Revision, TaskState},
};
use outboard_store::{Bucket, FolderStore};
use tokio::{
    sync::{self, Semaphore},
    time::{Instant, sleep_until},
};

use crate::{
    Config,
    connection::Connection,
    follow::{Follow, Followed},
    invocation::{Invoker, MAX_INLINE},
    price,
    task_name::TaskName,
};

/// Tasks that are remembered; past that, those that have ended are forgotten.
const REMEMBERED: usize = 1024;
/// A function that was there is taken to be there for this long: many jobs at once ask once.
const READY_FOR: Duration = Duration::from_secs(5);

/// Where an attempt was handed over to, if it was. Whoever hands it over holds its lock.
pub(crate) type Place = Option<TaskId>;

/// Runs tasks as invocations of an AWS Lambda function.
#[derive(Debug)]
pub struct AwsLambdaProvider {
    info: ProviderInfo,
    capabilities: Capabilities,
    pub(crate) config: Arc<Config>,
    connection: Arc<Connection>,
    pub(crate) store: FolderStore,
    pub(crate) bucket: Option<Bucket>,
    turns: Arc<Semaphore>,
    /// When the function was there last. Whoever asks holds its lock.
    ready: sync::Mutex<Option<Instant>>,
    /// By id.
    followed: Mutex<HashMap<String, Arc<Followed>>>,
    /// By attempt.
    places: Mutex<HashMap<String, Arc<sync::Mutex<Place>>>>,
}

impl AwsLambdaProvider {
    /// The function of `config`, with the client's blobs in `store`, and what workers need in `bucket`. Without a bucket
    /// small blobs travel with the task, and what was promised is weaker. No request is made.
    ///
    /// # Errors
    /// `InvalidConfig` where a key is wrong.
    pub fn new(config: &Config, store: FolderStore, bucket: Option<Bucket>) -> Result<Self> {
        config.check()?;
        let connection = Arc::new(Connection::new(config)?);
        let variable = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
        let region =
            config.region.clone().or_else(|| variable("AWS_REGION")).or_else(|| variable("AWS_DEFAULT_REGION"));
        let Config { memory_mb, architecture, concurrency, .. } = config;
        let has_bucket = bucket.is_some();
        Ok(Self {
            info: ProviderInfo {
                id: "aws-lambda".into(),
                kind: "aws-lambda".into(),
                device: format!("{architecture} CPU, {memory_mb} MB"),
                region,
            },
            capabilities: Capabilities {
                operations: OperationKind::ALL.to_vec(),
                layers: outboard_engine::LAYERS.map(String::from).to_vec(),
                // Nothing ends an invocation before its time.
                cancels: false,
                lists: false,
                reports_progress: has_bucket,
                max_payload_bytes: (!has_bucket).then_some(MAX_INLINE as u64),
                max_task_time: Some(config.longest_task()),
                max_concurrent_tasks: Some(*concurrency),
            },
            turns: Arc::new(Semaphore::new(*concurrency as usize)),
            config: Arc::new(config.clone()),
            connection,
            store,
            bucket,
            ready: sync::Mutex::default(),
            followed: Mutex::default(),
            places: Mutex::default(),
        })
    }

    pub(crate) fn invoker(&self) -> Invoker {
        Invoker {
            config: self.config.clone(),
            connection: self.connection.clone(),
            store: self.store.clone(),
            bucket: self.bucket.clone(),
            turns: self.turns.clone(),
        }
    }

    fn place(&self, attempt: &str) -> Arc<sync::Mutex<Place>> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= REMEMBERED {
            let followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
            // What may be running must not be invoked again.
            places.retain(|_, place| {
                Arc::strong_count(place) > 1
                    || place.try_lock().is_ok_and(|place| place.as_ref().is_some_and(|id| followed.contains_key(&id.0)))
            });
        }
        places.entry(attempt.into()).or_default().clone()
    }

    pub(crate) fn remember(&self, follow: Follow) -> (TaskId, Arc<Followed>) {
        let id = follow.name.id();
        let mut all = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= REMEMBERED {
            all.retain(|_, followed| followed.state.try_lock().map_or(true, |follow| !follow.task.is_over()));
        }
        let followed = all.entry(id.0.clone()).or_insert_with(|| Arc::new(Followed::new(follow)));
        (id, followed.clone())
    }

    pub(crate) fn forget(&self, id: &TaskId) {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner).remove(&id.0);
    }

    /// What is known of a task; of one that an earlier client handed over, the bucket tells.
    fn find(&self, id: &TaskId) -> Result<Arc<Followed>> {
        if let Some(followed) = self.followed.lock().unwrap_or_else(PoisonError::into_inner).get(&id.0) {
            return Ok(followed.clone());
        }
        match TaskName::parse(id) {
            Some(name) if self.bucket.is_some() => {
                let follow = Follow::elsewhere(name, self.config.longest_invocation());
                Ok(self.remember(follow).1)
            }
            _ => {
                let message = format!("the aws-lambda provider knows nothing of the task `{id}`");
                let hint = "with a store (`[store] url`) a task is found though its client ended";
                Err(Error::new(ErrorKind::NotFound, message).with_provider("aws-lambda").hint(hint))
            }
        }
    }
}

#[async_trait]
impl ComputeProvider for AwsLambdaProvider {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn price(&self) -> Result<PriceModel> {
        let region = match &self.info.region {
            Some(region) => Some(region.clone()),
            None => self.connection.region().await,
        };
        price::price(&self.config, region.as_deref()).map_err(|error| error.or_code(code::PRICE))
    }

    async fn health(&self) -> Result<Health> {
        let mut ready = self.ready.lock().await;
        if ready.is_some_and(|at| at.elapsed() < READY_FOR) {
            return Ok(Health::Ready);
        }
        Ok(match self.connection.probe().await {
            Ok(()) => {
                *ready = Some(Instant::now());
                Health::Ready
            }
            Err(error) => Health::Unavailable(match error.advice() {
                Some(advice) => format!("{error}; {advice}"),
                None => error.to_string(),
            }),
        })
    }

    async fn submit(&self, task: &Task) -> Result<TaskId> {
        let place = self.place(&task.attempt);
        let mut place = place.lock().await;
        let handed = self.hand_over(task, &mut place).await;
        handed.map_err(|error| self.locate(error).with_operation("submit"))
    }

    async fn wait(&self, id: &TaskId, seen: Revision, limit: Duration) -> Result<TaskState> {
        let followed = self.find(id)?;
        let deadline = Instant::now().checked_add(limit);
        loop {
            let mut news = std::pin::pin!(followed.news.notified());
            news.as_mut().enable();
            let next = {
                let mut follow = followed.state.lock().await;
                let is_time = follow.answer.is_some() || Instant::now() >= follow.task.next_look();
                if !follow.task.is_over() && is_time {
                    self.look(&mut follow).await?;
                }
                if let Some(error) = self.not_known(&follow) {
                    return Err(error);
                }
                let is_late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
                if follow.task.revision() != seen || follow.task.is_over() || is_late {
                    return Ok(follow.task.state(seen));
                }
                // Without a bucket there is nothing to look at.
                self.bucket.is_some().then_some(follow.task.next_look())
            };
            let wake = [deadline, next].into_iter().flatten().min();
            tokio::select! {
                () = news => {}
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
    }

    async fn cancel(&self, id: &TaskId) -> Result<Cancelled> {
        let followed = self.find(id)?;
        let mut follow = followed.state.lock().await;
        if follow.waits() {
            follow.task.end(Phase::Cancelled, Some(Default::default()));
            followed.dropped.notify_one();
            followed.news.notify_waiters();
            return Ok(Cancelled::Stopped);
        }
        match follow.task.is_over() {
            true => Ok(Cancelled::Stopped),
            false => Ok(Cancelled::StillBilled { until: follow.task.left() }),
        }
    }

    async fn list(&self) -> Result<Vec<TaskSummary>> {
        Err(Error::new(ErrorKind::Unsupported, "Lambda doesn't list the invocations of a function")
            .with_provider("aws-lambda")
            .hint("`outboard jobs` lists what the ledger knows"))
    }
}
