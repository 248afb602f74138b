//! The providers that there are, made from the configuration. A new one costs a line here.

use std::{sync::Arc, time::Duration};

use outboard_core::{ComputeProvider, Error, ErrorKind, Result};
use outboard_cpu::CpuProvider;
use outboard_http::HttpProvider;
use outboard_runpod::RunPodProvider;
use outboard_store::{Bucket, FolderStore};
use outboard_wrappers::{Settings, TimeoutSettings, standard};

use crate::{Config, config::Providers};

/// The providers that there are, in order of preference, and whether each is used: the local CPU is the last resort.
pub(crate) fn known(config: &Config) -> [(&'static str, bool); 3] {
    let Providers { http, runpod, cpu } = &config.providers;
    [("http", http.enabled), ("runpod", runpod.is_used()), ("cpu", cpu.enabled)]
}

/// Those that are used.
pub(crate) fn providers(config: &Config, store: &FolderStore) -> Result<Vec<Arc<dyn ComputeProvider>>> {
    let used = known(config).into_iter().filter(|(_, is_used)| *is_used);
    used.map(|(id, _)| provider(config, id, store)).collect()
}

/// One of them.
pub(crate) fn provider(config: &Config, id: &str, store: &FolderStore) -> Result<Arc<dyn ComputeProvider>> {
    let Providers { http: for_http, runpod: for_runpod, cpu } = &config.providers;
    Ok(match id {
        "http" => standard(Arc::new(HttpProvider::new(for_http, store.clone())?), &http(for_http)),
        "runpod" => {
            let provider = RunPodProvider::new(for_runpod, store.clone(), bucket(config)?)?;
            standard(Arc::new(provider), &runpod(for_runpod))
        }
        "cpu" => Arc::new(CpuProvider::new(cpu, store.clone())?),
        _ => return Err(Error::new(ErrorKind::Unexpected, format!("there is no provider `{id}`"))),
    })
}

/// Gives what was said to a provider so far, without secrets.
pub(crate) type Recorded = Box<dyn Fn() -> Result<Vec<u8>> + Send>;

/// One of them, and what is said to it where that can be kept.
pub(crate) fn recorded(
    config: &Config,
    id: &str,
    store: &FolderStore,
) -> Result<(Arc<dyn ComputeProvider>, Option<Recorded>)> {
    if id != "runpod" {
        return Ok((provider(config, id, store)?, None));
    }
    let keys = &config.providers.runpod;
    let (provider, recording) = RunPodProvider::recorded(keys, store.clone(), bucket(config)?)?;
    Ok((standard(Arc::new(provider), &runpod(keys)), Some(Box::new(move || recording.json()))))
}

/// Ids of the providers that are not used.
pub(crate) fn disabled(config: &Config) -> Vec<&'static str> {
    known(config).into_iter().filter(|(_, is_used)| !is_used).map(|(id, _)| id).collect()
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
