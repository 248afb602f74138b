//! The providers that there are, made from the configuration. A new one costs a line here.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use outboard_core::{ComputeProvider, Result};
use outboard_cpu::CpuProvider;
use outboard_http::HttpProvider;
use outboard_plugin::{Place, PluginConfig, PluginProvider};
use outboard_store::FolderStore;
use outboard_worker::TaskProgram;
use outboard_wrappers::{Settings, TimeoutSettings, standard};

use crate::Config;

/// The enabled providers, in order of preference: the local CPU is the last resort.
pub(crate) fn providers(config: &Config, store: &FolderStore) -> Result<Vec<Arc<dyn ComputeProvider>>> {
    let mut providers: Vec<Arc<dyn ComputeProvider>> = Vec::new();
    if config.providers.http.enabled {
        let provider = HttpProvider::new(&config.providers.http, store.clone())?;
        providers.push(standard(Arc::new(provider), &http(&config.providers.http)));
    }
    for (name, plugin) in config.plugins.iter().filter(|(_, plugin)| plugin.enabled) {
        let provider = PluginProvider::load(name, plugin, &place(&config.home, store)).map_err(|error| {
            error
                .at("plugin", plugin.path.display())
                .at("to go on without it", format!("--set plugins.{name}.enabled=false"))
        })?;
        providers.push(standard(Arc::new(provider), &plugin_deadlines(plugin)));
    }
    if config.providers.cpu.enabled {
        providers.push(Arc::new(CpuProvider::new(&config.providers.cpu, store.clone())?));
    }
    Ok(providers)
}

/// Keys of the providers that are not enabled.
pub(crate) fn disabled(config: &Config) -> Vec<String> {
    let ours = [("http", config.providers.http.enabled), ("cpu", config.providers.cpu.enabled)];
    let ours = ours.map(|(id, enabled)| (format!("providers.{id}"), enabled));
    let plugins = config.plugins.iter().map(|(name, plugin)| (format!("plugins.{name}"), plugin.enabled));
    ours.into_iter().chain(plugins).filter(|(_, enabled)| !enabled).map(|(key, _)| key).collect()
}

/// Where plugins find the store, which is in the folder `home`, and the programs that they start.
#[must_use]
pub fn place(home: &Path, store: &FolderStore) -> Place {
    let run = |args: &[&str]| TaskProgram {
        program: program(),
        args: args.iter().map(Into::into).chain(["--store".into(), home.into()]).collect(),
    };
    Place {
        folder: PathBuf::new(),
        store: store.clone(),
        worker: run(&["worker", "--stdio"]),
        server: run(&["plugin", "serve"]),
    }
}

/// The program `outboard`: this one, or the one that is found by its name.
fn program() -> PathBuf {
    let this = std::env::current_exe().ok();
    this.filter(|path| path.file_stem().is_some_and(|name| name == "outboard")).unwrap_or_else(|| "outboard".into())
}

/// The provider has deadlines of its own, which come first.
fn plugin_deadlines(config: &PluginConfig) -> Settings {
    let call = config.call_timeout.saturating_add(Duration::from_secs(5));
    let defaults = TimeoutSettings::default();
    let timeout = TimeoutSettings { query: call, submit: call, cancel: call, wait_grace: call, ..defaults };
    Settings { timeout, ..Settings::default() }
}

/// The provider has deadlines of its own for what stands still; those here are for what goes on for ever.
fn http(config: &outboard_http::Config) -> Settings {
    /// A worker answers a cancellation after half a minute at the latest.
    const CANCEL: Duration = Duration::from_secs(35);
    let timeout = TimeoutSettings {
        query: config.request_timeout,
        submit: config.transfer_timeout,
        cancel: config.request_timeout.saturating_add(CANCEL),
        wait_grace: config.transfer_timeout,
        assumed_task_time: config.start_within,
    };
    Settings { timeout, ..Settings::default() }
}
