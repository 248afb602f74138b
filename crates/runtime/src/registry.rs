//! The providers that there are, made from the configuration. A new one costs a line here.

use std::{sync::Arc, time::Duration};

use outboard_aws_lambda::AwsLambdaProvider;
use outboard_core::{ComputeProvider, Result};
use outboard_cpu::CpuProvider;
use outboard_http::HttpProvider;
use outboard_store::FolderStore;
use outboard_wrappers::{Settings, TimeoutSettings, standard};

use crate::Config;

/// The enabled providers, in order of preference: the local CPU is the last resort.
pub(crate) fn providers(config: &Config, store: &FolderStore) -> Result<Vec<Arc<dyn ComputeProvider>>> {
    let mut providers: Vec<Arc<dyn ComputeProvider>> = Vec::new();
    if config.providers.http.enabled {
        let provider = HttpProvider::new(&config.providers.http, store.clone())?;
        providers.push(standard(Arc::new(provider), &http(&config.providers.http)));
    }
    if config.providers.aws_lambda.enabled {
        let provider = AwsLambdaProvider::new(&config.providers.aws_lambda, store.clone(), None)?;
        providers.push(standard(Arc::new(provider), &aws_lambda(&config.providers.aws_lambda)));
    }
    if config.providers.cpu.enabled {
        providers.push(Arc::new(CpuProvider::new(&config.providers.cpu, store.clone())?));
    }
    Ok(providers)
}

/// Ids of the providers that are not enabled.
pub(crate) fn disabled(config: &Config) -> Vec<&'static str> {
    let all = [
        ("http", config.providers.http.enabled),
        ("aws-lambda", config.providers.aws_lambda.enabled),
        ("cpu", config.providers.cpu.enabled),
    ];
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

/// Requests have deadlines of their own; those here are for what goes on for ever.
fn aws_lambda(config: &outboard_aws_lambda::Config) -> Settings {
    /// Longest time for all blobs of one call, between here and a store.
    const TRANSFER: Duration = Duration::from_secs(3600);
    /// Longest time for what asks the service alone, beyond connecting.
    const REPLY: Duration = Duration::from_secs(30);
    let timeout = TimeoutSettings {
        query: config.connect_timeout.saturating_add(REPLY),
        submit: TRANSFER,
        cancel: TRANSFER,
        wait_grace: TRANSFER,
        assumed_task_time: config.start_within.saturating_add(config.timeout),
    };
    Settings { timeout, ..Settings::default() }
}
