//! The provider.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use outboard_core::{
    ComputeProvider, Digest, Event, Task, TaskId,
    error::{Error, ErrorKind, Result},
    provider::{Cancelled, Capabilities, Health, PriceModel, ProviderInfo, TaskSummary},
    task::{Operation, OperationKind, Phase, Revision, TaskState},
};
use outboard_engine::{Blobs, execute};
use outboard_store::FolderStore;
use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::sync::{Notify, Semaphore, watch};

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
struct Log(Vec<Entry>);

#[derive(Debug)]
enum Entry {
    Started,
    Happened(Event),
    Ended(Phase),
}

impl Log {
    fn state(&self, seen: Revision) -> TaskState {
        let phase = match self.0.last() {
            Some(Entry::Ended(phase)) => phase.clone(),
            Some(_) => Phase::Running,
            None => Phase::Queued,
        };
        // Revision n has seen n - 1 entries. One from elsewhere has seen nothing of this log.
        let from = (seen.0 as usize).saturating_sub(1);
        let new = self.0.get(from..).unwrap_or(&self.0);
        let events =
            new.iter().filter_map(|entry| if let Entry::Happened(event) = entry { Some(event.clone()) } else { None });
        TaskState { revision: self.revision(), phase, events: events.collect() }
    }

    fn revision(&self) -> Revision {
        Revision(self.0.len() as u64 + 1)
    }

    fn is_ended(&self) -> bool {
        matches!(self.0.last(), Some(Entry::Ended(_)))
    }
}

/// Ended tasks that are remembered, so that whoever asks late still gets the answer.
const REMEMBERED: usize = 256;

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
                tasks.retain(|_, task| !task.log.borrow().is_ended());
            }
            tasks.insert(id.clone(), live.clone());
        }
        let (turn, pool, store, operation) =
            (self.turn.clone(), self.pool.clone(), self.store.clone(), task.operation.clone());
        let span = tracing::info_span!("task", job = %task.job, attempt = %task.attempt, provider = "cpu");
        tokio::spawn(async move {
            let ended = live.clone();
            let _turn = tokio::select! {
                biased;
                // The semaphore is never closed, so a permit always comes.
                turn = turn.acquire_owned() => turn,
                () = live.stopped.notified() => {
                    ended.log.send_modify(|log| log.0.push(Entry::Ended(Phase::Cancelled)));
                    return;
                }
            };
            let run =
                tokio::task::spawn_blocking(move || span.in_scope(|| run(&live, &pool, &store, &operation))).await;
            let phase = run.unwrap_or_else(|panic| {
                Phase::Failed(
                    Error::new(ErrorKind::Unexpected, format!("the engine failed: {panic}")).with_provider("cpu"),
                )
            });
            ended.log.send_modify(|log| log.0.push(Entry::Ended(phase)));
        });
        Ok(id)
    }

    async fn wait(&self, id: &TaskId, seen: Revision, limit: Duration) -> Result<TaskState> {
        let mut log = self.find(id)?.log.subscribe();
        let newer = log.wait_for(|log| log.revision() != seen);
        // Past the limit the state is as it was seen.
        let _ = tokio::time::timeout(limit, newer).await;
        let state = log.borrow().state(seen);
        Ok(state)
    }

    async fn cancel(&self, id: &TaskId) -> Result<Cancelled> {
        let live = self.find(id)?;
        live.stop.store(true, Ordering::Relaxed);
        live.stopped.notify_one();
        // The engine looks after every batch.
        let mut log = live.log.subscribe();
        Ok(match tokio::time::timeout(CANCEL_WAIT, log.wait_for(Log::is_ended)).await {
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
                running: !task.log.borrow().0.is_empty(),
            })
            .collect())
    }
}

/// Blobs in a folder, for the engine's thread.
struct Folder<'a>(&'a FolderStore);

impl Blobs for Folder<'_> {
    fn get(&self, digest: &Digest) -> Result<Vec<u8>> {
        self.0.read(digest)
    }

    fn put(&self, bytes: Vec<u8>) -> Result<Digest> {
        self.0.write(&bytes)
    }
}

fn run(live: &Live, pool: &ThreadPool, store: &FolderStore, operation: &Operation) -> Phase {
    if live.stop.load(Ordering::Relaxed) && operation.kind() != OperationKind::Train {
        return Phase::Cancelled;
    }
    live.log.send_modify(|log| log.0.push(Entry::Started));
    let began = Instant::now();
    let mut observe = |event| live.log.send_modify(|log| log.0.push(Entry::Happened(event)));
    let result = pool.install(|| execute(operation, &Folder(store), &live.stop, &mut observe));
    tracing::debug!(seconds = began.elapsed().as_secs_f64(), ok = result.is_ok(), "task ended");
    match result {
        Ok(outcome) => Phase::Finished(outcome),
        Err(error) if error.kind() == ErrorKind::Cancelled => Phase::Cancelled,
        Err(error) => Phase::Failed(error.with_provider("cpu")),
    }
}
