//! The worker over HTTP (`docs/protocol.md`, section 11).

mod blobs;
mod history;
mod log;
mod refused;
mod routes;
mod tasks;
mod tls;

use std::{
    fs::File,
    future::{Future, IntoFuture},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use axum::serve::ListenerExt;
use outboard_core::error::{Error, ErrorKind, IoContext, Result};
use outboard_store::{FolderStore, Records};
use tokio::{
    net::TcpListener,
    sync::oneshot,
    time::{interval, sleep},
};

pub use self::tls::Tls;
use self::{history::History, tasks::Tasks, tls::TlsListener};
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
    /// What it shows to clients, where it speaks HTTPS.
    pub tls: Option<Tls>,
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
    /// How long a blob is kept that nobody needs.
    pub blob_ttl: Duration,
    /// How long tasks may take to stop when the worker ends.
    pub drain: Duration,
}

impl ServerConfig {
    /// The usual limits: one task at a time, 16 waiting, blobs of 4 GiB, results kept for a day, blobs for a week, 30
    /// seconds to stop.
    #[must_use]
    pub fn new(store: PathBuf, token: Token, program: TaskProgram) -> Self {
        Self {
            store,
            token,
            tls: None,
            program,
            max_running: 1,
            max_queued: 16,
            max_blob_bytes: 4 << 30,
            result_ttl: Duration::from_secs(86_400),
            blob_ttl: Duration::from_secs(7 * 86_400),
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
        // Whoever began these is gone: the lock is ours.
        store.sweep(Duration::ZERO)?;
        let supervisor = Supervisor::new(config.program.clone()).with_blobs_in(&config.store);
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
        let router = routes::router(server.clone());
        let failed = |e| Error::new(ErrorKind::Unavailable, "the listener failed").because(e);
        let serving = match &server.config.tls {
            Some(tls) => {
                let listener = TlsListener::new(listener, tls).map_err(failed)?;
                axum::serve(listener, router).with_graceful_shutdown(stopped).into_future()
            }
            None => {
                // Requests and replies are small, and someone waits for them.
                let listener = listener.tap_io(|connection| {
                    let _ = connection.set_nodelay(true);
                });
                axum::serve(listener, router).with_graceful_shutdown(stopped).into_future()
            }
        };
        let deadline = async {
            // The other end is dropped only with the serving future.
            let _ = last.await;
            sleep(LAST_REPLIES).await;
        };
        tokio::select! {
            served = serving => {
                served.map_err(failed)
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
            self.tasks.forget(age, self.config.blob_ttl).await;
        }
    }
}
