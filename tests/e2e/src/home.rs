//! A client's home, for drills that use the library itself.

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use outboard::{
    Client, Config, Job,
    config::{CpuConfig, Sources},
    read_job,
};
use outboard_core::{
    ComputeProvider, Result, Task, TaskId,
    provider::{Cancelled, Capabilities, Health, PriceModel, ProviderInfo, TaskSummary},
    task::{Revision, TaskState},
};
use outboard_cpu::CpuProvider;
use outboard_store::FolderStore;

use crate::repository;

/// A folder, its configuration and its store.
#[derive(Debug)]
pub struct Home {
    folder: tempfile::TempDir,
    /// What the client is configured with.
    pub config: Config,
    /// Where its blobs lie.
    pub store: FolderStore,
}

impl Home {
    /// A new one; `set` are overrides as `key=value`.
    ///
    /// # Panics
    /// Where the file system gives no folder, or an override is wrong.
    #[must_use]
    pub fn new(set: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let environment = vec![("OUTBOARD_HOME".to_string(), folder.path().display().to_string())];
        let overrides = set.iter().map(ToString::to_string).collect();
        let sources = Sources { directory: folder.path().into(), environment, overrides };
        let config = Config::load(&sources).unwrap_or_else(|e| panic!("{}", e.report()));
        let store = FolderStore::open(folder.path()).unwrap_or_else(|e| panic!("{e}"));
        Self { folder, config, store }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A client with these providers.
    ///
    /// # Panics
    /// Where it can't be made.
    #[must_use]
    pub fn client(&self, providers: Vec<Arc<dyn ComputeProvider>>) -> Client {
        let client = Client::with_providers(self.config.clone(), self.store.clone(), providers);
        client.unwrap_or_else(|e| panic!("{}", e.report()))
    }

    /// The CPU here, as a provider that nobody would choose before the others.
    ///
    /// # Panics
    /// Where its thread can't be started.
    #[must_use]
    pub fn fallback(&self) -> Arc<dyn ComputeProvider> {
        let cpu = CpuProvider::new(&CpuConfig { enabled: true, threads: 1 }, self.store.clone());
        named(Arc::new(cpu.unwrap_or_else(|e| panic!("{e}"))), "z-fallback", "slow")
    }

    /// The digits, for so many epochs.
    ///
    /// # Panics
    /// Where the example can't be read.
    #[must_use]
    pub fn job(&self, name: &str, epochs: u32) -> Job {
        let job = read_job(&repository().join("examples/digits.toml"));
        let mut job = job.unwrap_or_else(|e| panic!("{}", e.report()));
        job.train.epochs = epochs;
        job.name = Some(name.into());
        job.output = Some(self.path().join("out").join(name));
        job
    }
}

/// A provider under another name, of a kind of which the router believes something else.
#[must_use]
pub fn named(inner: Arc<dyn ComputeProvider>, id: &str, kind: &str) -> Arc<dyn ComputeProvider> {
    let info = ProviderInfo { id: id.into(), kind: kind.into(), ..inner.info().clone() };
    Arc::new(Named { inner, info })
}

#[derive(Debug)]
struct Named {
    inner: Arc<dyn ComputeProvider>,
    info: ProviderInfo,
}

#[async_trait]
impl ComputeProvider for Named {
    fn info(&self) -> &ProviderInfo {
        &self.info
    }
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }
    async fn price(&self) -> Result<PriceModel> {
        self.inner.price().await
    }
    async fn health(&self) -> Result<Health> {
        self.inner.health().await
    }
    async fn submit(&self, task: &Task) -> Result<TaskId> {
        self.inner.submit(task).await
    }
    async fn wait(&self, id: &TaskId, seen: Revision, limit: Duration) -> Result<TaskState> {
        self.inner.wait(id, seen, limit).await
    }
    async fn cancel(&self, id: &TaskId) -> Result<Cancelled> {
        self.inner.cancel(id).await
    }
    async fn list(&self) -> Result<Vec<TaskSummary>> {
        self.inner.list().await
    }
    async fn find_attempt(&self, attempt: &str, key: &str) -> Result<Option<TaskId>> {
        self.inner.find_attempt(attempt, key).await
    }
}
