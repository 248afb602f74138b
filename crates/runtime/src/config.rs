//! The configuration: `config/default.toml`, then `outboard.toml`, then `OUTBOARD_*`, then `--set`.

mod layers;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use outboard_core::{Error, ErrorKind, Result, duration::time_above_zero};
use serde::Deserialize;

pub use self::layers::Sources;
use self::layers::{Layers, Origin};
use crate::document::{Key, Step, displayed, fit};
pub use outboard_aws_lambda::Config as AwsLambdaConfig;
pub use outboard_cpu::Config as CpuConfig;
pub use outboard_cuda::Config as CudaConfig;
pub use outboard_http::Config as HttpConfig;
pub use outboard_plugin::{Isolation, PluginConfig};
pub use outboard_router::{BudgetConfig, RouterConfig};
pub use outboard_runpod::Config as RunPodConfig;
pub use outboard_store::BucketConfig;

/// All that can be configured.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Folder for data sets, checkpoints and the records of jobs; absolute.
    pub home: PathBuf,
    /// Where jobs, reservations and charges are written down: a path, absolute, or a `postgres://` URL.
    pub ledger: LedgerPlace,
    /// When tasks are secured.
    pub checkpoint: Checkpoint,
    /// The bucket through which workers elsewhere get and give what a task needs.
    pub store: BucketConfig,
    /// Where jobs may run.
    pub providers: Providers,
    /// Providers from dynamic libraries, by the names that they have here; their paths are absolute.
    pub plugins: BTreeMap<String, PluginConfig>,
    /// How the choice among them is made.
    pub router: RouterConfig,
    /// What tasks may cost.
    pub budget: BudgetConfig,
}

/// The path of a SQLite file, or the URL of a PostgreSQL database, whose password `Debug` doesn't show.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct LedgerPlace(pub String);

impl fmt::Debug for LedgerPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_once("://") {
            Some((scheme, _)) => write!(f, "{scheme}://***"),
            None => self.0.fmt(f),
        }
    }
}

/// When tasks are secured.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Time between two checkpoints within a task; above zero.
    #[serde(deserialize_with = "time_above_zero")]
    pub every: Duration,
}

/// The table of each provider, under its id.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Providers {
    /// Other machines of the user's.
    pub http: HttpConfig,
    /// A function of AWS Lambda.
    #[serde(rename = "aws-lambda")]
    pub aws_lambda: AwsLambdaConfig,
    /// RunPod's serverless endpoints.
    pub runpod: RunPodConfig,
    /// This machine's GPUs.
    pub cuda: CudaConfig,
    /// This machine.
    pub cpu: CpuConfig,
}

/// One key, as `outboard config` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The key, such as `checkpoint.every`.
    pub key: String,
    /// Its value in TOML; `***` for a secret.
    pub value: String,
    /// What set it: `default`, the path of a file, `environment OUTBOARD_A__B`, or `--set`.
    pub origin: String,
}

impl Config {
    /// Reads the configuration.
    ///
    /// # Errors
    /// `InvalidConfig`, naming the file, variable or flag, the key, and what would be right.
    pub fn load(sources: &Sources) -> Result<Self> {
        Self::from_layers(&Layers::read(sources)?, sources)
    }

    fn from_layers(layers: &Layers, sources: &Sources) -> Result<Self> {
        let mut config: Self = fit(layers.merged()).map_err(|misfit| layers.refuse(&misfit))?;
        let resolve = |key: Key, path: &mut PathBuf| -> Result<()> {
            let origin = layers.origin(&key);
            let wrong = |what| Error::new(ErrorKind::InvalidConfig, format!("`{}` {what}", key.name()));
            *path = absolute(path, origin, sources).map_err(|what| origin.locate(wrong(what), &key))?;
            Ok(())
        };
        resolve([Step::Name("home".into())].into_iter().collect(), &mut config.home)?;
        let LedgerPlace(ledger) = &mut config.ledger;
        if ledger.is_empty() {
            *ledger = config.home.join("ledger.db").to_string_lossy().into_owned();
        } else if !ledger.contains("://") {
            let mut path = PathBuf::from(&*ledger);
            resolve([Step::Name("ledger".into())].into_iter().collect(), &mut path)?;
            *ledger = path.to_string_lossy().into_owned();
        }
        for (index, worker) in config.providers.http.workers.iter_mut().enumerate() {
            let worker_key = ["providers", "http", "workers"].map(|name| Step::Name(name.into()));
            let key = |name: &str| worker_key.iter().cloned().chain([Step::Index(index), Step::Name(name.into())]);
            for (name, path) in [("token_file", &mut worker.token_file), ("ca_file", &mut worker.ca_file)] {
                if let Some(path) = path {
                    resolve(key(name).collect(), path)?;
                }
            }
        }
        if !config.providers.cuda.worker.as_os_str().is_empty() {
            let key = ["providers", "cuda", "worker"].map(|name| Step::Name(name.into()));
            resolve(key.into_iter().collect(), &mut config.providers.cuda.worker)?;
        }
        for (name, plugin) in &mut config.plugins {
            let key = |steps: &[&str]| steps.iter().map(|step| Step::Name((*step).into())).collect::<Key>();
            let (table, path) = (key(&["plugins", name]), key(&["plugins", name, "path"]));
            if PROVIDERS.contains(&name.as_str()) {
                let message = format!("`{}` has the name of a provider that is built in", table.name());
                let error = Error::new(ErrorKind::InvalidConfig, message).hint("choose another name");
                return Err(layers.origin(&path).locate(error, &table));
            }
            resolve(path, &mut plugin.path)?;
        }
        Ok(config)
    }
}

/// The providers that are built in.
const PROVIDERS: [&str; 5] = ["aws-lambda", "cpu", "cuda", "http", "runpod"];

/// The configuration file: the one that counts, or the one to make in the working directory.
///
/// # Errors
/// `InvalidConfig` where it can't be read.
pub fn file(sources: &Sources) -> Result<PathBuf> {
    layers::file(sources)
}

/// Every key with its value and where that comes from, by name.
///
/// # Errors
/// Those of [`Config::load`].
pub fn explain(sources: &Sources) -> Result<Vec<Setting>> {
    let layers = Layers::read(sources)?;
    let config = Config::from_layers(&layers, sources)?;
    let setting = |(key, value): (Key, _)| {
        let value = match key.pattern().as_str() {
            "home" => displayed(&key, &config.home.to_string_lossy().into_owned().into()),
            _ => displayed(&key, value),
        };
        Setting { value, origin: layers.origin(&key).to_string(), key: key.to_string() }
    };
    Ok(layers.leaves().into_iter().map(setting).collect())
}

/// A path with `~` and relative ones resolved, or why that can't be.
fn absolute(path: &Path, origin: &Origin, sources: &Sources) -> Result<PathBuf, &'static str> {
    if path.as_os_str().is_empty() {
        return Err("is empty, but must be a path");
    }
    let path = match path.strip_prefix("~") {
        Ok(rest) => {
            let user = sources.variable("HOME").ok_or("starts with `~`, but the variable HOME is not set")?;
            Path::new(user).join(rest)
        }
        Err(_) if path.to_string_lossy().starts_with('~') => {
            return Err("starts with the home folder of another user; write the path in full");
        }
        Err(_) => path.to_path_buf(),
    };
    let from = match origin {
        Origin::File(file) => file.path.parent().unwrap_or(&sources.directory),
        _ => &sources.directory,
    };
    std::path::absolute(from.join(path)).map_err(|_| "is relative, and the working directory is gone")
}

#[cfg(test)]
mod tests;
