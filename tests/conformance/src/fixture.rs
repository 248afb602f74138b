//! What a provider's tests must supply.

use std::sync::Arc;

use async_trait::async_trait;
use outboard_core::{ComputeProvider, Digest};
use outboard_store::FolderStore;

/// Something that a fixture or its provider can do, or why it can't.
pub type Possible<T> = Result<T, &'static str>;

/// Makes providers, and brings about faults. No default bodies: what is impossible must be said.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// A fresh client of the provider over [`Fixture::store`], as after a restart of the program.
    async fn provider(&self) -> Arc<dyn ComputeProvider>;

    /// The local store, where a task's blobs come from and go to.
    fn store(&self) -> &FolderStore;

    /// The numerics class of the provider's engine.
    fn numerics(&self) -> String;

    /// Strings that must not appear in anything that the provider says.
    fn secrets(&self) -> Vec<String>;

    /// Whether a fresh client can wait on a task that an earlier one submitted.
    fn remembers_tasks(&self) -> Possible<()>;

    /// Damages a blob where the provider will read it.
    fn corrupt(&self, blob: &Digest) -> Possible<()>;

    /// A fresh client that accepts its first task, but whose answer to that `submit` is lost.
    async fn losing_a_reply(&self) -> Possible<Arc<dyn ComputeProvider>>;
}
