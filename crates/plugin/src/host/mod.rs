//! Loads plugins, and is the provider that they are.
//!
//! What a plugin can't harm: a call that blocks for ever, an answer that can't be read, a panic of a Rust plugin, a task
//! that isn't the one asked for are errors of that call. What it can: code in this process may crash it or write where it
//! likes. With [`Isolation::Process`] it has a process of its own, which is started again when it has ended.

mod callbacks;
mod child;
mod config;
mod library;
mod provider;
mod serve;
mod trust;

use std::path::PathBuf;

use outboard_store::FolderStore;
use outboard_worker::TaskProgram;

pub use config::{Isolation, PluginConfig};
pub use provider::PluginProvider;
pub use serve::serve;

/// Where plugins find what is not their own.
#[derive(Clone, Debug)]
pub struct Place {
    /// The folder from which relative paths start.
    pub folder: PathBuf,
    /// The program's store.
    pub store: FolderStore,
    /// The worker that `run_worker` starts.
    pub worker: TaskProgram,
    /// The program that [`serve`]s a plugin, for those with a process of their own.
    pub server: TaskProgram,
}
