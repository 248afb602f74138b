//! The provider.

use std::{
    cell::Cell,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use outboard_core::{
    ComputeProvider, Digest, Task, TaskId,
    error::{Error, ErrorKind, Result},
    provider::{Cancelled, Capabilities, Health, PriceModel, ProviderInfo, TaskSummary},
    task::{Operation, OperationKind, Outcome, Revision, TaskState, Timings, Usage},
};
use outboard_engine::{Blobs, execute};
use outboard_store::FolderStore;
use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    Config,
    tasks::{Live, Tasks},
};

/// Runs tasks on the local CPU, one after another.
#[derive(Debug)]
pub struct CpuProvider {
    info: ProviderInfo,
    capabilities: Capabilities,
    store: FolderStore,
    pool: Arc<ThreadPool>,
    /// One task per set of cores: two at once would both be slower.
    turn: Arc<Semaphore>,
    tasks: Tasks,
}

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
            operations: OperationKind::ALL.to_vec(),
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
            tasks: Tasks::new("cpu"),
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
        let (id, live) = self.tasks.take(task);
        let Some(live) = live else { return Ok(id) };
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
                () = live.stopped() => {
                    return ended.end(Err(Error::new(ErrorKind::Cancelled, "the task was cancelled")), Usage::default());
                }
            };
            let queue = began.elapsed();
            let mut run =
                pin!(tokio::task::spawn_blocking(move || { span.in_scope(|| run(&live, &pool, &store, &operation)) }));
            let (finished, is_late) = match limit.map(|limit| timeout(limit, &mut run)) {
                Some(limited) => match limited.await {
                    Ok(finished) => (finished, false),
                    Err(_) => {
                        ended.stop().store(true, Ordering::Relaxed);
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
            ended.end(outcome, Usage::timed(timings));
        });
        Ok(id)
    }

    async fn wait(&self, id: &TaskId, seen: Revision, limit: Duration) -> Result<TaskState> {
        self.tasks.wait(id, seen, limit).await
    }

    async fn cancel(&self, id: &TaskId) -> Result<Cancelled> {
        self.tasks.cancel(id).await
    }

    async fn list(&self) -> Result<Vec<TaskSummary>> {
        Ok(self.tasks.list())
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
    if live.stop().load(Ordering::Relaxed) && operation.kind() != OperationKind::Train {
        return (Err(Error::new(ErrorKind::Cancelled, "the task was cancelled")), Timings::default());
    }
    live.start();
    let began = Instant::now();
    let (outcome, load) = pool.install(|| {
        let blobs = Folder { store, loading: Cell::default() };
        let mut observe = |event| live.observe(event);
        let outcome = execute(operation, &blobs, live.stop(), &mut observe);
        (outcome, blobs.loading.get())
    });
    let compute = began.elapsed().saturating_sub(load);
    tracing::debug!(?load, ?compute, ok = outcome.is_ok(), "task ended");
    (outcome, Timings { load: load.as_secs_f64(), compute: compute.as_secs_f64(), ..Timings::default() })
}
