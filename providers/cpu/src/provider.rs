//! The provider.

use std::{
    cell::Cell,
    collections::HashMap,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use outboard_core::{
    ComputeProvider, Digest, Event, Task, TaskId,
    error::{Error, ErrorKind, Result},
    provider::{Cancelled, Capabilities, Health, PriceModel, ProviderInfo, TaskSummary},
    task::{Operation, OperationKind, Outcome, Phase, Revision, TaskState, Timings, Usage},
};
use outboard_engine::{Blobs, execute};
use outboard_store::FolderStore;
use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::timeout,
};

use crate::Config;

/// Runs tasks on the local CPU, one after another.
#[derive(Debug)]
pub struct CpuProvider {
    info: ProviderInfo,
    capabilities: Capabilities,
    store: FolderStore,
    pool: Arc<ThreadPool>,
    /// One task per set of cores: two at once would both be slower.
    turn: Arc<Semaphore>,
    tasks: Mutex<HashMap<TaskId, Arc<Live>>>,
}

/// A task that was handed over.
#[derive(Debug)]
struct Live {
    key: String,
    stop: AtomicBool,
    /// Told when `stop` is set, for a task that waits for its turn.
    stopped: Notify,
    log: watch::Sender<Log>,
}

/// Everything that happened so far, in order.
#[derive(Debug, Default)]
struct Log {
    entries: Vec<Entry>,
    usage: Option<Usage>,
    ended: Option<Instant>,
}

#[derive(Debug)]
enum Entry {
    Started,
    Happened(Event),
    Ended(Phase),
}

impl Log {
    fn state(&self, seen: Revision) -> TaskState {
        let phase = match self.entries.last() {
            Some(Entry::Ended(phase)) => phase.clone(),
            Some(_) => Phase::Running,
            None => Phase::Queued,
        };
        // Revision n has seen n - 1 entries. One from elsewhere has seen nothing of this log.
        let from = (seen.0 as usize).saturating_sub(1);
        let new = self.entries.get(from..).unwrap_or(&self.entries);
        let events =
            new.iter().filter_map(|entry| if let Entry::Happened(event) = entry { Some(event.clone()) } else { None });
        TaskState { revision: self.revision(), phase, events: events.collect(), usage: self.usage }
    }

    fn revision(&self) -> Revision {
        Revision(self.entries.len() as u64 + 1)
    }

    fn is_ended(&self) -> bool {
        matches!(self.entries.last(), Some(Entry::Ended(_)))
    }

    fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    fn end(&mut self, phase: Phase, timings: Timings) {
        self.usage = Some(Usage::timed(timings));
        self.ended = Some(Instant::now());
        self.push(Entry::Ended(phase));
    }
}

/// Past so many tasks the old ones are forgotten.
const REMEMBERED: usize = 256;

/// How long an ended task is remembered at least, so that whoever asks late still gets the answer.
const KEPT: Duration = Duration::from_secs(60);

/// How long `cancel` waits for the end of a batch.
const CANCEL_WAIT: Duration = Duration::from_secs(10);

/// Nothing bounds a batch; none that is worth training on a CPU takes longer.
const LONGEST_BATCH: Duration = Duration::from_secs(3600);

impl CpuProvider {
    /// The local CPU, with blobs in `store`.
    ///
    /// # Errors
    /// `Unexpected` where the system gives no threads.
    pub fn new(config: &Config, store: FolderStore) -> Result<Self> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(config.threads)
            .thread_name(|i| format!("outboard-cpu-{i}"))
            .build()
            .map_err(|e| {
                Error::new(ErrorKind::Unexpected, "cannot start the threads of the cpu provider").because(e)
            })?;
        let threads = pool.current_num_threads();
        let info = ProviderInfo {
            id: "cpu".into(),
            kind: "cpu".into(),
            device: format!(
                "{} CPU, {threads} {}",
                std::env::consts::ARCH,
                if threads == 1 { "thread" } else { "threads" }
            ),
            region: None,
        };
        let capabilities = Capabilities {
            operations: vec![OperationKind::Train, OperationKind::Evaluate, OperationKind::Predict],
            layers: outboard_engine::LAYERS.map(String::from).to_vec(),
            cancels: true,
            lists: true,
            reports_progress: true,
            max_payload_bytes: None,
            max_task_time: None,
            max_concurrent_tasks: Some(1),
        };
        Ok(Self {
            info,
            capabilities,
            store,
            pool: Arc::new(pool),
            turn: Arc::new(Semaphore::new(1)),
            tasks: Mutex::default(),
        })
    }

    fn find(&self, id: &TaskId) -> Result<Arc<Live>> {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.get(id).cloned().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("the cpu provider knows no task `{id}`")).with_provider("cpu")
        })
    }
}

#[async_trait]
impl ComputeProvider for CpuProvider {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn price(&self) -> Result<PriceModel> {
        Ok(PriceModel::free("your own machine"))
    }

    async fn health(&self) -> Result<Health> {
        Ok(Health::Ready)
    }

