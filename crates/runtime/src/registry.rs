//! The providers that there are, made from the configuration. A new one costs a line here.

use std::sync::Arc;

use outboard_core::{ComputeProvider, Result};
use outboard_cpu::CpuProvider;
use outboard_store::FolderStore;

use crate::Config;

/// The enabled providers, in order of preference: the local CPU is the last resort.
pub(crate) fn providers(config: &Config, store: &FolderStore) -> Result<Vec<Arc<dyn ComputeProvider>>> {
    let mut providers: Vec<Arc<dyn ComputeProvider>> = Vec::new();
    if config.providers.cpu.enabled {
        providers.push(Arc::new(CpuProvider::new(&config.providers.cpu, store.clone())?));
    }
    Ok(providers)
}
