//! The providers that there are, made from the configuration. A new one costs a line here.

use std::{sync::Arc, time::Duration};

use outboard_core::{ComputeProvider, Result};
use outboard_cpu::CpuProvider;
use outboard_http::HttpProvider;
use outboard_runpod::RunPodProvider;
use outboard_store::{Bucket, FolderStore};
use outboard_wrappers::{Settings, TimeoutSettings, standard};

use crate::{Config, config::Providers};

/// The enabled providers, in order of preference: the local CPU is the last resort.
pub(crate) fn providers(config: &Config, store: &FolderStore) -> Result<Vec<Arc<dyn ComputeProvider>>> {
    let mut providers: Vec<Arc<dyn ComputeProvider>> = Vec::new();
    if config.providers.http.enabled {
        let provider = HttpProvider::new(&config.providers.http, store.clone())?;
        providers.push(standard(Arc::new(provider), &http(&config.providers.http)));
    }
    if config.providers.runpod.is_used() {
        let provider = RunPodProvider::new(&config.providers.runpod, store.clone(), bucket(config)?)?;
        providers.push(standard(Arc::new(provider), &runpod(&config.providers.runpod)));
    }
    if config.providers.cpu.enabled {
        providers.push(Arc::new(CpuProvider::new(&config.providers.cpu, store.clone())?));
    }
    Ok(providers)
}

/// Ids of the providers that are not enabled.
pub(crate) fn disabled(config: &Config) -> Vec<&'static str> {
    let Providers { http, runpod, cpu } = &config.providers;
    let all = [("http", http.enabled), ("runpod", runpod.is_used()), ("cpu", cpu.enabled)];
    all.into_iter().filter(|(_, enabled)| !enabled).map(|(id, _)| id).collect()
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

/// The configured bucket, if there is one.
pub(crate) fn bucket(config: &Config) -> Result<Option<Bucket>> {
    match config.store.url.is_empty() {
        true => Ok(None),
        false => Bucket::open(&config.store).map(Some).map_err(|error| error.at("table", "[store]")),
    }
}

/// What providers can't promise, as they are configured.
pub(crate) fn notes(config: &Config) -> Vec<String> {
    let mut notes = Vec::new();
    if config.providers.runpod.is_used() && config.store.url.is_empty() {
        notes.push(
            "runpod has no store: after a lost reply a task is paid in full, and may run once more elsewhere; epochs are told \
             when a task ends, and one that is stopped leaves no checkpoint (set `store.url` to a bucket)"
                .into(),
        );
    }
    notes
}

/// As for `http`: each step has a deadline of its own, these here bound all of them together.
fn runpod(config: &outboard_runpod::Config) -> Settings {
    /// A cancellation is looked for, and a cancelled worker ends its batch.
    const CANCEL: Duration = Duration::from_secs(45);
    let request = config.connect_timeout.saturating_add(config.request_timeout);
    // Each endpoint is asked, twice where a reply was lost; a request has a reply's body to wait for too.
    let requests = u32::try_from(config.endpoints.len()).unwrap_or(u32::MAX).saturating_mul(4);
    let timeout = TimeoutSettings {
        query: request.saturating_mul(2),
        submit: config.transfer_timeout.saturating_add(request.saturating_mul(requests)),
        cancel: request.saturating_mul(2).saturating_add(CANCEL),
        wait_grace: config.transfer_timeout,
        assumed_task_time: config.start_within,
    };
    Settings { timeout, ..Settings::default() }
}
