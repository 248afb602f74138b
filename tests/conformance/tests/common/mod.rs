//! The `cpu` provider, bare or wrapped.

use std::{
    fs,
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use outboard_conformance::{Fixture, Possible};
use outboard_core::{ComputeProvider, Digest};
use outboard_cpu::{Config, CpuProvider};
use outboard_store::FolderStore;
use tempfile::TempDir;

pub(crate) mod odd;

use odd::{Odd, Oddity};

type Wrap = Box<dyn Fn(Arc<dyn ComputeProvider>) -> Arc<dyn ComputeProvider> + Send + Sync>;

pub(crate) struct CpuFixture {
    folder: TempDir,
    store: FolderStore,
    wrap: Wrap,
    /// Names what must not be said.
    pub(crate) secrets: Vec<String>,
    /// Holds the one client, where there is only one.
    pub(crate) only: Option<OnceLock<Arc<dyn ComputeProvider>>>,
}

impl CpuFixture {
    pub(crate) fn new(
        wrap: impl Fn(Arc<dyn ComputeProvider>) -> Arc<dyn ComputeProvider> + Send + Sync + 'static,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::open(folder.path()).unwrap();
        Self { folder, store, wrap: Box::new(wrap), secrets: vec![], only: None }
    }

    fn cpu(&self) -> Arc<dyn ComputeProvider> {
        let config = Config { enabled: true, threads: 1 };
        Arc::new(CpuProvider::new(&config, self.store.clone()).unwrap())
    }
}

#[async_trait]
impl Fixture for CpuFixture {
    async fn provider(&self) -> Arc<dyn ComputeProvider> {
        match &self.only {
            Some(only) => only.get_or_init(|| (self.wrap)(self.cpu())).clone(),
            None => (self.wrap)(self.cpu()),
        }
    }

    fn store(&self) -> &FolderStore {
        &self.store
    }

    fn numerics(&self) -> String {
        outboard_engine::numerics::class().into()
    }

    fn secrets(&self) -> Vec<String> {
        self.secrets.clone()
    }

    fn remembers_tasks(&self) -> Possible<()> {
        self.only.as_ref().map(drop).ok_or("tasks of the cpu provider end with its process")
    }

    fn corrupt(&self, blob: &Digest) -> Possible<()> {
        fs::write(self.folder.path().join("blobs").join(blob.to_string()), "damaged").unwrap();
        Ok(())
    }

    async fn losing_a_reply(&self) -> Possible<Arc<dyn ComputeProvider>> {
        Ok((self.wrap)(Arc::new(Odd::new(self.cpu(), Oddity::LosesFirstReply))))
    }
}
