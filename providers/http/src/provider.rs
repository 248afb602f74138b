//! The provider.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures_util::future::join_all;
use outboard_core::{
    BlobStore, ComputeProvider, Digest, Event, Task, TaskId,
    error::{Error, ErrorKind, Result, Retry},
    money::NanoUsd,
    provider::{Cancelled, Capabilities, Health, PriceModel, ProviderInfo, TaskSummary},
    task::{OperationKind, Phase, Revision, TaskState, Timings, Usage},
};
use outboard_protocol::{
    Envelope, TaskResult,
    envelope::{Ending, StateMessage, WirePhase, WorkerHealth},
};
use outboard_store::FolderStore;
use reqwest::Url;
use tokio::sync;

use crate::{
    Config,
    choose::{answers, ask, choose, none_of, takes_more},
    connection::{Connection, LONGEST_POLL, Posted},
    endpoint::Endpoint,
    worker::{Crossed, Traffic, Worker},
};

/// Runs tasks on workers that are reached over HTTP.
#[derive(Debug)]
pub struct HttpProvider {
    info: ProviderInfo,
    /// What the engine can do.
    stated: Capabilities,
    /// What the workers can do, once all have said so.
    learned: OnceLock<Capabilities>,
    usd_per_hour: NanoUsd,
    start_within: Duration,
    patience: Duration,
    store: FolderStore,
    workers: Vec<Worker>,
    turn: AtomicUsize,
    /// By key: the worker that has the task, or may have it. Whoever hands the task over holds its lock.
    places: Mutex<HashMap<String, Place>>,
    /// By id: what crossed for a task so far.
    traffic: Mutex<HashMap<String, Traffic>>,
}

type Place = Arc<sync::Mutex<Option<usize>>>;

/// Places that are remembered; past that, workers are asked for those that nobody holds.
const REMEMBERED: usize = 1024;

impl HttpProvider {
    /// The workers of `config`, with the client's blobs in `store`. No request is made.
    ///
    /// # Errors
    /// `InvalidConfig` where there is no worker, or one has no good address or token.
    pub fn new(config: &Config, store: FolderStore) -> Result<Self> {
        let endpoints = Endpoint::all(config)?;
        let connect = |endpoint| Connection::new(endpoint, config).map(Worker::new);
        let workers = endpoints.into_iter().map(connect).collect::<Result<Vec<_>>>()?;
        let device = match &*workers {
            [worker] => format!("the worker at {}", worker.connection.url()),
            workers => format!("{} workers", workers.len()),
        };
        Ok(Self {
            info: ProviderInfo { id: "http".into(), kind: "http".into(), device, region: None },
            stated: Capabilities {
                operations: OperationKind::ALL.to_vec(),
                layers: outboard_engine::LAYERS.map(String::from).to_vec(),
                cancels: true,
                lists: true,
                reports_progress: true,
                max_payload_bytes: None,
                max_task_time: None,
                max_concurrent_tasks: None,
            },
            learned: OnceLock::new(),
            usd_per_hour: config.usd_per_hour,
            start_within: config.start_within,
            patience: config.patience,
            store,
            workers,
            turn: AtomicUsize::new(0),
            places: Mutex::default(),
            traffic: Mutex::default(),
        })
    }

