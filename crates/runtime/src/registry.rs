//! The providers that there are, made from the configuration. A new one costs a line here.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use outboard_aws_lambda::AwsLambdaProvider;
use outboard_core::{ComputeProvider, Error, ErrorKind, Result, code};
use outboard_cpu::CpuProvider;
use outboard_cuda::CudaProvider;
use outboard_http::HttpProvider;
use outboard_plugin::{Place, PluginConfig, PluginProvider};
use outboard_runpod::RunPodProvider;
use outboard_store::{Bucket, FolderStore};
use outboard_worker::TaskProgram;
use outboard_wrappers::{Settings, TimeoutSettings, standard};

use crate::{Config, config::Providers};

/// A provider that there is.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) id: String,
    /// Its table in the configuration.
    pub(crate) key: String,
    /// Whether it is enabled, and set up.
    pub(crate) is_used: bool,
}

impl Known {
    /// Whether it comes from a dynamic library.
    pub(crate) fn is_plugin(&self) -> bool {
        self.key.starts_with("plugins.")
    }
}

/// The providers that there are, in order of preference: the local CPU is the last resort.
pub(crate) fn known(config: &Config) -> Vec<Known> {
    let Providers { http, aws_lambda, runpod, cuda, cpu } = &config.providers;
    let ours = |id: &str, is_used| Known { id: id.into(), key: format!("providers.{id}"), is_used };
    let mut all =
        vec![ours("http", http.enabled), ours("runpod", runpod.is_used()), ours("aws-lambda", aws_lambda.enabled)];
    let plugins = config.plugins.iter();
    all.extend(plugins.map(|(name, plugin)| Known {
        id: name.clone(),
        key: format!("plugins.{name}"),
        is_used: plugin.enabled,
    }));
    all.extend([ours("cuda", cuda.is_used()), ours("cpu", cpu.enabled)]);
    all
}

/// Those that are used.
pub(crate) fn providers(config: &Config, store: &FolderStore) -> Result<Vec<Arc<dyn ComputeProvider>>> {
    let used = known(config).into_iter().filter(|known| known.is_used);
    used.map(|known| provider(config, &known.id, store)).collect()
}

/// One of them.
pub(crate) fn provider(config: &Config, id: &str, store: &FolderStore) -> Result<Arc<dyn ComputeProvider>> {
    let Providers { http: for_http, aws_lambda: for_aws_lambda, runpod: for_runpod, cuda, cpu } = &config.providers;
    Ok(match id {
        "http" => standard(Arc::new(HttpProvider::new(for_http, store.clone())?), &http(for_http)),
        "runpod" => {
            let provider = RunPodProvider::new(for_runpod, store.clone(), bucket(config)?)?;
            standard(Arc::new(provider), &runpod(for_runpod))
        }
        "aws-lambda" => {
            let provider = AwsLambdaProvider::new(for_aws_lambda, store.clone(), bucket(config)?)?;
            standard(Arc::new(provider), &aws_lambda(for_aws_lambda))
        }
        "cuda" => Arc::new(CudaProvider::new(cuda, &config.home)),
        "cpu" => Arc::new(CpuProvider::new(cpu, store.clone())?),
        name => {
            let plugin = config.plugins.get(name);
            let plugin =
                plugin.ok_or_else(|| Error::new(ErrorKind::Unexpected, format!("there is no provider `{name}`")))?;
            let provider = PluginProvider::load(name, plugin, &place(&config.home, store)).map_err(|error| {
                error
                    .or_code(code::PLUGIN)
                    .at("plugin", plugin.path.display())
                    .at("to go on without it", format!("--set plugins.{name}.enabled=false"))
            })?;
            standard(Arc::new(provider), &plugin_deadlines(plugin))
        }
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

/// The providers that are not used: the key of each, and how it would be.
pub(crate) fn disabled(config: &Config) -> Vec<(String, String)> {
    let unused = known(config).into_iter().filter(|known| !known.is_used).map(|known| known.key);
    unused.map(|key| (key.clone(), how(config, &key))).collect()
}

/// How a provider that is not used would be.
pub(crate) fn how(config: &Config, key: &str) -> String {
    match key {
        "providers.runpod" => "not set up: set its key and `endpoints` (docs/runpod.md)".into(),
        "providers.cuda" if config.providers.cuda.enabled => {
            let driver = outboard_cuda::gpu::driver();
            outboard_cuda::diagnosis::of_driver(&driver).map_or_else(String::new, |missing| missing.what)
        }
        _ => format!("not enabled: set {key}.enabled = true"),
    }
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
    if config.providers.aws_lambda.enabled && config.store.url.is_empty() {
        notes.push(
            "aws-lambda has no store: after a lost reply a task is paid in full, and may run once more elsewhere; epochs are \
             told when a task ends (set `store.url` to a bucket)"
                .into(),
        );
    }
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
