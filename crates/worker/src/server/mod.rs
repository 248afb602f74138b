//! The worker over HTTP (`docs/protocol.md`, section 11).

mod blobs;
mod history;
mod log;
mod refused;
mod routes;
mod tasks;

use std::{fs::File, future::Future, path::PathBuf, sync::Arc, time::Duration};

use axum::serve::ListenerExt;
use outboard_core::error::{Error, ErrorKind, IoContext, Result};
use outboard_store::{FolderStore, Records};
use tokio::{
    net::TcpListener,
    sync::oneshot,
    time::{interval, sleep},
};

use self::{history::History, tasks::Tasks};
use crate::{
    Token,
    supervisor::{Supervisor, TaskProgram},
    wire::Hello,
};

/// How long connections may still answer after the tasks have stopped.
const LAST_REPLIES: Duration = Duration::from_secs(5);

/// What a worker is told.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Folder of its store.
    pub store: PathBuf,
    /// What clients must show.
    pub token: Token,
    /// How a task process is started; with the same store.
    pub program: TaskProgram,
    /// Tasks that run at the same time, each in a process of its own; at least 1.
    pub max_running: u32,
    /// Tasks that may wait; more are refused.
    pub max_queued: u32,
    /// Largest blob that it takes.
    pub max_blob_bytes: u64,
    /// How long a result is kept.
    pub result_ttl: Duration,
    /// How long tasks may take to stop when the worker ends.
    pub drain: Duration,
}

impl ServerConfig {
    /// The usual limits: one task at a time, 16 waiting, blobs of 4 GiB, results kept for a day, 30 seconds to stop.
    #[must_use]
    pub fn new(store: PathBuf, token: Token, program: TaskProgram) -> Self {
        Self {
            store,
            token,
            program,
            max_running: 1,
            max_queued: 16,
            max_blob_bytes: 4 << 30,
            result_ttl: Duration::from_secs(86_400),
            drain: Duration::from_secs(30),
        }
    }
}

/// A worker whose first task process is ready.
#[derive(Debug)]
pub struct Server {
    config: ServerConfig,
    hello: Hello,
    store: FolderStore,
    tasks: Arc<Tasks>,
    /// Holds the lock of the store for as long as the worker lives.
    _lock: File,
}

/// Serves until `shutdown` completes, then asks running tasks to stop, with a checkpoint where they train, and ends.
///
/// # Errors
/// As [`Server::start`]; `Unavailable` where the listener fails.
pub async fn serve(
    listener: TcpListener,
    config: ServerConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    Server::start(config).await?.run(listener, shutdown).await
}

impl Server {
    /// Opens the store and starts the first task process.
    ///
    /// # Errors
    /// `InvalidConfig`; `InvalidRequest` where the store can't be opened; `Conflict` where another worker has it;
    /// `WorkerUnhealthy` where no task process starts.
    pub async fn start(config: ServerConfig) -> Result<Self> {
        if config.max_running == 0 {
            return Err(Error::new(ErrorKind::InvalidConfig, "a worker that runs 0 tasks at a time is of no use"));
        }
        let store = FolderStore::open(&config.store)?;
        let records = Records::open(&config.store)?;
        let path = config.store.join("worker.lock");
        let lock = File::create(&path).doing("write", &path)?;
        if lock.try_lock().is_err() {
            return Err(Error::new(ErrorKind::Conflict, "another worker uses the store")
                .at("folder", config.store.display())
                .hint("give each worker a folder of its own"));
        }
        let supervisor = Supervisor::new(config.program.clone());
        let hello = supervisor.start().await?;
        let tasks = Tasks::new(
            config.program.clone(),
            supervisor,
            store.clone(),
            History::new(records),
            config.max_running,
            config.max_queued,
        );
        Ok(Self { config, hello, store, tasks: Arc::new(tasks), _lock: lock })
    }

    /// What it computes on, in words.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.hello.device
    }

    /// Serves until `shutdown` completes, as [`serve`].
    ///
    /// # Errors
    /// `Unavailable` where the listener fails.
    pub async fn run(self, listener: TcpListener, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        let server = Arc::new(self);
        let (tasks, limit) = (server.tasks.clone(), server.config.drain);
        let (drained, last) = oneshot::channel();
        let stopped = async move {
            shutdown.await;
            tracing::info!("shutting down");
            tasks.drain(limit).await;
            let _ = drained.send(());
        };
        // Requests and replies are small, and someone waits for them.
        let listener = listener.tap_io(|connection| {
            let _ = connection.set_nodelay(true);
        });
        let serving = axum::serve(listener, routes::router(server.clone())).with_graceful_shutdown(stopped);
        let deadline = async {
            // The other end is dropped only with the serving future.
            let _ = last.await;
            sleep(LAST_REPLIES).await;
        };
        tokio::select! {
            served = serving => {
                served.map_err(|e| Error::new(ErrorKind::Unavailable, "the listener failed").because(e))
            }
            () = deadline => Ok(()),
            () = server.forget() => Ok(()),
        }
    }

    /// Removes expired results, for ever.
    async fn forget(&self) {
        let age = self.config.result_ttl;
        let mut ticks = interval(age.clamp(Duration::from_secs(1), Duration::from_secs(60)));
        loop {
            ticks.tick().await;
            self.tasks.forget(age).await;
        }
    }
}
