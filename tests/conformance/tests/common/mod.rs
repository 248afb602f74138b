//! The providers of this machine, bare or wrapped.

use std::{
    fs,
    path::Path,
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

type Make = Box<dyn Fn(&Path, &FolderStore) -> Arc<dyn ComputeProvider> + Send + Sync>;
type Wrap = Box<dyn Fn(Arc<dyn ComputeProvider>) -> Arc<dyn ComputeProvider> + Send + Sync>;

pub(crate) struct LocalFixture {
    folder: TempDir,
    store: FolderStore,
    numerics: String,
    make: Make,
    wrap: Wrap,
    /// Names what must not be said.
    pub(crate) secrets: Vec<String>,
    /// Holds the one client, where there is only one.
    pub(crate) only: Option<OnceLock<Arc<dyn ComputeProvider>>>,
}

impl LocalFixture {
    /// Of `cpu`.
    #[allow(dead_code, reason = "not every test file uses it")]
    pub(crate) fn new(
        wrap: impl Fn(Arc<dyn ComputeProvider>) -> Arc<dyn ComputeProvider> + Send + Sync + 'static,
    ) -> Self {
        let config = Config { enabled: true, threads: 1 };
        Self::of(
            outboard_engine::numerics::class(),
            move |_, store| Arc::new(CpuProvider::new(&config, store.clone()).unwrap()),
            wrap,
        )
    }

    /// Of a provider whose data lie in a folder, in the store there.
    pub(crate) fn of(
        numerics: &str,
        make: impl Fn(&Path, &FolderStore) -> Arc<dyn ComputeProvider> + Send + Sync + 'static,
        wrap: impl Fn(Arc<dyn ComputeProvider>) -> Arc<dyn ComputeProvider> + Send + Sync + 'static,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::open(folder.path()).unwrap();
        let (numerics, make, wrap) = (numerics.into(), Box::new(make), Box::new(wrap));
        Self { folder, store, numerics, make, wrap, secrets: vec![], only: None }
    }

    fn bare(&self) -> Arc<dyn ComputeProvider> {
        (self.make)(self.folder.path(), &self.store)
    }
}

#[async_trait]
impl Fixture for LocalFixture {
    async fn provider(&self) -> Arc<dyn ComputeProvider> {
        match &self.only {
            Some(only) => only.get_or_init(|| (self.wrap)(self.bare())).clone(),
            None => (self.wrap)(self.bare()),
        }
    }

    fn store(&self) -> &FolderStore {
        &self.store
    }

    fn numerics(&self) -> String {
        self.numerics.clone()
    }

    fn secrets(&self) -> Vec<String> {
        self.secrets.clone()
    }

    fn remembers_tasks(&self) -> Possible<()> {
        self.only.as_ref().map(drop).ok_or("tasks on this machine end with their provider's process")
    }

    fn corrupt(&self, blob: &Digest) -> Possible<()> {
        fs::write(self.folder.path().join("blobs").join(blob.to_string()), "damaged").unwrap();
        Ok(())
    }

    async fn losing_a_reply(&self) -> Possible<Arc<dyn ComputeProvider>> {
        Ok((self.wrap)(Arc::new(Odd::new(self.bare(), Oddity::LosesFirstReply))))
    }
}