    /// The worker that has a task, and where it has it.
    fn find(&self, id: &TaskId) -> Result<(&Worker, Url)> {
        let found = self.workers.iter().find_map(|worker| Some((worker, worker.connection.find(id)?)));
        found.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("the http provider has no worker with the task `{id}`"))
                .with_provider("http")
                .hint("put its worker into `providers.http.workers` again")
        })
    }

    fn place(&self, key: &str) -> Place {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= REMEMBERED {
            places.retain(|_, place| Arc::strong_count(place) > 1);
        }
        places.entry(key.into()).or_default().clone()
    }

    /// Counts what crossed for a task.
    fn count(&self, id: &str, count: impl FnOnce(&mut Traffic)) {
        let mut traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        if traffic.len() >= REMEMBERED && !traffic.contains_key(id) {
            traffic.clear();
        }
        count(traffic.entry(id.into()).or_default());
    }

    /// A task has ended: another attempt at it may go anywhere.
    fn release(&self, key: &str) {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// The worker that has the task, or else the one that should get it.
    async fn choose(&self, task: &Task) -> Result<usize> {
        // A single worker says by itself what there is against the task.
        if self.workers.len() == 1 {
            return Ok(0);
        }
        let needs = task.operation.needs();
        let asked = join_all(self.workers.iter().map(|worker| ask(worker, task, &needs))).await;
        self.learn(asked.iter().map(|answer| answer.as_ref().ok().map(|answer| &answer.health)));
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        choose(&self.workers, asked, &task.operation, turn)
    }

    /// Keeps what the workers say of themselves, once all have said it.
    fn learn<'a>(&self, healths: impl Iterator<Item = Option<&'a WorkerHealth>>) {
        let Some(healths) = healths.collect::<Option<Vec<_>>>().filter(|_| self.learned.get().is_none()) else {
            return;
        };
        let mut layers: Vec<String> = Vec::new();
        for layer in healths.iter().flat_map(|health| &health.layers) {
            if !layers.contains(layer) {
                layers.push(layer.clone());
            }
        }
        let max_running = healths.iter().fold(0, |sum: u32, health| sum.saturating_add(health.max_running));
        let _ = self.learned.set(Capabilities {
            layers,
            max_payload_bytes: healths.iter().map(|health| health.max_blob_bytes).max(),
            max_concurrent_tasks: Some(max_running),
            ..self.stated.clone()
        });
    }

    async fn hand_over(&self, worker: &Worker, envelope: &Envelope) -> Posted {
        let needs = envelope.task.operation.needs();
        let id = worker.connection.id(&envelope.task.key).0;
        match worker.send(&needs, &self.store).await {
            Ok(sent) => self.count(&id, |traffic| traffic.down += sent),
            Err(error) => return Posted::Unheard(error),
        }
        match worker.connection.post(envelope).await {
            Posted::Refused(error) => match missing(&error, &needs) {
                missing if missing.is_empty() => Posted::Refused(error),
                missing => {
                    worker.forget(&missing);
                    match worker.send(&missing, &self.store).await {
                        Ok(sent) => {
                            self.count(&id, |traffic| traffic.down += sent);
                            worker.connection.post(envelope).await
                        }
                        Err(error) => Posted::Unheard(error),
                    }
                }
            },
            posted => posted,
        }
    }

    /// The attempt may be running, but its worker can't be asked.
    fn unknown(&self, error: Error) -> Error {
        error.with_retry(Retry::Unknown { until: self.start_within })
    }

    /// A state as the trait has it, once all blobs that it names are here. Of several checkpoints only the last one is
    /// fetched; one that is not here isn't told.
    async fn receive(&self, worker: &Worker, id: &str, mut state: StateMessage) -> Result<TaskState> {
        let mut crossed = Crossed::default();
        if let WirePhase::Ended(result) = &state.phase
            && let Ending::Finished(outcome) = &result.ended
            && let Some(digest) = outcome.blob()
        {
            worker.fetch(&digest, &self.store, &mut crossed).await?;
        }
        let mut events = Vec::with_capacity(state.events.len());
        let mut has_newest = false;
        for event in state.events.into_iter().rev() {
            if let Event::Checkpoint(checkpoint) = &event {
                let is_here = match has_newest {
                    true => self.store.has(&checkpoint.digest).await?,
                    false => worker.fetch_if_held(&checkpoint.digest, &self.store, &mut crossed).await?,
                };
                has_newest = true;
                if !is_here {
                    continue;
                }
            }
            events.push(event);
        }
        events.reverse();
        state.events = events;
        self.count(id, |traffic| traffic.up += crossed);
        let mut usage = None;
        let phase = match state.phase {
            WirePhase::Queued => Phase::Queued,
            WirePhase::Running => Phase::Running,
            WirePhase::Ended(result) => {
                self.release(&result.key);
                let TaskResult { ended, timings, .. } = *result;
                let traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
                usage = Some(used(timings, traffic.unwrap_or_default()));
                tracing::debug!(?timings, worker = worker.connection.url(), "task ended");
                match ended {
                    Ending::Finished(outcome) => Phase::Finished(outcome),
                    Ending::Failed(failure) => Phase::Failed(worker.connection.locate(failure.into())),
                    Ending::Cancelled => Phase::Cancelled,
                }
            }
        };
        Ok(TaskState { revision: Revision(state.revision), phase, events: state.events, usage })
    }
}

