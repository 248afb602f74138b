//! What the tests of providers that are reached over a network have in common: a client's folder, an S3 server or none,
//! tasks, and peers that may be missing.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::{fs, path::PathBuf};

use outboard_conformance::Possible;
use outboard_core::{ComputeProvider, ComputeProviderExt, Digest, Task, TaskId, task::TaskState};
use outboard_store::{Bucket, FolderStore};
use tempfile::TempDir;

#[path = "../../../../crates/store/tests/common/mod.rs"]
pub mod s3;

#[path = "../../../../crates/worker/tests/common/mod.rs"]
pub mod jobs;

/// What an environment variable names, or a word on why the test doesn't run; a suite of `cargo xtask test` sets it.
pub fn named(test: &str, variable: &str, suite: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    if named.is_none() {
        println!("skipped: {test}: {variable} is not set; `cargo xtask test {suite}` sets it");
    }
    named
}

/// The client's side.
pub struct Home {
    pub folder: TempDir,
    pub store: FolderStore,
    pub server: Option<s3::Server>,
}

impl Home {
    pub fn new(server: Option<s3::Server>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::open(&folder.path().join("client")).unwrap();
        Self { folder, store, server }
    }

    pub fn bucket(&self) -> Option<Bucket> {
        self.server.as_ref().map(s3::Server::bucket)
    }

    pub fn remembers_tasks(&self) -> Possible<()> {
        self.server.as_ref().map(drop).ok_or("without a store a restarted client doesn't know what it handed over")
    }

    pub fn corrupt(&self, blob: &Digest) -> Possible<()> {
        fs::write(self.store.path(blob), "damaged").unwrap();
        Ok(())
    }

    /// A task whose blobs are in the folder.
    pub fn task(&self, job: &jobs::Job, key: &str) -> Task {
        job.prepare(&self.store);
        job.envelope(key).task
    }

    /// One that ends only when something ends it.
    pub fn endless(&self) -> Task {
        self.task(&jobs::Job::endless(), "endless")
    }

    pub fn short(&self, key: &str) -> Task {
        self.task(&jobs::Job::short(), key)
    }
}

/// How a task ended.
pub async fn end(provider: &dyn ComputeProvider, id: &TaskId) -> TaskState {
    provider.follow(id, std::future::pending(), drop).await.unwrap()
}