    async fn submit(&self, task: &Task) -> Result<TaskId> {
        let id = TaskId(task.attempt.clone());
        let live = Arc::new(Live {
            key: task.key.clone(),
            stop: AtomicBool::new(false),
            stopped: Notify::new(),
            log: watch::Sender::default(),
        });
        {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            if tasks.contains_key(&id) {
                return Ok(id);
            }
            if tasks.len() >= REMEMBERED {
                tasks.retain(|_, task| task.log.borrow().ended.is_none_or(|ended| ended.elapsed() < KEPT));
            }
            tasks.insert(id.clone(), live.clone());
        }
        let (turn, pool, store) = (self.turn.clone(), self.pool.clone(), self.store.clone());
        let (operation, limit) = (task.operation.clone(), task.limit);
        let began = Instant::now();
        let span = tracing::info_span!("task", job = %task.job, attempt = %task.attempt, provider = "cpu");
        tokio::spawn(async move {
            let ended = live.clone();
            let _turn = tokio::select! {
                biased;
                // The semaphore is never closed, so a permit always comes.
                turn = turn.acquire_owned() => turn,
                () = live.stopped.notified() => {
                    ended.log.send_modify(|log| log.end(Phase::Cancelled, Timings::default()));
                    return;
                }
            };
            let queue = began.elapsed();
            let mut run =
                pin!(tokio::task::spawn_blocking(move || { span.in_scope(|| run(&live, &pool, &store, &operation)) }));
            let (finished, is_late) = match limit.map(|limit| timeout(limit, &mut run)) {
                Some(limited) => match limited.await {
                    Ok(finished) => (finished, false),
                    Err(_) => {
                        ended.stop.store(true, Ordering::Relaxed);
                        (run.await, true)
                    }
                },
                None => (run.await, false),
            };
            let (outcome, timings) = finished.unwrap_or_else(|panic| {
                let error = Error::new(ErrorKind::Unexpected, format!("the engine failed: {panic}"));
                (Err(error), Timings::default())
            });
            let outcome = if is_late { Outcome::at_limit(outcome, limit.unwrap_or_default()) } else { outcome };
            let timings = Timings { queue: queue.as_secs_f64(), ..timings };
            ended.log.send_modify(|log| log.end(phase(outcome), timings));
        });
        Ok(id)
    }

    async fn wait(&self, id: &TaskId, seen: Revision, limit: Duration) -> Result<TaskState> {
        let mut log = self.find(id)?.log.subscribe();
        let newer = log.wait_for(|log| log.revision() != seen);
        // Past the limit the state is as it was seen.
        let _ = timeout(limit, newer).await;
        let state = log.borrow().state(seen);
        Ok(state)
    }

    async fn cancel(&self, id: &TaskId) -> Result<Cancelled> {
        let live = self.find(id)?;
        live.stop.store(true, Ordering::Relaxed);
        live.stopped.notify_one();
        // The engine looks after every batch.
        let mut log = live.log.subscribe();
        Ok(match timeout(CANCEL_WAIT, log.wait_for(Log::is_ended)).await {
            Ok(_) => Cancelled::Stopped,
            Err(_) => Cancelled::StillBilled { until: LONGEST_BATCH },
        })
    }

    async fn list(&self) -> Result<Vec<TaskSummary>> {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let live = tasks.iter().filter(|(_, task)| !task.log.borrow().is_ended());
        Ok(live
            .map(|(id, task)| TaskSummary {
                id: id.clone(),
                key: task.key.clone(),
                running: !task.log.borrow().entries.is_empty(),
            })
            .collect())
    }
}

/// Blobs in a folder, for the engine's thread.
struct Folder<'a> {
    store: &'a FolderStore,
    /// Time spent on reading.
    loading: Cell<Duration>,
}

impl Blobs for Folder<'_> {
    fn get(&self, digest: &Digest) -> Result<Bytes> {
        let began = Instant::now();
        let read = self.store.map(digest);
        self.loading.set(self.loading.get() + began.elapsed());
        read
    }

    fn put(&self, bytes: Vec<u8>) -> Result<Digest> {
        self.store.write(&bytes)
    }
}

fn run(live: &Live, pool: &ThreadPool, store: &FolderStore, operation: &Operation) -> (Result<Outcome>, Timings) {
    if live.stop.load(Ordering::Relaxed) && operation.kind() != OperationKind::Train {
        return (Err(Error::new(ErrorKind::Cancelled, "the task was cancelled")), Timings::default());
    }
    live.log.send_modify(|log| log.push(Entry::Started));
    let began = Instant::now();
    let (outcome, load) = pool.install(|| {
        let blobs = Folder { store, loading: Cell::default() };
        let mut observe = |event| live.log.send_modify(|log| log.push(Entry::Happened(event)));
        let outcome = execute(operation, &blobs, &live.stop, &mut observe);
        (outcome, blobs.loading.get())
    });
    let compute = began.elapsed().saturating_sub(load);
    tracing::debug!(?load, ?compute, ok = outcome.is_ok(), "task ended");
    (outcome, Timings { load: load.as_secs_f64(), compute: compute.as_secs_f64(), ..Timings::default() })
}

fn phase(outcome: Result<Outcome>) -> Phase {
    match outcome {
        Ok(outcome) => Phase::Finished(outcome),
        Err(error) if error.kind() == ErrorKind::Cancelled => Phase::Cancelled,
        Err(error) => Phase::Failed(error.with_provider("cpu")),
    }
}