#[async_trait]
impl ComputeProvider for HttpProvider {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        self.learned.get().unwrap_or(&self.stated)
    }

    async fn price(&self) -> Result<PriceModel> {
        Ok(match self.usd_per_hour {
            NanoUsd::ZERO => PriceModel::free("your own machine"),
            per_hour => PriceModel {
                per_hour,
                as_of: "as configured".into(),
                ..PriceModel::free("providers.http.usd_per_hour")
            },
        })
    }

    async fn health(&self) -> Result<Health> {
        let answers = join_all(self.workers.iter().map(|worker| worker.connection.health())).await;
        self.learn(answers.iter().map(|answer| answer.as_ref().ok()));
        let mut reasons = Vec::new();
        for (worker, answer) in self.workers.iter().zip(answers) {
            let url = worker.connection.url();
            match answer.and_then(|health| takes_more(&health)) {
                Ok(()) => return Ok(Health::Ready),
                Err(error) => match error.advice() {
                    Some(advice) => reasons.push(format!("{url}: {error}; {advice}")),
                    None => reasons.push(format!("{url}: {error}")),
                },
            }
        }
        Ok(Health::Unavailable(reasons.join("\n")))
    }

    async fn submit(&self, task: &Task) -> Result<TaskId> {
        let place = self.place(&task.key);
        let mut place = place.lock().await;
        let had = *place;
        let index = match had {
            Some(index) => index,
            None => self.choose(task).await?,
        };
        let worker = &self.workers[index];
        let _handing = worker.hand();
        let envelope = Envelope::new(task.clone(), self.start_within, self.patience);
        let (now, submitted) = match self.hand_over(worker, &envelope).await {
            Posted::Accepted => (Some(index), Ok(())),
            Posted::Refused(error) => (None, Err(error)),
            Posted::Unheard(error) if had.is_some() => (had, Err(self.unknown(error))),
            Posted::Unheard(error) => (None, Err(error)),
            Posted::Lost(error) => {
                tracing::debug!(attempt = task.attempt, worker = worker.connection.url(), %error, "asking for the task");
                let found = match worker.connection.known(&task.key).await {
                    Ok(state) if state.as_ref().is_some_and(|state| answers(state, &task.attempt)) => Ok(()),
                    // It isn't there, but might still come: only the same worker runs it once even so.
                    Ok(_) => Err(error),
                    Err(_) => Err(self.unknown(error)),
                };
                let is_elsewhere_next = found.as_ref().is_err_and(|error| error.retry() == Retry::Other);
                ((!is_elsewhere_next).then_some(index), found)
            }
        };
        *place = now;
        submitted.map(|()| worker.connection.id(&task.key)).map_err(|e| e.with_operation("submit"))
    }

    async fn wait(&self, id: &TaskId, seen: Revision, limit: Duration) -> Result<TaskState> {
        let (worker, task) = self.find(id)?;
        let began = Instant::now();
        let state = loop {
            let left = limit.saturating_sub(began.elapsed());
            let state = worker.connection.state(task.clone(), seen.0, left).await?;
            let is_news = state.revision != seen.0 || matches!(state.phase, WirePhase::Ended(_));
            if is_news || left <= LONGEST_POLL {
                break state;
            }
        };
        self.receive(worker, &id.0, state).await
    }

    async fn cancel(&self, id: &TaskId) -> Result<Cancelled> {
        let (worker, task) = self.find(id)?;
        Ok(match worker.connection.cancel(task).await?.phase {
            WirePhase::Ended(_) => Cancelled::Stopped,
            // What doesn't stop by itself is stopped once it counts as hung.
            WirePhase::Queued | WirePhase::Running => Cancelled::StillBilled { until: self.patience },
        })
    }

    async fn list(&self) -> Result<Vec<TaskSummary>> {
        let answers = join_all(self.workers.iter().map(|worker| worker.connection.list())).await;
        let (mut tasks, mut errors) = (Vec::new(), Vec::new());
        for (worker, answer) in self.workers.iter().zip(answers) {
            match answer {
                Ok(live) => tasks.extend(live.into_iter().map(|live| TaskSummary {
                    id: worker.connection.id(&live.key),
                    key: live.key,
                    running: live.running,
                })),
                Err(error) => {
                    tracing::warn!(worker = worker.connection.url(), %error, "its tasks are not listed");
                    errors.push(error);
                }
            }
        }
        if errors.len() == self.workers.len() { Err(none_of(errors)) } else { Ok(tasks) }
    }
}

/// What a task used: as its worker measured it, with the transfers as they were seen from here.
fn used(timings: Timings, Traffic { down, up }: Traffic) -> Usage {
    // The machine isn't busy with a task while its blobs cross.
    let billed = Some(Timings { download: 0.0, upload: 0.0, ..timings }.running());
    let timings = Timings { download: down.time.as_secs_f64(), upload: up.time.as_secs_f64(), ..timings };
    Usage { timings, billed, bytes_down: down.bytes, bytes_up: up.bytes }
}

/// The blobs that a worker says it misses.
fn missing(error: &Error, needs: &[Digest]) -> Vec<Digest> {
    let named = error.context().iter().filter(|(what, _)| what == "blob").filter_map(|(_, value)| value.parse().ok());
    named.filter(|digest| error.kind() == ErrorKind::NotFound && needs.contains(digest)).collect()
}
